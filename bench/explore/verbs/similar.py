"""`bench explore similar`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.document import Finding
    from bench.explore.subject import Subject
    from bench.explore.toplists import Similar

HELP = "the training examples that help and harm a target most, by each method, and how far methods agree"
DESCRIPTION = (
    "For some targets the k training examples of the highest and of the lowest scores, by each method: as a picture, "
    "and in similar.csv. Over all targets, how far methods name the same examples: the overlap of their top k, and "
    "rank-biased overlap (Webber, Moffat, Zobel 2010), which counts the first places more."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--k", type=int, metavar="N", help="examples on either side (10)")
    parser.add_argument(
        "--targets",
        metavar="3,17,…|all",
        help="the targets whose examples are listed, by number (six, spread over classes); at most 12 are shown",
    )
    parser.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show examples as pictures, or as tables of what they hold (pictures where examples are images)",
    )


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Similar]:  # noqa: ARG001
    """The lists and the agreement."""
    from bench.explore import asked, toplists

    targets = given.targets
    if targets is not None and targets != "all":
        targets = asked.numbers(targets, "--targets", subject.n_targets)
    return toplists.similar(subject, k=given.k, targets=targets, pictures=given.pictures)
