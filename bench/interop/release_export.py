"""Write a store in the layout of MadryLab's datamodels release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.errors import InputError
from bench.interop import layout
from bench.interop.arrays import CHUNK_BYTES
from bench.store import GroundTruth
from bench.subsets import GROUPS
from bench.wording import counted

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class _Array(NamedTuple):
    """One file to write: which it is, what it is made of, its type, and what it is called in errors."""

    kind: layout.Kind
    split: layout.Split
    values: NDArray[Any]
    dtype: type[np.generic]
    name: str


def export(store: Path, dest: Path, dataset: str | None) -> list[str]:
    """Write masks and margins, and the logits and train margins that the store keeps, as the release has them.

    An imported store's rows stay as they are; a trained one's are those that did not diverge: fit, tune, eval.

    Args:
        store: the store.
        dest: folder that gets `DATASET/data/…`.
        dataset: the folder's name; by default the release's, or the setting's with dashes.

    Returns:
        What to print.

    Raises:
        InputError: it is no store with a meta.json, or a number is too large for float16. BenchError: a file is there
            already, or cannot be written.
    """
    truth = GroundTruth.open(store)
    groups = [truth.of_group(group) for group in GROUPS]
    found = truth.imported
    if found is not None:
        name, alpha, output = found.dataset, found.alpha, found.output
        rows = np.flatnonzero(truth.completed)  # those that were read
        judging = found.roles.eval
        where = "first" if judging[0] == 0 and judging[1] < found.n_rows else "last"
        split: layout.Split = "train" if found.split == "train" else "test"
    else:
        assert truth.meta is not None  # of_group has asked for it
        who = truth.meta.identity
        name, alpha, output, where, split = who.setting.replace("/", "-"), who.alpha, who.output, "last", "test"
        rows = np.concatenate(groups)
    folder = dest / (dataset or "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name) or "dataset")
    written = []
    paths = {folder / layout.file_name(one.kind, one.split, alpha): one for one in _arrays(truth, split)}
    for path in paths:
        if path.exists():
            raise InputError(f"{path} is there already: name another folder, or remove it")
    for one in paths.values():  # all of them before any is written: nothing is left half done
        _refuse_overflow(store, one, rows)
    for path, one in paths.items():
        _write(path, one, rows)
        written.append(f"{path}: {np.dtype(one.dtype).name} {[len(rows), *one.values.shape[1:]]}")
    again = (
        f"bench import datamodels-data {dest} STORE --eval-rows {where}:{len(groups[2])} --tune-rows {len(groups[1])}"
    )
    if found is not None and found.judge_only:
        again = f"bench import datamodels-data {dest} STORE --eval-rows {where}:{len(groups[2])} --judge-only"
    if found is not None and output not in ("max", "logsumexp"):
        written.append(f"note: the margins are {found.measured}, and the release's are max margins; no file says so")
    elif output != "max":
        written.append(f"note: the margins are {output} margins, and the release's are max margins; no file says so")
        again += f" --margins-are {output}"
    return [*written, *_order(truth), f"to read it again: {again}"]


def _order(truth: GroundTruth) -> list[str]:
    """Whose examples rows and columns are, which the files do not say."""
    if truth.imported is not None:
        return truth.imported.order
    assert truth.meta is not None
    counts = f"{truth.meta.n_train:,} training examples and {counted(truth.meta.n_targets, 'target', form=',')}"
    return [f"note: columns are {counts} of {truth.meta.identity.setting}, in its order; no file says so"]


def _arrays(truth: GroundTruth, split: layout.Split) -> Iterator[_Array]:
    yield _Array("masks", "train", truth.masks, np.bool_, "masks")
    yield _Array("margins", split, truth.margins, np.float16, "margins")
    schema = (
        truth.imported.schema if truth.imported is not None else truth.meta.schema if truth.meta is not None else {}
    )
    if "logits" in schema:
        yield _Array("logits", split, truth.array("logits"), np.float16, "logits")
    if "train_margins" in schema:
        yield _Array("margins", "train", truth.array("train_margins"), np.float16, "train_margins")


def _chunks(one: _Array, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    step = max(1, CHUNK_BYTES // max(1, one.values[0].nbytes))
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        yield part, one.values[part]


def _refuse_overflow(store: Path, one: _Array, rows: NDArray[np.int64]) -> None:
    if one.values.dtype.kind != "f" or one.values.dtype == np.float16:
        return
    for part, values in _chunks(one, rows):
        with np.errstate(over="ignore"):
            lost = ~np.isfinite(values.astype(np.float16))
        if lost.any():
            at = tuple(int(i) for i in np.argwhere(lost)[0])
            raise InputError(
                f"{store}: {one.name} of row {part[at[0]]} reach {values[at]:.4g}, and float16, which the release's "
                f"files are of, ends at {_FLOAT16_MAX:.0f}: such models cannot be exported"
            )


def _write(path: Path, one: _Array, rows: NDArray[np.int64]) -> None:
    dtype = np.dtype(one.dtype)
    shape = (len(rows), *one.values.shape[1:])
    fields: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}

    def fill(file: Any) -> None:
        np.lib.format.write_array_header_1_0(file, fields)
        for _, values in _chunks(one, rows):
            file.write(np.ascontiguousarray(values, dtype).tobytes())

    atomic.write(path, fill)
