"""Whether intervals and tests keep their word: benchmarks drawn from worlds in which the true values are known.

tox -e slow -- -s tests/test_coverage.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.judge import Judge, ranking
from bench.rows import Rows
from bench.scorer import MarginRanks
from bench.stats import paired_difference, permutation_null

Array = NDArray[Any]
Say = Callable[[str], None]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    """Linear models of random halves of a training set, and methods that know their weights up to an error.

    Targets are draws: weights, errors, and how large both are. So are the subsets and the noise of every training.
    Predictions and margins are sums of many terms, normal to a good approximation, which gives a target's Spearman
    correlation over unlimited subsets from the two weight vectors; the mean over targets is that of a great many.

    Attributes:
        noise: of a single model's margins, over the standard deviation of the expected margins.
        errors: of each method's scores, over their own.
        shared: part of the weights' variance that all targets have in common.
        error_shared: the same of a method's errors.
        common: part of the noise that a model's margins on all targets have in common.
        spread: how much noise and errors vary over targets (standard deviation of their logarithm).
        repeats: seeds per subset.
        n: training examples.
    """

    noise: float
    errors: tuple[float, ...] = (1.0,)
    shared: float = 0.3
    error_shared: float = 0.0
    common: float = 0.3
    spread: float = 0.3
    repeats: int = 1
    n: int = 100

    def targets(self, rng: np.random.Generator, t: int) -> tuple[Array, list[Array], Array]:
        """True weights [n, t], the scores [n, t] of each method, the noise of each target's margins [t]."""
        n = self.n
        fixed = np.random.default_rng(0).standard_normal((n, 1 + len(self.errors)))
        # Orthogonal directions: methods of equal error have equal true LDS, whatever errors their targets share.
        directions = np.sqrt(n) * np.linalg.qr(np.column_stack([np.ones(n), fixed]))[0][:, 1:]
        weights = np.sqrt(self.shared) * directions[:, :1] + np.sqrt(1 - self.shared) * rng.standard_normal((n, t))
        size = np.exp(self.spread * rng.standard_normal((2, t)))
        scores = []
        for k, error in enumerate(self.errors, 1):
            own = np.sqrt(1 - self.error_shared) * rng.standard_normal((n, t))
            scores.append(weights + error * size[0] * (np.sqrt(self.error_shared) * directions[:, k : k + 1] + own))
        return weights, scores, self.noise * np.sqrt(n) / 2 * size[1]

    def per_target(self, weights: Array, scores: Array, noise: Array) -> Array:
        """Each target's LDS over unlimited subsets, for the mean of the seeds."""
        w, s = weights - weights.mean(axis=0), scores - scores.mean(axis=0)
        each = self.n / (self.n - 1) / 4  # Σ over a random half: its variance is this, times Σ of squares
        margins = each * (w * w).sum(axis=0) + noise**2 / self.repeats
        return spearman(each * (w * s).sum(axis=0) / np.sqrt(each * (s * s).sum(axis=0) * margins))

    def truth(self) -> tuple[Array, float]:
        """The true LDS of each method and the true ceiling, as means over 200,000 targets."""
        rng = np.random.default_rng(99)
        found = []
        for _ in range(20):
            w, methods, noise = self.targets(rng, 10_000)
            found.append([self.per_target(w, s, noise).mean() for s in [*methods, w]])
        lds = np.mean(found, axis=0)
        for error in set(self.errors):
            same = [k for k, e in enumerate(self.errors) if e == error]
            lds[same] = lds[same].mean()
        return lds[:-1], float(lds[-1])

    def draw(self, rng: np.random.Generator, m: int, t: int) -> tuple[Judge, list[Array], Callable[[Array], Array]]:
        """A benchmark of m subsets and t targets: its judge, each method's scores, and what gives their own truths."""
        weights, scores, noise = self.targets(rng, t)
        masks = np.argsort(rng.random((m, self.n)), axis=1) < self.n // 2
        of_row = np.repeat(np.arange(m), self.repeats)
        together, apart = rng.standard_normal((len(of_row), 1)), rng.standard_normal((len(of_row), t))
        luck = np.sqrt(self.common) * together + np.sqrt(1 - self.common) * apart
        margins = ((masks @ weights)[of_row] + noise * luck).astype(np.float32)
        judge = Judge.of(Rows(np.arange(len(of_row)), masks[of_row], margins, of_row), self.repeats)
        return judge, scores, lambda s: self.per_target(weights, s, noise)


def spearman(pearson: Array) -> Array:
    """Of a bivariate normal distribution."""
    return np.asarray(6 / np.pi * np.arcsin(pearson / 2))


LOW = World(noise=3, errors=(3,))
MIDDLE = World(noise=1)
HIGH = World(noise=0.3, errors=(0.5,))
ALIKE = World(noise=1, spread=0, shared=0, common=0)
TOGETHER = World(noise=0.5, errors=(0.3,), shared=0.7, common=0.7)
REPEATED = World(noise=1, repeats=2)


