"""`python -m bench`: verbs that each import only what they use, so that help and lists answer at once.

Results go to stdout, progress to stderr. Exit codes: 0 done; 1 a method of the run, or a row of a
worker, failed, or a store is damaged; 2 bad usage or bad input, with one sentence on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import BenchError, MethodError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from bench.runner import Options

_VERBS = ("run", "train", "attribute", "lds", "report", "list", "recipe", "verify")
_TRAINING_OPTIONS = (
    "models",
    "repeats",
    "eval_subsets",
    "tune_rows",
    "output",
    "seed",
    "device",
    "sampling",
    "dtype",
)
_EPILOG = """examples:
  python -m bench run                                 digits/mlp with every method, in under a minute
  python -m bench run mnist/logreg --method influence --method trak:checkpoints=10,damping=tune
  python -m bench run digits/mlp --method path/to/mine.py
  python -m bench list
"""


class _Parser(argparse.ArgumentParser):
    """Argparse with errors of one sentence, and with the nearest verb."""

    def error(self, message: str) -> NoReturn:
        verb = re.match(r"argument VERB: invalid choice: '(.*?)' \(", message)
        if verb:
            word = verb[1]
            message = f"there is no verb {word!r}{nearest(word, list(_VERBS))} (there are: {', '.join(_VERBS)})"
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
    for add in (_add_run, _add_train, _add_attribute, _add_lds, _add_report, _add_list, _add_recipe, _add_verify):
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
        help="a method, the path of its file, or all; may be given again (default: all)",
    )
    made.add_argument("--alpha", type=float, default=0.5, help="kept fraction of the training set (0.5)")
    _training(made, "--out", "folder of the results (results/SETTING…)")
    made.add_argument("--json", action="store_true", help="print the leaderboard as JSON instead of the table")
    return made


def _training(made: argparse.ArgumentParser, out: str, what: str, *, required: bool = False) -> None:
    made.add_argument("--models", type=int, default=1500, metavar="N", help="subset models (rows) in all (1500)")
    made.add_argument(
        "--repeats", type=int, default=2, metavar="R", help="seeds per eval subset (2); two or more give a ceiling"
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
    made.add_argument(
        "--shard", default="0/1", metavar="i/n", help="train only every n-th block from the i-th (from 0); any order"
    )
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
    made.add_argument("setting", help="dataset/model[:key=value,…]")
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
    made: argparse.ArgumentParser = verbs.add_parser("lds", help="LDS of a score matrix, from .npy files alone")
    made.add_argument("--masks", required=True, metavar="M.npy", help="0/1 [n_subsets, n_train], 1 = kept")
    made.add_argument("--margins", required=True, metavar="Y.npy", help="[n_subsets, n_targets]")
    made.add_argument(
        "--scores",
        required=True,
        metavar="S.npy",
        help="[n_train, n_targets], positive = keeping the example raises the margin",
    )
    made.add_argument(
        "--precision",
        choices=("auto", "float32", "float64"),
        default="auto",
        help="of the predicted margins (auto: float64 where it is quick)",
    )
    made.add_argument("--per-target", metavar="FILE.npy", help="write float64 [n_targets], NaN where excluded")
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def _add_report(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("report", help="print a run's table and write its report.html")
    made.add_argument("run", metavar="RUN", help="folder that bench run wrote")
    made.add_argument("--json", action="store_true", help="print the leaderboard as JSON instead of the table")
    return made


def _add_list(verbs: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser("list", help="what there is: methods, settings")
    made.add_argument("what", nargs="?", choices=("methods", "datasets"), help="only these")
    made.add_argument("--json", action="store_true", help="print one JSON document")
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
    run = {
        "run": _run,
        "train": _train,
        "attribute": _attribute,
        "lds": _lds,
        "report": _report,
        "list": _list,
        "recipe": _recipe,
        "verify": _verify,
    }[given.verb]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page without α or − must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(given)
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
    except KeyboardInterrupt:
        print("bench: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130


def _fail(given: argparse.Namespace, sentence: str, error: Exception) -> int:
    if given.debug:
        import traceback

        traceback.print_exception(error)
    print(f"bench: {' '.join(sentence.split())}", file=sys.stderr)
    return 1 if isinstance(error, MethodError) else 2


def _options(given: argparse.Namespace) -> Options:
    from bench.runner import Options

    names = (
        "setting",
        "models",
        "repeats",
        "eval_subsets",
        "tune_rows",
        "output",
        "seed",
        "device",
        "sampling",
        "dtype",
    )
    alphas = _alphas(given.alpha)
    return Options(
        **{name: getattr(given, name) for name in names},
        alpha=alphas[0],
        keep=_words(getattr(given, "keep", "")),
        allow_empty_classes=given.allow_empty_classes,
        methods=tuple(getattr(given, "method", ())),
        data_dir=given.data_dir,
        out=given.out,
        quiet=given.quiet,
        debug=given.debug,
    )


def _words(text: str) -> Any:
    return tuple(word.replace("-", "_") for word in text.split(",") if word)


def _alphas(text: float | str) -> list[float]:
    try:
        return [float(word) for word in str(text).split(",")]
    except ValueError as error:
        raise BenchError(f"--alpha is {text!r}: write a number between 0 and 1, or several as 0.2,0.5") from error


def _check_names(given: argparse.Namespace) -> None:
    """Answer a misspelt name at once, before numpy and torch are imported."""
    from bench import datasets, methods

    datasets.check(given.setting)
    specs = getattr(given, "method", [])
    methods.check([specs] if isinstance(specs, str) else specs)


def _results_only() -> contextlib.AbstractContextManager[Any]:
    """What plug-ins and libraries print goes to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _run(given: argparse.Namespace) -> int:
    _check_names(given)
    with _results_only():
        from bench import runner

        board = runner.run(_options(given))
    _show(board, given.json)
    return 1 if any(row.status == "failed" for row in board.methods) else 0


