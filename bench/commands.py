"""What each verb of `python -m bench` does: one function per verb, from its arguments to an exit code.

Each imports what it uses when it is called, so that help and lists answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench import memorization_cli, shards
from bench.comparing import cli as comparing
from bench.contract import cli as contract
from bench.errors import BenchError
from bench.explore import cli as explore
from bench.interop import cli as interop
from bench.removal import cli as removal
from bench.sharing import cli as sharing
from bench.tables import cli as tables
from bench.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from bench.runner import Options

_MENDED = "the same bench train command mends what is torn or missing"
_TRAINING_OPTIONS = (
    "models",
    "protocol",
    "repeats",
    "eval_subsets",
    "tune_rows",
    "output",
    "seed",
    "device",
    "sampling",
    "dtype",
    "judge_only",
    "allow_empty_classes",
)


def _options(given: argparse.Namespace) -> Options:
    from dataclasses import fields

    from bench.runner import Options

    taken = {field.name: getattr(given, field.name) for field in fields(Options) if hasattr(given, field.name)}
    taken |= {"alpha": _alphas(given.alpha)[0], "keep": _words(getattr(given, "keep", ""))}
    return Options(**taken, methods=tuple(getattr(given, "method", ())))


def _words(text: str) -> Any:
    return tuple(word.replace("-", "_") for word in text.split(",") if word)


def _alphas(text: float | str) -> list[float]:
    try:
        alphas = [float(word) for word in str(text).split(",")]
    except ValueError as error:
        raise BenchError(f"--alpha is {text!r}: write a number between 0 and 1, or several as 0.2,0.5") from error
    for alpha in alphas:
        if not 0 < alpha < 1:
            raise BenchError(f"--alpha is {alpha}: it must be between 0 and 1")
    return alphas


def _check_names(given: argparse.Namespace) -> None:
    """Answer a misspelt name at once, before numpy and torch are imported."""
    from bench import datasets, methods

    if given.setting is not None:
        datasets.check(given.setting)
    specs = getattr(given, "method", [])
    methods.check([specs] if isinstance(specs, str) else specs)


def _results_only() -> contextlib.AbstractContextManager[Any]:
    """What plug-ins and libraries print goes to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def run(given: argparse.Namespace) -> int:
    """Ground truth, methods, table."""
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


def train(given: argparse.Namespace) -> int:
    """A ground-truth store, of a setting or of a worker."""
    from dataclasses import replace
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
    shard, array = shards.asked(given)
    if given.workers is not None and given.workers < 1:
        raise BenchError(f"--workers is {given.workers}: it takes at least one")
    if external and array is not None:
        raise BenchError("--slurm and --worker are both given: submit `bench train --worker … --shard i/n` by yourself")
    if external:
        return _train_external(given, shard)
    alphas, options = _alphas(given.alpha), _options(given)
    with _results_only():
        from bench import runner

        if array is None:
            found = runner.train(options, Path(given.out), shard, given.workers, alphas if len(alphas) > 1 else ())
        else:
            from bench import cluster

            members = runner.family(Path(given.out), alphas) if len(alphas) > 1 else [(alphas[0], Path(given.out))]
            found = [
                cluster.train(replace(options, alpha=alpha), folder, array, given.workers) for alpha, folder in members
            ]
    for meta in found:
        if meta is None and array is not None:
            print(f"{given.out}: submitted; the same command without --slurm-detach waits for the jobs and gathers")
            continue
        if meta is None:
            print(f"{given.out}: this shard is done, other rows are missing; the last shard to end gathers the store")
            continue
        who = meta.identity
        where = Path(given.out) / f"alpha-{who.alpha:g}" if len(found) > 1 else given.out
        rows, targets = counted(len(meta.subset_of_row), "row"), counted(meta.n_targets, "target")
        print(f"{where}: {rows} × {targets} of {who.setting}", end="")
        right = f", accuracy {meta.accuracy:.1%}" if len(meta.diverged) < len(meta.subset_of_row) else ""
        print(right + (f", {len(meta.diverged)} diverged" if meta.diverged else ""))
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

    from bench import cli, external, schema
    from bench.external_worker import Worker
    from bench.progress import Progress

    if given.setting is not None:
        raise BenchError(f"{given.setting!r} and --worker are both given: train a setting, or let a worker do it")
    for name, other in (("worker", "spec"), ("spec", "worker")):
        if getattr(given, name) is None:
            raise BenchError(f"--{other} needs --{name}" if getattr(given, other) else "--worker-args needs --worker")
    usual = cli.parser().parse_args(["train", "x", "--out", "x"])
    for name in (*_TRAINING_OPTIONS, "alpha", "keep", "data_dir", "allow_modified_data"):
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
        print(f"{given.out}: {counted(spec.n_rows, 'row')} of {', '.join(spec.schema)}")
    else:
        print(f"{given.out}: this shard is done, other rows are missing; the last shard to end gathers the store")
    return 0


