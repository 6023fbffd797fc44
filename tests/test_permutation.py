"""The permutation null against every permutation, against scipy, and against a written-out loop."""

from inspect import signature
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, permutation_test, rankdata, spearmanr

from bench.errors import InputError
from bench.kernels import shuffle
from bench.scorer import MarginRanks
from bench.stats import permutation_null

Array = NDArray[Any]


def ranks(values: Array) -> Array:
    """[M, T] → [T, M], as `permutation_null` takes them."""
    return MarginRanks.of(values).ranks


def statistic(x: Array, y: Array) -> float:
    """Mean over targets of Spearman's correlation over subsets, from [M, T]."""
    return float(np.mean([spearmanr(x[:, j], y[:, j])[0] for j in range(x.shape[1])]))


def drawn(m: int, count: int, seed: int = 0) -> Array:
    orders = np.empty((count, m), np.int32)
    for number, order in enumerate(orders):
        shuffle.permutation(seed, number, order)
    return orders


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_all_permutations(m: int, ties: bool) -> None:
    rng = np.random.default_rng(m)
    x, y = rng.standard_normal((m, 7)), rng.standard_normal((m, 7)) + rng.standard_normal((m, 1))
    if ties:
        x[1], y[0] = x[0], y[-1]
        x[-1] += 1  # never constant
        y[1 % m] -= 9
    every = np.array([statistic(x, y[list(order)]) for order in permutations(range(m))])
    observed = statistic(x, y)
    exact = np.mean(np.abs(every) >= abs(observed) - 1e-9)
    null = permutation_null(ranks(x), ranks(y))
    assert null.p_value == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 9_999) + 1e-4)
    assert null.stderr == pytest.approx(np.sqrt(np.mean(every**2)), abs=1e-6)
    assert set(np.round(null.draws, 5) + 0.0) == set(np.round(every, 5) + 0.0)


def test_given_permutations() -> None:
    """The draws are the statistic under the permutations of the kernel's stream, excluded targets and all."""
    rng = np.random.default_rng(0)
    m, t = 12, 5
    x, y = rng.standard_normal((m, t)), rng.standard_normal((m, t))
    null = permutation_null(ranks(x), ranks(y), permutations=70, seed=3)
    expected = [statistic(x, y[order]) for order in drawn(m, 70, seed=3)]
    np.testing.assert_allclose(null.draws, expected, atol=1e-6)
    assert null.ci == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=1e-6)
    at_least = sum(abs(e) >= abs(statistic(x, y)) for e in expected)
    assert null.p_value == (1 + at_least) / 71


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    m, t = 30, 8
    x = rng.standard_normal((m, t)) + rng.standard_normal((m, 1))
    y = 0.25 * x + rng.standard_normal((m, t)) + rng.standard_normal((m, 1))
    a, b = (np.apply_along_axis(rankdata, 0, v) - (m + 1) / 2 for v in (x, y))

    def mean_rho(order: Array) -> float:
        return float((a * b[order.astype(int)]).sum() / (a**2).sum())  # without ties all targets' sums are equal

    name = "rng" if "rng" in signature(permutation_test).parameters else "random_state"  # before scipy 1.15
    drawn: dict[str, Any] = {name: np.random.default_rng(2)}
    theirs = permutation_test((np.arange(m),), mean_rho, permutation_type="pairings", n_resamples=4_000, **drawn)
    ours = permutation_null(ranks(x), ranks(y))
    assert ours.stderr == pytest.approx(theirs.null_distribution.std(), rel=0.05)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(0.25 / 4_000))
    assert np.quantile(ours.draws, [0.1, 0.9]) == pytest.approx(
        np.quantile(theirs.null_distribution, [0.1, 0.9]), abs=0.1 * ours.stderr
    )


