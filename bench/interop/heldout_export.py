"""Write what google-research/heldout-influence-estimation's tools read: estimates in their layouts, or runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic, memorization
from bench.errors import BenchError, InputError
from bench.interop import reading
from bench.progress import Progress
from bench.store import GroundTruth
from bench.wording import counted

Array = NDArray[Any]


def run(store: Path, dest: Path, given: argparse.Namespace) -> list[str]:
    """Write them; gives what to print.

    Raises:
        BenchError: the store keeps no correctness, files are there already, or cannot be written.
    """
    truth = GroundTruth.open(store)
    right, train_right = outputs(truth)
    masks = truth.masks[truth.completed]
    if given.what == "runs":
        return _runs(truth, masks, right, train_right, dest, Progress(quiet=given.quiet))
    own = memorization.own(masks, train_right)
    known = np.nan_to_num(own.memorization)  # 0 where all runs keep an example, or none: their tools know no NaN
    if given.what == "index":
        return _index(dest, known, right.shape[1], given)
    if given.what == "pairs":
        found = [memorization.high_pairs(slab, known) for slab in memorization.influence_slabs(masks, right)]
        train, targets, values = (np.concatenate([one[k] for one in found]) for k in range(3))
        name = f"high_infl_pairs_infl{memorization.INFLUENCE:g}_mem{memorization.MEMORIZATION:g}.npz"
        path = _new(dest / name)
        _save(path, {"tr_idx": train, "tt_idx": targets, "infl": values, "mem": known[train]})
        return [f"{path}: {counted(len(train), 'pair')}"]
    values = np.nan_to_num(memorization.influence(masks, right)[0])
    if given.what == "estimates":
        path = _new(dest / "infl_mem.npz")
        _save(path, {"memorization": known, "influence": np.ascontiguousarray(values.T)})
        return [f"{path}: memorization [{len(known)}], influence {list(values.T.shape)}"]
    train_labels, target_labels = (
        _labels(given, name, count) for name, count in zip(("train_labels", "target_labels"), values.shape, strict=True)
    )
    path = _new(dest / "cifar100_infl_matrix.npz")
    arrays: dict[str, Array] = {"tr_mem": known, "tr_labels": train_labels, "tt_labels": target_labels}
    for label in np.unique(np.concatenate([train_labels, target_labels])):
        rows, columns = np.flatnonzero(train_labels == label), np.flatnonzero(target_labels == label)
        arrays |= {f"tr_classidx_{label}": rows, f"tt_classidx_{label}": columns}
        arrays[f"infl_matrix_class{label}"] = values[np.ix_(rows, columns)]
    _save(path, arrays)
    return [f"{path}: {counted(len(arrays) // 3 - 1, 'class', 'classes')}"]


def _index(dest: Path, known: Array, n_targets: int, given: argparse.Namespace) -> list[str]:
    """Memorization, class and file of every training example; of targets the latter two, where they are given."""
    arrays: dict[str, Array] = {"tr_mem": known}
    for side, word, count in (("tr", "train", len(known)), ("tt", "target", n_targets)):
        if side == "tr" or getattr(given, f"{word}_labels") is not None:
            arrays[f"{side}_labels"] = _labels(given, f"{word}_labels", count)
        if side == "tr" or getattr(given, f"{word}_files") is not None:
            arrays[f"{side}_filenames"] = _files(given, f"{word}_files", count)
    path = _new(dest / "imagenet_index.npz")
    _save(path, arrays)
    return [f"{path}: {', '.join(arrays)}"]


def _files(given: argparse.Namespace, name: str, count: int) -> Array:
    """Names of files as the release has them, in bytes."""
    flag, path = f"--{name.replace('_', '-')}", getattr(given, name)
    if path is None:
        raise BenchError(f"--what index needs the files of the training examples: add {flag} FILE.txt, a name a line")
    lines = reading.present(Path(path)).read_bytes().splitlines()
    odd = next((row for row, line in enumerate(lines, 1) if not line.strip() or b"\0" in line), None)
    if odd is not None or len(lines) != count:
        what = f"has no name in line {odd}" if odd is not None else f"has {counted(len(lines), 'line')}"
        raise InputError(f"{flag}: {path} {what}, where {counted(count, 'name belongs', 'names belong')}, one a line")
    return np.array(lines, np.bytes_)


def outputs(truth: GroundTruth) -> tuple[Array, Array]:
    """Correctness on targets and on training examples, bool, of the completed rows.

    Raises:
        InputError: the store does not keep them.
    """
    return truth.array("correct")[truth.completed], truth.array("train_correct")[truth.completed]


def _runs(
    truth: GroundTruth, masks: Array, right: Array, train_right: Array, dest: Path, progress: Progress
) -> list[str]:
    made: Any = truth.imported or truth.meta
    alpha = made.alpha if truth.imported is not None else made.identity.alpha
    folder = _new(dest / f"{alpha:g}")
    with atomic.folder(folder) as aside, progress.task("writing", len(masks), "runs") as advance:
        for number, (mask, correct, train_correct) in enumerate(zip(masks, right, train_right, strict=True)):
            kept, removed = np.flatnonzero(mask), np.flatnonzero(~mask)
            (aside / str(number)).mkdir()
            np.savez(
                aside / str(number) / "aux_arrays.npz",
                correctness_train=train_correct[kept],
                correctness_removed=train_correct[removed],
                correctness_test=correct,
                index_train=kept,
                index_removed=removed,
                index_test=np.arange(len(correct)),
                subsample_idx=kept,
            )
            advance(1)
    return [f"{folder}: {counted(len(masks), 'run')}"]


def _labels(given: argparse.Namespace, name: str, count: int) -> NDArray[np.int64]:
    flag, path = f"--{name.replace('_', '-')}", getattr(given, name)
    if path is None:
        of = "training examples and targets" if given.what == "classes" else "the training examples"
        raise BenchError(f"--what {given.what} needs the classes of {of}: add {flag} FILE.npy")
    found = reading.npy(reading.present(Path(path)))
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise InputError(f"{flag}: {path} is {found.dtype} {list(found.shape)}, where {count} integers belong")
    return found.astype(np.int64)


def _new(path: Path) -> Path:
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already: name another folder, or remove it")
    return path


def _save(path: Path, arrays: dict[str, Array]) -> None:
    atomic.writable_folder(path.parent)
    atomic.write(path, lambda out: np.savez(out, **arrays))  # type: ignore[arg-type]