@pytest.mark.parametrize("world", [LOW, MIDDLE, HIGH, ALIKE, TOGETHER, REPEATED])
@pytest.mark.parametrize(("m", "t"), [(50, 20), (50, 360), (100, 1), (100, 20), (100, 360), (200, 20), (200, 360)])
def test_lds_intervals(world: World, m: int, t: int) -> None:
    rng = np.random.default_rng(1)
    (truth,), _ = world.truth()
    draws, hits, means = 2_000, 0, []
    for _ in range(draws):
        judge, (scores,), own = world.draw(rng, m, t)
        found = judge.score(scores)
        target = own(scores)[0] if t == 1 else truth  # a single target is not a sample of targets
        hits += found.ci[0] <= target <= found.ci[1]
        means.append(found.mean)
    print(f"{world}, {m} subsets x {t} targets: LDS {truth:.3f}, sd {np.std(means):.4f}: {hits / draws:.1%} covered")
    assert 0.92 <= hits / draws <= 0.98


TWO = World(noise=1, errors=(1, 1))
TWO_TOGETHER = World(noise=1, errors=(1, 1), error_shared=0.5, shared=0.5, common=0.5)
TWO_HIGH = World(noise=0.3, errors=(0.3, 0.3))
LOSS = World(noise=1, errors=(1, 1.24))
FAR = World(noise=0.3, errors=(0.3, 2))


@pytest.mark.parametrize("world", [TWO, TWO_TOGETHER, TWO_HIGH, LOSS, FAR])
@pytest.mark.parametrize(("m", "t"), [(20, 30), (50, 20), (50, 360), (100, 1), (100, 360), (200, 100)])
def test_paired_differences(world: World, m: int, t: int) -> None:
    """Methods of equal LDS are told apart in 5% of draws; intervals of differences cover."""
    rng = np.random.default_rng(2)
    lds, _ = world.truth()
    draws, hits, rejected = 600, 0, 0
    for _ in range(draws):
        judge, scores, own = world.draw(rng, m, t)
        first, second = (judge.verdict(s, permutations=1).sample for s in scores)
        found = paired_difference(first, second)
        truth = (own(scores[1]) - own(scores[0]))[0] if t == 1 else lds[1] - lds[0]
        hits += found.ci[0] <= truth <= found.ci[1]
        rejected += found.p_value < 0.05
    print(
        f"{world}, {m} x {t}: LDS {lds[0]:.3f}, difference {lds[1] - lds[0]:+.3f}: {hits / draws:.1%} covered, "
        f"{rejected / draws:.1%} told apart"
    )
    assert 0.92 <= hits / draws <= (0.99 if m == 20 else 0.98)  # on 20 subsets, 1% of the LDS is a few swaps
    if lds[0] == lds[1] and t > 1:
        assert rejected / draws <= 0.075  # 5% known to ±.9%


@pytest.mark.parametrize(("m", "t"), [(20, 30), (100, 20), (200, 100)])
def test_nearly_equal_methods_are_judged_with_care(m: int, t: int) -> None:
    """Where only neighbours swap, intervals are wide rather than narrow."""
    world, rng = World(noise=0.5, errors=(0.01, 0.01)), np.random.default_rng(3)
    found = []
    for _ in range(400):
        judge, scores, _ = world.draw(rng, m, t)
        first, second = (judge.verdict(s, permutations=1).sample for s in scores)
        found.append(paired_difference(first, second))
    told = np.mean([d.p_value < 0.05 for d in found])
    ratio = np.sqrt(np.mean([d.stderr**2 for d in found])) / np.std([d.value for d in found])
    print(f"{m} x {t}: standard errors {ratio:.2f} times too large, {told:.1%} told apart")
    assert told <= 0.05
    assert 1 <= ratio <= 2


def test_a_loss_of_a_tenth_is_seen() -> None:
    rng = np.random.default_rng(4)
    lds, _ = LOSS.truth()
    assert lds[1] == pytest.approx(0.9 * lds[0], abs=0.005)
    seen = 0
    for _ in range(100):
        judge, scores, _ = LOSS.draw(rng, 200, 360)
        first, second = (judge.verdict(s, permutations=1).sample for s in scores)
        seen += paired_difference(first, second).ci[1] < 0
    print(f"a loss of a tenth, 200 subsets x 360 targets: seen in {seen}% of draws")
    assert seen >= 95