def attribute(given: argparse.Namespace) -> int:
    """One method's scores."""
    from pathlib import Path

    _check_names(given)
    out = Path(given.out)
    if out.suffix != ".npy":
        raise BenchError(f"--out is {given.out!r}: scores are written as .npy, so name a file that ends so")
    with _results_only():
        from bench import runner
        from bench.score_files import extra_path
        from bench.tables import tuning

        made = runner.attribute(
            given.setting,
            given.method,
            Path(given.store),
            out,
            given.device,
            given.data_dir,
            given.quiet,
            given.allow_modified_data,
        )
    for note in [*map(tuning.said, made.searches), *made.notes]:
        print(note, file=sys.stderr)
    print(f"{out}: {made.cost.seconds:.1f} s, {counted(made.cost.models, 'model')}")
    if made.extra:
        print(f"{extra_path(out)}: {', '.join(made.extra)}")
    return 0


def lds(given: argparse.Namespace) -> int:
    """LDS of a score matrix, against two arrays or a store."""
    of_store = [] if given.store is None else [f"--{name}" for name in ("masks", "margins") if getattr(given, name)]
    if of_store:
        raise BenchError(f"--store and {of_store[0]} are both given: the store has masks and margins, so leave one out")
    if given.allow_leak and given.store is None:
        raise BenchError("--allow-leak goes with --store: files alone do not say which rows scores were made from")
    needed = ("scores",) if given.store is not None else ("masks", "margins", "scores")
    missing = ", ".join(f"--{name}" for name in needed if getattr(given, name) is None)
    if missing:
        hint = "" if given.store is not None or missing == "--scores" else " (or --store)"
        raise BenchError(f"what is missing: {missing}{hint}; see python -m bench lds --help")
    from bench import lds_files

    asked = lds_files.Asked(given.scores, given.precision, given.per_target, given.targets)
    if given.store is not None:
        found = lds_files.lds_of_store(given.store, asked, allow_leak=given.allow_leak)
    else:
        found = lds_files.lds_of_files(given.masks, given.margins, asked)
    if given.json:
        _print_json(found)
        return 0
    print("".join(f"{stamp}\n" for stamp in found["stamps"]), end="")
    low, high = found["ci"]
    print(f"LDS {found['lds']:.4f}  95% interval [{low:.4f}, {high:.4f}]")
    print(f"{found['n_subsets']} subsets × {counted(found['n_targets'], 'target')}", end="")
    print(f"; {found['n_excluded']} excluded, {found['n_tied']} with ties (average ranks)")
    return 0


def datamodels_curve(given: argparse.Namespace) -> int:
    """The learning curve of datamodels."""
    rows = None if given.rows is None else [_count(word) for word in given.rows.split(",") if word]
    with _results_only():
        from bench import curve, curve_tables
        from bench.progress import Progress
        from bench.train import pick_device

        device = pick_device(given.device)
        found = curve.datamodels_curve(
            given.store,
            rows,
            [word for word in given.estimator.split(",") if word],
            out=given.out,
            seed=given.seed,
            lasso={} if device.type == "cpu" else {"device": str(device)},
            progress=Progress(quiet=given.quiet),
        )
    if given.json:
        _print_json(found)
    else:
        curve_tables.show(found)
    return 0


def _count(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise BenchError(f"--rows has {word!r}: write whole numbers, such as 100,200,500") from error


def report(given: argparse.Namespace) -> int:
    """A run's table, and its report."""
    with _results_only():
        from bench.report import command

        board = command.make(given)
    _show(board, given.json)
    return 0


def recipe(given: argparse.Namespace) -> int:
    """How a setting's models are trained."""
    from dataclasses import replace

    _check_names(given)
    if given.measure is not None and given.measure < 1:
        raise BenchError(f"--measure is {given.measure}: it takes at least one model")
    with _results_only():
        from bench import datasets, evidence, runner

        setting = datasets.setting(given.setting)
        recipe = setting.recipe
        if given.measure is not None:
            data = runner.load(setting, given.data_dir, given.allow_modified_data)
            recipe = replace(recipe, evidence=evidence.measure(setting, data, given.measure, given.device))
    print(setting.name)
    for word, text in evidence.lines(recipe):
        print(f"  {word:<14}{text}")
    if given.measure is not None:
        print(f"  {'in code':<14}evidence={recipe.evidence!r}")
    return 0


def verify(given: argparse.Namespace) -> int:
    """What is wrong with a store."""
    from pathlib import Path

    faults = 0
    for folder in _stores(Path(given.store)):
        with _results_only():
            from bench import status

            wrong, retrained = status.verify(
                folder, given.retrain, given.setting, given.device, given.data_dir, given.allow_modified_data
            )
        for sentence in wrong:
            print(sentence)
        print(f"{folder}: {retrained}", file=sys.stderr)
        if wrong:
            mended = "import it again" if retrained.endswith("imported") else _MENDED
            print(f"{folder}: {counted(len(wrong), 'fault')}; {mended}", file=sys.stderr)
        else:
            print(f"{folder} is sound")
        faults += len(wrong)
    return 1 if faults else 0


def _stores(folder: Path) -> list[Path]:
    from bench import status

    return status.stores_in(folder)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "train": train,
    "attribute": attribute,
    "lds": lds,
    "datamodels-curve": datamodels_curve,
    "compare": comparing.compare,
    "check": comparing.check,
    "report": report,
    "list": contract.list_,
    "recipe": recipe,
    "verify": verify,
    "import": interop.run,
    "export": interop.run,
    "push": sharing.push,
    "pull": sharing.pull,
    "explore": explore.run,
    "memorization": memorization_cli.run,
    "removal": removal.run,
    "table": tables.table,
    "schema": tables.schema,
    "check-method": contract.check_method,
}
