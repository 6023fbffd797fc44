"""`python -m bench lds`: the score of arrays in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import atomic
from bench.errors import InputError
from bench.scorer import lds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lds_of_files(masks: str, margins: str, scores: str, precision: Any, per_target: str | None) -> dict[str, Any]:
    """LDS of three .npy files, as `bench lds --json` prints it.

    Raises:
        InputError: a file is missing or not a .npy array, or the arrays do not fit (see `bench.lds`).
    """
    arrays = [_open_array(name, path) for name, path in (("scores", scores), ("masks", masks), ("margins", margins))]
    found = lds(*arrays, precision=precision)
    if np.isnan(found.mean):
        raise InputError(
            f"{scores} has no LDS against {margins}: every one of {found.n_targets} targets is excluded "
            f"({found.why_not})"
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
