"""The noise ceiling against what a perfect predictor reaches; shares of it against a jackknife that recomputes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.errors import InputError
from bench.scorer import Trace, lds
from bench.stats import Ceiling, noise_ceiling, share_of_ceiling, spearman_influence

Array = NDArray[Any]


def seeds(rng: np.random.Generator, r: int, m: int, t: int, signal: float) -> tuple[Array, Array]:
    """Margins of r seeds whose reliability for one seed is signal² (before ranks)."""
    truth = rng.standard_normal((m, t))
    return truth, signal * truth + np.sqrt(1 - signal**2) * rng.standard_normal((r, m, t))


def ceiling_of(margins: Array) -> Ceiling:
    found = noise_ceiling(margins)
    assert found is not None
    return found


def test_one_seed_says_nothing() -> None:
    assert noise_ceiling(np.zeros((1, 10, 3))) is None


@pytest.mark.parametrize("signal", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("r", [2, 5])
def test_is_what_a_perfect_predictor_reaches(r: int, signal: float) -> None:
    truth, margins = seeds(np.random.default_rng(0), r, 3_000, 30, signal)
    ceiling = ceiling_of(margins)
    reached = spearman_influence(truth.T, margins.mean(axis=0).T)[0]
    assert ceiling.lds == pytest.approx(reached.mean(), abs=0.01)
    assert ceiling.ci[0] < ceiling.lds < ceiling.ci[1]
    assert ceiling.lds == pytest.approx(ceiling.per_target.mean())
    assert ceiling.reliability == pytest.approx(r * signal**2 / (1 + (r - 1) * signal**2), abs=0.01)


def test_by_hand() -> None:
    """Three seeds, the formula in plain steps; targets are shrunk by what the influences say."""
    m, t = 60, 12
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((m, t))
    margins = truth + np.linspace(0.3, 2.5, t) * rng.standard_normal((3, m, t))
    pairs = [spearman_influence(margins[a].T, margins[b].T) for a, b in ((0, 1), (0, 2), (1, 2))]
    r, h = (np.mean([pair[at] for pair in pairs], axis=0) for at in (0, 1))
    own = (np.square(h).sum(axis=1).mean() - np.square(h.mean(axis=0)).sum()) / m / (m - 1) * t / (t - 1)
    s = np.sqrt(1 - own / r.var(ddof=1))
    assert 0.9 < s < 1
    p = 2 * np.sin(np.pi / 6 * (r.mean() + s * (r - r.mean())))
    reliability = 3 * p / (1 + 2 * p)
    ceiling = ceiling_of(margins)
    np.testing.assert_allclose(ceiling.between, r, atol=1e-12)
    assert ceiling.shrinkage == pytest.approx(s)
    assert ceiling.reliability == pytest.approx(reliability.mean())
    np.testing.assert_allclose(ceiling.per_target, 6 / np.pi * np.arcsin(np.sqrt(reliability) / 2))


def test_noise_of_targets_does_not_lower_it() -> None:
    """Many targets of equal reliability on few subsets: taking each as it is would lose .04."""
    rng = np.random.default_rng(2)
    found = [ceiling_of(seeds(rng, 2, 50, 200, 0.5)[1]) for _ in range(10)]
    reliability = 2 * 0.25 / 1.25
    assert np.mean([c.lds for c in found]) == pytest.approx(6 / np.pi * np.arcsin(np.sqrt(reliability) / 2), abs=0.015)
    assert np.mean([c.shrinkage for c in found]) < 0.5


def test_deleted_groups() -> None:
    """`deleted` is, to first order, the correlation between seeds without the subsets of a group."""
    _, margins = seeds(np.random.default_rng(3), 2, 200, 8, 0.7)
    ceiling = ceiling_of(margins)
    assert np.bincount(ceiling.group).tolist() == [10] * 20
    for label in (0, 7, 19):
        rest = ceiling.group != label
        again = spearman_influence(margins[0, rest].T, margins[1, rest].T)[0]
        change, expected = ceiling.deleted[:, label] - ceiling.between, again - ceiling.between
        np.testing.assert_allclose(change, expected, atol=0.15 * np.abs(expected).max())


def test_pure_noise_has_a_low_ceiling() -> None:
    ceiling = ceiling_of(np.random.default_rng(0).standard_normal((2, 500, 40)))
    assert ceiling.lds < 0.15
    assert ceiling.ci[0] == 0
    assert share_of_ceiling(np.full(40, 0.1), np.zeros((40, 20)), ceiling) is None


def test_excludes_and_counts() -> None:
    _, margins = seeds(np.random.default_rng(0), 3, 50, 6, 0.8)
    margins[0, 3, 0] = np.nan
    margins[1, :, 1] = 0.0
    ceiling = ceiling_of(margins)
    assert ceiling.n_excluded == 2
    assert np.isnan(ceiling.per_target).tolist() == [True, True] + [False] * 4
    alone = ceiling_of(margins[:, :, 2:])
    assert ceiling.ci == pytest.approx(alone.ci)
    np.testing.assert_allclose(ceiling.per_target[2:], alone.per_target)
    nothing = ceiling_of(np.zeros((2, 50, 3)))
    assert nothing.n_excluded == 3
    assert np.isnan([nothing.lds, *nothing.ci]).all()
    assert share_of_ceiling(np.ones(3), np.zeros((3, 20)), nothing) is None


def test_identical_seeds_have_ceiling_one() -> None:
    one = np.random.default_rng(0).standard_normal((1, 40, 5))
    ceiling = ceiling_of(np.repeat(one, 3, 0))
    assert ceiling.lds == pytest.approx(1)
    assert ceiling.ci == pytest.approx((1, 1))


@pytest.mark.parametrize("m", [3, 4, 19])
def test_few_subsets_and_one_target(m: int) -> None:
    _, margins = seeds(np.random.default_rng(m), 2, m, 1, 0.9)
    ceiling = ceiling_of(margins)
    assert ceiling.shrinkage == 1
    assert 0 <= ceiling.ci[0] <= ceiling.lds <= ceiling.ci[1] <= 1
    assert ceiling.deleted.shape == (1, m)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="repeats has shape"):
        noise_ceiling(np.zeros((3, 4)))
    with pytest.raises(InputError, match="at least three subsets"):
        noise_ceiling(np.zeros((2, 2, 4)))


def benchmark(seed: int, m: int, t: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((40, t))
    masks = np.argsort(rng.random((m, 40)), axis=1) < 20
    common = rng.standard_normal((2, m, 1))
    margins = masks @ weights + 2 * common + rng.uniform(1, 4, t) * rng.standard_normal((2, m, t))
    return weights + rng.standard_normal((40, t)), masks, margins


def judged(scores: Array, masks: Array, margins: Array) -> tuple[Array, Array, Ceiling]:
    ceiling = ceiling_of(margins)
    trace = Trace(margins.shape[2], len(masks), ceiling.group)
    return lds(scores, masks, margins.mean(axis=0), trace=trace).per_target, trace.grouped, ceiling


def test_share_against_a_jackknife_that_recomputes() -> None:
    """One target, so subsets are all that varies: Fieller's ends from LDS and ceilings of the benchmark's 20 rests."""
    for seed in range(5):
        scores, masks, margins = benchmark(seed, 200, 1)
        share = share_of_ceiling(*judged(scores, masks, margins))
        assert share is not None

        def both(
            rows: Any, masks: Array = masks, margins: Array = margins, scores: Array = scores
        ) -> tuple[float, ...]:
            best = ceiling_of(margins[:, rows])
            return lds(scores, masks[rows], margins[:, rows].mean(axis=0)).mean, best.lds

        own, best = both(slice(None))
        left = np.array([both(np.arange(200) % 20 != g) for g in range(20)])
        v = 19 / 20 * (left - left.mean(axis=0)).T @ (left - left.mean(axis=0)) * 2.093**2  # Student's t of 19
        a, b, c = best**2 - v[1, 1], own * best - v[0, 1], own**2 - v[0, 0]
        ends = (b + np.array([-1, 1]) * np.sqrt(b**2 - a * c)) / a
        assert share.value == pytest.approx(own / best)
        # Influences are first-order; and the bias of Spearman's correlation widens the interval by what it moves.
        width = ends[1] - ends[0]
        np.testing.assert_allclose(share.ci, ends, atol=0.12 * width)


def test_share_leaves_out_what_ceiling_and_lds_have_in_common() -> None:
    """A perfect predictor's LDS falls and rises with the ceiling: its share is known better than its LDS."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 60))
    masks = np.argsort(rng.random((100, 40)), axis=1) < 20
    margins = masks @ weights + 3 * rng.uniform(0.2, 3, 60) * rng.standard_normal((2, 100, 60))
    per_target, grouped, ceiling = judged(weights, masks, margins)
    share = share_of_ceiling(per_target, grouped, ceiling)
    assert share is not None
    assert share.ci[0] < 1 < share.ci[1]
    plain = lds(weights, masks, margins.mean(axis=0)).ci
    assert (share.ci[1] - share.ci[0]) < 0.8 * (plain[1] - plain[0]) / ceiling.lds


def test_share_takes_the_targets_that_have_both() -> None:
    scores, masks, margins = benchmark(9, 100, 20)
    per_target, grouped, ceiling = judged(scores, masks, margins)
    per_target[3] = np.nan
    share = share_of_ceiling(per_target, grouped, ceiling)
    assert share is not None
    assert share.value == pytest.approx(np.nanmean(per_target) / np.delete(ceiling.per_target, 3).mean(), abs=0.002)
    assert share_of_ceiling(np.full(20, np.nan), grouped, ceiling) is None
