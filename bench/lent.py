"""The examples as a method is lent them: copies of its own, so that what it does to them harms no other method."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.datasets import Data

ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_SLAB = 2**24  # numbers compared at a time


class Lent(Data):
    """A dataset's examples, each array a private, read-only copy that is made when it is first looked at.

    A read-only view would not do: its `base` can be written, and so can the tensor that torch makes of it.
    """

    @classmethod
    def of(cls, data: Data) -> Lent:
        """Lend examples."""
        made = object.__new__(cls)
        made.__dict__.update({name: value for name, value in vars(data).items() if name not in ARRAYS}, _owner=data)
        return made

    def __getattr__(self, name: str) -> Any:
        """Copy an array, at the first look."""
        owner = self.__dict__.get("_owner")
        if owner is None or name not in ARRAYS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        copy = np.array(getattr(owner, name))
        copy.setflags(write=False)
        return self.__dict__.setdefault(name, copy)

    def changed(self) -> list[str]:
        """Names of the arrays that are no longer what was lent."""
        owner = self.__dict__["_owner"]
        looked_at = [name for name in ARRAYS if name in self.__dict__]
        return [name for name in looked_at if not _equal(self.__dict__[name], getattr(owner, name))]


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    step = max(1, _SLAB * len(other) // max(1, other.size))
    return all(np.array_equal(one[at : at + step], other[at : at + step]) for at in range(0, len(other), step))
