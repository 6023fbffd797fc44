"""What a method returned, as the scores that it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXACT = 2**24  # integers up to it are float32 exactly


def as_array(scores: Any) -> NDArray[Any]:
    """The array that was returned, a tensor's on the host.

    Raises:
        InputError: nothing was returned, or it is no array.
    """
    if scores is None:
        raise InputError("it returned nothing: attribute() must return its scores")
    if np.ma.is_masked(scores):
        raise InputError("its scores are a masked array: fill what is masked, with 0 or with NaN")
    try:
        return np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores)
    except (TypeError, ValueError) as error:
        raise InputError(f"its scores are not an array ({error})") from error


def check_shape(array: NDArray[Any], n_train: int, n_targets: int) -> None:
    """Refuse another shape; a transposed one is said so.

    Raises:
        InputError: it is not `[n_train, n_targets]`.
    """
    if array.shape != (n_train, n_targets):
        hint = "; it looks transposed" if array.shape == (n_targets, n_train) else ""
        raise InputError(f"its scores have shape {list(array.shape)} instead of [{n_train}, {n_targets}]{hint}")


def as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers as float32 or float64, whichever holds them.

    Raises:
        InputError: they are no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(f"its scores are of type {array.dtype}, which are not real numbers")
    if array.dtype in (np.float32, np.float64):
        return array
    wide = array.dtype.itemsize > 4 if array.dtype.kind == "f" else array.dtype.itemsize > 2 and _beyond(array)
    with np.errstate(over="ignore"):  # of long doubles; what is infinite then is not finite to whoever looks at it
        return array.astype(np.float64 if wide else np.float32)


def _beyond(array: NDArray[Any]) -> bool:
    """Whether float32 would make two different integers one."""
    return array.size > 0 and max(int(array.max()), -int(array.min())) > _EXACT


def check_scores(scores: Any, n_train: int, n_targets: int) -> NDArray[Any]:
    """The scores as a float array `[n_train, n_targets]`.

    Raises:
        InputError: another shape (a transposed one is said so), not numbers, or not one finite column.
    """
    array = as_array(scores)
    check_shape(array, n_train, n_targets)
    array = as_floats(array)
    if not np.isfinite(array).all(0).any():
        raise InputError("its scores are NaN or infinite for every target")
    return array
