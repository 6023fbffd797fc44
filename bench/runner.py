"""The main job: ground truth, methods, scores, table. Whatever is finished and still right is used again."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import atomic, datasets, hashing, launch, methods, results
from bench.checkpoints import Pool
from bench.cost import metered
from bench.errors import BenchError, InputError, nearest
from bench.files import Files, data_folders
from bench.methods import Chosen
from bench.progress import Progress
from bench.results import CeilingRow, Cost, Counts, Leaderboard, Row
from bench.scorer import LDS, MarginRanks, lds
from bench.stats import Ceiling, noise_ceiling
from bench.store import GroundTruth, Meta, Rows
from bench.subsets import Plan
from bench.task import Access, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data, Setting
    from bench.recipes import Output

_METHOD_STREAM = 3


@dataclass(frozen=True)
class Options:
    """What `python -m bench run` can be told; the command line's help says what each means."""

    setting: str = "digits/mlp"
    methods: Sequence[str] = ()
    models: int = 1500
    repeats: int = 2
    eval_subsets: int = 200
    tune_rows: int = 100
    alpha: float = 0.5
    output: Output = "logsumexp"
    seed: int = 0
    device: str = "auto"
    data_dir: str | None = None
    out: str | None = None
    quiet: bool = False
    debug: bool = False

    @property
    def plan(self) -> Plan:
        """The roles of the rows."""
        return Plan(self.models, self.repeats, self.eval_subsets, self.tune_rows)

    def folder(self, setting: Setting) -> Path:
        """`--out`, else results/ and a name made of the setting and of what differs from the defaults."""
        if self.out is not None:
            return Path(self.out)
        extra = "".join(
            f"-{name.replace('_', '')}{getattr(self, name)}"
            for name in ("models", "repeats", "eval_subsets", "tune_rows", "alpha", "output", "seed")
            if getattr(self, name) != getattr(Options, name)
        )
        return Path("results") / (setting.slug + extra)

    def request(self, setting: Setting, data: Data) -> launch.Request:
        """The ground truth that this asks for."""
        return launch.Request(setting, data, self.plan, self.alpha, self.seed, self.output, self.device)


class Finished(msgspec.Struct, frozen=True):
    """Beside a score matrix: what it came from and what it took."""

    key: str
    checksum: str
    cost: Cost
    notes: list[str]


