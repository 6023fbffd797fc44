"""A score matrix of any tool, as a plain array, with what it does not say."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "scores"
ABOUT = """One array in a .npy, .npz, .pt or .safetensors file, to DEST.npy. The file says neither what its rows are nor
what a positive score means: --orientation and --sign are asked for. With --store the shape is checked, so that a
transposed matrix is named. --key NAME takes one of several arrays."""


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, "the file", "FILE.npy for the scores")
    options.scores(made, orientation=None, sign=None)
    made.add_argument("--key", metavar="NAME", help="which array, where the file has several")


def import_(given: argparse.Namespace) -> list[str]:
    """Make a score matrix; gives what to print."""
    from bench.interop import options, reading, score_matrix

    score_matrix.target(given.dest)
    options.sense(given, NAME)
    path = Path(given.source)
    return score_matrix.import_(given, NAME, score_matrix.Read(reading.read(path, given.key), [path]))
