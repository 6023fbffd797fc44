"""`bench explore embedding`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.explore.coordinates import Embedding
    from bench.explore.document import Finding
    from bench.explore.subject import Subject

HELP = "targets as points by what they depend on: arrays, a plot, nearest neighbours, and whether those share a class"
DESCRIPTION = (
    "A target's scores over all training examples are a vector that says what the model's answer on it depends on "
    "(datamodel embedding, Ilyas et al. 2022, section 4.3). Written as arrays (embedding-matrix.npy, "
    "embedding-pca.npy) and as a table (embedding-coordinates.parquet), drawn, and judged by how many of a target's "
    "nearest neighbours share its class, beside neighbours by the examples themselves. By the method of the best LDS, "
    "or by those of --method."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "--of",
        choices=("targets", "train"),
        default="targets",
        help="what the points are: targets or training examples",
    )
    parser.add_argument("--components", type=int, metavar="D", help="principal components that are written (10)")
    parser.add_argument(
        "--query", metavar="3,17,…", help="points whose nearest are listed, by number (six, spread over classes)"
    )
    parser.add_argument("--k", type=int, metavar="N", help="nearest neighbours (10)")
    parser.add_argument(
        "--project",
        choices=("pca", "umap"),
        default="pca",
        help="the plane that is drawn: principal components, or UMAP's as well (pip install 'ldsbench[umap]')",
    )
    parser.add_argument(
        "--matrix",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write the vectors themselves, whatever their size, or never (up to 64 MiB)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of randomized algorithms (0)")


def make(subject: Subject, given: argparse.Namespace, out: Path | None) -> Finding[Embedding]:  # noqa: ARG001
    """The points."""
    from bench.explore import asked, coordinates

    count = subject.n_targets if given.of == "targets" else subject.n_train
    what = "targets" if given.of == "targets" else "training examples"
    query = None if given.query is None else asked.numbers(given.query, "--query", count, what)
    return coordinates.embedding(
        subject,
        of=given.of,
        components=given.components,
        query=query,
        k=given.k,
        project=given.project,
        matrix=given.matrix,
        seed=given.seed,
    )
