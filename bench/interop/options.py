"""Options that several formats of `bench import` share, and what is said where one is missing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NamedTuple

from bench.errors import BenchError

ORIENTATIONS = ("train,test", "test,train")


class Sense(NamedTuple):
    """How a file's scores are to be read: rows × columns, and whether a larger one raises the margin."""

    orientation: str
    sign: str

    @property
    def factor(self) -> int:
        """What to multiply scores by."""
        return 1 if self.sign == "+" else -1


def ends(made: argparse.ArgumentParser, source: str, dest: str) -> None:
    """Add SOURCE and DEST."""
    made.add_argument("source", metavar="SOURCE", help=source)
    made.add_argument("dest", metavar="DEST", help=dest)


def scores(made: argparse.ArgumentParser, *, orientation: str | None, sign: str | None) -> None:
    """Add what is asked of a score matrix.

    Args:
        made: the parser.
        orientation: what the format fixes, None where it does not.
        sign: the same.
    """
    if orientation is None:
        made.add_argument(
            "--orientation",
            choices=ORIENTATIONS,
            help="what rows,columns of the scores are; the format does not fix it",
        )
    if sign is None:
        made.add_argument(
            "--sign",
            choices=("+", "-"),
            help="+ where a larger score means that the example raises the margin (lowers the loss), - where it "
            "lowers it; the format does not fix it",
        )
    made.add_argument(
        "--store",
        metavar="STORE",
        help="the ground truth they are for: its numbers of examples and targets are checked",
    )
    made.set_defaults(fixed=(orientation, sign))


def rows(made: argparse.ArgumentParser) -> None:
    """Add which rows of a store judge, and what it is called."""
    made.add_argument(
        "--eval-rows",
        metavar="last:K|first:K|all",
        help="the rows that judge (the last half); all of them only with --allow-leak",
    )
    made.add_argument(
        "--tune-rows", type=int, default=0, metavar="K", help="rows beside them for choosing hyper-parameters (0)"
    )
    made.add_argument(
        "--allow-leak",
        action="store_true",
        help="with --eval-rows all: fit on the rows that judge; every result of the store is stamped with it",
    )
    made.add_argument("--dataset", default="", metavar="NAME", help="what tables call it")
    order(made)


def output_is(made: argparse.ArgumentParser) -> None:
    """Add what a file of outputs holds."""
    made.add_argument(
        "--output-is",
        choices=("margin", "loss"),
        help="what the outputs are, where the file's name does not say; the sign of losses is turned",
    )


def order(made: argparse.ArgumentParser, usual: str = "") -> None:
    """Add what examples are compared with; `usual` is what they are compared with where none is named."""
    made.add_argument(
        "--check",
        metavar="DATASET",
        help="compare the examples with a dataset's: how many, and where their classes are told, in which order; "
        f"as cifar10, or mnist:n_train=2000{usual}",
    )
    made.add_argument(
        "--data-dir", metavar="DIR", help="where that dataset's files are (else $BENCH_DATA, else download)"
    )
    made.add_argument(
        "--allow-modified-data", action="store_true", help="compare with files that are not the published ones, too"
    )


STORES = (
    "output_is",
    "eval_rows",
    "tune_rows",
    "allow_leak",
    "dataset",
    "n_train",
    "check",
    "data_dir",
    "allow_modified_data",
)
SCORES = ("sign", "orientation", "store", "key")


def unused(given: argparse.Namespace, names: Iterable[str], made: str) -> None:
    """Make sure that nothing was asked for that has no effect.

    Args:
        given: the options.
        names: those without effect; a name that the format does not have is none.
        made: what is made, as the error says it.

    Raises:
        BenchError: one was given.
    """
    usual = {"tune_rows": 0, "allow_leak": False, "dataset": "", "allow_modified_data": False}
    for name in names:
        if getattr(given, name, None) not in (None, usual.get(name)):
            raise BenchError(
                f"--{name.replace('_', '-')} has no effect on {made}, which DEST {given.dest!r} asks for: leave it out"
            )


def sense(given: argparse.Namespace, name: str) -> Sense:
    """Orientation and sign, of the format or of the options.

    Raises:
        BenchError: one is missing.
    """
    orientation, sign = given.fixed
    orientation = orientation or given.orientation
    if orientation is None:
        raise BenchError(
            f"{name} does not fix what rows and columns are: add --orientation train,test or --orientation test,train"
        )
    return Sense(orientation, sign or signed(given, name, "scores"))


def signed(given: argparse.Namespace, name: str, what: str) -> str:
    """The sign that was given.

    Raises:
        BenchError: none was.
    """
    sign: str | None = given.sign
    if sign is None:
        more = "keeping the example raises the margin" if what == "scores" else "the model does better"
        raise BenchError(
            f"{name} does not fix the sign of its {what}: add --sign + if a larger value means that {more}, and "
            "--sign - if the opposite, as for losses"
        )
    return sign
