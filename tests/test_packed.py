"""The vectorised ranking against scipy's, value by value, and against the general one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import rankdata

from bench.kernels.packed import rank_block
from bench.kernels.ranks import CONSTANT, DISTINCT, NOT_A_NUMBER, TIED, correlate_rows, fill_orderable, rank_rows

Array = NDArray[Any]
DTYPES = [np.float32, np.float16, np.int8, np.uint16, np.bool_, np.float64, np.int64]


def ranked(rows: Array) -> tuple[Array, Array]:
    ranks, kinds = np.empty(rows.shape, np.int32), np.empty(len(rows), np.uint8)
    rank_block(rows, np.full((len(rows) + 1, rows.shape[1]), 7.5), ranks, kinds)
    return ranks, kinds


def by_scipy(rows: Array) -> tuple[Array, Array]:
    m = rows.shape[1]
    ranks, kinds = np.zeros(rows.shape, np.int32), np.empty(len(rows), np.uint8)
    for i, row in enumerate(rows):
        n_values = len(np.unique(row))
        kinds[i] = DISTINCT if n_values == m else TIED
        if np.isnan(row).any() or n_values == 1:
            kinds[i] = NOT_A_NUMBER if np.isnan(row).any() else CONSTANT
            continue
        ranks[i] = 2 * rankdata(np.unique(row, return_inverse=True)[1]) - (m + 1)  # as floats, large integers would tie
    return ranks, kinds


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    shape = draw(st.integers(1, 5)), draw(st.integers(2, 40))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind != "f":
        return draw(hnp.arrays(dtype, shape))
    special = st.sampled_from([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, 1.5])
    elements = special | st.floats(width=16, allow_nan=draw(st.booleans()))
    with np.errstate(over="ignore"):
        return draw(hnp.arrays(np.float64, shape, elements=elements)).astype(dtype)


@given(matrices())
@settings(deadline=None)  # the first call compiles
def test_equals_scipy(rows: Array) -> None:
    for found, expected in zip(ranked(rows), by_scipy(rows), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_large_integers_are_told_apart() -> None:
    """Neighbours that float64 cannot tell apart."""
    ranks, kinds = ranked(np.array([[2**63 - 511, 2**63 - 512]], np.int64))
    assert (ranks.tolist(), kinds.tolist()) == ([[1, -1]], [DISTINCT])


def test_every_nan_is_one() -> None:
    bits = np.array([[0x7FC00000, 1, 2], [0xFFC00000, 1, 2], [0x7F800001, 1, 2], [0x7F800000, 1, 2]], np.uint32)
    assert ranked(bits.view(np.float32))[1].tolist() == [NOT_A_NUMBER] * 3 + [DISTINCT]


@pytest.mark.parametrize("m", [2, 17, 1000, 5001])
def test_equals_the_general_ranking(m: int) -> None:
    rng = np.random.default_rng(m)
    rows = rng.standard_normal((6, m)).astype(np.float32)
    rows[3:] = rows[3:].round(2)
    other, kinds = np.empty(rows.shape, np.int32), np.empty(len(rows), np.uint8)
    rank_rows(fill_orderable(np.empty(rows.shape), rows), other, kinds)
    ranks, found = ranked(np.asfortranarray(rows))
    np.testing.assert_array_equal(ranks, other)
    np.testing.assert_array_equal(found, kinds)


@pytest.mark.parametrize("m", [2, 3, 50])
def test_influences_without_ties_are_those_with(m: int) -> None:
    """A row without ties takes a short cut; the general way, written out, must say the same."""
    rng = np.random.default_rng(m)
    a, b = (2 * np.argsort(rng.random((4, m))).argsort().astype(np.int32) - (m - 1) for _ in range(2))
    a, b = np.ascontiguousarray(a, np.int32), np.ascontiguousarray(b, np.int32)
    rho, influence = np.empty(4), np.empty((4, m))
    correlate_rows(a, b, rho, influence)
    for x, y, r, found in zip(a.astype(float), b.astype(float), rho, influence, strict=True):
        above_x = 2.0 * (x[None, :] > x[:, None]) + (x[None, :] == x[:, None])
        above_y = 2.0 * (y[None, :] > y[:, None]) + (y[None, :] == y[:, None])
        dc = m * (x * y + above_x @ y + above_y @ x) - 3 * (x @ y)
        da, db = (m * (v * v + 2 * up @ v) - 3 * (v @ v) for v, up in ((x, above_x), (y, above_y)))
        expected = dc / np.sqrt((x @ x) * (y @ y)) - r / 2 * (da / (x @ x) + db / (y @ y))
        assert r == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        np.testing.assert_allclose(found, expected, atol=1e-9)
