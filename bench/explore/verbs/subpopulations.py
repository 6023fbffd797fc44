"""`bench explore subpopulations`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.clusters_document import Subpopulations
    from bench.explore.document import Finding
    from bench.explore.subject import Subject

HELP = "clusters of targets that are alike in their scores, and clusters that are at odds"
DESCRIPTION = (
    "Groups that nobody has labelled. Targets whose scores are alike form clusters (spectral clustering), and so do "
    "training examples; principal components show in what targets differ; a cluster of training examples that lowers "
    "the margins of a cluster of targets is at odds with it, which is checked by training without it. To see how far "
    "clusters can be believed, classes are merged in random pairs, models are trained on the merged labels, and "
    "clusters by each method are compared with the hidden classes, beside clusters of the pixels. The best method "
    "by LDS is clustered (or the one named), the five best are compared. Scores from a file are of these examples "
    "alone, and cannot be compared so."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--clusters", type=int, metavar="N", help="of each group (3; of smaller groups fewer)")
    parser.add_argument(
        "--within",
        choices=("class", "all"),
        help="divide each class by itself, or all examples at once (class, where classes are known)",
    )
    parser.add_argument(
        "--normalise",
        choices=("helpful", "balanced", "cosine", "top", "pca"),
        default="helpful",
        help="what is done to scores before cosines are taken: cosine, nothing; balanced, each training example is "
        "divided by its root mean square, so that all count the same; helpful, the same, and what is below 0 counts "
        "as 0; top, the 100 largest of a vector; pca, the first 10 principal components (helpful)",
    )
    parser.add_argument(
        "--check", type=int, metavar="N", help="pairs of clusters at odds to check by retraining; 0 for none (3)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="models per removed set, for --check (8)")
    parser.add_argument(
        "--evaluate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="plant subgroups, train on them and compare methods (where there are examples to train on)",
    )
    parser.add_argument(
        "--models", type=int, default=1000, metavar="N", help="rows of the planted ground truth, for --evaluate (1000)"
    )
    parser.add_argument(
        "--pairings", type=int, default=1, metavar="N", help="how often to plant, each anew, for --evaluate (1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Subpopulations]:
    """Clusters, components, conflicts, evaluation."""
    from bench.explore import populations

    return populations.subpopulations(
        subject,
        n_clusters=given.clusters,
        within=given.within,
        normalise=given.normalise,
        check=given.check,
        seeds=given.seeds,
        evaluate=given.evaluate,
        models=given.models,
        pairings=given.pairings,
        seed=given.seed,
        out=out,
    )
