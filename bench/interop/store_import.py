"""Make a ground-truth store of masks and outputs that another tool has written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bench
from bench import atomic, hashing
from bench.errors import BenchError, InputError
from bench.imported import KIND, Imported, Measure, Roles
from bench.interop import order, release_import, score_matrix
from bench.interop.order import Side
from bench.interop.torch_zip import widened
from bench.meta import FORMAT
from bench.wording import counted, either

Array = NDArray[Any]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_UNSAID = (
    "the files do not say which rows judge; taking the last half, {}, is a convention of this import, which "
    "--eval-rows changes"
)


class Truth(NamedTuple):
    """What was read.

    Attributes:
        masks: bool `[M, n_train]`; outputs: `[M, n_targets]`, as the file has them.
        files: the file of the masks, then that of the outputs, then others.
        output: what the outputs are; the sign of losses is turned here.
        notes: what readers of results must know.
    """

    masks: Array
    outputs: Array
    files: Sequence[Path]
    output: Measure
    notes: Sequence[str] = ()


def target(path: str) -> Path:
    """The folder of the store to make.

    Raises:
        BenchError: it is there already, or looks like a file's name.
    """
    store = Path(path)
    if store.suffix == ".npy":
        raise BenchError(f"DEST is {path!r}: a store is a folder, so leave the .npy out")
    return release_import.target(store)


def import_(given: argparse.Namespace, name: str, truth: Truth) -> list[str]:
    """Check and write; gives what to print.

    Raises:
        BenchError: bad usage, arrays that do not fit together or hold what they must not, or a place that cannot be
            written. No store is left then.
    """
    store = target(given.dest)
    masks, outputs = _checked(truth)
    n_rows, n_train = masks.shape
    roles, leak, notes = _roles(given, n_rows, list(truth.notes))
    first_of = _first_of(masks)
    if not leak:
        release_import.refuse_mixed(truth.files[0], first_of, roles)
    sides = [Side("training examples", "train", n_train), Side("targets", "test", outputs.shape[1])]
    compared = order.checked(given, truth.files[1], sides)
    schema: dict[str, tuple[str, tuple[int, ...]]] = {
        "masks": ("bool", (n_train,)),
        "margins": ("float32", outputs.shape[1:]),
    }
    with atomic.folder(store) as folder:
        for file, array in (("masks", masks), ("margins", outputs), ("_completed", np.ones(n_rows, np.bool_))):
            np.save(folder / f"{file}.npy", array, allow_pickle=False)
        release_import.write_spec(folder, n_rows, schema)
        meta = Imported(
            format=FORMAT,
            kind=KIND,
            key="",
            source=name,
            origin=score_matrix.origins(truth.files),
            dataset=given.dataset,
            split="test",
            alpha=round(float(masks.mean()), 6),
            output=truth.output,
            n_rows=n_rows,
            n_train=n_train,
            n_targets=outputs.shape[1],
            roles=roles,
            first_of=first_of,
            schema=schema,
            checksums={
                file: hashing.file(folder / file)
                for file in ("masks.npy", "margins.npy", "_completed.npy", "spec.json")
            },
            notes=notes,
            order=compared,
            versions={"ldsbench": bench.__version__, "numpy": np.__version__},
            leak=leak,
        ).keyed()
        atomic.write_text(folder / "meta.json", meta.text())
    return [
        f"{store}: {n_rows} rows × {counted(meta.n_targets, 'target')} of {meta.title}, {n_train} training examples, "
        f"alpha {meta.alpha:g}, {meta.measured}",
        f"  rows: {meta.spans}",
        *(f"  {stamp}" for stamp in meta.stamps),
        *(f"  {line}" for line in compared),
        *(f"  note: {note}" for note in notes),
    ]


def as_masks(path: Path, array: Array) -> NDArray[np.bool_]:
    """0/1 of any type as bool `[M, n_train]`.

    Raises:
        InputError: another shape, or other numbers; the row is named.
    """
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{path} has shape {list(array.shape)}, where masks [subsets, n_train] are needed")
    array = widened(array)
    odd = (array != 0) & (array != 1)
    if odd.any():
        row = int(np.argwhere(odd)[0][0])
        raise InputError(f"{path}: row {row} holds {array[odd][0]}, where a mask has 0 and 1 alone")
    return array.astype(np.bool_)


def masks_of_ids(path: Path, rows: Sequence[Any], n_train: int, *, left_out: bool = False) -> NDArray[np.bool_]:
    """Masks of lists of example numbers.

    Args:
        path: the file that they are of, for errors.
        rows: a list of numbers for each subset.
        n_train: examples in all.
        left_out: whether they are those that each subset lacks.

    Raises:
        InputError: a number is out of range, there twice, or none; the row is named.
    """
    masks = np.full((len(rows), n_train), left_out)
    for row, ids in enumerate(rows):
        try:
            found = np.asarray(ids)
        except ValueError as error:
            raise InputError(f"{path}: row {row} is no list of example numbers ({error})") from error
        whole = found.dtype.kind in "iu" or (found.dtype.kind == "f" and (found == np.floor(found)).all())
        if found.ndim != 1 or not (whole or not found.size):
            raise InputError(f"{path}: row {row} is no list of example numbers")
        outside = (found < 0) | (found >= n_train)
        if outside.any():
            raise InputError(
                f"{path}: row {row} names example {found[outside][0]}, and there are 0 to {n_train - 1} of {n_train}"
            )
        index = found.astype(np.int64)
        values, counts = np.unique(index, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"{path}: row {row} names example {values[counts > 1][0]} twice, and a subset has it once")
        masks[row, index] = not left_out
    return masks


def _checked(truth: Truth) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    masks, outputs = truth.masks, widened(truth.outputs)
    where, path = truth.files[0], truth.files[1]
    if outputs.ndim != 2 or 0 in outputs.shape:
        raise InputError(f"{path} has shape {list(outputs.shape)}, where [subsets, n_targets] is needed")
    if len(outputs) != len(masks):
        hint = "one of them is cut off, or of another run"
        if outputs.shape[1] == len(masks):
            hint = f"{path.name} looks transposed"
        elif masks.shape[1] == len(outputs):
            hint = f"{where.name} looks transposed"
        raise InputError(
            f"{where} has {counted(len(masks), 'row')} and {path} has {len(outputs)}, and both must have one per "
            f"subset: {hint}"
        )
    kept = masks.sum(1)
    odd = np.flatnonzero((kept == 0) | (kept == masks.shape[1]))
    if len(odd):
        raise InputError(
            f"{where}: row {odd[0]} keeps {kept[odd[0]]} of {masks.shape[1]} examples, which is no subset: leave it "
            "out, in masks and outputs alike"
        )
    finite = np.isfinite(outputs)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        value = outputs[row, column]
        why = " (float16 overflow, beyond 65504)" if outputs.dtype == np.float16 and not np.isnan(value) else ""
        raise InputError(
            f"{path}: the output of row {row} for target {column} is {value}{why}: leave this model out, in masks and "
            "outputs alike, or write it anew in float32"
        )
    if outputs.dtype == np.float64 and np.abs(outputs).max() > _FLOAT32_MAX:
        raise InputError(f"{path}: an output is {np.abs(outputs).max():.4g}, which float32 cannot hold")
    made = outputs.astype(np.float32)
    return masks, -made if truth.output == "loss" else made


def _roles(given: argparse.Namespace, n_rows: int, notes: list[str]) -> tuple[Roles, bool, list[str]]:
    if given.eval_rows == "all":
        if not given.allow_leak:
            raise BenchError(
                "--eval-rows all has every row judge, and methods then have none to fit on but those that judge them, "
                "so that their LDS says nothing: ask for fewer, as last:K, or add --allow-leak, which stamps every "
                "result with it"
            )
        if given.tune_rows:
            raise BenchError(f"--tune-rows is {given.tune_rows}, and --eval-rows all leaves none: leave it out")
        return Roles(fit=(0, n_rows), tune=(0, 0), eval=(0, n_rows)), True, notes
    if given.allow_leak:
        raise BenchError("--allow-leak goes with --eval-rows all alone: fit and eval rows are disjoint otherwise")
    eval_rows = given.eval_rows
    if eval_rows is None:
        if n_rows < 4:
            raise InputError(
                f"there {either(n_rows, 'is', 'are')} {counted(n_rows, 'subset')}: with fewer than 4 there are not 2 "
                "to fit on and 2 to rank"
            )
        eval_rows = f"last:{n_rows // 2}"
        notes = [*notes, _UNSAID.format(n_rows // 2)]
    return release_import.roles(n_rows, eval_rows, given.tune_rows), False, notes


def _first_of(masks: NDArray[np.bool_]) -> dict[int, int]:
    seen: dict[bytes, int] = {}
    found = {}
    for row, bits in enumerate(np.packbits(masks, axis=1)):
        first = seen.setdefault(bits.tobytes(), row)
        if first != row:
            found[row] = first
    return found
