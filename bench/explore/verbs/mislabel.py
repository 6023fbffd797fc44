"""`bench explore mislabel`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.document import Finding
    from bench.explore.label_noise import Mislabel
    from bench.explore.subject import Subject

HELP = "training examples whose labels may be wrong, and how well each method tells planted ones"
DESCRIPTION = (
    "Training examples ranked by how much each raises the models' margin on itself: self-influence by each method, and "
    "memorization by the models alone. Some labels are made wrong, models are trained with them, the methods are run "
    "with the training examples as targets, and the wrong labels are looked for. A file of labels may take the place "
    "of planted ones; --no-plant ranks by the models of the store as it is, and trains nothing."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--k", type=int, default=10, metavar="N", help="examples that the table shows (10)")
    parser.add_argument("--most", type=int, default=5, metavar="N", help="methods, the best by LDS (5)")
    parser.add_argument(
        "--plant",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train with wrong labels; else rank by the models there are, of bench train --keep train-margins",
    )
    parser.add_argument("--share", type=float, default=0.1, metavar="X", help="of the labels to make wrong (0.1)")
    parser.add_argument(
        "--labels", metavar="FILE", help="labels in place of planted ones: a whole number per training example"
    )
    parser.add_argument(
        "--labels-are",
        choices=("noisy", "clean"),
        default="noisy",
        help="noisy: models are trained with those of the file, and the dataset's are right; clean: those of the file "
        "are right, and the dataset's noisy (noisy)",
    )
    parser.add_argument("--models", type=int, default=1500, metavar="N", help="to train (1500)")
    parser.add_argument("--seed", type=int, default=0, help="of the wrong labels and the models (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Mislabel]:
    """The ranking, and how well it tells wrong labels."""
    from bench.explore import label_noise

    return label_noise.mislabel(
        subject,
        k=given.k,
        plant=given.plant,
        share=given.share,
        labels_file=given.labels,
        labels_are=given.labels_are,
        models=given.models,
        most=given.most,
        seed=given.seed,
        out=out,
    )
