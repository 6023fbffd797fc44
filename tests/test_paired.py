"""Differences of two methods against the formula written out on all influences; sketches; what `lds` leaves behind."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bench.errors import InputError
from bench.kernels.sketch import add_to_sketch
from bench.predictions import predict
from bench.scorer import MarginRanks, Trace, lds
from bench.stats import Difference, Sample, paired_difference, spearman_influence
from bench.stats.paired import SKETCH, sketch_of

Array = NDArray[Any]


def benchmark(seed: int, m: int, t: int) -> tuple[Array, Array, Array, Array]:
    """Two score matrices, masks and margins, with noise common to targets."""
    rng = np.random.default_rng(seed)
    weights, masks = rng.standard_normal((30, t)), rng.random((m, 30)) < 0.5
    margins = masks @ weights + 2 * rng.standard_normal((m, 1)) + 2 * rng.standard_normal((m, t))
    first, second = (weights + size * rng.standard_normal((30, t)) for size in (1.0, 1.5))
    return first, second, masks, margins


def influences(scores: Array, masks: Array, margins: Array) -> tuple[Array, Array]:
    return spearman_influence(predict(scores, masks), margins.T)


def sample(scores: Array, masks: Array, margins: Array) -> Sample:
    rho, h = influences(scores, masks, margins)
    return Sample(rho, h.mean(axis=0), sketch_of(h))


def written_out(a: Array, h: Array, b: Array, k: Array) -> tuple[float, float, float]:
    """V_targets, V_subsets and V_both of a paired difference, from whole influences [T, M]."""
    t, m = h.shape
    v_targets = np.var(b - a, ddof=1) / t if t > 1 else 0.0
    v_subsets = sum(((k - h)[:, i].sum() / t / m) ** 2 for i in range(m)) * m / (m - 1)
    v_both = sum((k - h)[j, i] ** 2 for j in range(t) for i in range(m)) / (t * m) ** 2 * m / (m - 1)
    return float(v_targets), float(v_subsets), float(v_both)


@pytest.mark.parametrize(("m", "t"), [(40, 25), (15, 60), (60, 3), (30, 1)])
def test_the_formula(m: int, t: int) -> None:
    for seed in range(5):
        first, second, masks, margins = benchmark(seed, m, t)
        (a, h), (b, k) = (influences(s, masks, margins) for s in (first, second))
        v_targets, v_subsets, v_both = written_out(a, h, b, k)
        v = v_subsets + max(0.0, v_targets - v_both) if t > 1 else v_subsets
        one, other = sample(first, masks, margins), sample(second, masks, margins)
        found = paired_difference(one, other)
        assert found.value == pytest.approx((b - a).mean())
        # The sketch knows V_both to 4.4%, and nothing else is estimated.
        slack = 4 * 0.044 * v_both if t > 1 else 0.0
        assert abs(found.stderr**2 - v) <= slack + 1e-12
        assert found.stderr**2 >= v_subsets - 1e-12
        freedom = min(m, t) - 1 if t > 1 else m - 1
        half = stats.t.ppf(0.975, freedom) * found.stderr
        assert found.ci == pytest.approx((found.value - half, found.value + half))
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.value) / found.stderr, freedom))
        assert (found.p_value < 0.05) == (not found.ci[0] <= 0 <= found.ci[1])
        assert found.n_targets == t


def test_swapped() -> None:
    first, second, masks, margins = benchmark(0, 40, 25)
    one, other = sample(first, masks, margins), sample(second, masks, margins)
    there, back = paired_difference(one, other, level=0.8), paired_difference(other, one, level=0.8)
    assert back == Difference(-there.value, there.stderr, (-there.ci[1], -there.ci[0]), there.p_value, 25)


def test_equal_methods() -> None:
    first, _, masks, margins = benchmark(0, 40, 25)
    one = sample(first, masks, margins)
    assert paired_difference(one, one) == Difference(0, 0, (0, 0), 1, 25)
    # The same method times a constant is the same method.
    assert paired_difference(one, sample(7 * first, masks, margins)).p_value == 1


def test_pairing_takes_away_what_both_share() -> None:
    first, _, masks, margins = benchmark(1, 60, 40)
    near = first + 0.2 * np.random.default_rng(0).standard_normal(first.shape)
    one, other = sample(first, masks, margins), sample(near, masks, margins)
    errors = [
        paired_difference(one, other, same_subsets=subsets, same_targets=targets).stderr
        for subsets, targets in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert errors[0] < min(errors[1:]) / 2
    assert errors[3] > max(errors[:3])


@pytest.mark.parametrize("same_targets", [True, False])
def test_other_subsets(same_targets: bool) -> None:
    """Independent models: each method brings its own subset noise, hence the sum of both variances."""
    first, second, masks, margins = benchmark(2, 50, 30)
    _, _, other_masks, other_margins = benchmark(3, 40, 30 if same_targets else 20)
    (a, h), (b, k) = (
        influences(first, masks, margins),
        influences(second[:, : len(other_margins.T)], other_masks, other_margins),
    )
    found = paired_difference(
        Sample(a, h.mean(axis=0), sketch_of(h)),
        Sample(b, k.mean(axis=0), sketch_of(k)),
        same_subsets=False,
        same_targets=same_targets,
    )
    subsets = both = 0.0
    for rho, g in ((a, h), (b, k)):
        m = g.shape[1]
        subsets += np.square(g.mean(axis=0)).sum() / m / (m - 1)
        both += np.square(g).sum() / len(rho) ** 2 / m / (m - 1)
    targets = (
        np.var(b - a, ddof=1) / len(a) if same_targets else np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)
    )
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert found.stderr**2 == pytest.approx(subsets + max(0, targets - both), abs=0.15 * both)
    assert found.stderr**2 >= subsets


def test_same_subsets_other_targets() -> None:
    """Two halves of the targets: their subset noise is common, their own is not."""
    first, _, masks, margins = benchmark(4, 50, 60)
    (a, h), (b, k) = (influences(first[:, part], masks, margins[:, part]) for part in (slice(0, 40), slice(40, 60)))
    found = paired_difference(
        Sample(a, h.mean(axis=0), sketch_of(h)), Sample(b, k.mean(axis=0), sketch_of(k)), same_targets=False
    )
    subsets = np.square(k.mean(axis=0) - h.mean(axis=0)).sum() / 50 / 49
    both = sum(np.square(g).sum() / len(g) ** 2 / 50 / 49 for g in (h, k))
    targets = np.var(a, ddof=1) / 40 + np.var(b, ddof=1) / 20
    assert found.stderr**2 == pytest.approx(subsets + max(0, targets - both), abs=0.15 * both)
    assert found.n_targets == 20


def test_excluded_targets_are_left_out() -> None:
    first, second, masks, margins = benchmark(5, 40, 12)
    margins[0, 3] = np.nan
    one, other = sample(first, masks, margins), sample(second, masks, margins)
    found = paired_difference(one, other)
    assert found.n_targets == 11
    assert found.value == pytest.approx(np.nanmean(other.per_target) - np.nanmean(one.per_target))


def test_nothing_to_compare() -> None:
    nothing = Sample(np.full(3, np.nan), np.zeros(10), np.zeros(SKETCH))
    found = paired_difference(nothing, nothing)
    assert found.n_targets == 0
    assert np.isnan([found.value, found.stderr, *found.ci, found.p_value]).all()
    one_subset = Sample(np.ones(3), np.zeros(1), np.zeros(SKETCH))
    assert np.isnan(paired_difference(one_subset, one_subset).p_value)
    # No noise at all, and yet a difference.
    sure = paired_difference(
        Sample(np.zeros(3), np.zeros(10), np.zeros(SKETCH)), Sample(np.ones(3), np.zeros(10), np.zeros(SKETCH))
    )
    assert (sure.value, sure.stderr, sure.p_value) == (1, 0, 0)


@pytest.mark.parametrize("field", ["per_target", "influence", "sketch"])
def test_lengths_that_differ(field: str) -> None:
    lengths = {"per_target": 5, "influence": 6, "sketch": SKETCH}
    one = Sample(*(np.zeros(n) for n in lengths.values()))
    other = Sample(*(np.zeros(n + (name == field)) for name, n in lengths.items()))
    with pytest.raises(InputError, match=f"{field} has {lengths[field]} values in one method and {lengths[field] + 1}"):
        paired_difference(one, other)
    allowed = {"per_target": {"same_targets": False}, "influence": {"same_subsets": False}}.get(field)
    if allowed:
        assert paired_difference(one, other, **allowed).value == 0


class TestSketch:
    def test_stays_the_same(self) -> None:
        """It is part of a file format: SplitMix64 of the entry's number gives the bucket and the sign."""

        def entry(number: int) -> tuple[int, int]:
            mask = 2**64 - 1
            z = (number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & mask
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            z ^= z >> 31
            return z % 1024, -1 if z >> 63 else 1

        # The generator's published first outputs from seed 0.
        published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
        assert [entry(n) for n in range(4)] == [(z % 1024, -1 if z >> 63 else 1) for z in published]
        values = np.random.default_rng(0).standard_normal((7, 300))
        expected = np.zeros(1024)
        for number, value in enumerate(values.ravel()):
            bucket, sign = entry(number)
            expected[bucket] += sign * value
        np.testing.assert_allclose(sketch_of(values), expected, atol=1e-12)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 40))
    @settings(deadline=None, max_examples=40)
    def test_block_by_block(self, heights: list[int], columns: int) -> None:
        values = np.random.default_rng(columns).standard_normal((sum(heights), columns))
        out, start = np.zeros(SKETCH), 0
        for height in heights:
            add_to_sketch(values[start : start + height], start, out)
            start += height
        np.testing.assert_allclose(out, sketch_of(values), atol=1e-12)

    def test_is_linear(self) -> None:
        a, b = np.random.default_rng(0).standard_normal((2, 40, 50))
        np.testing.assert_allclose(sketch_of(3 * a - b), 3 * sketch_of(a) - sketch_of(b), atol=1e-10)

    def test_keeps_squared_lengths(self) -> None:
        """Unbiased, with a standard deviation of √(2/1024), over matrices of all kinds."""
        rng = np.random.default_rng(1)
        ratios = []
        for n in range(600):
            values = rng.standard_normal((60, 40)) * rng.exponential(size=(60, 1)) ** (n % 3)
            if n % 2:  # all of one sign
                values = np.abs(values)
            ratios.append(np.square(sketch_of(values)).sum() / np.square(values).sum())
        assert np.mean(ratios) == pytest.approx(1, abs=4 * 0.0442 / np.sqrt(600))
        assert np.std(ratios) < 0.06