@pytest.mark.parametrize("max_bytes", [1, 5_000, 40_000])
def test_in_small_pieces(max_bytes: int) -> None:
    rng = np.random.default_rng(2)
    x, y = ranks(rng.standard_normal((40, 30))), ranks(rng.standard_normal((40, 30)))
    whole, pieces = permutation_null(x, y), permutation_null(x, y, max_bytes=max_bytes)
    np.testing.assert_allclose(whole.draws, pieces.draws, atol=1e-6)
    assert whole.p_value == pieces.p_value
    assert whole.stderr == pytest.approx(pieces.stderr, rel=1e-5)


def test_targets_that_do_not_count_and_those_that_count_as_zero() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((20, 6)), rng.standard_normal((20, 6))
    clean = permutation_null(ranks(x), ranks(y))
    more_x, more_y = np.column_stack([x, x[:, :2]]), np.column_stack([y, np.full(20, np.nan), np.zeros(20)])
    left_out = permutation_null(ranks(more_x), ranks(more_y))
    np.testing.assert_allclose(left_out.draws, clean.draws, atol=1e-6)
    # One whose predictions are constant counts as 0: of seven, six are as before.
    silent_x, silent_y = np.column_stack([x, np.ones(20)]), np.column_stack([y, y[:, 0]])
    zeroed = permutation_null(ranks(silent_x), ranks(silent_y), np.ones(7, bool))
    np.testing.assert_allclose(zeroed.draws, clean.draws * 6 / 7, atol=1e-6)
    assert zeroed.stderr == pytest.approx(clean.stderr * 6 / 7)
    assert zeroed.p_value == clean.p_value
    some = permutation_null(ranks(x), ranks(y), np.arange(6) < 2)
    np.testing.assert_allclose(some.draws, permutation_null(ranks(x[:, :2]), ranks(y[:, :2])).draws, atol=1e-6)


def test_nothing_to_permute() -> None:
    flat, other = ranks(np.zeros((9, 2))), ranks(np.random.default_rng(0).standard_normal((9, 2)))
    null = permutation_null(flat, other, permutations=5)
    assert np.isnan([null.p_value, null.stderr, *null.ci, *null.draws]).all()
    silent = permutation_null(flat, other, np.ones(2, bool), permutations=5)
    assert (silent.p_value, silent.stderr, silent.ci) == (1, 0, (0, 0))


def test_bad_input() -> None:
    x = ranks(np.random.default_rng(0).standard_normal((5, 3)))
    with pytest.raises(InputError, match="give equal shapes"):
        permutation_null(x, x[:2])
    with pytest.raises(InputError, match="at least two subsets"):
        permutation_null(x[:, :1], x[:, :1])
    with pytest.raises(InputError, match="permutations is 0"):
        permutation_null(x, x, permutations=0)


def test_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(4)
    found = []
    for seed in range(400):
        x, y = (rng.standard_normal((15, 4)) + rng.standard_normal((15, 1)) for _ in range(2))
        found.append(permutation_null(ranks(x), ranks(y), permutations=999, seed=seed).p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert permutation_null(ranks(x), ranks(2 * x), permutations=999).p_value == 0.001


def test_permutations_are_permutations_and_uniform() -> None:
    for m in (1, 2, 9, 1_000):
        orders = drawn(m, 5)
        assert (np.sort(orders, axis=1) == np.arange(m)).all()
    counts = np.unique(drawn(4, 24_000, seed=5), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 49.7  # χ² of 23, .999
    where = np.array([np.bincount(column, minlength=50) for column in drawn(50, 20_000).T])
    assert abs(((where - 400) ** 2 / 400).sum() - 49**2) < 4 * np.sqrt(2) * 49  # 49² degrees of freedom


def test_permutations_do_not_change() -> None:
    """p-values of a ground truth stay: a change of this stream changes published numbers."""
    assert drawn(8, 3).tolist() == [
        [0, 3, 5, 2, 1, 6, 4, 7],
        [1, 4, 5, 0, 7, 2, 3, 6],
        [6, 5, 7, 2, 0, 1, 4, 3],
    ]
