"""How far a ground truth is, and whether its rows are what they say they are."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import datasets, external, hashing, imported, launch, runner, store, subsets
from bench.errors import BenchError, InputError
from bench.store import GroundTruth, Identity
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data, Setting

_TOLERANCE = 1e-3  # absolute and relative: other batches, threads and libraries round otherwise


def stores_in(folder: Path) -> list[Path]:
    """The stores of a family (`folder/alpha-…`), or the folder itself.

    Raises:
        InputError: there is no store.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a ground-truth store: there is no such folder")
    members = sorted({p.parent for name in ("identity.json", "masks.npy") for p in folder.glob(f"alpha-*/{name}")})
    if not members and not (folder / "identity.json").is_file() and not (folder / "masks.npy").is_file():
        raise InputError(f"{folder} is not a ground-truth store: it has no identity.json; bench train makes one")
    return members or [folder]


def lines(folder: Path) -> list[str]:
    """What there is of a store and what is missing, as text.

    Raises:
        InputError: it is not a store that was made or imported here, or its identity.json is torn.
    """
    worker = external.read_identity(folder)
    if worker is not None:
        return external.status(folder, worker)
    found_imported = imported.read_imported(folder)
    if found_imported is not None:
        return imported.lines(found_imported)
    path = folder / "identity.json"
    try:
        who = msgspec.json.decode(path.read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): name a store that bench train made") from error
    store.refuse_newer(folder)
    found = store.find_blocks(folder, who.key)
    done = sum(block.stop - block.start for block in found.good)
    asked = _asked(folder) or max((block.stop for block in found.good), default=0)
    missing = sum(stop - start for start, stop in store.missing_rows(found.good, asked))
    about = f"{who.about}, {who.output} margins, {who.sampling} subsets"
    share = f"{1 - missing / asked:.0%}" if asked else "0%"
    told = [about, f"rows: {asked - missing} of {asked} done ({share}), in {counted(len(found.good), 'block')}"]
    if done:
        seconds = sum(block.seconds for block in found.good)
        accuracy = sum(block.accuracy * (block.stop - block.start) for block in found.good) / done
        told.append(f"speed: {seconds / done:.3g} s per model and worker; accuracy {accuracy:.1%}")
    diverged = [row for block in found.good for row in block.diverged]
    if diverged:
        told.append(
            f"diverged: {counted(len(diverged), 'row')} "
            f"({', '.join(map(str, diverged[:10]))}{', …' * (len(diverged) > 10)})"
        )
    told += [f"bad: {sentence}" for sentence in found.bad]
    told.append("arrays: " + _arrays(folder, who.key, asked))
    return told


def _asked(folder: Path) -> int:
    try:
        return msgspec.json.decode((folder / store.ASKED).read_bytes(), type=store.Asked).models
    except (OSError, msgspec.DecodeError):
        return 0


def _arrays(folder: Path, key: str, asked: int) -> str:
    try:
        meta = store.read_meta(folder)
    except InputError as error:
        return str(error)
    if meta is None:
        return "not gathered yet"
    if meta.key != key:
        return "of an earlier ground truth; the next run gathers them anew"
    rows = len(meta.subset_of_row)
    return f"{counted(rows, 'row')} gathered" + ("" if rows == asked else f" of {asked}")


@dataclass(frozen=True)
class Retrained:
    """What came of training some rows again.

    Attributes:
        rows: which were; wrong: sentences on those that came out otherwise; why_not: why none could be, or None.
    """

    rows: NDArray[np.int64]
    wrong: list[str]
    why_not: str | None = None


