"""The influence of subsets against numerical differentiation and a bootstrap; intervals against simulated truths."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import spearmanr

from bench.errors import InputError
from bench.scorer import lds
from bench.stats import GroupSums, spearman_influence, two_way_interval
from bench.stats.intervals import t_quantile

Array = NDArray[Any]


def weighted_spearman(x: Array, y: Array, w: Array) -> float:
    """The statistic that `spearman_influence` differentiates, written out."""
    w = w / w.sum()

    def below(v: Array) -> Array:
        under: Array = (v[None, :] < v[:, None]) + 0.5 * (v[None, :] == v[:, None])
        return np.asarray(under @ w - 0.5)

    u, v = below(x), below(y)
    return float((w * u * v).sum() / np.sqrt((w * u * u).sum() * (w * v * v).sum()))


def weighted_mean_influence(x: Array, y: Array) -> Array:
    """Numerical derivative in each weight, centred as weights that sum to one demand."""
    m, step = len(x), 1e-6
    out = np.empty(m)
    for k in range(m):
        up, down = np.ones(m), np.ones(m)
        up[k] += step
        down[k] -= step
        out[k] = (weighted_spearman(x, y, up) - weighted_spearman(x, y, down)) / (2 * step) * m
    return out


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("m", [3, 17, 60])
def test_influence_is_the_derivative_of_the_weighted_statistic(m: int, decimals: int | None) -> None:
    rng = np.random.default_rng(m)
    x = rng.standard_normal(m)
    y = x + rng.standard_normal(m)
    if decimals is not None:
        x, y = np.round(x, decimals), np.round(y, decimals)
        x[0], y[0] = 5.0, -5.0  # never constant
    rho, influence = spearman_influence(x, y)
    assert rho == pytest.approx(spearmanr(x, y)[0], abs=1e-12)
    assert weighted_spearman(x, y, np.ones(m)) == pytest.approx(float(rho), abs=1e-12)
    np.testing.assert_allclose(influence, weighted_mean_influence(x, y), atol=2e-6)
    assert abs(influence.sum()) < 1e-10


def test_influence_shapes_and_constants() -> None:
    x = np.array([[1.0, 2, 3], [1, 1, 1], [1, np.nan, 2]])
    rho, influence = spearman_influence(x, x)
    assert rho[0] == 1
    assert np.isnan(rho[1:]).all()
    assert (influence[1:] == 0).all()
    with pytest.raises(InputError, match="equal shapes"):
        spearman_influence([1, 2], [1, 2, 3])


@pytest.mark.parametrize("truth", [0.0, 0.6])
def test_standard_error_is_that_of_a_bootstrap(truth: float) -> None:
    """Targets with a common component: per target, and for the mean, where ignoring it would be far too narrow."""
    rng = np.random.default_rng(0)
    m, t = 200, 20
    x, common = rng.standard_normal((t, m)), rng.standard_normal(m)
    y = truth * x + np.sqrt(1 - truth**2) * (0.6 * common + 0.8 * rng.standard_normal((t, m)))
    _, influence = spearman_influence(x, y)
    draws = []
    for _ in range(400):
        rows = rng.integers(0, m, m)
        draws.append(spearman_influence(x[:, rows], y[:, rows])[0])
    boot = np.array(draws)
    np.testing.assert_allclose(influence.std(axis=1) / np.sqrt(m), boot.std(axis=0), rtol=0.2)
    assert influence.mean(axis=0).std() / np.sqrt(m) == pytest.approx(boot.mean(axis=1).std(), rel=0.12)


def test_group_sums() -> None:
    h = np.arange(12.0).reshape(2, 6)
    labels = np.array([0, 1, 2, 0, 1, 2])
    expected = [sum((row[labels == g].sum()) ** 2 for g in range(3)) for row in h]
    np.testing.assert_allclose(GroupSums(labels)(h), expected)
    np.testing.assert_allclose(GroupSums(np.arange(6))(h), (h**2).sum(1))
    backwards = np.arange(6)[::-1]
    np.testing.assert_array_equal(GroupSums(backwards).sums(h), h[:, ::-1])
    np.testing.assert_allclose(GroupSums(backwards)(h), (h**2).sum(1))


class TestInterval:
    def test_one_target_uses_subsets_only(self) -> None:
        influence = np.full(50, 0.01) * np.tile([1, -1], 25)
        interval = two_way_interval(np.array([0.4]), influence, np.array([np.square(influence).sum()]))
        assert interval.stderr == pytest.approx(np.sqrt(50 * 1e-4 * 50 / 49))
        assert interval.low < 0.4 < interval.high

    def test_never_below_the_subset_noise(self) -> None:
        values = np.full(10, 0.3)
        influence = np.full(40, 0.01)
        interval = two_way_interval(values, influence, np.full(10, 1.0))
        assert interval.stderr == pytest.approx(np.sqrt(40 * 1e-4 * 40 / 39))

    def test_extremes_stay_inside(self) -> None:
        perfect = two_way_interval(np.ones(5), np.zeros(20), np.zeros(5))
        assert -1 <= perfect.low <= perfect.high <= 1
        assert perfect.low == pytest.approx(1, abs=1e-9)
        two = two_way_interval(np.array([1.0, -1.0]), np.zeros(2), np.zeros(2))
        assert -1 <= two.low <= 0 <= two.high <= 1

    def test_nothing_to_say(self) -> None:
        assert np.isnan(two_way_interval(np.array([]), np.zeros(5), np.array([])).low)
        assert np.isnan(two_way_interval(np.ones(3), np.zeros(1), np.zeros(3)).stderr)

    def test_wider_for_higher_levels(self) -> None:
        values, influence, within = np.linspace(0.2, 0.4, 9), np.full(30, 0.01), np.full(9, 1e-3)
        narrow, wide = (two_way_interval(values, influence, within, level=level) for level in (0.5, 0.99))
        assert wide.low < narrow.low < narrow.high < wide.high

    @pytest.mark.parametrize("freedom", [3, 50])
    def test_either_of_two_values_is_covered_at_the_level(self, freedom: int) -> None:
        """An interval around both 0 and `gap`: what it misses of a t around either is 5%."""
        two_sided, one_sided = stats.t.ppf(0.975, freedom), stats.t.ppf(0.95, freedom)
        assert t_quantile(1, freedom + 1, 0.95) == pytest.approx(two_sided)
        for gap in (0.01, 0.3, 1.0, 2.0):
            quantile = t_quantile(1, freedom + 1, 0.95, gap)
            assert one_sided < quantile < two_sided
            covered = stats.t.cdf(gap + quantile, freedom) - stats.t.cdf(-quantile, freedom)
            assert covered == pytest.approx(0.95)
        assert t_quantile(1, freedom + 1, 0.95, np.inf) == pytest.approx(one_sided)

    def test_spans_the_mean_with_and_without_its_bias(self) -> None:
        """Without any noise, what is left is the bias of Spearman's correlation on 10 subsets."""
        rho = 0.5
        tau = 2 / np.pi * np.arcsin(2 * np.sin(np.pi * rho / 6))
        interval = two_way_interval(np.full(4, rho), np.zeros(10), np.zeros(4))
        assert interval.low == pytest.approx(rho)
        assert interval.high == pytest.approx(rho + 3 * (rho - tau) / 8)
        mirrored = two_way_interval(np.full(4, -rho), np.zeros(10), np.zeros(4))
        assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))

    def test_repeats_in_a_group_count_once(self) -> None:
        """The same rows again are no new evidence: copies in one group leave the error alone."""
        rng = np.random.default_rng(0)
        scores, masks = rng.standard_normal((30, 20)), rng.random((60, 30)) < 0.5
        margins = masks @ scores + 3 * rng.standard_normal((60, 20))
        once = lds(scores, masks, margins)
        thrice = lds(scores, np.repeat(masks, 3, 0), np.repeat(margins, 3, 0))
        assert thrice.mean == pytest.approx(once.mean, abs=1e-3)
        assert thrice.stderr == pytest.approx(once.stderr, rel=0.05)


