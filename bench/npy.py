"""Arrays from .npy files that anyone may have written: nothing is unpickled, and what is wrong is said plainly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"


def load(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """The array of a .npy file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no .npy file, is not whole, or holds Python objects.
    """
    import numpy as np

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:  # else numpy takes it for a pickle, and says how to load that
            raise ValueError("it does not begin as a .npy file does")
    try:
        made: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise ValueError("it holds Python objects, which are never loaded") from error
        raise
    return made