@dataclass(frozen=True)
class Judge:
    """The rows that judge: one margin per eval subset and target, the mean over the subset's seeds.

    Attributes:
        masks: bool `[subsets, n_train]`; margins: float32 `[subsets, n_targets]`; ranks: of the margins.
        ceiling: from the seeds' agreement; None with one seed.
    """

    masks: NDArray[np.bool_]
    margins: NDArray[np.float32]
    ranks: MarginRanks = field(repr=False)
    ceiling: Ceiling | None

    @classmethod
    def of(cls, rows: Rows, repeats: int) -> Judge:
        """From eval rows, the seeds of a subset next to each other."""
        by_seed = rows.margins.reshape(len(rows) // repeats, repeats, -1)
        margins = by_seed.mean(1)
        ceiling = noise_ceiling(by_seed.swapaxes(0, 1)) if repeats > 1 and len(margins) > 2 else None
        return cls(rows.masks[::repeats], margins, MarginRanks.of(margins), ceiling)

    def score(self, scores: NDArray[Any]) -> LDS:
        """LDS of a score matrix."""
        return lds(scores, self.masks, self.margins, ranks=self.ranks)


@dataclass
class Bench:
    """A setting with its ground truth on disk, ready for methods."""

    setting: Setting
    data: Data
    truth: GroundTruth
    access: Access
    pool: Pool
    folder: Path
    progress: Progress
    n_rows: int
    debug: bool = False

    @classmethod
    def open(
        cls, setting: Setting, data: Data, store: Path, folder: Path, device: str, progress: Progress, n_rows: int
    ) -> Bench:
        """Open the store and settle who may see what.

        Raises:
            BenchError: no store, another setting's, or one whose groups of rows mix.
        """
        from bench.train import Trainer, pick_device

        truth = GroundTruth.open(store)
        if truth.meta is None:
            raise InputError(f"{store} has no meta.json, which says what it was trained on and which rows judge")
        identity = truth.meta.identity
        if identity.setting != setting.name:
            raise InputError(f"{store} was made with {identity.setting}, not {setting.name}: name that setting")
        if identity.data != hashing.data(data):
            raise InputError(f"{store} was trained on other data than {setting.name} has now: train it again")
        if identity.recipe != hashing.recipe(setting.recipe):
            raise InputError(f"{store} was trained by another recipe than {setting.name} has now: train it again")
        groups = [truth.of_group(group, n_rows) for group in ("fit", "tune", "eval")]
        trainer = Trainer(setting.recipe, data, pick_device(device))
        pool = Pool(trainer, identity.seed, folder / "checkpoints", truth.meta.key, progress)
        return cls(setting, data, truth, Access(truth, *groups), pool, folder, progress, n_rows)

    @property
    def _meta(self) -> Any:
        return self.truth.meta

    def key(self, one: Chosen) -> str:
        """Hash of everything that a method's scores come from."""
        source = inspect.getsourcefile(type(one.method))
        return hashing.digest(
            {
                "ground truth": self._meta.key,
                "rows": self.n_rows,
                "method": one.name,
                "parameters": msgspec.to_builtins(dict(one.parameters), enc_hook=repr),
                "source": hashing.file(Path(source)) if source else None,
                "harness": hashing.harness_code(),
                "versions": launch.versions(),
            }
        )

    def task(self, one: Chosen, cache: Path) -> Task:
        """What a method is given. Its randomness comes from the root seed and the method's name."""
        number = int.from_bytes(hashlib.sha256(one.plugin.encode()).digest()[:4])
        identity = self._meta.identity
        seed = np.random.SeedSequence([identity.seed, _METHOD_STREAM, number])
        trainer = self.pool.trainer
        return Task(
            self.setting, self.data, self.access, trainer, self.pool, identity.output, identity.alpha, seed, cache
        )

    def unmet(self, one: Chosen) -> str | None:
        """What a method needs and this does not have, as `needs …`."""
        needs = one.method.needs
        have = {"fit": len(self.access.fit), "tune": len(self.access.tune)}
        for group, least in (("fit", needs.fit_rows), ("tune", needs.tune_rows)):
            if have[group] < least:
                return f"needs {least} {group} rows, and there are {have[group]}"
        if needs.max_parameters is not None and self.pool.trainer.n_parameters > needs.max_parameters:
            count = self.pool.trainer.n_parameters
            return f"needs a model of at most {needs.max_parameters:,} parameters, and this one has {count:,}"
        for package in needs.packages:
            if not _installed(package):
                return f"needs the package {package}, which is not installed"
        return None

    def attribute(self, one: Chosen) -> tuple[NDArray[Any], Cost, list[str]]:
        """Call a method, check what it returns and what it touched.

        Raises:
            Exception: whatever the method raises.
            BenchError: its scores have another shape, are not numbers, or it touched a row that judges.
        """
        with tempfile.TemporaryDirectory(prefix="bench-") as cache:
            task = self.task(one, Path(cache))
            with metered() as meter, task.guarded() as guard:
                try:
                    scores = one.method.attribute(task)
                finally:
                    opened = guard.touched and f"it opened {Path(guard.touched).name} of the ground truth"
                    refused = task.refused or opened
                    if refused:
                        raise BenchError(f"refused: {refused}; only task.fit and task.tune may be used")
            kept = sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file())
        checked = check_scores(scores, self.data.n_train, self.data.n_targets)
        usage = task.usage
        cost = Cost(
            round(meter.seconds - usage.waited, 3),
            usage.models,
            meter.peak_bytes,
            round(usage.train_seconds, 3),
            kept + checked.nbytes,
        )
        return checked, cost, task.notes


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a submodule
        return False