def simulate(
    rng: np.random.Generator, m: int, t: int, truth: float, spread: float, common: float
) -> tuple[Array, Array]:
    """Correlations and influences of a synthetic benchmark with noise common to targets (bivariate normal)."""
    slope = np.clip(truth + spread * rng.standard_normal(t), -0.98, 0.98)
    rest = np.sqrt(1 - common**2)
    x = common * rng.standard_normal(m) + rest * rng.standard_normal((t, m))
    noise = common * rng.standard_normal(m) + rest * rng.standard_normal((t, m))
    y = slope[:, None] * x + np.sqrt(1 - slope**2)[:, None] * noise
    return spearman_influence(x, y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "spread", "common"), [(0.1, 0.1, 0.3), (0.5, 0.1, 0.5), (0.8, 0.05, 0.6), (0.5, 0.0, 0.0)]
)
@pytest.mark.parametrize(("m", "t"), [(50, 20), (50, 360), (100, 1), (200, 100)])
def test_coverage(m: int, t: int, truth: float, spread: float, common: float) -> None:
    if t == 1:
        spread = 0.0
    rng = np.random.default_rng(1)
    slopes = np.clip(truth + spread * rng.standard_normal(10**6), -0.98, 0.98)
    true_lds = (6 / np.pi * np.arcsin(slopes / 2)).mean()
    n, hits = 1_000, 0
    for _ in range(n):
        rho, h = simulate(rng, m, t, truth, spread, common)
        interval = two_way_interval(rho, h.mean(axis=0) / m, (h**2).sum(axis=1) / m**2)
        hits += interval.low <= true_lds <= interval.high
    print(f"{m} subsets x {t} targets, true LDS {truth}: {hits / n:.1%} covered")
    assert 0.92 <= hits / n <= 0.98


@pytest.mark.parametrize("n_subsets", [5, 8, 20, 50, 200])
@pytest.mark.parametrize("noise", [0.001, 0.01, 0.05, 0.2])
def test_interval_of_a_nearly_perfect_score_is_narrow(n_subsets: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((100, 40))
    masks = np.array([rng.permutation(100) < 50 for _ in range(n_subsets)])
    exact = masks @ weights
    found = lds(weights, masks, exact + noise * exact.std() * rng.standard_normal(exact.shape))
    low, high = found.ci
    assert low <= found.mean <= high <= 1
    assert low > 0
    if n_subsets >= 20:  # a handful of subsets says little
        assert high - low <= 12 * found.stderr + 4 * (1 - found.mean) + 1e-9