def retrain(truth: GroundTruth, setting: Setting, data: Data, count: int, device: str) -> Retrained:
    """Train `count` random rows of a store again and compare their margins.

    Raises:
        BenchError: no such device.
    """
    from bench.train import Trainer, one_torch_thread, pick_device

    meta = truth.meta
    none = np.zeros(0, np.int64)
    if meta is None:
        return Retrained(none, [], "it has no meta.json")
    who = meta.identity
    now: dict[str, Any] = {
        "data": hashing.data(data),
        "recipe": hashing.recipe(setting.recipe),
        "code": hashing.training_code(),
        "compiled": os.environ.get("BENCH_COMPILE") != "0" or setting.recipe.stacked or who.device != "cuda",
        "device": launch.device_kind(device if device != "auto" or who.device != "cpu" else "cpu"),
    }
    changed = [name for name, value in now.items() if value != getattr(who, name)]
    if not setting.recipe.stacked:  # whose roundings grow: another GPU or torch trains another model
        facts = launch.hardware(now["device"]) | launch.versions()
        made_by = meta.hardware | meta.versions
        changed += [name for name in ("gpu", "torch") if facts.get(name) != made_by.get(name)]
    if changed:
        return Retrained(none, [], f"it was made by other {' and '.join(changed)} than here and now")
    rng = np.random.default_rng()  # other rows every time
    good = np.flatnonzero(truth.completed)
    if not len(good):
        return Retrained(none, [], "every model diverged")
    rows = np.sort(rng.choice(good, min(count, len(good)), replace=False))
    chosen = [subsets.kept(who.seed, meta.subset_of_row[row], data.n_train, who.alpha, who.sampling) for row in rows]
    seeds = [subsets.model_seed(who.seed, int(row), who.protocol) for row in rows]
    trainer = Trainer(setting.recipe, data, pick_device(now["device"]), protocol=who.protocol)
    with one_torch_thread():
        made = trainer.rows(chosen, seeds, replace(who.recorded, keep=()))["margins"]
    wrong = []
    for row, margins in zip(rows, made, strict=True):
        stored = np.asarray(truth.margins[row], np.float32)
        apart = np.abs(margins - stored) - _TOLERANCE * np.abs(stored)
        if not (apart <= _TOLERANCE).all():
            wrong.append(f"row {row} trained again has margins up to {np.nanmax(np.abs(margins - stored)):.3g} apart")
    return Retrained(rows, wrong)


def setting_of(truth: GroundTruth) -> str:
    """The setting that a store names.

    Raises:
        BenchError: it names none.
    """
    if truth.meta is None:
        raise BenchError(f"{truth.path} has no meta.json, which names its setting: give it with --setting")
    return truth.meta.identity.setting


def verify(
    folder: Path, count: int, setting: str | None, device: str, data_dir: str | None, allow_modified_data: bool = False
) -> tuple[list[str], str]:
    """Everything that is wrong with a store, as sentences, and what was done about its rows, as another.

    Args:
        folder: the store.
        count: rows to train again.
        setting: what to train them by; by default the setting that the store names.
        device: where to.
        data_dir: where the dataset's files are.
        allow_modified_data: whether they may be other than the published ones.

    Raises:
        BenchError: it is not a store that was made here, or `count` is negative.
    """
    if count < 0:
        raise BenchError(f"--retrain is {count}: it cannot be negative")
    wrong = external.verify(folder)
    if wrong is not None:
        return wrong, "no row was trained again: the rows are a worker's"
    found_imported = imported.read_imported(folder)
    if found_imported is not None:
        wrong = imported.verify(folder, found_imported)
        try:
            GroundTruth.open(folder)
        except InputError as error:
            wrong.append(str(error))
        return wrong, "no row was trained again: the rows were imported"
    wrong = store.verify(folder)
    if wrong or not count:
        return wrong, "no row was trained again"
    truth = GroundTruth.open(folder)
    try:
        made = datasets.setting(setting or setting_of(truth))
        found = retrain(truth, made, runner.load(made, data_dir, allow_modified_data), count, device)
    except BenchError as error:
        hint = "" if setting else "; --setting names another, such as a file's"
        return wrong, f"no row was trained again: {error}{hint}"
    if found.why_not is not None:
        return wrong, f"no row was trained again: {found.why_not}"
    numbers = ", ".join(map(str, found.rows))
    return found.wrong, f"trained again: row{'s' * (len(found.rows) > 1)} {numbers}"