def check_scores(scores: Any, n_train: int, n_targets: int) -> NDArray[Any]:
    """The scores as a float array `[n_train, n_targets]`.

    Raises:
        InputError: another shape (a transposed one is said so), not numbers, or not one finite column.
    """
    if scores is None:
        raise InputError("it returned nothing: attribute() must return its scores")
    try:
        array = np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores)
    except (TypeError, ValueError) as error:
        raise InputError(f"its scores are not an array ({error})") from error
    if array.shape != (n_train, n_targets):
        hint = "; it looks transposed" if array.shape == (n_targets, n_train) else ""
        raise InputError(f"its scores have shape {list(array.shape)} instead of [{n_train}, {n_targets}]{hint}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"its scores are of type {array.dtype}, which are not real numbers")
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    if not np.isfinite(array).all(0).any():
        raise InputError("its scores are NaN or infinite for every target")
    return array


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
    except TypeError as error:
        known = [f.name for f in fields(Options)]
        unknown = next((name for name in settings if name not in known), "")
        raise BenchError(f"bench.run has no option {unknown!r}{nearest(unknown, known)}") from error
    specs = [options.methods] if isinstance(options.methods, str) else list(options.methods)
    picked = methods.chosen(specs)
    setting = datasets.setting(options.setting)
    plan = options.plan
    folder = options.folder(setting)
    atomic.writable_folder(folder)
    progress = Progress(quiet=options.quiet, log=folder / "log.txt")
    data = _load(setting, options.data_dir)
    store = folder / "ground-truth"
    launch.make(options.request(setting, data), store, progress)
    bench = Bench.open(setting, data, store, folder, options.device, progress, plan.n_rows)
    bench.debug = options.debug
    with_seeds = bench.truth.rows(bench.access.eval)
    judge = Judge.of(with_seeds, plan.repeats)
    rows, per_target = [], {}
    for one in picked:
        row, values = _row(bench, one, judge)
        rows.append(row)
        if values is not None:
            per_target[row.name] = values
    meta = bench.truth.meta
    assert meta is not None
    counts = Counts(len(bench.access.fit), len(bench.access.tune), len(bench.access.eval), plan.repeats)
    board = Leaderboard(
        setting=setting.name,
        alpha=options.alpha,
        output=options.output,
        seed=options.seed,
        rows=counts,
        n_train=data.n_train,
        n_targets=data.n_targets,
        ceiling=CeilingRow(judge.ceiling.lds, judge.ceiling.ci) if judge.ceiling else None,
        methods=results.ranked(rows),
        ground_truth={"path": store.name, "key": meta.key},
        versions=launch.versions(),
        hardware=launch.hardware(meta.identity.device),
    )
    results.write(folder, board, per_target, data.test_y)
    progress.say(f"written to {folder}")
    return board


def _load(setting: Setting, data_dir: str | None) -> Data:
    files = Files(data_folders(data_dir))
    try:
        return setting.dataset.load(files)
    except InputError as error:
        raise BenchError(f"{setting.dataset_name}: {error}") from error
    except BenchError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise BenchError(f"the dataset {setting.dataset_name} cannot be loaded: {kind}: {error}") from error


def _row(bench: Bench, one: Chosen, judge: Judge) -> tuple[Row, NDArray[np.float64] | None]:
    parameters = msgspec.to_builtins(dict(one.parameters), enc_hook=str)
    path = bench.folder / "scores" / f"{_file_name(one.name)}.npy"
    try:
        unmet = bench.unmet(one)
        if unmet is not None:
            bench.progress.say(f"{one.name}: skipped: {unmet}")
            return Row(name=one.name, params=parameters, status="skipped", reason=unmet), None
        key = bench.key(one)
        kept = load_scores(path, key)
        scores, cost, notes = bench.attribute(one) if kept is None else kept
    except (Exception, SystemExit) as error:  # a method must not end the run
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, BenchError) else str(error)
        reason = " ".join(reason.split())
        bench.progress.say(f"{one.name}: failed: {reason}")
        bench.progress.log_only(traceback.format_exc())
        if bench.debug:
            traceback.print_exc()
        return Row(name=one.name, params=parameters, status="failed", reason=reason), None
    if kept is None:
        save_scores(path, key, scores, cost, notes)
    bench.progress.say(f"{one.name}: reused" if kept else f"{one.name}: {cost.seconds:.1f} s")
    found = judge.score(scores)
    lds_value = None if np.isnan(found.mean) else found.mean
    row = Row(
        name=one.name,
        params=parameters,
        status="ok",
        reason=f"no target has a correlation ({_why(found)})" if lds_value is None else None,
        lds=lds_value,
        ci=None if lds_value is None else found.ci,
        n_excluded=found.n_excluded,
        n_tied=found.n_tied,
        notes=notes,
        cost=cost,
        scores=str(path.relative_to(bench.folder)),
    )
    return row, found.per_target


