"""Released datamodels, `.pt`: what `bench export` is told about them."""

from __future__ import annotations

import argparse
from pathlib import Path


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    made.add_argument("scores", metavar="SCORES.npy", help="a score matrix of the method datamodels")
    made.add_argument("dest", metavar="DEST.pt", help="the file to write")
    made.add_argument("--bias", metavar="FILE.npy", help="each target's bias, [n_targets] (else in SCORES.extra.npz)")
    made.add_argument("--lam", metavar="FILE.npy", help="each target's penalty, [n_targets] (else in SCORES.extra.npz)")


def export(given: argparse.Namespace) -> list[str]:
    """Write the file; gives what to print."""
    from bench.interop import datamodels_pt

    return datamodels_pt.export(Path(given.scores), Path(given.dest), given.bias, given.lam)
