"""Who may see which rows of a ground truth, and what reads them for a method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import EvalRowError, InputError
from bench.guard import Guard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.store import GroundTruth, Rows


@dataclass(frozen=True)
class Access:
    """Who may see which rows of a ground truth."""

    truth: GroundTruth
    fit: NDArray[np.int64]
    tune: NDArray[np.int64]
    eval: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse groups that share a row or a mask; of an imported store the import has done so.

        Raises:
            EvalRowError: two groups have a row, or a mask, in common.
        """
        if self.truth.imported is not None:
            return
        seen: dict[bytes, tuple[str, int]] = {}
        for name, index in (("eval", self.eval), ("tune", self.tune), ("fit", self.fit)):
            for row in index:
                packed = hashlib.blake2b(np.packbits(self.truth.masks[row]).data, digest_size=16).digest()
                owner, first = seen.setdefault(packed, (name, int(row)))
                if owner != name:
                    raise EvalRowError(
                        f"{self.truth.path}: {name} row {row} has the same subset as {owner} row {first}; "
                        "fit, tune and eval rows must not mix, so train with another --seed or more examples"
                    )

    @property
    def cost(self) -> float:
        """Seconds that training a row's model took, the mean of all; 0 where it is not known."""
        blocks = self.truth.meta.blocks if self.truth.meta is not None else []
        return sum(b.seconds for b in blocks) / max(1, sum(b.stop - b.start for b in blocks))

    def reader(self) -> Callable[[NDArray[np.int64], bool], Rows]:
        """What reads fit and tune rows, by number and whether as stored (`GroundTruth.rows`), and no others.

        It is a function, so that no attribute of a task leads to the rows that judge. It raises EvalRowError for one of
        those, and InputError for a row that does not exist.
        """
        truth, allowed = self.truth, np.concatenate([self.fit, self.tune])
        judging = np.setdiff1d(self.eval, allowed)  # they meet where an import was told to, and is stamped for it

        def read(index: NDArray[np.int64], as_stored: bool) -> Rows:
            touched = np.intersect1d(index, judging)
            if len(touched):
                raise EvalRowError(f"it asked for row {touched[0]}, which judges")
            unknown = np.setdiff1d(index, allowed)
            if len(unknown):
                where = "task.fit.index and task.tune.index list them"
                raise InputError(f"there is no fit or tune row {unknown[0]}: {where}")
            with Guard.lifted():
                return truth.rows(index, as_stored=as_stored)

        return read