def _why(found: LDS) -> str:
    return ", ".join(f"{why}: {count}" for why, count in found.excluded.items() if count)


def _file_name(name: str) -> str:
    """A file's name that no other method of the run has."""
    plain = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name)
    if len(plain) <= 100 and all(c in plain or c in ":," for c in name):
        return plain
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def save_scores(path: Path, key: str, scores: NDArray[Any], cost: Cost, notes: list[str]) -> None:
    """Write a score matrix, and then what vouches for it beside it."""
    atomic.write(path, lambda file: np.save(file, scores, allow_pickle=False))
    finished = Finished(key, hashing.file(path), cost, notes)
    atomic.write_text(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(finished)).decode() + "\n")


def load_scores(path: Path, key: str) -> tuple[NDArray[Any], Cost, list[str]] | None:
    """A finished score matrix, if it came from exactly what `key` says and is whole; else None."""
    try:
        finished = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Finished)
        if finished.key != key or hashing.file(path) != finished.checksum:
            return None
        return np.load(path, allow_pickle=False), finished.cost, finished.notes
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def train(options: Options, store: Path, shard: tuple[int, int] = (0, 1), workers: int | None = None) -> Meta | None:
    """Make a ground-truth store, or go on with one.

    Returns:
        Its meta, or None where rows of other shards are missing.

    Raises:
        BenchError: bad usage or input, or a store of another setting.
    """
    setting = datasets.setting(options.setting)
    plan = options.plan
    atomic.writable_folder(store)
    data = _load(setting, options.data_dir)
    request = replace(options.request(setting, data), plan=plan, shard=shard, workers=workers)
    return launch.make(request, store, Progress(quiet=options.quiet))


def attribute(
    setting: str, method: str, store: Path, out: Path, device: str, data_dir: str | None, quiet: bool
) -> tuple[Cost, list[str]]:
    """Write one method's scores for a store to `out`.

    Returns:
        What it cost, and the method's notes.

    Raises:
        BenchError: bad usage or input, something that the method needs is missing, or its scores are not valid.
    """
    (one,) = methods.chosen([method])
    made = datasets.setting(setting)
    data = _load(made, data_dir)
    atomic.writable_folder(out.parent)
    progress = Progress(quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        truth = GroundTruth.open(store)
        bench = Bench.open(made, data, store, Path(scratch), device, progress, len(truth.masks))
        unmet = bench.unmet(one)
        if unmet is not None:
            raise BenchError(f"{one.name} {unmet}")
        scores, cost, notes = bench.attribute(one)
    atomic.write(out, lambda file: np.save(file, scores, allow_pickle=False))
    return cost, notes


def lds_of_files(masks: str, margins: str, scores: str, precision: Any, per_target: str | None) -> dict[str, Any]:
    """LDS of three .npy files, as `bench lds --json` prints it.

    Raises:
        InputError: a file is missing or not a .npy array, or the arrays do not fit (see `bench.lds`).
    """
    arrays = [_open_array(name, path) for name, path in (("scores", scores), ("masks", masks), ("margins", margins))]
    found = lds(*arrays, precision=precision)
    if np.isnan(found.mean):
        raise InputError(
            f"--scores: {scores} has no LDS: every one of {found.n_targets} targets is excluded ({_why(found)})"
        )
    if per_target is not None:
        path = Path(per_target)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--per-target: cannot write {path}: name a file in a folder that exists")
        atomic.write(path, lambda file: np.save(file, found.per_target, allow_pickle=False))
    return {
        "lds": found.mean,
        "ci": list(found.ci),
        "n_subsets": found.n_subsets,
        "n_targets": found.n_targets,
        "n_excluded": found.n_excluded,
        "n_tied": found.n_tied,
        "stderr": found.stderr,
        "excluded": found.excluded,
    }


def _open_array(name: str, path: str) -> NDArray[Any]:
    try:
        with Path(path).open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY" and not start.startswith(b"PK"):
            raise InputError(f"--{name}: {path} is not a .npy file: write one with numpy.save")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--{name}: cannot read {path}: {error.strerror or error}; name a .npy file") from error
    except Exception as error:  # numpy has many: torn zip, torn header, Python objects, shorter than it says
        raise InputError(f"--{name}: {path} is not a whole .npy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"--{name}: {path} is an archive of several arrays; give a .npy file with one")
    return array