def _show(board: Any, as_json: bool) -> None:
    from bench import tables

    if as_json:
        _print_json(board)
    else:
        tables.show(board)


def _print_json(value: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def _train(given: argparse.Namespace) -> int:
    from pathlib import Path

    if given.status is not None:
        return _status(given.status)
    external = [name for name in ("worker", "spec", "worker_args") if getattr(given, name) is not None]
    if given.setting is None and not external:
        raise BenchError("what to train is missing: name a setting, such as digits/mlp, or a --worker and its --spec")
    if given.out is None:
        raise BenchError("--out is missing: name the folder of the store")
    if not external:
        _check_names(given)
    shard = _shard(given.shard)
    if given.workers is not None and given.workers < 1:
        raise BenchError(f"--workers is {given.workers}: it takes at least one")
    if external:
        return _train_external(given, shard)
    alphas = _alphas(given.alpha)
    with _results_only():
        from bench import runner

        found = runner.train(_options(given), Path(given.out), shard, given.workers, alphas if len(alphas) > 1 else ())
    for meta in found:
        if meta is None:
            print(f"{given.out}: this shard is done, other rows are missing; the last shard to end gathers the store")
            continue
        who = meta.identity
        where = Path(given.out) / f"alpha-{who.alpha:g}" if len(found) > 1 else given.out
        print(f"{where}: {len(meta.subset_of_row)} rows × {meta.n_targets} targets of {who.setting}", end="")
        print(f", accuracy {meta.accuracy:.1%}" + (f", {len(meta.diverged)} diverged" if meta.diverged else ""))
    return 0


def _status(store: str) -> int:
    from pathlib import Path

    from bench import status

    for folder in status.stores_in(Path(store)):
        print(f"{folder}", *status.lines(folder), sep="\n  ")
    return 0


def _train_external(given: argparse.Namespace, shard: tuple[int, int]) -> int:
    import shlex
    from pathlib import Path

    from bench import external, schema
    from bench.external_worker import Worker
    from bench.progress import Progress

    if given.setting is not None:
        raise BenchError(f"{given.setting!r} and --worker are both given: train a setting, or let a worker do it")
    for name, other in (("worker", "spec"), ("spec", "worker")):
        if getattr(given, name) is None:
            raise BenchError(f"--{other} needs --{name}" if getattr(given, other) else "--worker-args needs --worker")
    usual = parser().parse_args(["train", "x", "--out", "x"])
    for name in (*_TRAINING_OPTIONS, "alpha", "keep", "data_dir", "allow_empty_classes"):
        if getattr(given, name) != getattr(usual, name):
            raise BenchError(
                f"--{name.replace('_', '-')} does not go with --worker: the spec and the worker say what is made"
            )
    try:
        worker = Worker(given.worker, tuple(shlex.split(given.worker_args or "")))
    except ValueError as error:
        raise BenchError(f"--worker-args is {given.worker_args!r}: {error}") from error
    made = external.make(
        worker,
        spec := schema.read_spec(Path(given.spec)),
        Path(given.out),
        Progress(quiet=given.quiet),
        shard=shard,
        processes=given.workers,
        debug=given.debug,
    )
    made.check()
    if made.gathered:
        print(f"{given.out}: {spec.n_rows} rows of {', '.join(spec.schema)}")
    else:
        print(f"{given.out}: this shard is done, other rows are missing; the last shard to end gathers the store")
    return 0


def _shard(text: str) -> tuple[int, int]:
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise BenchError(f"--shard is {text!r}: write i/n with 0 ≤ i < n, such as 0/4")
    return int(i), int(n)


def _attribute(given: argparse.Namespace) -> int:
    from pathlib import Path

    _check_names(given)
    out = Path(given.out)
    if out.suffix != ".npy":
        raise BenchError(f"--out is {given.out!r}: scores are written as .npy, so name a file that ends so")
    with _results_only():
        from bench import runner

        cost, notes = runner.attribute(
            given.setting, given.method, Path(given.store), out, given.device, given.data_dir, given.quiet
        )
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{out}: {cost.seconds:.1f} s, {cost.models} models")
    return 0


def _lds(given: argparse.Namespace) -> int:
    from bench import runner

    found = runner.lds_of_files(given.masks, given.margins, given.scores, given.precision, given.per_target)
    if given.json:
        _print_json(found)
        return 0
    low, high = found["ci"]
    print(f"LDS {found['lds']:.4f}  95% interval [{low:.4f}, {high:.4f}]")
    print(f"{found['n_subsets']} subsets × {found['n_targets']} targets", end="")
    print(f"; {found['n_excluded']} excluded, {found['n_tied']} with ties (average ranks)")
    return 0


def _report(given: argparse.Namespace) -> int:
    from pathlib import Path

    from bench import atomic, report, results

    folder = Path(given.run)
    folder = folder.parent if folder.name == "leaderboard.json" else folder
    board = results.read(folder)
    atomic.write_text(folder / "report.html", report.html(board, results.read_per_target(folder)))
    _show(board, given.json)
    return 0


def _list(given: argparse.Namespace) -> int:
    from bench import datasets, methods

    found: dict[str, dict[str, str]] = {}
    if given.what != "datasets":
        found["methods"] = methods.names()
    if given.what != "methods":
        found["datasets"] = datasets.settings()
    if given.json:
        import json  # msgspec is not loaded yet, and need not be

        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    width = max((len(name) for part in found.values() for name in part), default=0)
    for title, part in found.items():
        print("methods" if title == "methods" else "settings")
        for name, summary in part.items():
            print(f"  {name:<{width}}  {summary}")
    return 0


def _recipe(given: argparse.Namespace) -> int:
    from dataclasses import replace

    _check_names(given)
    if given.measure is not None and given.measure < 1:
        raise BenchError(f"--measure is {given.measure}: it takes at least one model")
    with _results_only():
        from bench import datasets, evidence, runner

        setting = datasets.setting(given.setting)
        recipe = setting.recipe
        if given.measure is not None:
            data = runner.load(setting, given.data_dir)
            recipe = replace(recipe, evidence=evidence.measure(setting, data, given.measure, given.device))
    print(setting.name)
    for word, text in evidence.lines(recipe):
        print(f"  {word:<14}{text}")
    if given.measure is not None:
        print(f"  {'in code':<14}evidence={recipe.evidence!r}")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from pathlib import Path

    faults = 0
    for folder in _stores(Path(given.store)):
        with _results_only():
            from bench import runner

            wrong, retrained = runner.verify(folder, given.retrain, given.setting, given.device, given.data_dir)
        for sentence in wrong:
            print(sentence)
        print(f"{folder}: {retrained}", file=sys.stderr)
        if wrong:
            print(f"{folder}: {len(wrong)} faults; train again with the same settings to mend it", file=sys.stderr)
        else:
            print(f"{folder} is sound")
        faults += len(wrong)
    return 1 if faults else 0


def _stores(folder: Path) -> list[Path]:
    from bench import status

    return status.stores_in(folder)
