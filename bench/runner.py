"""The main job: ground truth, methods, scores, table. Whatever is finished and still right is used again."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from bench import atomic, baselines, datasets, hashing, launch, methods, precomputed, results
from bench.errors import BenchError, InputError, MethodError, UnmetError, nearest
from bench.files import Files, data_folders, stamp
from bench.guard import Guard
from bench.interop import score_matrix
from bench.judge import Judge, Verdict
from bench.methods import Chosen
from bench.progress import Progress
from bench.recipes import Output
from bench.recorded import Dtype, Extra, Recorded
from bench.results import CeilingRow, Counts, Leaderboard, Row
from bench.score_files import Attribution, extra_path, load_scores, save_scores, write_arrays
from bench.standings import chance, judged, standings
from bench.store import GroundTruth, Meta
from bench.subsets import Plan, Protocol, Sampling
from bench.wording import raised
from bench.workbench import Bench

if TYPE_CHECKING:
    from bench.datasets import Data, Setting


_OF_FILES = ("scores", "orientation", "sign")
_SAID_APART = {"setting", "methods", "keep", "data_dir", "out", "quiet", "debug", *_OF_FILES}
_LISTS: dict[str, Any] = {"methods": str | list[str], "keep": list[Extra]}
_LISTS |= dict.fromkeys(_OF_FILES, str | list[str])


STORE = "ground-truth"  # of a run, in its folder


@dataclass(frozen=True)
class Options:
    """What `python -m bench run` can be told; the command line's help says what each means."""

    setting: str = "digits/mlp"
    methods: Sequence[str] = ()
    models: int = 1500
    repeats: int | None = None
    eval_subsets: int = 200
    tune_rows: int = 100
    alpha: float = 0.5
    output: Output = "logsumexp"
    seed: int = 0
    device: str = "auto"
    data_dir: str | None = None
    allow_modified_data: bool = False
    out: str | None = None
    quiet: bool = False
    debug: bool = False
    sampling: Sampling = "exact"
    dtype: Dtype = "float32"
    keep: Sequence[Extra] = ()
    allow_empty_classes: bool = False
    judge_only: bool = False
    scores: Sequence[str] = ()
    orientation: Sequence[str] = ()
    sign: Sequence[str] = ()
    protocol: Protocol = "expectation"

    def check(self) -> None:
        """Refuse values of the wrong type.

        Raises:
            BenchError: a field that is not of its type, or names what there is not.
        """
        Recorded(keep=tuple(self.keep))
        for name, hint in get_type_hints(Options).items():
            try:
                value = getattr(self, name)
                msgspec.convert(list(value) if name == "keep" else value, _LISTS.get(name, hint))
            except msgspec.ValidationError as error:
                raise BenchError(
                    f"{name} is {getattr(self, name)!r}: {str(error)[:1].lower()}{str(error)[1:]}"
                ) from error

    @property
    def plan(self) -> Plan:
        """The roles of the rows."""
        usual = 2 if self.protocol == "expectation" else 1
        repeats = usual if self.repeats is None else self.repeats
        return Plan(self.models, repeats, self.eval_subsets, self.tune_rows, self.judge_only)

    def folder(self, setting: Setting) -> Path:
        """`--out`, else results/ and a name made of the setting and of what differs from the defaults."""
        if self.out is not None:
            return Path(self.out)
        unsaid = {"repeats": 2 if self.protocol == "expectation" else 1}
        extra = "".join(
            f"-{name.replace('_', '')}{getattr(self, name)}"
            for name in (
                "models",
                "repeats",
                "eval_subsets",
                "tune_rows",
                "alpha",
                "output",
                "seed",
                "sampling",
                "dtype",
            )
            if getattr(self, name) not in (getattr(Options, name), unsaid.get(name))
        )
        extra += ("-judgeonly" if self.judge_only else "") + ("" if self.protocol == "expectation" else "-singlemodel")
        return Path("results") / (setting.slug + extra)

    @property
    def command(self) -> str:
        """What to type to get the same again, wherever the results go."""
        words = ["python", "-m", "bench", "run", self.setting]
        words += [word for name in _listed(self.methods) for word in ("--method", name)]
        words += [f"--{flag}={value}" for flag in _OF_FILES for value in _listed(getattr(self, flag))]
        for field_ in fields(Options):
            value = getattr(self, field_.name)
            if field_.name in _SAID_APART or value == field_.default:
                continue
            flag = f"--{field_.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    def request(self, setting: Setting, data: Data) -> launch.Request:
        """The ground truth that this asks for."""
        return launch.Request(
            setting,
            data,
            self.plan,
            self.alpha,
            self.seed,
            self.output,
            self.device,
            sampling=self.sampling,
            dtype=self.dtype,
            keep=tuple(self.keep),
            empty_classes=self.allow_empty_classes,
            protocol=self.protocol,
        )


