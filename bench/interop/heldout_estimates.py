"""Released estimates of memorization and influence (.npz), as scores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "heldout-estimates"
_TEXTS = ("tr_filenames", "tt_filenames")
_CLASS = "infl_matrix_class"


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001 - every format has the same
    """Add the options of `bench import`."""
    from bench.interop import options

    options.ends(made, "the .npz file", "FILE.npy for the influence, [n_train, n_targets]")
    made.add_argument("--n-train", type=int, metavar="N", help="training examples, for a file of pairs")
    made.add_argument("--n-targets", type=int, metavar="T", help="targets, for a file of pairs")
    options.scores(made, orientation="test,train", sign="+")
    options.order(made, " (cifar100 for estimates of as many examples, where its files are here)")


class Found(NamedTuple):
    """What a file holds.

    Attributes:
        influence: by `orientation`; None where the file has none.
        orientation: its rows,columns.
        extra: memorization `[n_train]`, and classes and names of files, where they are there.
        notes: what readers must know.
    """

    influence: NDArray[Any] | None
    orientation: str
    extra: dict[str, NDArray[Any]]
    notes: Sequence[str] = ()


def import_(given: argparse.Namespace) -> list[str]:
    """Write the scores, and what else there is beside them; gives what to print.

    Raises:
        InputError: it is no such file, torn, holds Python objects, or does not add up. BenchError: something is at
            DEST already, or it cannot be written. Nothing is written then.
    """
    import numpy as np

    from bench import atomic
    from bench.interop import reading, score_matrix
    from bench.score_files import extra_path

    source, dest = Path(given.source), score_matrix.target(given.dest)
    beside = extra_path(dest)
    if beside.exists() or beside.is_symlink():
        raise InputError(f"{beside} is there already: name another file for the scores, or remove it")
    left_out: list[str] = []
    found = _found(source, reading.npz(reading.present(source), _TEXTS, left_out), given)
    extra: dict[str, Any] = found.extra
    notes = [
        *found.notes,
        *_order(source, found, given),
        *(f"{name} holds Python objects, and was left out unread" for name in left_out),
    ]
    lines = []
    if found.influence is not None:
        given.fixed = (found.orientation, "+")
        lines = score_matrix.import_(given, NAME, score_matrix.Read(found.influence, [source], notes))
    try:
        atomic.write(beside, lambda out: np.savez(out, **extra))
        if found.influence is None:
            score_matrix.write_origin(
                dest,
                beside=beside,
                source=NAME,
                orientation=found.orientation,
                sign="+",
                n_train=len(extra["memorization"]),
                n_targets=0,
                origin=score_matrix.origins([source]),
                notes=notes,
            )
    except BaseException:
        for path in (dest, beside, score_matrix.origin_path(dest)):
            path.unlink(missing_ok=True)
        raise
    told = f"{beside}: {', '.join(extra)}"
    if found.influence is not None:
        return [*lines, told]
    return [f"{told}; no influence is in {source}", *(f"note: {note}" for note in notes)]


def _order(path: Path, found: Found, given: argparse.Namespace) -> list[str]:
    """What is known of the examples and their order; refuses another one."""
    from bench.interop import order
    from bench.interop.order import Side

    labels = [found.extra.get(f"{side}_labels") for side in ("tr", "tt")]
    counts = [len(found.extra["memorization"]), None if labels[1] is None else len(labels[1])]
    if found.influence is not None:
        counts[1] = found.influence.shape[0 if found.orientation == "test,train" else 1]
    sides = [
        Side(what, part, count, None if classes is None else classes.astype("int64"), name)
        for what, part, name, count, classes in zip(
            ("training examples", "targets"), ("train", "test"), ("tr_labels", "tt_labels"), counts, labels, strict=True
        )
        if count is not None
    ]
    guess = "cifar100" if counts == [50_000, 10_000] and labels[0] is not None and labels[0].max() == 99 else None
    by_names = [
        order.by_names(path, found.extra[f"{side}_filenames"], classes, side)
        for side, classes in zip(("tr", "tt"), labels, strict=True)
        if classes is not None and f"{side}_filenames" in found.extra
    ]
    return [*(line for line in by_names if line is not None), *order.checked(given, path, sides, guess)]


def _found(path: Path, arrays: dict[str, NDArray[Any]], given: argparse.Namespace) -> Found:
    if {"memorization", "influence"} <= arrays.keys():
        memory, values = arrays["memorization"], arrays["influence"]
        if values.ndim != 2 or memory.ndim != 1 or values.shape[1] != len(memory):
            raise InputError(
                f"{path}: influence has shape {list(values.shape)} and memorization {list(memory.shape)}; influence is "
                "[n_test, n_train], so that its columns are memorization's"
            )
        return Found(values, "test,train", {"memorization": _list(path, arrays, "memorization", None)})
    if {"tr_idx", "tt_idx", "infl", "mem"} <= arrays.keys():
        return _of_pairs(path, arrays, given)
    if "tr_mem" not in arrays:
        there = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} has {there}: it is none of the layouts that bench import --list describes")
    extra = {"memorization": _list(path, arrays, "tr_mem", None)}
    sizes = {"tr": len(extra["memorization"]), "tt": None}
    for name in ("tr_labels", "tt_labels", *_TEXTS):
        if name in arrays:
            extra[name] = _list(path, arrays, name, sizes[name[:2]], kinds="SU" if name in _TEXTS else "iu")
    if any(name.startswith(_CLASS) for name in arrays):
        return _of_classes(path, arrays, extra)
    return Found(None, "train,test", extra)


def _of_classes(path: Path, arrays: dict[str, NDArray[Any]], extra: dict[str, NDArray[Any]]) -> Found:
    """Influence within each class, `[n_train, n_targets]`."""
    import numpy as np

    for name in ("tr_labels", "tt_labels"):
        if name not in extra:
            raise InputError(f"{path} lacks {name}, the class of each example")
    labels = {"tr": extra["tr_labels"], "tt": extra["tt_labels"]}
    scores = np.zeros((len(labels["tr"]), len(labels["tt"])), np.float32)
    there = {name.removeprefix(_CLASS) for name in arrays if name.startswith(_CLASS)}
    wanted = {str(label) for side in labels.values() for label in np.unique(side)}
    odd = sorted(there ^ wanted)
    if odd:
        has = f"has no {_CLASS}{odd[0]}, and" if odd[0] in wanted else f"has {_CLASS}{odd[0]}, and no class"
        raise InputError(f"{path} {has} {odd[0]} is in tr_labels or tt_labels: get it again")
    for label in sorted(there):
        at = []
        for side, classes in labels.items():
            name = f"{side}_classidx_{label}"
            index = _index(path, arrays, name, len(classes))
            if sorted(index.tolist()) != np.flatnonzero(classes.astype(str) == label).tolist():
                raise InputError(f"{path}: {name} is not each example once that {side}_labels says is of class {label}")
            at.append(index)
        part = arrays[f"{_CLASS}{label}"]
        if part.shape != (len(at[0]), len(at[1])):
            raise InputError(
                f"{path}: {_CLASS}{label} has shape {list(part.shape)}, where [{len(at[0])}, {len(at[1])}] belongs"
            )
        scores[np.ix_(*at)] = part
    return Found(scores, "train,test", extra, ["influence across classes is not in the file, and is 0 here"])


def _of_pairs(path: Path, arrays: dict[str, NDArray[Any]], given: argparse.Namespace) -> Found:
    import numpy as np

    for name, value in (("--n-train", given.n_train), ("--n-targets", given.n_targets)):
        if value is None or value < 1:
            raise InputError(f"{path} holds pairs and does not say how many examples there are: add {name}")
    rows = _index(path, arrays, "tr_idx", given.n_train)
    columns = _index(path, arrays, "tt_idx", given.n_targets)
    if len({len(rows), len(columns), arrays["infl"].size, arrays["mem"].size}) > 1:
        raise InputError(f"{path}: tr_idx, tt_idx, infl and mem are of different lengths")
    infl, mem = (_list(path, arrays, name, len(rows)) for name in ("infl", "mem"))
    pairs, counts = np.unique(np.stack([rows, columns]), axis=1, return_counts=True)
    if (counts > 1).any():
        pair = pairs[:, counts > 1][:, 0]
        raise InputError(f"{path} has the pair of example {pair[0]} and target {pair[1]} twice")
    scores, memory = np.zeros((given.n_train, given.n_targets), np.float32), np.zeros(given.n_train, np.float32)
    scores[rows, columns], memory[rows] = infl, mem
    unlike = np.flatnonzero(memory[rows] != mem.astype(np.float32))
    if len(unlike):
        raise InputError(
            f"{path}: mem of example {rows[unlike[0]]} is {mem[unlike[0]]:g}, and another number elsewhere"
        )
    return Found(scores, "train,test", {"memorization": memory}, ["the file holds pairs alone; the rest is 0 here"])


def _list(
    path: Path, arrays: dict[str, NDArray[Any]], name: str, length: int | None, kinds: str = "biuf"
) -> NDArray[Any]:
    """An array of one axis, finite.

    Raises:
        InputError: it is of another shape or type, or not finite.
    """
    import numpy as np

    found = arrays[name]
    wanted = "texts" if kinds == "SU" else "integers" if kinds == "iu" else "numbers"
    if found.ndim != 1 or not len(found) or found.dtype.kind not in kinds or length not in (None, len(found)):
        needed = f"a list of {wanted} belongs" if length is None else f"{length} {wanted} belong"
        raise InputError(f"{path}: {name} is {found.dtype} {list(found.shape)}, where {needed}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        at = int(np.flatnonzero(~np.isfinite(found))[0])
        raise InputError(f"{path}: {name}[{at}] is {found[at]}: get it again")
    return found


def _index(path: Path, arrays: dict[str, NDArray[Any]], name: str, size: int) -> NDArray[Any]:
    found = arrays.get(name)
    if found is None or found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} is not there, or not a list of integers")
    if len(found) and not 0 <= found.min() <= found.max() < size:
        raise InputError(f"{path}: {name} goes from {found.min()} to {found.max()}, where indices are 0 to {size - 1}")
    return found
