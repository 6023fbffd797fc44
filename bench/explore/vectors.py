"""Score matrices as vectors: of targets (a score by each training example), or of training examples (by each target).

Vectors are scaled to length one, so that what is near is near by the cosine, and few long ones do not rule the rest.
Ilyas et al. (2022), "Datamodels", section 4.3: what a target depends on is where it lies. Matrices are read in slabs
of training examples, the order in which files hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored

Of = Literal["targets", "train"]
_SLAB_BYTES = 1 << 26
_DENSE = 1 << 27  # numbers; a larger matrix is never held as a whole
_MORE, _TURNS = 10, 4  # of the randomized decomposition: further directions, and power iterations
_STREAM = 8  # of the root seed


@dataclass(frozen=True)
class Vectors:
    """The vectors that one method gives, each of length one, or of zeros where all its scores are 0.

    Attributes:
        one: the method.
        of: whose vectors they are.
        targets: those whose scores are finite, ascending; the others are neither vectors nor coordinates.
    """

    one: Scored
    of: Of
    targets: NDArray[np.int64]

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """Whose vectors there are, by number, ascending."""
        return self.targets if self.of == "targets" else np.arange(len(self.one.scores))

    @property
    def shape(self) -> tuple[int, int]:
        """Vectors, and numbers in each."""
        n, t = len(self.one.scores), len(self.targets)
        return (t, n) if self.of == "targets" else (n, t)

    def _slabs(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Training examples and their part of the vectors `[slab, targets]`, float32 or float64."""
        scale = np.divide(1, self.lengths, out=np.zeros(len(self.lengths)), where=self.lengths > 0)
        for rows, slab in self._raw():
            by = scale[rows, None] if self.of == "train" else scale
            yield rows, slab * by.astype(slab.dtype)

    def _raw(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Training examples and their scores, likewise."""
        scores = self.one.scores
        whole = len(self.targets) == scores.shape[1]
        step = max(1, _SLAB_BYTES // (scores.itemsize * scores.shape[1]))
        for at in range(0, len(scores), step):
            slab = np.asarray(scores[at : at + step])
            slab = slab if whole else slab[:, self.targets]
            yield slice(at, at + len(slab)), slab.astype(np.result_type(slab.dtype, np.float32), copy=False)

    def dense(self) -> NDArray[np.floating]:
        """All vectors `[vectors, numbers]`, in memory."""
        whole = np.concatenate([slab for _, slab in self._slabs()])
        return whole.T if self.of == "targets" else whole

    def times(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """The vectors, less their mean, times `[numbers, l]`: `[vectors, l]`."""
        made = self._product(right, along=self.of == "train")
        return made - self.mean @ right

    def transposed_times(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same matrix transposed, times `[vectors, l]`: `[numbers, l]`."""
        made = self._product(right, along=self.of == "targets")
        return made - np.outer(self.mean, right.sum(axis=0))

    def _product(self, right: NDArray[np.float64], along: bool) -> NDArray[np.float64]:
        """Scores `[n_train, targets]` times `right` where `along`, else their transpose times it."""
        if along:
            return np.concatenate([slab @ right for _, slab in self._slabs()])
        made = np.zeros((len(self.targets), right.shape[1]))
        for rows, slab in self._slabs():
            made += slab.T @ right[rows]
        return made

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Mean vector."""
        if self.of == "targets":
            return np.concatenate([slab.mean(axis=1, dtype=np.float64) for _, slab in self._slabs()])
        total = np.zeros(len(self.targets))
        for _, slab in self._slabs():
            total += slab.sum(axis=0, dtype=np.float64)
        return total / len(self.one.scores)

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """Euclidean length of each vector before it is scaled, float64 `[vectors]`."""
        if self.of == "train":
            parts = [np.einsum("ij,ij->i", slab, slab, dtype=np.float64) for _, slab in self._raw()]
            whole: NDArray[np.float64] = np.concatenate(parts)
            return np.sqrt(whole)
        total = np.zeros(len(self.targets))
        for _, slab in self._raw():
            total += np.einsum("ij,ij->j", slab, slab, dtype=np.float64)
        return np.sqrt(total)

    def cosines(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosines of some vectors with all, float64 `[len(places), vectors]`; −inf with a vector of zeros.

        Args:
            places: of vectors, counted as in `items`.
        """
        found = np.zeros((len(places), self.shape[0]))
        if self.of == "train":
            mine = self._of(places)
            for rows, slab in self._slabs():
                found[:, rows] = mine @ slab.T
        else:
            for _, slab in self._slabs():
                found += slab[:, places].T @ slab
        empty = self.lengths == 0
        found[:, empty] = found[empty[places]] = -np.inf
        return found

    def _of(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        """Vectors of some training examples."""
        mine = self.one.scores[places][:, self.targets].astype(np.float64)
        made: NDArray[np.float64] = mine / np.where(self.lengths[places] > 0, self.lengths[places], 1)[:, None]
        return made

    def nearest(self, places: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k nearest other vectors by cosine, nearest first.

        Returns:
            Places int64 `[len(places), k]` and cosines.
        """
        cosines = self.cosines(places)
        cosines[np.arange(len(places)), places] = -np.inf
        return first(cosines, k)


def first(values: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k largest of each row, largest first, equals in their order; their places and values `[rows, k]`."""
    at = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return at, np.take_along_axis(values, at, axis=1)


@dataclass(frozen=True)
class Principal:
    """Principal components.

    Attributes:
        coordinates: float64 `[vectors, components]`; of each component the largest in size is positive.
        explained: share of the variance that each component has, float64 `[components]`; 0 where nothing varies.
    """

    coordinates: NDArray[np.float64]
    explained: NDArray[np.float64]


def principal(vectors: Vectors, components: int, seed: int) -> Principal:
    """Principal components of the vectors: scikit-learn's PCA, or in slabs where they are too large for it.

    Halko, Martinsson, Tropp (2011), "Finding structure with randomness", algorithm 5.1 with power iterations.
    """
    if vectors.shape[0] * vectors.shape[1] <= _DENSE:
        from sklearn.decomposition import PCA

        model = PCA(components, random_state=seed)
        dense = vectors.dense()
        if not np.ptp(dense, axis=0).any():  # scikit-learn would divide by a variance of 0
            return Principal(np.zeros((len(dense), components)), np.zeros(components))
        found = model.fit_transform(dense).astype(np.float64)
        return Principal(_signed(found), model.explained_variance_ratio_.astype(np.float64))
    width = min(components + _MORE, *vectors.shape)
    basis = np.random.default_rng([seed, _STREAM]).standard_normal((vectors.shape[1], width))
    for _ in range(_TURNS):
        basis = np.linalg.qr(vectors.transposed_times(np.linalg.qr(vectors.times(basis))[0]))[0]
    span = np.linalg.qr(vectors.times(basis))[0]
    left, sizes, _ = np.linalg.svd(vectors.transposed_times(span).T, full_matrices=False)
    total = float((vectors.lengths > 0).sum()) - vectors.shape[0] * float((vectors.mean**2).sum())
    explained = sizes[:components] ** 2 / total if total > 0 else np.zeros(components)
    return Principal(_signed((span @ left * sizes)[:, :components]), explained)


def _signed(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], axis=0)
    return coordinates * np.where(largest < 0, -1.0, 1.0)