def _listed(value: Sequence[str]) -> list[str]:
    """One string is a list of one."""
    return [value] if isinstance(value, str) else list(value)


def run(options: Options | None = None, **settings: Any) -> Leaderboard:
    """Train what is missing of the ground truth, run the methods, score them, write `results/<run>/`.

    Args:
        options: what to do; `settings` change single fields of it (`run(setting="digits/logreg", models=600)`).
        settings: fields of `Options`.

    Returns:
        The leaderboard; methods that could not run or failed are rows of it, with the reason.

    Raises:
        BenchError: bad usage or input. What was finished is kept.
    """
    try:
        options = replace(options or Options(), **settings)
        options.check()
    except TypeError as error:
        known = [f.name for f in fields(Options)]
        unknown = next((name for name in settings if name not in known), "")
        raise BenchError(f"bench.run has no option {unknown!r}{nearest(unknown, known)}") from error
    specs = _listed(options.methods)
    methods.check(specs)
    files = precomputed.chosen(_listed(options.scores), _listed(options.orientation), _listed(options.sign))
    setting = datasets.setting(options.setting)
    shown = options.folder(setting)
    folder = shown.absolute()  # a method may change the working directory
    with Guard(folder / STORE):  # a plug-in may open files when it is imported or built
        picked = methods.distinct([*methods.chosen(specs), *files])
    atomic.writable_folder(folder)
    progress = Progress(quiet=options.quiet, log=folder / "log.txt")
    data = load(setting, options.data_dir, options.allow_modified_data)
    if stamped := stamp(data.origin):
        progress.say(stamped)
    precomputed.check_shapes(files, data.n_train, data.n_targets)
    board = run_on(setting, data, picked, options, folder, progress)
    progress.say(f"written to {shown}")
    return board