class TestTrace:
    @pytest.mark.parametrize("max_bytes", [20_000, 2**28])
    def test_is_what_the_influences_say(self, max_bytes: int) -> None:
        """In slabs or at once; targets without a correlation leave zeros."""
        scores, _, masks, margins = benchmark(6, 45, 150)
        margins[2, 4], margins[:, 5], scores[3, 6], scores[:, 7] = np.nan, 1.0, np.inf, 0.0
        groups = np.arange(45) % 4
        trace = Trace(150, 45, groups)
        found = lds(scores, masks, margins, trace=trace, undefined="zero", max_bytes=max_bytes)
        predictions = predict(np.where(np.isfinite(scores), scores, 0), masks)
        predictions[6] = 0.0
        rho, h = spearman_influence(predictions, margins.T)
        np.testing.assert_allclose(found.per_target, np.where(np.isin(np.arange(150), (6, 7)), 0, rho), atol=1e-12)
        np.testing.assert_allclose(found.influence, h.sum(axis=0) / 148, atol=1e-12)
        np.testing.assert_array_equal(trace.ranks, MarginRanks.of(predictions.T).ranks)
        assert not trace.ranks[[6, 7]].any()
        np.testing.assert_allclose(trace.sketch, sketch_of(h), atol=1e-9)
        expected = np.stack([h[:, groups == g].sum(axis=1) for g in range(4)], axis=1)
        np.testing.assert_allclose(trace.grouped, expected, atol=1e-10)

    def test_one_group_unless_told(self) -> None:
        scores, _, masks, margins = benchmark(7, 20, 9)
        trace = Trace(9, 20)
        lds(scores, masks, margins, trace=trace)
        assert trace.grouped.shape == (9, 1)
        np.testing.assert_allclose(trace.grouped, 0, atol=1e-10)
