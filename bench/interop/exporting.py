"""What writers of other tools' files share: a store's rows, a score matrix, and files that are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.errors import InputError
from bench.interop import reading
from bench.store import GroundTruth
from bench.subsets import GROUPS

Fill = Callable[[Any], object]


def truth(store: Path) -> tuple[NDArray[np.bool_], NDArray[np.float32], str]:
    """Masks bool `[M, n_train]`, margins float32 `[M, n_targets]`, and what the margins are.

    All rows of an imported store that were read, in its order; of a trained one those that did not diverge: fit,
    tune, eval.

    Raises:
        InputError: it is no store with a meta.json.
    """
    found = GroundTruth.open(store)
    if found.imported is not None:
        known = found.completed
        return found.masks[known], np.asarray(found.margins[known], np.float32), found.imported.output
    rows = np.concatenate([found.of_group(group) for group in GROUPS])
    assert found.meta is not None  # of_group has asked for it
    return found.masks[rows], np.asarray(found.margins[rows], np.float32), found.meta.identity.output


def scores(path: Path) -> NDArray[Any]:
    """A score matrix, mapped.

    Raises:
        InputError: it is no such file.
    """
    found = reading.npy(reading.present(path))
    if found.ndim != 2 or found.dtype.kind != "f":
        raise InputError(
            f"{path} is {found.dtype} {list(found.shape)}, where scores, float [n_train, n_targets], are needed"
        )
    return found


def write(files: Sequence[tuple[Path, Fill]]) -> None:
    """Write files that are not there yet, all of them or none.

    Raises:
        InputError: one is there already. BenchError: one cannot be written.
    """
    for path, _ in files:
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} is there already: name another place, or remove it")
    done: list[Path] = []
    try:
        for path, fill in files:
            atomic.write(path, fill)
            done.append(path)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise
