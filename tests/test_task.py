"""What a method may see: fit and tune rows, never those that judge, and nothing that it could change for the next."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bench import launch
from bench.access import Access
from bench.checkpoints import Pool
from bench.datasets import Data
from bench.errors import BenchError, EvalRowError, InputError
from bench.guard import Guard
from bench.launch import Request
from bench.progress import Progress
from bench.store import GroundTruth
from bench.task import Task
from bench.train import Trainer, pick_device


@pytest.fixture
def truth(toy_request: Request, quiet: Progress, tmp_path: Path) -> GroundTruth:
    launch.make(toy_request, tmp_path / "truth", quiet)
    return GroundTruth.open(tmp_path / "truth")


@pytest.fixture
def task(truth: GroundTruth, toy_request: Request, toy_data: Data, quiet: Progress, tmp_path: Path) -> Task:
    trainer = Trainer(toy_request.setting.recipe, toy_data, pick_device("cpu"))
    access = Access(truth, truth.of_group("fit"), truth.of_group("tune"), truth.of_group("eval"))
    pool = Pool(trainer, 0, tmp_path / "checkpoints", "key", quiet)
    seed = np.random.SeedSequence([0, 1])
    return Task(toy_request.setting, toy_data, access, trainer, pool, "logsumexp", 0.5, seed, tmp_path)


def test_groups_share_no_row_and_no_mask(task: Task, truth: GroundTruth) -> None:
    judged = truth.of_group("eval")
    groups = [set(task.fit.index.tolist()), set(task.tune.index.tolist()), set(judged.tolist())]
    assert all(groups)
    assert set().union(*groups) == set(range(30))
    assert sum(map(len, groups)) == 30
    masks = [{row.tobytes() for row in m} for m in (task.fit.masks, task.tune.masks, truth.masks[judged])]
    assert not masks[0] & masks[1]
    assert not masks[0] & masks[2]
    assert not masks[1] & masks[2]


def test_groups_that_share_a_mask_are_refused(truth: GroundTruth) -> None:
    fit, tune, judged = (truth.of_group(g) for g in ("fit", "tune", "eval"))
    Access(truth, fit, tune, judged)
    for bad_fit, bad_tune in ((np.append(fit, judged[0]), tune), (fit, judged[:1]), (np.append(fit, tune[0]), tune)):
        with pytest.raises(EvalRowError, match="has the same subset as"):
            Access(truth, bad_fit, bad_tune, judged)


def test_rows_are_those_of_the_store_and_cannot_be_written(task: Task, truth: GroundTruth) -> None:
    assert np.array_equal(task.fit.masks, truth.masks[task.fit.index])
    assert np.array_equal(task.fit.margins, truth.margins[task.fit.index])
    for rows in (task.fit, task.tune, task.rows(task.fit.index[:3])):
        for array in (rows.masks, rows.margins, rows.subset):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_examples_cannot_be_changed_for_the_next_method(task: Task, toy_data: Data) -> None:
    before = toy_data.train_x.copy()
    for array in (task.data.train_x, task.data.train_y, task.data.test_x, task.data.test_y):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    x, y = task.inputs("train")
    x.zero_()
    y.zero_()
    task.checkpoint_vectors(1).zero_()
    assert np.array_equal(toy_data.train_x, before)
    assert float(task.inputs("train")[0].abs().sum()) > 0
    assert float(task.checkpoint_vectors(1).abs().sum()) > 0
    assert toy_data.train_x.flags.writeable  # the harness's own is as it was
    assert task.changed() == []


WRITES: dict[str, Callable[[Any], object]] = {
    "torch": lambda x: torch.from_numpy(x).zero_(),
    "base": lambda x: _zeroed(x if x.base is None else x.base),
    "flags": lambda x: _zeroed(x),
    "address": lambda x: ctypes.memset(x.ctypes.data, 7, 1),
}


def _zeroed(array: Any) -> None:
    array.setflags(write=True)
    array[:] = 0


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("name", ["train_x", "train_y", "test_x", "test_y"])
def test_whoever_changes_examples_changes_copies_and_is_told(task: Task, toy_data: Data, way: str, name: str) -> None:
    before = {name: getattr(toy_data, name).copy() for name in ("train_x", "train_y", "test_x", "test_y")}
    trained = [task._trainer.inputs(part)[0].clone() for part in ("train", "test")]
    WRITES[way](getattr(task.data, name))
    assert task.changed() == [name]
    assert all(np.array_equal(getattr(toy_data, name), was) for name, was in before.items())
    now = [task._trainer.inputs(part)[0] for part in ("train", "test")]
    assert all(bool((a == b).all()) for a, b in zip(now, trained, strict=True))


def test_lent_examples_are_those_of_the_setting(task: Task, toy_data: Data) -> None:
    assert (task.data.n_train, task.data.n_targets, task.data.n_classes) == (40, 10, 3)
    assert "train_x" not in vars(task.data)  # nobody has looked at it yet
    assert np.array_equal(task.data.train_x, toy_data.train_x)
    assert task.data.train_x is task.data.train_x
    assert task.data.origin == {"made by": "the tests"}
    less = replace(task.data, train_x=task.data.train_x[:5], train_y=task.data.train_y[:5])
    assert (less.n_train, less.n_targets) == (5, 10)
    with pytest.raises(AttributeError, match="has no attribute 'train_z'"):
        getattr(task.data, "train_z")  # noqa: B009
    assert task.changed() == []


def test_a_row_that_judges_is_refused_and_remembered(task: Task, truth: GroundTruth) -> None:
    judged = int(truth.of_group("eval")[3])
    with pytest.raises(EvalRowError, match=f"row {judged}, which judges"):
        task.rows([int(task.fit.index[0]), judged])
    assert task.refused == f"it asked for row {judged}, which judges"
    assert judged not in task.usage.rows


def _reached(thing: Any, seen: dict[int, Any], depth: int = 8) -> dict[int, Any]:
    """All that attributes, items and bases of an object lead to; what a function has enclosed is not looked at."""
    if id(thing) in seen or depth == 0 or isinstance(thing, str | bytes | int | float | type | ModuleType):
        return seen
    seen[id(thing)] = thing
    parts = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    parts += thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple | set) else []
    if isinstance(thing, np.ndarray):
        parts = [thing.base]
    for part in parts:
        _reached(part, seen, depth - 1)
    return seen


def test_no_attribute_leads_to_the_rows_that_judge(task: Task, truth: GroundTruth) -> None:
    given = task.fit, task.tune, task.fit_as_stored, task.rows(task.fit.index[:2])
    found = [*_reached(task, {}).values(), *_reached(given, {}).values()]
    assert any(one is task.fit.margins for one in found)
    assert not any(isinstance(one, GroundTruth | Access) for one in found)
    whole = {truth.masks.nbytes, truth.margins.nbytes}
    assert not [one for one in found if isinstance(one, np.ndarray) and one.nbytes in whole]
    stored = task.fit_as_stored
    assert np.array_equal(stored.masks[1:3], task.fit.masks[1:3])
    assert np.array_equal(stored.margins[np.array([0, 2])], task.fit.margins[[0, 2]])
    with pytest.raises(ValueError, match="read-only"):
        stored.masks.row_numbers[:] = truth.of_group("eval")[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [[30], [-1], [10**9]])
def test_a_row_that_does_not_exist(task: Task, index: list[int]) -> None:
    with pytest.raises(InputError, match=rf"no fit or tune row {index[0]}: task\.fit\.index"):
        task.rows(index)
    assert task.refused is None


@pytest.mark.parametrize("index", [[True, False], [1.5], ["1"]])
def test_rows_go_by_number(task: Task, index: list[Any]) -> None:
    with pytest.raises(InputError, match="asked for by number"):
        task.rows(index)


def test_no_rows_are_no_rows(task: Task) -> None:
    assert len(task.rows([])) == 0
    assert task.usage.models == 0


def test_what_is_used_is_counted_once(task: Task) -> None:
    assert (task.usage.models, task.usage.train_seconds) == (0, 0.0)
    some = task.rows(task.fit.index[:2])
    n_fit = len(task.fit)
    assert len(some) == 2
    assert task.usage.models == n_fit
    seconds = task.usage.train_seconds
    assert seconds > 0
    assert task.fit is task.fit
    assert (task.usage.models, task.usage.train_seconds) == (n_fit, seconds)
    n_tune = len(task.tune)
    task.checkpoints(2)
    task.checkpoint_vectors(3)
    task.checkpoints(1)
    assert task.usage.checkpoints == 3
    assert task.usage.models == n_fit + n_tune + 3
    assert task.usage.train_seconds > seconds


def test_only_the_rows_asked_for_are_charged(task: Task) -> None:
    index = np.array([r for r in range(30) if r in {4, 5, 6}])
    task.rows(index)
    task.rows(index[:2])
    assert task.usage.models == 3


def test_checkpoints_on_subsets_are_charged_apart(task: Task) -> None:
    full, part = task.checkpoint_vectors(2), task.checkpoint_vectors(3, "subsets")
    task.checkpoint_vectors(1, "subsets")
    assert (task.usage.checkpoints, task.usage.on_subsets, task.usage.models) == (2, 3, 5)
    assert task.usage.train_seconds > 0
    assert float((full[:2] - part[:2]).abs().max()) > 0.01


def test_checkpoints_differ_and_a_prefix_stays(task: Task) -> None:
    one, three = task.checkpoint_vectors(1), task.checkpoint_vectors(3)
    assert bool((one[0] == three[0]).all())
    assert not bool((three[0] == three[1]).all())
    module = task.checkpoints(2)[1]
    parameters = np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])
    assert np.array_equal(parameters, three[1].numpy())


@pytest.mark.parametrize("count", [0, -1])
def test_no_checkpoints(task: Task, count: int) -> None:
    with pytest.raises(InputError, match=f"{count} checkpoints are asked for: it takes at least 1"):
        task.checkpoint_vectors(count)


def test_choose_takes_the_best_on_tune_rows_and_the_first_of_equals(task: Task) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 10)).astype(np.float32)
    truth = np.linalg.lstsq(task.tune.masks.astype(float), task.tune.margins.astype(float), rcond=None)[0]
    assert task.choose([("noise", noise), ("good", truth), ("same", truth * 2), ("minus", -truth)])[0] == "good"
    with pytest.raises(BenchError, match="no candidate"):
        task.choose([])


def test_what_is_kept_is_a_copy_and_of_two_the_later(task: Task) -> None:
    gap = np.array([0.5, np.nan], np.float16)
    task.keep(gap=gap, self=True, steps=[1, 2, 3], made=torch.ones(2, requires_grad=True))
    gap[:] = 7
    task.keep(steps=np.float64(4.5))
    kinds = {name: (array.dtype.name, array.tolist()) for name, array in task.kept.items()}
    assert kinds.pop("gap")[0] == "float16"
    assert task.kept["gap"][0] == 0.5
    assert np.isnan(task.kept["gap"][1])
    assert kinds == {"self": ("bool", True), "steps": ("float64", 4.5), "made": ("float32", [1.0, 1.0])}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("a b", 1, "cannot name an array 'a b': use a word"),
        ("../x", 1, r"cannot name an array '\.\./x': use a word"),
        ("", 1, "cannot name an array '': use a word"),
        ("file", 1, "cannot name an array 'file': use a word, other than file"),
        ("allow_pickle", True, "cannot name an array 'allow_pickle'"),
        ("x", "text", "x of type <U4: keep real numbers"),
        ("x", None, "x of type object: keep real numbers"),
        ("x", {"a": 1}, "x of type object"),
        ("x", 1j, "x of type complex128"),
        ("x", np.array(["2020"], "datetime64[Y]"), r"x of type datetime64\[Y\]"),
        ("x", [[1], [2, 3]], "x that is not an array"),
    ],
)
def test_what_cannot_be_kept(task: Task, name: str, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        task.keep(good=np.ones(1), **{name: value})
    assert task.kept == {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    (made / "blocks").mkdir(parents=True)
    np.save(made / "margins.npy", np.zeros((3, 2)))
    (made / "blocks/b").write_text("x")
    (tmp_path / "store-of-mine").write_text("not the store")
    return made


OPENINGS: dict[str, Callable[[Path], object]] = {
    "np.load": lambda f: np.load(f / "margins.npy"),
    "memmap": lambda f: np.load(f / "margins.npy", mmap_mode="r"),
    "bytes": lambda f: open(os.fsencode(f / "margins.npy"), "rb"),  # noqa: PTH123, SIM115
    "os.open": lambda f: os.open(f / "margins.npy", os.O_RDONLY),
    "below": lambda f: (f / "blocks/b").read_text(),
    "dots": lambda f: (f / "blocks/../margins.npy").read_bytes(),
    "relative": lambda f: Path(os.path.relpath(f / "margins.npy")).read_bytes(),
    "link": lambda f: Path(_link(f)).read_bytes(),
    "writing": lambda f: (f / "new").write_text("x"),
    "by its folder": lambda f: os.open("margins.npy", os.O_RDONLY, dir_fd=os.open(f, os.O_RDONLY)),
    "by the folder above": lambda f: _by_folder(f.parent, "store/margins.npy"),
}


def _by_folder(folder: Path, name: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.close(os.open(name, os.O_RDONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)


def _link(folder: Path) -> Path:
    link = folder.parent / "innocent.npy"
    link.symlink_to(folder / "margins.npy")
    return link


@pytest.mark.parametrize("way", OPENINGS)
def test_the_guard_refuses(folder: Path, way: str) -> None:
    guard = Guard(folder)
    with guard, pytest.raises(EvalRowError, match=r"it opened .* of the ground truth"):
        OPENINGS[way](folder)
    assert guard.touched is not None
    assert not (folder / "new").exists()


def test_the_guard_remembers_what_was_swallowed(folder: Path) -> None:
    with Guard(folder) as guard:
        with contextlib.suppress(Exception):
            np.load(folder / "margins.npy")
        assert (folder.parent / "store-of-mine").read_text() == "not the store"
    assert guard.touched == str((folder / "margins.npy").resolve())


def test_the_guard_watches_every_thread_while_it_is_entered(folder: Path) -> None:
    seen: list[type[BaseException]] = []

    def read() -> None:
        try:
            np.load(folder / "margins.npy")
        except Exception as error:
            seen.append(type(error))

    with Guard(folder) as guard, Guard.lifted():  # lifted for this thread alone
        assert np.load(folder / "margins.npy").shape == (3, 2)
        touched = guard.touched
        assert touched is None
        other = threading.Thread(target=read)
        other.start()
        other.join()
    assert seen == [EvalRowError]
    assert guard.touched is not None
    assert np.load(folder / "margins.npy").shape == (3, 2)


def test_the_guard_lets_other_files_be_opened_by_folder(folder: Path) -> None:
    with Guard(folder) as guard:
        _by_folder(folder.parent, "store-of-mine")
    assert guard.touched is None
    _by_folder(folder, "margins.npy")


def test_a_thread_that_outlives_the_guard_is_still_refused_and_no_other_one_is(folder: Path) -> None:
    seen: dict[str, object] = {}
    go = threading.Event()

    def read(name: str) -> None:
        go.wait(10)
        try:
            seen[name] = np.load(folder / "margins.npy").shape
        except Exception as error:
            seen[name] = type(error)

    def started(name: str) -> threading.Thread:
        made = threading.Thread(target=read, args=(name,))
        made.start()
        return made

    threads = [started("before")]
    with Guard(folder):
        threads.append(started("within"))
    threads.append(started("after"))
    go.set()
    for thread in threads:
        thread.join()
    assert seen == {"before": (3, 2), "within": EvalRowError, "after": (3, 2)}
    assert np.load(folder / "margins.npy").shape == (3, 2)


def test_the_guard_lets_go_when_a_method_raises(folder: Path) -> None:
    def method() -> None:
        raise KeyError

    with pytest.raises(KeyError), Guard(folder):
        method()
    np.load(folder / "margins.npy")


def test_a_task_reads_its_rows_under_guard(task: Task, truth: GroundTruth) -> None:
    with Guard(truth.path) as guard:
        assert len(task.fit) > 0
        with pytest.raises(EvalRowError):
            np.load(truth.path / "margins.npy")
    assert guard.touched is not None
