"""Verdicts end to end on a small ground truth, and on those where little can be said."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.cost import metered
from bench.judge import Judge, ranking
from bench.rows import Rows
from bench.scorer import lds

Array = NDArray[Any]

N = 40


def rows(margins: Array, masks: Array, repeats: int = 1) -> Rows:
    """Rows of a store: the seeds of a subset next to each other."""
    of_row = np.repeat(np.arange(len(masks)), repeats)
    return Rows(np.arange(len(of_row)), masks[of_row], margins.astype(np.float32), of_row)


def world(seed: int = 0, m: int = 60, t: int = 30, repeats: int = 1) -> tuple[Array, Rows]:
    """True weights and the rows of linear models that are noisy."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((N, t))
    masks = np.argsort(rng.random((m, N)), axis=1) < N // 2
    luck = rng.standard_normal((m * repeats, 1)) + rng.standard_normal((m * repeats, t))
    return weights, rows(np.repeat(masks @ weights, repeats, 0) + 2 * luck, masks, repeats)


def test_a_good_method_a_poor_one_and_chance() -> None:
    weights, with_seeds = world(repeats=3)
    labels = np.arange(30) % 3
    judge = Judge.of(with_seeds, 3, labels)
    means = with_seeds.margins.reshape(60, 3, 30).mean(axis=1)
    np.testing.assert_array_equal(judge.masks, with_seeds.masks[::3])
    np.testing.assert_allclose(judge.margins, means)
    np.testing.assert_allclose(judge.variance, means.astype(np.float64).var(axis=0))
    assert judge.ceiling is not None
    assert judge.why_no_ceiling is None

    good, poor = judge.verdict(weights), judge.verdict(weights + 3 * np.random.default_rng(1).standard_normal((N, 30)))
    expected = [spearmanr(judge.masks @ weights[:, j], means[:, j])[0] for j in range(30)]
    np.testing.assert_allclose(good.lds.per_target, expected)
    assert (good.lds.mean, good.lds.ci) == (judge.score(weights).mean, judge.score(weights).ci)
    assert good.null.p_value == poor.null.p_value == 1e-4
    assert good.share is not None
    assert poor.share is not None
    assert good.share.value == pytest.approx(good.lds.mean / judge.ceiling.lds)
    assert good.share.ci[0] < good.share.value < good.share.ci[1]
    assert good.share.value == pytest.approx(1, abs=0.03)
    assert poor.share.ci[1] < good.share.ci[0]
    assert set(good.spread.by_class) == {0, 1, 2}
    assert good.spread.by_class[2] == pytest.approx(np.mean(expected[2::3]))
    assert good.sample.per_target is good.lds.per_target
    assert good.null.ci[0] < 0 < good.null.ci[1]

    control = judge.control(0)
    assert control.null.p_value > 0.01
    assert abs(control.lds.mean) < 4 * control.null.stderr
    assert control.lds.mean == judge.control(0).lds.mean
    assert control.lds.mean != judge.control(1).lds.mean

    order = [good, poor, control]
    found = ranking([v.lds.mean for v in order], [v.sample for v in order])
    assert found.groups == ["a", "b", "c"]
    assert found.ranks == [(1, 1), (2, 2), (3, 3)]
    assert [(i, j) for i, j, *_ in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for i, j, difference, adjusted in found.pairs:
        assert difference.value == pytest.approx(order[j].lds.mean - order[i].lds.mean)
        assert difference.p_value <= adjusted < 0.05


def test_a_method_and_its_double_are_not_told_apart() -> None:
    weights, with_seeds = world()
    judge = Judge.of(with_seeds, 1)
    rng = np.random.default_rng(2)
    near = [judge.verdict(weights + 0.3 * rng.standard_normal(weights.shape)) for _ in range(2)]
    far = judge.verdict(weights + 4 * rng.standard_normal(weights.shape))
    order = [*near, near[1], far]
    found = ranking([v.lds.mean for v in order], [v.sample for v in order])
    assert found.groups == ["a", "a", "a", "b"]
    assert found.ranks == [(1, 3)] * 3 + [(4, 4)]
    assert found.pairs[3][2].p_value == found.pairs[3][3] == 1


def test_fewer_rejected_at_a_stricter_level() -> None:
    weights, with_seeds = world(3, m=30, t=20)
    judge = Judge.of(with_seeds, 1)
    rng = np.random.default_rng(0)
    verdicts = [judge.verdict(weights + size * rng.standard_normal(weights.shape)) for size in (0.5, 1, 1.5, 2, 3)]
    groups = [
        ranking([v.lds.mean for v in verdicts], [v.sample for v in verdicts], level=level).groups
        for level in (0.1, 0.95, 1 - 1e-12)
    ]
    assert groups[2] == ["a"] * 5
    assert len(set(groups[0])) > len(set(groups[1])) > 1


def test_against_single_models_the_score_is_that_of_their_margins_alone() -> None:
    weights, with_seeds = world(repeats=3)
    weights[:, 4] = np.nan  # nothing is said on it: it counts as 0, as in the table
    weights[:, 5] = 0.0
    margins = with_seeds.margins.copy()
    margins[:, 6] = 1.0  # nothing can be said on it: left out
    judge = Judge.of(Rows(with_seeds.index, with_seeds.masks, margins, with_seeds.subset), 3)
    verdict = judge.verdict(weights)
    expected = lds(weights, with_seeds.masks[::3], margins[::3], undefined="zero")
    assert verdict.one_seed is not None
    np.testing.assert_allclose(verdict.one_seed.per_target, expected.per_target)
    assert verdict.one_seed.mean == pytest.approx(expected.mean, abs=1e-12)
    assert verdict.one_seed.ci == pytest.approx(expected.ci, abs=1e-9)
    assert (verdict.one_seed.n_excluded, verdict.one_seed.zeroed) == (1, {"predictions constant": 2})
    assert verdict.one_seed.mean < verdict.lds.mean
    assert Judge.of(world()[1], 1).verdict(weights).one_seed is None


def test_one_seed_has_no_ceiling() -> None:
    weights, with_seeds = world()
    judge = Judge.of(with_seeds, 1)
    assert judge.ceiling is None
    assert judge.why_no_ceiling is not None
    assert "one seed per subset" in judge.why_no_ceiling
    verdict = judge.verdict(weights)
    assert verdict.share is None
    assert set(verdict.spread.by_class) == {0}  # without labels, one class


@pytest.mark.parametrize("repeats", [1, 2])
def test_two_subsets(repeats: int) -> None:
    weights, with_seeds = world(m=2, t=5, repeats=repeats)
    judge = Judge.of(with_seeds, repeats)
    assert judge.ceiling is None
    assert judge.why_no_ceiling is not None
    assert ("three eval subsets" in judge.why_no_ceiling) == (repeats == 2)
    verdict, other = judge.verdict(weights), judge.verdict(-weights)
    assert set(verdict.lds.per_target) <= {-1.0, 1.0}
    assert verdict.null.p_value == 1  # of two permutations both are as far out
    found = ranking([verdict.lds.mean, other.lds.mean], [verdict.sample, other.sample])
    assert len(found.ranks) == 2


def test_one_target() -> None:
    weights, with_seeds = world(t=1, m=80, repeats=2)
    judge = Judge.of(with_seeds, 2, np.array([4]))
    good, poor = judge.verdict(weights), judge.verdict(np.random.default_rng(9).standard_normal((N, 1)))
    assert good.lds.ci[0] < good.lds.mean < good.lds.ci[1]
    assert good.share is not None
    assert good.spread.by_class == {4: good.lds.mean}
    difference = ranking([good.lds.mean, poor.lds.mean], [good.sample, poor.sample]).pairs[0][2]
    assert difference.n_targets == 1
    assert difference.p_value < 0.01


def test_margins_that_are_not_finite() -> None:
    """NaN excludes a target; an infinite margin ranks last, unless the seeds' mean is no number."""
    weights, with_seeds = world(t=8, repeats=2)
    margins = with_seeds.margins.copy()
    margins[5, 0], margins[8, 1], margins[8, 2], margins[9, 2] = np.nan, np.inf, np.inf, -np.inf
    judge = Judge.of(rows(margins, with_seeds.masks[::2], 2), 2)
    verdict = judge.verdict(weights)
    assert np.isnan(verdict.lds.per_target).tolist() == [True, False, True] + [False] * 5
    assert verdict.lds.excluded == {"margins contain NaN": 2}
    assert np.isnan(judge.variance).tolist() == [True, True, True] + [False] * 5
    assert verdict.null.p_value < 0.01
    assert judge.ceiling is not None
    assert judge.ceiling.n_excluded == 1
    assert verdict.share is not None
    clean = Judge.of(rows(margins[:, 3:], with_seeds.masks[::2], 2), 2)
    part = np.flatnonzero(np.isfinite(verdict.lds.per_target))
    assert verdict.lds.mean == pytest.approx(verdict.lds.per_target[part].mean())
    np.testing.assert_allclose(clean.verdict(weights[:, 3:]).lds.per_target, verdict.lds.per_target[3:])


def test_methods_that_say_nothing() -> None:
    """Constant scores count as 0 everywhere, and chance does as well."""
    weights, with_seeds = world(repeats=2)
    judge = Judge.of(with_seeds, 2)
    silent, good = judge.verdict(np.zeros((N, 30))), judge.verdict(weights)
    assert silent.lds.mean == 0
    assert silent.lds.zeroed == {"predictions constant": 30}
    assert (silent.null.p_value, silent.null.stderr) == (1, 0)
    assert list(silent.spread.quantiles) == [0] * 5
    assert silent.share is not None
    assert silent.share.value == 0
    both = ranking([0, 0], [silent.sample, silent.sample])
    assert both.groups == ["a", "a"]
    assert both.pairs[0][2].p_value == 1
    assert ranking([good.lds.mean, 0], [good.sample, silent.sample]).groups == ["a", "b"]


def test_nothing_to_judge_by() -> None:
    """All margins constant: no target has a correlation."""
    _, with_seeds = world(t=4)
    judge = Judge.of(rows(np.ones((60, 4)), with_seeds.masks), 1)
    verdict = judge.verdict(np.random.default_rng(0).standard_normal((N, 4)))
    assert verdict.lds.n_excluded == 4
    assert np.isnan([verdict.lds.mean, verdict.null.p_value, verdict.spread.negative]).all()
    found = ranking([0, 0], [verdict.sample] * 2)
    assert found.groups == ["a", "a"]
    assert np.isnan(found.pairs[0][3])


def test_fewer_permutations_where_subsets_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, with_seeds = world(t=3)
    judge = Judge.of(with_seeds, 1)
    assert len(judge.verdict(weights).null.draws) == 9_999
    assert len(judge.verdict(weights, permutations=7).null.draws) == 7
    monkeypatch.setattr("bench.judge._MOST_DRAWN", 60 * 1_500)
    assert len(judge.verdict(weights).null.draws) == 1_500
    monkeypatch.setattr("bench.judge._MOST_DRAWN", 60)
    assert len(judge.verdict(weights).null.draws) == 999


def test_of_none_and_one() -> None:
    weights, with_seeds = world(t=3)
    alone = Judge.of(with_seeds, 1).verdict(weights)
    assert ranking([], []).pairs == []
    one = ranking([alone.lds.mean], [alone.sample])
    assert (one.pairs, one.ranks, one.groups) == ([], [(1, 1)], ["a"])


def test_the_same_as_lds() -> None:
    weights, with_seeds = world(repeats=2)
    judge = Judge.of(with_seeds, 2)
    assert judge.verdict(weights).lds.ci == lds(weights, judge.masks, judge.margins).ci


@pytest.mark.slow
def test_memory_at_10_000_targets_and_2_000_subsets() -> None:
    """The margins take 80 MB, their ranks as much again, and so do those of the predictions."""
    rng = np.random.default_rng(0)
    masks, weights = rng.random((2_000, 200)) < 0.5, rng.standard_normal((200, 10_000), np.float32)
    margins = masks.astype(np.float32) @ weights + 20 * rng.standard_normal((2_000, 10_000), np.float32)
    with metered() as meter:
        verdict = Judge.of(rows(margins, masks), 1).verdict(weights)
    assert verdict.null.p_value == 1e-4
    print(f"{meter.peak_bytes / 1e6:.0f} MB above the inputs")
    assert meter.peak_bytes < 1e9
