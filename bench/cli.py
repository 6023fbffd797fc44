"""`python -m bench`: verbs that each import only what they use, so that help and lists answer at once.

Results go to stdout, progress to stderr. Exit codes: 0 done; 1 a method of the run, or a row of a worker, failed, a
method is worse than before, or a store is damaged; 2 bad usage or bad input, with one sentence on stderr; 130
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from bench import memorization_cli, shards
from bench.comparing import cli as comparing
from bench.contract import cli as contract
from bench.errors import BenchError, MethodError, nearest
from bench.explore import cli as explore
from bench.interop import FORMATS
from bench.interop import cli as interop
from bench.removal import cli as removal
from bench.report.cli import add_report
from bench.sharing import cli as sharing
from bench.tables import cli as tables

_EPILOG = """examples:
  python -m bench run                                 digits/mlp with the quick methods, in under a minute
  python -m bench run mnist/logreg --method influence --method trak:checkpoints=10,damping=tune
  python -m bench run digits/mlp --method path/to/mine.py
  python -m bench run digits/mlp --scores mine=scores.npy --orientation train,test --sign +
  python -m bench list
"""


class _Parser(argparse.ArgumentParser):
    """Argparse with errors of one sentence, and with the nearest verb."""

    def error(self, message: str) -> NoReturn:
        verb = re.match(r"argument VERB: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if verb:
            word, known = verb[1], [name.strip(" '") for name in verb[2].split(",")]
            message = f"there is no verb {word!r}{nearest(word, known)} (there are: {', '.join(known)})"
        written = re.match(r"argument FORMAT: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if written:
            there = written[2].replace("'", "")
            message = f"there is no format {written[1]!r}{nearest(written[1], list(FORMATS))} (there are: {there})"
        message = message.replace("the following arguments are required:", "what is missing:")
        self.exit(2, f"{self.prog}: {message}; see {self.prog.replace('bench', 'python -m bench', 1)} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but the parser that does not know an option refuses it, and names the nearest it has."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            word = rest[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            self.error(
                f"there is no option {word!r}{nearest(word, known)}" if word[:1] == "-" else f"{word!r} is too much"
            )
        return found, rest


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="bench",
        description="Rank training-data attribution methods by LDS, against models trained on random subsets.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from bench import __version__

    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        *(_add_run, _add_train, _add_attribute, _add_lds, _add_curve),
        *(comparing.add_compare, comparing.add_check),
        *(add_report, tables.add_table, contract.add_list, contract.add_check_method, _add_recipe, _add_verify),
        *(
            interop.add_import,
            interop.add_export,
            sharing.add_push,
            sharing.add_pull,
            explore.add,
            memorization_cli.add,
            removal.add,
            tables.add_schema,
        ),
    ):
        made = add(verbs)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def _add_run(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        "run", help="train the ground truth, run the methods, print the ranked table"
    )
    made.add_argument("setting", nargs="?", default="digits/mlp", help="dataset/model[:key=value,…] (digits/mlp)")
    made.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME[:key=value,…]",
        help="a method, the path of its file, or all; may be given again (default: the quick ones, which bench list "
        "does not mark)",
    )
    made.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="[NAME=]FILE.npy",
        help="a row of the table from a score matrix in a file; may be given again. One that bench import wrote says "
        "how it is to be read; of others say --orientation and --sign",
    )
    made.add_argument(
        "--orientation",
        action="append",
        default=[],
        metavar="train,test|test,train",
        help="rows,columns of --scores: once for all files, or once for each",
    )
    made.add_argument(
        "--sign",
        action="append",
        default=[],
        metavar="+|-",
        help="+: a larger score means that keeping the example raises the margin; -: the opposite, as for losses",
    )
    made.add_argument("--alpha", type=float, default=0.5, help="kept fraction of the training set (0.5)")
    _training(made, "--out", "folder of the results (results/SETTING…)")
    made.add_argument("--json", action="store_true", help="print the leaderboard as JSON instead of the table")
    return made


def _training(made: argparse.ArgumentParser, out: str, what: str, *, required: bool = False) -> None:
    made.add_argument("--models", type=int, default=1500, metavar="N", help="subset models (rows) in all (1500)")
    made.add_argument(
        "--protocol",
        choices=("expectation", "single-model"),
        default="expectation",
        help="expectation: a seed for every model; single-model: the same for all, and an example that is left out has "
        "weight 0 in its batches: natural with --alpha 0.99 (expectation)",
    )
    made.add_argument(
        "--repeats",
        type=int,
        metavar="R",
        help="seeds per eval subset (2; 1 by the protocol single-model); two or more give a ceiling",
    )
    made.add_argument(
        "--eval-subsets",
        type=int,
        default=200,
        metavar="K",
        help="at most so many eval subsets, which judge the methods (200): with 2 repeats 4 rows in 15, until then",
    )
    made.add_argument(
        "--tune-rows",
        type=int,
        default=100,
        metavar="K",
        help="at most so many tune rows, for choosing hyper-parameters (100): with 2 repeats 1 row in 15, until then",
    )
    made.add_argument(
        "--sampling",
        choices=("exact", "bernoulli"),
        default="exact",
        help="subsets of exactly round(alpha·n) examples, or each example kept with probability alpha (exact)",
    )
    made.add_argument(
        "--judge-only",
        action="store_true",
        help="only eval subsets, no fit or tune rows: a fourth of the cost, for methods that fit nothing",
    )
    made.add_argument(
        "--output",
        choices=("logsumexp", "max"),
        default="logsumexp",
        help="margin: the true class's logit minus the logsumexp, or the max, of the others (logsumexp)",
    )
    made.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of stored margins; float16 halves the files and makes ties (float32)",
    )
    made.add_argument(
        "--allow-empty-classes", action="store_true", help="let subsets be that keep no example of some class"
    )
    made.add_argument("--seed", type=int, default=0, metavar="S", help="root seed of everything (0)")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    _data(made)
    made.add_argument(out, required=required, metavar="DIR", help=what)
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _data(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--data-dir", metavar="DIR", help="where the datasets' files are (else $BENCH_DATA, else download)"
    )
    made.add_argument(
        "--allow-modified-data",
        action="store_true",
        help="take files that are not the published ones; store and tables say so, with the files' own hashes",
    )


def _add_train(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("train", help="make a ground-truth store, or go on with one")
    made.add_argument("setting", nargs="?", help="dataset/model[:key=value,…]; none with --worker")
    made.add_argument(
        "--alpha", default="0.5", help="kept fraction of the training set (0.5); several make a store each: 0.2,0.5"
    )
    _training(made, "--out", "folder of the store")
    made.add_argument(
        "--keep",
        default="",
        metavar="ARRAY,…",
        help="what to keep besides margins: logits, train_margins, correct, train_correct",
    )
    shards.flags(made)
    made.add_argument(
        "--workers",
        type=int,
        metavar="K",
        help="processes that train blocks (one per GPU; threads of this one on a CPU), or that call --worker",
    )
    made.add_argument("--status", metavar="STORE", help="say how far a store is, and train nothing")
    made.add_argument(
        "--worker",
        metavar="MODULE:FUNCTION",
        help="in place of SETTING: a function that is called with index and logdir for every row of --spec; or FILE:…",
    )
    made.add_argument("--spec", metavar="FILE", help="JSON: how many rows --worker makes, and the arrays of each")
    made.add_argument(
        "--worker-args", metavar="TEXT", help="what --worker finds in sys.argv; write --worker-args='--lr 0.1'"
    )
    return made


def _add_attribute(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("attribute", help="one method's score matrix, as .npy")
    made.add_argument(
        "setting", nargs="?", help="dataset/model[:key=value,…] (the one that the store names; none if it was imported)"
    )
    made.add_argument(
        "--method", required=True, metavar="NAME[:key=value,…]", help="the method, or the path of its file"
    )
    made.add_argument("--store", required=True, metavar="STORE", help="ground truth to fit on (bench train)")
    made.add_argument("--out", required=True, metavar="FILE.npy", help="where the scores go, [n_train, n_targets]")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    _data(made)
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made


def _add_lds(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("lds", help="LDS of a score matrix, from files alone")
    made.add_argument("--masks", metavar="M.npy", help="0/1 [n_subsets, n_train], 1 = kept")
    made.add_argument("--margins", metavar="Y.npy", help="[n_subsets, n_targets]")
    made.add_argument(
        "--store", metavar="STORE", help="in place of both: the eval rows of a store (the mean over a subset's seeds)"
    )
    made.add_argument(
        "--scores",
        metavar="S.npy",
        help="[n_train, n_targets], positive = keeping the example raises the margin; or released datamodels, .pt",
    )
    made.add_argument(
        "--precision",
        choices=("auto", "float32", "float64"),
        default="auto",
        help="of the predicted margins (auto: float64 where it is quick)",
    )
    made.add_argument(
        "--targets",
        metavar="A-B,…",
        help="only these, from 0 on, as 0-99 or 0-99,250 (all); scores are of these alone, or of all",
    )
    made.add_argument(
        "--allow-leak",
        action="store_true",
        help="with --store: score what is known to be made from rows that judge; the result is stamped with it",
    )
    made.add_argument("--per-target", metavar="FILE.npy", help="write float64 [n_targets], NaN where excluded")
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def _add_curve(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        "datamodels-curve",
        help="how good datamodels are against the rows they are fitted on: table and plot",
        description="Fit datamodels on growing numbers of a store's fit rows (the first of them, so that each fit's "
        "rows are among the next one's), and judge them on its tune rows: LDS, R², sparsity, penalties, certificates.",
    )
    made.add_argument("store", metavar="STORE", help="folder of the store (bench train, bench import)")
    made.add_argument(
        "--rows", metavar="N,…", help="numbers of fit rows, as 100,200,500 (six, doubling, up to all that there are)"
    )
    made.add_argument(
        "--estimator",
        default="lasso,ridge,heldout",
        metavar="NAME,…",
        help="lasso, ridge, heldout: the difference in means (these three), least-squares",
    )
    made.add_argument(
        "--out",
        metavar="DIR",
        help="write curve.csv, .md, .json, .png and .svg there, and use finished points there again (only print)",
    )
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the splits that choose λ (0)")
    made.add_argument("--device", default="auto", help="where to fit by LASSO: auto, cpu or cuda (auto)")
    made.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made


def _add_recipe(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("recipe", help="how a setting's models are trained, and how well")
    made.add_argument("setting", help="dataset/model[:key=value,…]")
    made.add_argument("--measure", type=int, metavar="K", help="train K models on the full set now")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    _data(made)
    return made


def _add_verify(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("verify", help="check every array and block of a store")
    made.add_argument("store", metavar="STORE", help="folder of the store")
    made.add_argument("--retrain", type=int, default=2, metavar="K", help="rows, drawn at random, to train again (2)")
    made.add_argument("--setting", help="what to train them by (the setting that the store names)")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    _data(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    # Read when torch loads its OpenMP: threads that spin at every barrier crawl where other work shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch's, of its own code, when it first takes a derivative forwards: nobody who reads it can do anything.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    from bench import commands

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page without α or − must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = commands.VERBS[given.verb](given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as head, has gone: nothing more to say to it
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BenchError as error:
        return _fail(given, str(error), error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(given, f"{where}{error.strerror or error}", error)
    except MemoryError as error:
        return _fail(given, f"not enough memory ({error}): ask for fewer models or examples", error)
    except Exception as error:  # a fault of ours must not look like a regression, whose exit code is 1
        return _fail(given, f"unexpected {type(error).__name__}: {error}; --debug shows where, please report it", error)
    except KeyboardInterrupt:
        print("bench: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130


def _fail(given: argparse.Namespace, sentence: str, error: Exception) -> int:
    if given.debug:
        import traceback

        traceback.print_exception(error)
    print(f"bench: {' '.join(sentence.split())}", file=sys.stderr)
    return 1 if isinstance(error, MethodError) else 2
