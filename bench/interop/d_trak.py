"""D-TRAK's pickles: refused, and how to convert them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

NAME = "d-trak"
ABOUT = """D-TRAK keeps indices and scores in pickles (idx-train.pkl, …). A pickle is a program: opening one runs what
its author, or whoever changed it on the way, put there. It is therefore never opened here. Where you trust the
file, convert it yourself, in a place where nothing is at stake:
  import pickle, numpy
  with open("FILE.pkl", "rb") as file:
      numpy.save("FILE.npy", numpy.asarray(pickle.load(file)))
and read FILE.npy by `bench import scores` (scores) or `bench import arrays` (masks and outputs)."""


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, "a pickle", "is not written")


def import_(given: argparse.Namespace) -> NoReturn:
    """Refuse.

    Raises:
        InputError: always.
    """
    from bench.errors import InputError

    name = Path(given.source).name
    raise InputError(
        f"{given.source} is a pickle, which can run any code when it is opened, and is not read: where you trust it, "
        f"convert it yourself (python -c \"import pickle, numpy; numpy.save('{Path(name).stem}.npy', "
        f"pickle.load(open('{name}', 'rb')))\") and read the .npy by bench import scores or bench import arrays"
    )
