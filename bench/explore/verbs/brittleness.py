"""`bench explore brittleness`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.document import Finding
    from bench.explore.flips_document import Brittleness
    from bench.explore.subject import Subject

HELP = "how few training examples must go for a target to be misclassified; verified by training without them"
DESCRIPTION = (
    "For each target the smallest number k of training examples whose removal is predicted to make the model "
    "misclassify it, by each method; then models are trained without them, without as many random examples, without "
    "as many of the target's class, and without the highest scores in a grid of sizes (Ilyas et al. 2022, section "
    "4.1). Targets are a random sample of those that models of the full training set classify rightly on average, so "
    "that the shares that flip are estimates for all of these. Scores are put into units of margins by one slope per "
    "method, fitted on tune rows of the ground truth, never on rows that judge."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--targets", metavar="3,17,…", help="which targets, by number (--count random ones)")
    parser.add_argument("--count", type=int, metavar="N", help="targets that are drawn (100)")
    parser.add_argument("--seeds", type=int, metavar="N", help="models per removal (5; protocol single-model: 1)")
    parser.add_argument(
        "--sizes",
        metavar="X,…",
        help="shares of the training set, at which the smallest removal that flips is searched "
        "(0.002,0.005,0.01,0.02,0.05,0.1)",
    )
    parser.add_argument(
        "--most", type=float, metavar="X", help="share of the training set above which no k is predicted (0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="what models, targets and random groups come from (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Brittleness]:  # noqa: ARG001
    """Predict, train, compare."""
    from bench.explore import asked, flips

    targets = None if given.targets is None else asked.numbers(given.targets, "--targets", subject.n_targets)
    return flips.brittleness(
        subject,
        targets=targets,
        count=flips.COUNT if given.count is None else given.count,
        seeds=given.seeds,
        sizes=flips.SIZES if given.sizes is None else asked.shares(given.sizes, "--sizes"),
        most=flips.MOST if given.most is None else given.most,
        seed=asked.root_seed(given.seed),
    )