def run_on(
    setting: Setting,
    data: Data,
    picked: Sequence[Chosen],
    options: Options,
    folder: Path,
    progress: Progress,
    command: str | None = None,
) -> Leaderboard:
    """What `run` does, of a setting and examples that are at hand.

    Args:
        setting: what to train.
        data: its examples.
        picked: methods of distinct names.
        options: of which `setting`, `methods`, `scores` and `out` are not looked at.
        folder: where results go; it exists.
        progress: where to say what is done.
        command: what to type to get the same again; by default that of `options`.

    Raises:
        BenchError: as `run` does.
    """
    plan, store = options.plan, folder / STORE
    launch.make(options.request(setting, data), store, progress)
    bench = Bench.open(setting, data, store, folder, options.device, progress, plan.n_rows)
    bench.debug = options.debug
    with_seeds = bench.truth.rows(bench.access.eval)
    judge = Judge.of(with_seeds, plan.repeats, data.test_y, options.protocol)
    rows: list[Row] = []
    verdicts: dict[str, Verdict] = {}
    for one in picked:
        row, verdict = _row(bench, one, judge)
        rows.append(row)
        if verdict is not None:
            verdicts[row.name] = verdict
    placed, pairs = standings(rows, verdicts)
    meta = bench.truth.meta
    assert meta is not None
    diverged = sum(row < plan.n_rows for row in meta.diverged)
    counts = Counts(len(bench.access.fit), len(bench.access.tune), len(bench.access.eval), plan.repeats, diverged)
    board = Leaderboard(
        setting=setting.name,
        alpha=options.alpha,
        output=options.output,
        seed=options.seed,
        protocol=options.protocol,
        rows=counts,
        n_train=data.n_train,
        n_targets=data.n_targets,
        ceiling=CeilingRow(judge.ceiling.lds, judge.ceiling.ci) if judge.ceiling else None,
        why_no_ceiling=judge.why_no_ceiling,
        chance=chance(judge, options.seed),
        methods=placed,
        pairs=pairs,
        ground_truth={"path": store.name, "key": meta.key},
        data=dict(data.origin),
        modified_data=stamp(data.origin) is not None,
        versions=launch.versions(),
        hardware=launch.hardware(meta.identity.device),
        hashes={
            "data": meta.identity.data,
            "recipe": meta.identity.recipe,
            "training code": meta.identity.code,
            "harness": hashing.harness_code(),
        },
        command=command or options.command,
    )
    columns = {name: verdict.lds.per_target for name, verdict in verdicts.items()}
    samples = {name: verdict.sample for name, verdict in verdicts.items()}
    baselines.write(folder / baselines.FILE, baselines.of_run(board, samples, judge, data))
    results.write(folder, board, columns, data.test_y, judge.variance, data)
    return board


def load(setting: Setting, data_dir: str | None, allow_modified: bool) -> Data:
    """The setting's examples.

    Raises:
        BenchError: files are missing or damaged, or the dataset's own code fails or returns what cannot be trained on.
    """
    files = Files(data_folders(data_dir), allow_modified)
    try:
        data = setting.dataset.load(files)
        if not isinstance(data, datasets.Data):
            raise InputError(f"load must return a bench.datasets.Data, and it returned {type(data).__name__}")
        return data
    except InputError as error:
        raise BenchError(f"{setting.dataset_name}: {error}") from error
    except BenchError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BenchError(f"the dataset {setting.dataset_name} cannot be loaded: {raised(error)}") from error


def _row(bench: Bench, one: Chosen, judge: Judge) -> tuple[Row, Verdict | None]:
    parameters = msgspec.to_builtins(dict(one.parameters), enc_hook=str)
    path = bench.folder / "scores" / f"{_file_name(one.name)}.npy"
    try:
        unmet = bench.unmet(one)
        if unmet is not None:
            bench.progress.say(f"{one.name}: skipped: {unmet}")
            return Row(name=one.name, params=parameters, status="skipped", reason=unmet), None
        key = bench.key(one)
        kept = load_scores(path, key)
        made = bench.attribute(one) if kept is None else kept
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a method must not end the run
        reason = raised(error)
        bench.progress.say(f"{one.name}: failed: {reason}")
        bench.progress.log_only(traceback.format_exc())
        if bench.debug:
            traceback.print_exc()
        return Row(name=one.name, params=parameters, status="failed", reason=reason), None
    if kept is None:
        save_scores(path, key, made)
    bench.progress.say(f"{one.name}: reused" if kept else f"{one.name}: {made.cost.seconds:.1f} s")
    row = Row(
        name=one.name,
        params=parameters,
        status="ok",
        notes=made.notes,
        searches=made.searches,
        cost=None if isinstance(one.method, precomputed.Precomputed) else made.cost,
        scores=str(path.relative_to(bench.folder)),
        extra=str(extra_path(path).relative_to(bench.folder)) if made.extra else None,
    )
    verdict = judge.verdict(made.scores)
    return judged(row, verdict), verdict


