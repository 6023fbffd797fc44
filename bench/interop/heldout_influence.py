"""google-research/heldout-influence-estimation: what `bench import` and `bench export` are told about it."""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = ("estimates", "classes", "index", "pairs", "runs")


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    if verb == "export":
        made.add_argument("store", metavar="STORE", help="the store: imported, or trained with --keep train-correct")
        made.add_argument("dest", metavar="DEST", help="folder that gets the files")
        made.add_argument(
            "--what",
            choices=PARTS,
            default="estimates",
            help="estimates: infl_mem.npz; classes: cifar100_infl_matrix.npz, which holds each class's examples alone; "
            "index: imagenet_index.npz, memorization with classes and files; pairs: those of high influence; "
            "runs: <ratio>/<run>/aux_arrays.npz (estimates)",
        )
        made.add_argument(
            "--train-labels", metavar="FILE.npy", help="classes of the training examples, for classes and index"
        )
        made.add_argument("--target-labels", metavar="FILE.npy", help="classes of the targets, for classes (and index)")
        made.add_argument("--train-files", metavar="FILE.txt", help="their files, a name a line, for index")
        made.add_argument("--target-files", metavar="FILE.txt", help="the same of the targets, for index, if known")
        made.add_argument("--quiet", action="store_true", help="no progress on stderr")
        return
    from bench.interop import options

    made.add_argument("source", metavar="SOURCE", help="folder of the experiment, or of one of its subset ratios")
    made.add_argument("store", metavar="STORE", help="folder of the store to make; of several ratios one each, alpha-…")
    made.add_argument("--ratio", type=float, action="append", metavar="R", help="only this subset ratio (all)")
    made.add_argument("--dataset", metavar="NAME", help="what to call it (the folder's name)")
    made.add_argument(
        "--skip-torn", action="store_true", help="leave runs out that are missing or torn; meta.json names them"
    )
    made.add_argument("--eval-rows", metavar="last:K|first:K", help="runs that judge methods by LDS (the last fifth)")
    made.add_argument("--tune-rows", type=int, metavar="K", help="runs beside them for choosing hyper-parameters")
    options.order(made)
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store; gives what to print."""
    from bench.interop import heldout_import

    return heldout_import.run(given)


def export(given: argparse.Namespace) -> list[str]:
    """Write estimates or runs; gives what to print."""
    from bench.interop import heldout_export

    return heldout_export.run(Path(given.store), Path(given.dest), given)
