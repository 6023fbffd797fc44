"""`bench explore leakage`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.document import Finding
    from bench.explore.duplicates import Leakage
    from bench.explore.subject import Subject

HELP = "targets that are copies of training examples, and how well each method tells planted ones"
DESCRIPTION = (
    "Pairs of a target and a training example that may be duplicates, the most suspicious of each method, beside the "
    "nearest by pixels. Then an evaluation: some targets are replaced by copies of training examples (exact, shifted "
    "by a pixel, brightened, re-encoded as JPEG; where examples are no images, exact and noisy), models are trained, "
    "the methods are run, and the copies are looked for."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--k", type=int, default=10, metavar="N", help="pairs of each method that are shown (10)")
    parser.add_argument(
        "--statistic",
        choices=("cosine", "top", "gap", "z"),
        default="cosine",
        help="what pairs are ranked by: the cosine of the two directions in the score matrix; the largest score of a "
        "target; its distance to the second, or to the median, in units of the target's spread (cosine)",
    )
    parser.add_argument("--most", type=int, default=5, metavar="N", help="methods, the best by LDS (5)")
    parser.add_argument(
        "--evaluate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="plant copies and look for them (where there are examples to train on)",
    )
    parser.add_argument("--share", type=float, default=0.3, metavar="X", help="of the targets to replace (0.3)")
    parser.add_argument("--models", type=int, default=1500, metavar="N", help="to train for the evaluation (1500)")
    parser.add_argument("--seed", type=int, default=0, help="of the copies and the models (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Leakage]:
    """The suspects and the evaluation."""
    from bench.explore import duplicates

    return duplicates.leakage(
        subject,
        k=given.k,
        statistic=given.statistic,
        evaluate=given.evaluate,
        share=given.share,
        models=given.models,
        most=given.most,
        seed=given.seed,
        out=out,
    )