def _file_name(name: str) -> str:
    """A file's name that no other method of the run has."""
    plain = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name)
    if len(plain) <= 100 and all(c in plain or c in ":," for c in name):
        return plain
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def train(
    options: Options,
    store: Path,
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    alphas: Sequence[float] = (),
) -> list[Meta | None]:
    """Make a ground-truth store, or go on with one; of several alphas one each, `store/alpha-…`.

    Returns:
        The meta of each, or None where rows of other shards are missing.

    Raises:
        BenchError: bad usage or input, or a store of another setting. What was finished is kept.
    """
    options.check()
    setting = datasets.setting(options.setting)
    plan = options.plan
    data = load(setting, options.data_dir, options.allow_modified_data)
    request = replace(options.request(setting, data), plan=plan, shard=shard, workers=workers)
    requests = [(replace(request, alpha=alpha), folder) for alpha, folder in family(store, alphas)]
    for one, folder in requests:
        launch.refuse_other(folder, launch.check(launch.widened(one, folder)))
    progress = Progress(quiet=options.quiet)
    if stamped := stamp(data.origin):
        progress.say(stamped)
    return [launch.make(one, folder, progress) for one, folder in requests or [(request, store)]]


def family(store: Path, alphas: Sequence[float]) -> list[tuple[float, Path]]:
    """The folders of the stores of several alphas, all below one."""
    return [(alpha, store / f"alpha-{alpha:g}") for alpha in sorted(set(alphas))]


def attribute(
    setting: str | None,
    method: str,
    store: Path,
    out: Path,
    device: str,
    data_dir: str | None,
    quiet: bool,
    allow_modified_data: bool = False,
) -> Attribution:
    """Write one method's scores for a store to `out`, and the arrays that it keeps beside them.

    Args:
        setting: what the store is of; None takes the one that it names, and is the only one for an imported store.
        method: name and parameters, or the path of its file.
        store: the ground truth.
        out: where the scores go.
        device: `auto`, `cpu` or `cuda`.
        data_dir: where the dataset's files are.
        quiet: no progress on stderr.
        allow_modified_data: whether they may be other than the published ones.

    Returns:
        What it made; the notes say as well where data are not the published ones.

    Raises:
        BenchError: bad usage or input, something that the method needs is missing, or its scores are not valid.
    """
    (one,) = methods.chosen([method])
    truth, progress = GroundTruth.open(store), Progress(quiet=quiet)
    if truth.imported is not None and setting is not None:
        raise InputError(f"{store} was imported without the examples of {setting}: leave the setting out")
    made = None if truth.imported is not None else _setting_of(truth, setting)
    data = None if made is None else load(made, data_dir, allow_modified_data)
    atomic.writable_folder(out.parent)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        if made is None or data is None:
            bench = Bench.without_examples(truth, folder, device, progress)
        else:
            bench = Bench.open(made, data, store, folder, device, progress, len(truth.masks))
        unmet = bench.unmet(one)
        if unmet is not None:
            raise BenchError(f"{one.name} {unmet}")
        try:
            found = bench.attribute(one)
        except UnmetError as error:
            raise BenchError(f"{one.name} {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise MethodError(f"{one.name} failed: {raised(error)}") from error
    write_arrays(out, found)
    stamps = truth.imported.stamps if truth.imported is not None else []
    needs, rows = one.method.needs, None
    if truth.imported is not None and (needs.fit_rows or needs.tune_rows):
        rows = score_matrix.fitted(truth, truth.of_group("fit"), truth.of_group("tune"))
    score_matrix.stamp(out, one.name, stamps, rows)
    if stamps:
        found = replace(found, notes=[*found.notes, *stamps])
    stamped = None if data is None else stamp(data.origin)
    return replace(found, notes=[*found.notes, stamped]) if stamped else found


def _setting_of(truth: GroundTruth, named: str | None) -> Setting:
    """The setting that is named, else the one that the store names."""
    if named is not None:
        return datasets.setting(named)
    if truth.meta is None:
        raise InputError(f"{truth.path} has no meta.json, which names its setting: name the setting")
    try:
        return datasets.setting(truth.meta.identity.setting)
    except BenchError as error:
        raise BenchError(f"{truth.path}: {error}; name its setting, such as a file's") from error
