"""What methods return, as float32 or float64: whichever holds the numbers."""

from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import InputError
from bench.returned import as_array, as_floats, check_scores


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.ones((2, 3), bool), np.float32),
        (np.full((2, 3), 255, np.uint8), np.float32),
        (np.full((2, 3), 2**24, np.int64), np.float32),
        (np.full((2, 3), 2**24 + 1, np.int64), np.float64),
        (np.full((2, 3), -(2**53), np.int64), np.float64),
        (np.full((2, 3), np.iinfo(np.int64).min), np.float64),
        (np.full((2, 3), 2**40, np.uint64), np.float64),
        (np.full((2, 3), 0.1, np.float16), np.float32),
        (np.full((2, 3), 1e300), np.float64),
        (np.full((2, 3), 1e300, np.longdouble), np.float64),
        (torch.full((2, 3), 7, dtype=torch.int32), np.float32),
        (torch.full((2, 3), 0.5, dtype=torch.float64, requires_grad=True), np.float64),
    ],
)
def test_no_number_is_changed(given: Any, dtype: type) -> None:
    made = check_scores(given, 2, 3)
    assert made.dtype == dtype
    for value, kept in zip(as_array(given).ravel().tolist(), made.ravel().tolist(), strict=True):
        assert value == kept


@pytest.mark.parametrize(
    "given", [np.ones((2, 3), complex), np.full((2, 3), "a"), np.full((2, 3), None), np.ones((2, 3), "M8[s]")]
)
def test_what_is_no_real_number_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="which are not real numbers"):
        as_floats(given)


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="long doubles are doubles here")
def test_a_long_double_beyond_all_doubles_is_infinite_and_counted_so() -> None:
    given = np.ones((2, 3), np.longdouble)
    given[0, 1] = np.longdouble(np.finfo(np.float64).max) * 2
    assert np.isinf(check_scores(given, 2, 3)).sum() == 1
    with pytest.raises(InputError, match="NaN or infinite for every target"):
        check_scores(np.full((2, 3), given[0, 1]), 2, 3)
