"""What is explored: score matrices, with the ground truth, the examples and the models that they are of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import datasets, methods, precomputed, results, runner, status, trained_on
from bench.errors import BenchError, InputError, MethodError, UnmetError, nearest
from bench.files import stamp
from bench.progress import Progress
from bench.store import GroundTruth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data, Setting
    from bench.results import Leaderboard
    from bench.train import Trainer


_LARGEST = 1e30  # of scores: their squares, and what they are divided by, stay within float32 and float64


class NoExamplesError(BenchError):
    """A verb needs examples, and the store is without them."""


@dataclass(frozen=True)
class Scored:
    """One method's scores.

    Attributes:
        name: the method.
        scores: float `[n_train, n_targets]`, perhaps a memmap; positive: keeping the example raises the margin.
        lds: its LDS where a leaderboard has it.
        remarks: what readers must know of a file of scores.
        asked: whether it was asked for by name, as a file is.
    """

    name: str
    scores: NDArray[np.floating]
    lds: float | None = None
    remarks: Sequence[str] = ()
    asked: bool = False

    @property
    def plugin(self) -> str:
        """The method without its parameters."""
        return self.name.partition(":")[0]

    def known(self) -> NDArray[np.bool_]:
        """Targets whose scores are all finite, bool `[n_targets]`."""
        found = np.ones(self.scores.shape[1], bool)
        for at in range(0, len(self.scores), 1024):
            found &= np.isfinite(self.scores[at : at + 1024]).all(axis=0)
        return found

    def columns(self, targets: NDArray[np.integer]) -> NDArray[np.floating]:
        """The scores of some targets, `[len(targets), n_train]`, in their own type; read in slabs of rows."""
        found = np.empty((len(targets), len(self.scores)), self.scores.dtype)
        for at in range(0, len(self.scores), 1024):
            found[:, at : at + 1024] = np.asarray(self.scores[at : at + 1024])[:, targets].T
        return found


@dataclass(frozen=True)
class Subject:
    """Everything that a verb of `bench explore` may need; what is not at hand is refused when it is asked for.

    Attributes:
        path: the run or the store, as it was given; is_run: which of them.
        truth: the ground truth; board: the run's leaderboard.
        methods: whose scores there are, the best LDS first.
        setting, data: model, recipe and examples; of an imported store, which has none, `why` says so.
        device: torch's name of it, as `bench.train.pick_device` reads it.
        progress: where to say what is done.
    """

    path: Path
    is_run: bool
    truth: GroundTruth
    methods: Sequence[Scored]
    board: Leaderboard | None = None
    setting: Setting | None = None
    data: Data | None = None
    why: str = ""
    device: str = "auto"
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))

    @property
    def n_train(self) -> int:
        """Training examples."""
        return int(self.truth.masks.shape[1])

    @property
    def n_targets(self) -> int:
        """Targets."""
        return int(self.truth.margins.shape[1])

    @property
    def title(self) -> str:
        """The setting's name, or the store's."""
        if self.setting is not None:
            return self.setting.name
        if self.truth.meta is not None:
            return status.setting_of(self.truth)
        return self.truth.imported.title if self.truth.imported is not None else self.truth.path.name

    @property
    def key(self) -> str:
        """Hash of the ground truth."""
        made = self.truth.imported or self.truth.meta
        return "" if made is None else made.key

    @property
    def alpha(self) -> float | None:
        """Kept fraction of the subsets."""
        return None if self.truth.meta is None else self.truth.meta.identity.alpha

    @property
    def notes(self) -> list[str]:
        """What a reader of anything that is made of it must know."""
        stamps = [] if self.truth.imported is None else list(self.truth.imported.stamps)
        stamped = None if self.data is None else stamp(self.data.origin)
        said = [f"{one.name}: {text}" for one in self.methods for text in one.remarks]
        return [*stamps, *([stamped] if stamped else []), *said]

    def examples(self, what: str) -> Data:
        """The examples.

        Args:
            what: for what they are needed, as the beginning of a sentence: `explore brittleness trains models`.

        Raises:
            NoExamplesError: they are not at hand.
        """
        if self.data is None:
            raise NoExamplesError(f"{what}, and {self.path} has no examples: {self.why}")
        return self.data

    def trainer(self, what: str) -> Trainer:
        """What trains the setting's model on subsets, by the store's protocol; `what` as for `examples`.

        Raises:
            NoExamplesError: there is nothing to train on.
        """
        from bench.train import Trainer, pick_device

        data = self.examples(what)
        assert self.setting is not None
        protocol = "expectation" if self.truth.meta is None else self.truth.meta.identity.protocol
        return Trainer(self.setting.recipe, data, pick_device(self.device), protocol=protocol)

    def mean_margins(self) -> NDArray[np.float64]:
        """Mean margin of each target over all models of the ground truth, float64 `[n_targets]`."""
        rows = np.flatnonzero(self.truth.completed)
        total = np.zeros(self.n_targets)
        for at in range(0, len(rows), 256):
            total += np.asarray(self.truth.margins[rows[at : at + 256]], np.float64).sum(axis=0)
        return total / max(1, len(rows))

    def scored(self, what: str) -> Sequence[Scored]:
        """The methods, of which there is at least one; `what` as for `examples`.

        Raises:
            BenchError: there is none.
        """
        if self.methods:
            return self.methods
        raise BenchError(
            f"{what}, and {self.path} has none: add --scores FILE.npy, or --method NAME, which is run on the store"
        )

    def leading(self, most: int) -> list[Scored]:
        """What was asked for by name, and besides the best variant of each method up to so many in all, best first."""
        picked: dict[str, Scored] = {}
        for one in self.methods:
            if not one.asked:
                picked.setdefault(one.name if one.lds is None else one.plugin, one)
        room = max(0, most - sum(one.asked for one in self.methods))
        taken = {one.name for one in list(picked.values())[:room]}
        return [one for one in self.methods if one.asked or one.name in taken]

    def best(self) -> list[Scored]:
        """What was asked for by name; else the method of the best LDS alone."""
        return [one for one in self.methods if one.asked] or list(self.methods[:1])


def open_subject(
    path: str | Path,
    *,
    methods: Sequence[str] = (),
    scores: Sequence[str] = (),
    orientation: Sequence[str] = (),
    sign: Sequence[str] = (),
    setting: str | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    allow_modified_data: bool = False,
    progress: Progress | None = None,
) -> Subject:
    """Open a run, or a ground-truth store, with score matrices.

    Args:
        path: the folder of `bench run`, or of `bench train` or `bench import`.
        methods: of a run, which of its rows, by name (`trak`, or a variant's `trak:damping=tune`), or `all`; by default
            all that have scores, of which verbs take the best. On a store these are run, as `bench attribute` does.
        scores: `[NAME=]FILE.npy`, matrices from files, read as `bench run --scores` reads them.
        orientation: of the files that do not say it themselves.
        sign: likewise.
        setting: what to load the examples by, where it is a file's; by default what the run or the store names.
        device: `auto`, `cpu` or `cuda`, for what is trained.
        data_dir: where the dataset's files are.
        allow_modified_data: whether they may be other than the published ones.
        progress: where to say what is done; nowhere by default.

    Raises:
        BenchError: there is no such run, store, method or file, or one does not fit the others.
    """
    folder, progress = Path(path), progress or Progress(quiet=True)
    folder = folder.parent if folder.name == "leaderboard.json" else folder
    files = precomputed.chosen(scores, orientation, sign)
    is_run = (folder / "leaderboard.json").exists()
    if not is_run and not (folder.is_dir() and _has_store(folder)):
        raise InputError(f"{folder} is neither a run (no leaderboard.json) nor a ground-truth store (no masks.npy)")
    board = results.read(folder) if is_run else None
    truth = GroundTruth.open(folder / board.ground_truth["path"] if board else status.stores_in(folder)[0])
    if board is not None and truth.meta is not None and truth.meta.key != board.ground_truth["key"]:
        raise InputError(f"{truth.path} is not the ground truth that {folder} was judged by: run it again")
    made, data, why = _examples(truth, setting, data_dir, allow_modified_data)
    precomputed.check_shapes(files, truth.masks.shape[1], truth.margins.shape[1])
    found = Subject(folder, is_run, truth, (), board, made, data, why, device, progress)
    own = _of_run(found, methods) if is_run else _attributed(found, methods)
    every = [*own, *_from_files(files)]
    _check_names(every)
    return Subject(folder, is_run, truth, every, board, made, data, why, device, progress)


def _has_store(folder: Path) -> bool:
    members = status.stores_in(folder)
    if len(members) > 1:
        raise InputError(f"{folder} holds several stores ({', '.join(m.name for m in members)}): name one of them")
    return True


def _examples(
    truth: GroundTruth, named: str | None, data_dir: str | None, allow_modified: bool
) -> tuple[Setting | None, Data | None, str]:
    """Setting and examples, which must be those of the ground truth; else why there are none."""
    if truth.imported is not None:
        if named is not None:
            raise InputError(f"{truth.path} was imported without the examples of {named}: leave --setting out")
        return None, None, "it was imported without them"
    if truth.meta is None:
        if named is not None:
            raise InputError(f"{truth.path} has no meta.json, which says what it was trained on: leave --setting out")
        return None, None, "it has no meta.json, which says what it was trained on"
    wanted = named or status.setting_of(truth)
    if named is None:
        try:
            datasets.check(wanted)
        except BenchError:
            return None, None, f"{wanted} is no setting of this installation; name it, with its file, by --setting"
    try:
        setting = datasets.setting(wanted)
    except BenchError as error:
        if named is not None:
            raise
        return None, None, f"{error}; name its setting, with its file, by --setting"
    data = runner.load(setting, data_dir, allow_modified)
    trained_on.refuse_others(truth.path, truth.meta.identity, setting, data)
    return setting, data, ""


def _of_run(subject: Subject, wanted: Sequence[str]) -> list[Scored]:
    """The run's matrices: those that are named, or all that are there."""
    assert subject.board is not None
    rows = [row for row in subject.board.methods if row.scores is not None]
    names = [row.name for row in rows]
    wanted = names if "all" in wanted else [name if name in names else _canonical(name) for name in wanted]
    for name in wanted:
        if name not in names:
            advice = f"bench run {subject.board.setting} --method {name} --out {subject.path} adds a method to a run"
            raise BenchError(
                f"{subject.path} has no scores of a method {name!r}{nearest(name, names)} (there are: "
                f"{', '.join(names) or 'none'}; {advice})"
            )
    made = []
    for row in rows:
        if wanted and row.name not in wanted:
            continue
        assert row.scores is not None
        path = subject.path / row.scores
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is missing or torn ({error}): run the same bench run command again") from error
        if values.shape != (subject.n_train, subject.n_targets) or values.dtype.kind != "f":
            raise InputError(
                f"{path} has {values.dtype} {list(values.shape)}, and the run's scores are floating-point "
                f"[{subject.n_train}, {subject.n_targets}]: run the same bench run command again"
            )
        made.append(Scored(row.name, values, row.lds, asked=bool(wanted)))
    return sorted(made, key=lambda one: -np.inf if one.lds is None else one.lds, reverse=True)


def _canonical(spec: str) -> str:
    """A method's name as tables have it, where its parameters were written in another order or form."""
    try:
        return methods.chosen([spec])[0].name
    except BenchError:
        return spec


def _attributed(subject: Subject, specs: Sequence[str]) -> list[Scored]:
    """Methods run on a store, as `bench attribute` runs them."""
    from bench.workbench import Bench

    made: list[Scored] = []
    picked = methods.distinct(methods.chosen(list(specs))) if specs else []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for one in picked:
            truth, place, say = subject.truth, Path(scratch), subject.progress
            if subject.setting is None or subject.data is None:
                if truth.imported is None:
                    raise BenchError(f"{one.name} cannot be run on {subject.path}: {subject.why}")
                bench = Bench.without_examples(truth, place, subject.device, say)
            else:
                count = len(truth.masks)
                bench = Bench.open(subject.setting, subject.data, truth.path, place, subject.device, say, count)
            unmet = bench.unmet(one)
            if unmet is not None:
                raise BenchError(f"{one.name} {unmet}")
            try:
                found = bench.attribute(one)
            except UnmetError as error:
                raise BenchError(f"{one.name} {error}") from error
            except BenchError as error:
                raise MethodError(f"{one.name} failed: {error}") from error
            say.say(f"{one.name}: {found.cost.seconds:.1f} s")
            made.append(Scored(one.name, found.scores, None, found.notes, asked=True))
    return made


def _check_names(every: Sequence[Scored]) -> None:
    names = [one.name for one in every]
    for name in names:
        if names.count(name) > 1:
            raise BenchError(
                f"two score matrices are called {name!r}: give that of a file another name, --scores NAME=FILE.npy"
            )


def _from_files(files: Sequence[methods.Chosen]) -> list[Scored]:
    made = []
    for one in files:
        assert isinstance(one.method, precomputed.Precomputed)
        values = one.method.scores()
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        scored = Scored(one.name, values, None, one.method.file.remarks, asked=True)
        _check_size(scored, one.method.file.path)
        made.append(scored)
    return made


def _check_size(one: Scored, path: Path) -> None:
    """Refuse a file without any finite target, and numbers whose squares no longer are."""
    known = one.known()
    if not known.any():
        raise InputError(f"{path} has no target whose scores are all finite: nothing is left")
    largest = 0.0
    for at in range(0, len(one.scores), 1024):
        largest = max(largest, float(np.abs(one.scores[at : at + 1024][:, known]).max()))
    if largest and not 1 / _LARGEST < largest < _LARGEST:
        raise InputError(
            f"{path} has scores of up to {largest:.1g}, beyond what can be computed with: multiply them by one number, "
            "which changes no ranking"
        )
