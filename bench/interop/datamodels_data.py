"""MadryLab's released datamodels data: what `bench import` and `bench export` are told about it."""

from __future__ import annotations

import argparse
from pathlib import Path

RATE = 0.09
"""Dollars that AWS asks for 10⁹ bytes that leave it for the internet (the first 10 TB of a month; 2025)."""


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    if verb == "export":
        made.add_argument("store", metavar="STORE", help="the store, trained or imported")
        made.add_argument("dest", metavar="DEST", help="folder that gets DATASET/data/…")
        made.add_argument("--dataset", metavar="NAME", help="name of the folder (the release's, else the setting's)")
        return
    from bench.interop import options

    made.add_argument("source", metavar="SOURCE", help="folder of the files, or s3://bucket[/prefix]")
    made.add_argument("store", metavar="STORE", help="folder of the store to make")
    made.add_argument("--dataset", metavar="NAME", help="cifar or fmow, where there are several")
    made.add_argument("--alpha", type=float, help="kept fraction, where there are several")
    made.add_argument(
        "--split", choices=("test", "train"), default="test", help="targets: test or training examples (test)"
    )
    made.add_argument(
        "--eval-rows",
        default="last:10000",
        metavar="last:K|first:K",
        help="the rows that judge, the release's evaluation models; it does not say where they are (last:10000)",
    )
    made.add_argument(
        "--tune-rows",
        type=int,
        metavar="K",
        help="rows beside them for choosing hyper-parameters (a tenth of the others, at most 1000)",
    )
    made.add_argument(
        "--judge-only",
        action="store_true",
        help="read and check the rows that judge alone: at once, whatever the files' size; no other row is used",
    )
    made.add_argument(
        "--keep",
        default="",
        metavar="ARRAY,…",
        help="what else to take: logits, and datamodels (the released .pt, as STORE/datamodels.pt)",
    )
    made.add_argument(
        "--margins-are",
        choices=("max", "logsumexp"),
        default="max",
        help="what the file of margins holds; the release's are the true class's logit minus the max other (max)",
    )
    made.add_argument(
        "--output",
        choices=("max", "logsumexp"),
        help="margins to have, where they are not the file's: either kind is made of the logits, with --labels",
    )
    made.add_argument("--labels", metavar="FILE.npy", help="classes of the targets, integers [n_targets]")
    options.order(made, " (cifar10 or fmow by the dataset's name, where its files are here)")
    made.add_argument("--copy", action="store_true", help="copy the files instead of linking them")
    made.add_argument("--yes", action="store_true", help="download from S3, and be billed for it, without being asked")
    made.add_argument(
        "--rate", type=float, default=RATE, metavar="DOLLARS", help=f"price of 10⁹ bytes from S3, to estimate ({RATE})"
    )
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store; gives what to print."""
    from bench.interop import release_import

    return release_import.run(given)


def export(given: argparse.Namespace) -> list[str]:
    """Write the release's files; gives what to print."""
    from bench.interop import release_export

    return release_export.export(Path(given.store), Path(given.dest), given.dataset)
