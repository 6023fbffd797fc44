"""What is kept of each trained model: its margins always, and whatever else the user asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bench.errors import BenchError, nearest
from bench.recipes import OUTPUTS, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["float32", "float16"]
Extra = Literal["logits", "train_margins", "correct", "train_correct"]
EXTRAS: tuple[str, ...] = get_args(Extra)
BITS = ("correct", "train_correct")


@dataclass(frozen=True)
class Recorded:
    """Arrays of a ground truth, one row per model.

    Attributes:
        output: which margin.
        dtype: of margins and logits. float16 halves the files, and ties margins that float32 tells apart.
        keep: besides `margins` `[n_targets]`: `logits` `[n_targets, n_classes]`; `train_margins` `[n_train]`, of
            kept and left-out examples alike; `correct` and `train_correct`, whether the prediction was right, bits
            packed by numpy.packbits along the last axis, uint8 `[ceil(n / 8)]`.
    """

    output: Output = "logsumexp"
    dtype: Dtype = "float32"
    keep: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what there is not.

        Raises:
            BenchError: an unknown output, dtype or array.
        """
        if self.output not in OUTPUTS:
            raise BenchError(f"there is no output {self.output!r} (there are: {', '.join(OUTPUTS)})")
        if self.dtype not in get_args(Dtype):
            raise BenchError(f"--dtype is {self.dtype!r}: use float32 or float16")
        for name in self.keep:
            if name not in EXTRAS:
                raise BenchError(
                    f"--keep has {name!r}{nearest(name, list(EXTRAS))}: there are {', '.join(EXTRAS)}, in a list"
                )

    def schema(self, n_train: int, n_targets: int, n_classes: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of one row, and dtype, of each array."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "margins": ((n_targets,), self.dtype),
            "logits": ((n_targets, n_classes), self.dtype),
            "train_margins": ((n_train,), self.dtype),
            "correct": ((-(-n_targets // 8),), "uint8"),
            "train_correct": ((-(-n_train // 8),), "uint8"),
        }
        return {name: shape for name, shape in shapes.items() if name == "margins" or name in self.keep}

    def stored(self, made: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays as they are stored: margins and logits in `dtype`, booleans as bits.

        Raises:
            BenchError: a number is too large for float16.
        """
        kept: dict[str, NDArray[Any]] = {}
        for name, array in made.items():
            if name in BITS:
                kept[name] = np.packbits(array, axis=-1)
                continue
            with np.errstate(over="ignore"):
                kept[name] = array.astype(self.dtype)
            if (np.isfinite(array) & ~np.isfinite(kept[name])).any():
                largest = np.abs(array[np.isfinite(array)]).max()
                raise BenchError(f"{name} reach {largest:.4g}, and float16 ends at 65504: use --dtype float32")
        return kept