@pytest.mark.parametrize("world", [World(noise=1, errors=(1,) * 6), World(1, (1,) * 6, 0.5, 0.5, 0.5)])
@pytest.mark.parametrize(("m", "t"), [(50, 100), (200, 50)])
def test_equal_methods_are_told_apart_seldom(world: World, m: int, t: int) -> None:
    """The chance that any of the 15 pairs of six equal methods is told apart."""
    rng = np.random.default_rng(5)
    draws, wrong = 400, 0
    for _ in range(draws):
        judge, methods, _ = world.draw(rng, m, t)
        verdicts = sorted((judge.verdict(s, permutations=1) for s in methods), key=lambda v: -v.lds.mean)
        found = ranking([v.lds.mean for v in verdicts], [v.sample for v in verdicts])
        wrong += set(found.groups) != {"a"}
        assert (found.ranks != [(1, 6)] * 6) == (set(found.groups) != {"a"})
    print(f"{world}, {m} x {t}: some pair told apart in {wrong / draws:.1%}")
    assert wrong / draws <= 0.075


def test_rank_intervals_hold_together() -> None:
    """Six methods at distances from none to plain: all true ranks are covered at once."""
    world, rng = World(noise=1, errors=(0.8, 0.85, 0.85, 1.0, 1.05, 1.5), error_shared=0.2), np.random.default_rng(6)
    truth, _ = world.truth()
    draws, hits, widths = 400, 0, []
    for _ in range(draws):
        judge, scores, _ = world.draw(rng, 100, 100)
        verdicts = [judge.verdict(s, permutations=1) for s in scores]
        order = sorted(range(6), key=lambda k: -verdicts[k].lds.mean)
        found = ranking([verdicts[k].lds.mean for k in order], [verdicts[k].sample for k in order])
        all_in = True
        for k, (best, worst) in zip(order, found.ranks, strict=True):
            # Of equal methods, any order is true.
            all_in &= best <= 1 + int((truth > truth[k]).sum()) and worst >= 6 - int((truth < truth[k]).sum())
            widths.append(worst - best)
        hits += all_in
    print(f"all six ranks covered in {hits / draws:.1%}; ranks spanned beyond the first: {np.mean(widths):.2f}")
    assert hits / draws >= 0.94
    assert np.mean(widths) < 3


@pytest.mark.parametrize(("m", "t", "common"), [(20, 1, 0.0), (50, 30, 0.8), (200, 200, 0.3)])
def test_chance_is_called_chance(m: int, t: int, common: float) -> None:
    """p-values of scores that know nothing, all sharing an error, against margins that share their noise."""
    rng = np.random.default_rng(7)
    draws, p_values = 1_000, []
    for _ in range(draws):
        together, apart = rng.standard_normal((2, m, 1)), rng.standard_normal((2, m, t))
        x, y = (MarginRanks.of(values).ranks for values in np.sqrt(common) * together + np.sqrt(1 - common) * apart)
        p_values.append(permutation_null(x, y, permutations=499, seed=int(rng.integers(2**31))).p_value)
    sizes = {level: np.mean(np.array(p_values) <= level) for level in (0.01, 0.05, 0.5)}
    print(f"{m} x {t}, {common} in common: p-values below", {level: f"{size:.1%}" for level, size in sizes.items()})
    for level, size in sizes.items():
        assert abs(size - level) <= 3.5 * np.sqrt(level * (1 - level) / draws)


QUIET = World(noise=0.33, repeats=2)
EVEN = World(noise=1, repeats=2)
FOUR = World(noise=1, repeats=4)
NOISY = World(noise=2, repeats=2)
VARIED = World(noise=1, spread=0.6, shared=0, common=0, repeats=2)
PERFECT = World(noise=1, errors=(0.001,), repeats=2)


@pytest.mark.parametrize("world", [QUIET, EVEN, FOUR, NOISY, VARIED, PERFECT])
@pytest.mark.parametrize(("m", "t"), [(20, 30), (50, 20), (100, 360), (200, 100)])
def test_ceilings_and_shares(world: World, m: int, t: int) -> None:
    rng = np.random.default_rng(8)
    (lds,), ceiling = world.truth()
    draws, hits, given, share_hits, found = 600, 0, 0, 0, []
    for _ in range(draws):
        judge, (scores,), _ = world.draw(rng, m, t)
        assert judge.ceiling is not None
        found.append(judge.ceiling.lds)
        hits += judge.ceiling.ci[0] <= ceiling <= judge.ceiling.ci[1]
        share = judge.verdict(scores, permutations=1).share
        given += share is not None
        share_hits += share is not None and share.ci[0] <= lds / ceiling <= share.ci[1]
    print(
        f"{world}, {m} x {t}: ceiling {ceiling:.3f} found as {np.mean(found):.3f} ± {np.std(found):.3f}, "
        f"{hits / draws:.1%} covered; share {lds / ceiling:.3f}: {given / draws:.1%} given, {share_hits / given:.1%} "
        "of them covered"
    )
    assert (0.89 if m == 20 else 0.92) <= hits / draws <= 0.98  # 20 subsets are few for ceilings that vary
    assert 0.92 <= share_hits / given <= 0.98
    assert np.mean(found) == pytest.approx(ceiling, abs=0.03 if m < 50 else 0.02)
