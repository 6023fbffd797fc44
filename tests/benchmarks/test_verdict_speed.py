"""How long all that a run says of 20 methods takes: LDS, intervals, chance, ceiling, shares, spread, every pair.

tox -e benchmark -- tests/benchmarks/test_verdict_speed.py -s
"""

from typing import Any

import numpy as np
import pytest

from bench.judge import Judge, ranking
from bench.rows import Rows

METHODS, TARGETS, ROWS, TRAIN = 20, 500, 1_000, 1_500


@pytest.mark.benchmark
@pytest.mark.parametrize("repeats", [1, 2])
def test_verdicts(benchmark: Any, repeats: int) -> None:
    rng = np.random.default_rng(0)
    masks = np.argsort(rng.random((ROWS // repeats, TRAIN)), axis=1) < TRAIN // 2
    weights = rng.standard_normal((TRAIN, TARGETS))
    of_row = np.repeat(np.arange(len(masks)), repeats)
    margins = (masks @ weights)[of_row] + 20 * rng.standard_normal((ROWS, TARGETS))
    rows = Rows(np.arange(ROWS), masks[of_row], margins.astype(np.float32), of_row)
    errors = np.linspace(1, 3, METHODS)
    methods = [(weights + e * rng.standard_normal(weights.shape)).astype(np.float32) for e in errors]
    labels = rng.integers(0, 10, TARGETS)

    def everything() -> int:
        judge = Judge.of(rows, repeats, labels)
        verdicts = sorted((judge.verdict(scores) for scores in methods), key=lambda v: -v.lds.mean)
        judge.control(0)
        return len(ranking([v.lds.mean for v in verdicts], [v.sample for v in verdicts]).pairs)

    benchmark.group = f"verdicts on {METHODS} methods, {TARGETS} targets, {ROWS} eval rows, {TRAIN} train"
    pairs = benchmark.pedantic(everything, rounds=3, warmup_rounds=1)
    assert pairs == METHODS * (METHODS - 1) // 2
    print(f"\n{repeats} seeds: {benchmark.stats.stats.median:.2f} s for everything")
