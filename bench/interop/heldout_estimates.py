"""Released estimates of memorization and influence (.npz), as scores."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001 - every format has the same
    """Add the options of `bench import`."""
    made.add_argument("source", metavar="SOURCE", help="the .npz file")
    made.add_argument("dest", metavar="DEST.npy", help="where the influence goes, [n_train, n_targets]")
    made.add_argument("--n-train", type=int, metavar="N", help="training examples, for a file of pairs")
    made.add_argument("--n-targets", type=int, metavar="T", help="targets, for a file of pairs")


def import_(given: argparse.Namespace) -> list[str]:
    """Write the scores, and what else there is beside them; gives what to print.

    Raises:
        InputError: it is no such file, torn, holds Python objects, or does not add up.
    """
    import numpy as np

    from bench import atomic
    from bench.results import Cost
    from bench.score_files import Attribution, extra_path, write_arrays

    source, dest = Path(given.source), Path(given.dest)
    if dest.suffix != ".npy":
        raise InputError(f"DEST is {given.dest!r}: scores are written as .npy, so name a file that ends so")
    arrays = _load(source)
    scores, extra = _matrix(source, arrays, given)
    if scores is None:
        if extra["memorization"].ndim != 1:
            raise InputError(f"{source}: tr_mem has shape {list(extra['memorization'].shape)}, where a list belongs")
        atomic.writable_folder(dest.parent)
        atomic.write(extra_path(dest), lambda out: np.savez(out, **extra))  # type: ignore[arg-type]
        return [f"{extra_path(dest)}: {', '.join(extra)}; no influence is in {source}"]
    if not np.isfinite(scores).all():
        raise InputError(f"{source}: its influence is not finite everywhere: get it again")
    atomic.writable_folder(dest.parent)
    write_arrays(dest, Attribution(scores, Cost(0.0, 0, 0), [], extra))
    return [f"{dest}: influence {list(scores.shape)} [n_train, n_targets]", f"{extra_path(dest)}: {', '.join(extra)}"]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise InputError(f"{path} is a single array, where an .npz of estimates belongs")
            return {name: archive[name] for name in archive.files if name != "tr_filenames"}
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): name a whole .npz file") from error
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise InputError(f"{path} holds Python objects, which are not read: they could run any code") from error
        raise InputError(f"{path} is torn ({error}): get it again") from error


def _matrix(
    path: Path, arrays: dict[str, NDArray[Any]], given: argparse.Namespace
) -> tuple[NDArray[Any] | None, dict[str, NDArray[Any]]]:
    """Influence [n_train, n_targets], None where there is none, and what else."""
    import numpy as np

    if {"memorization", "influence"} <= arrays.keys():
        memory, values = arrays["memorization"], arrays["influence"]
        if values.ndim != 2 or memory.ndim != 1 or values.shape[1] != len(memory):
            raise InputError(
                f"{path}: influence has shape {list(values.shape)} and memorization {list(memory.shape)}; influence is "
                "[n_test, n_train], so that its columns are memorization's"
            )
        return np.ascontiguousarray(values.T, np.float32), {"memorization": memory}
    if {"tr_idx", "tt_idx", "infl", "mem"} <= arrays.keys():
        return _of_pairs(path, arrays, given)
    if "tr_mem" not in arrays:
        raise InputError(
            f"{path} has {', '.join(arrays)}: it is none of the layouts that bench import --list describes"
        )
    extra = {"memorization": arrays["tr_mem"]} | {k: arrays[k] for k in ("tr_labels", "tt_labels") if k in arrays}
    labels = [name.removeprefix("infl_matrix_class") for name in arrays if name.startswith("infl_matrix_class")]
    if not labels:
        return None, extra
    if "tt_labels" not in arrays:
        raise InputError(f"{path} lacks tt_labels, which says how many targets there are")
    scores = np.zeros((len(arrays["tr_mem"]), len(arrays["tt_labels"])), np.float32)
    for label in labels:
        rows, columns = (
            _index(path, arrays, f"{side}_classidx_{label}", size)
            for side, size in zip(("tr", "tt"), scores.shape, strict=True)
        )
        part = arrays[f"infl_matrix_class{label}"]
        if part.shape != (len(rows), len(columns)):
            raise InputError(
                f"{path}: infl_matrix_class{label} has shape {list(part.shape)}, where [{len(rows)}, {len(columns)}] "
                "belongs"
            )
        scores[np.ix_(rows, columns)] = part
    return scores, extra


def _of_pairs(
    path: Path, arrays: dict[str, NDArray[Any]], given: argparse.Namespace
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    import numpy as np

    for name, value in (("--n-train", given.n_train), ("--n-targets", given.n_targets)):
        if value is None or value < 1:
            raise InputError(f"{path} holds pairs and does not say how many examples there are: add {name}")
    rows, columns = _index(path, arrays, "tr_idx", given.n_train), _index(path, arrays, "tt_idx", given.n_targets)
    if not len(rows) == len(columns) == len(arrays["infl"]) == len(arrays["mem"]):
        raise InputError(f"{path}: tr_idx, tt_idx, infl and mem are of different lengths")
    scores, memory = np.zeros((given.n_train, given.n_targets), np.float32), np.zeros(given.n_train, np.float32)
    scores[rows, columns], memory[rows] = arrays["infl"], arrays["mem"]
    return scores, {"memorization": memory}


def _index(path: Path, arrays: dict[str, NDArray[Any]], name: str, size: int) -> NDArray[Any]:
    found = arrays.get(name)
    if found is None or found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} is not there, or not a list of integers")
    if len(found) and not 0 <= found.min() <= found.max() < size:
        raise InputError(f"{path}: {name} goes from {found.min()} to {found.max()}, where indices are 0 to {size - 1}")
    return found
