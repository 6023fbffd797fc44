"""`bench explore counterfactual`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.document import Finding
    from bench.explore.removals_document import Counterfactual
    from bench.explore.subject import Subject

HELP = "what scores predict of removing groups of training examples, beside models that are trained without them"
DESCRIPTION = (
    "Remove groups of training examples, and compare the changes of margins that scores predict with those of models "
    "trained without the group: the highest scores of some targets by each of the leading methods, random examples, "
    "random examples of one class, in many sizes; groups that index files name; and random removals of as much as the "
    "ground truth's subsets leave out, where the LDS says what to expect. Of a run, the correlation over groups of one "
    "size becomes a second column of its leaderboard, which bench run keeps while the scores are the same. Scores are "
    "put into units of margins by one slope per method, fitted on tune rows, never on rows that judge."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--targets", metavar="3,17,…", help="which targets to look at, by number (--count random ones)")
    parser.add_argument("--count", type=int, metavar="N", help="targets that are drawn (30)")
    parser.add_argument(
        "--sizes", metavar="X,…", help="shares of the training set to remove (0.005,0.01,0.02,0.05,0.1)"
    )
    parser.add_argument(
        "--draws", type=int, metavar="N", help="random groups of each size, and as many of classes, in turn (20)"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="FILE",
        help="also remove the training examples that a file names (.npy, .json or text); may be given again",
    )
    parser.add_argument(
        "--halves",
        type=int,
        metavar="N",
        help="random removals of as much as the ground truth's subsets leave out (200; 0: none)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="models per group (3; protocol single-model: 1)")
    parser.add_argument("--seed", type=int, default=0, help="what models, targets and groups come from (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Counterfactual]:  # noqa: ARG001
    """Predict, train, compare."""
    from bench.explore import asked, removals

    targets = None if given.targets is None else asked.numbers(given.targets, "--targets", subject.n_targets)
    return removals.counterfactual(
        subject,
        targets=targets,
        count=removals.COUNT if given.count is None else given.count,
        sizes=removals.SIZES if given.sizes is None else asked.shares(given.sizes, "--sizes"),
        draws=removals.DRAWS if given.draws is None else given.draws,
        halves=removals.HALVES if given.halves is None else given.halves,
        files=given.group,
        seeds=given.seeds,
        seed=asked.root_seed(given.seed),
    )
