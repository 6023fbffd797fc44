"""UMAP's plane of vectors, where umap-learn is installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bench.errors import BenchError, InputError
from bench.explore.vectors import Vectors, principal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COMPONENTS = 50
_LEAST = 5


def installed() -> None:
    """Refuse where it is not.

    Raises:
        BenchError: umap-learn cannot be found.
    """
    if find_spec("umap") is None:
        raise BenchError("--project umap needs umap-learn, which is not installed: pip install 'ldsbench[umap]'")


def umap(vectors: Vectors, seed: int) -> NDArray[np.float64]:
    """UMAP's plane of the first principal components, by cosine; float64 `[vectors, 2]`.

    Raises:
        InputError: there are fewer than five vectors.
    """
    count = vectors.shape[0]
    if count < _LEAST:
        raise InputError(f"UMAP takes at least {_LEAST} points, and there are {count}: leave --project umap out")
    reduced = principal(vectors, min(_COMPONENTS, *vectors.shape), seed).coordinates
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it run on one core
        from umap import UMAP

        model = UMAP(
            n_neighbors=min(15, count - 1),
            metric="cosine",
            init="spectral" if count > 10 else "random",  # which takes more points than it has directions
            random_state=seed,
            n_jobs=1,
        )
        found: NDArray[np.float64] = model.fit_transform(reduced).astype("float64")
    return found
