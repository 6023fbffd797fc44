"""Influence and memorization with standard errors beside the accumulation over runs that needs as little memory.

2,000 runs × 10,000 train × 2,000 test examples. The peer adds each run's outcomes to sums of [train, test],
which is what influence takes that must not hold all runs; it has no standard errors. It is timed on 20 of the runs.

    tox -e benchmark -- -s tests/benchmarks/test_memorization_speed.py
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench import memorization

RUNS, TRAIN, TEST, TIMED = 2_000, 10_000, 2_000, 20


@pytest.mark.benchmark
@pytest.mark.parametrize("way", ["accumulation over runs", "influence and memorization, with standard errors"])
def test_estimates(benchmark: Any, beside: Callable[..., None], way: str) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((RUNS, TRAIN)) < 0.7
    right, train_right = rng.random((RUNS, TEST)) < 0.8, rng.random((RUNS, TRAIN)) < 0.9
    benchmark.group = f"influence, {RUNS:,} runs x {TRAIN:,} train x {TEST:,} test"
    if way == "accumulation over runs":
        inside, outside = np.zeros((TRAIN, TEST), np.float32), np.zeros((TRAIN, TEST), np.float32)

        def accumulate() -> None:
            for mask, correct in zip(masks[:TIMED], right[:TIMED].astype(np.float32), strict=True):
                inside[mask] += correct
                outside[~mask] += correct

        benchmark.pedantic(accumulate, rounds=1)
        beside(way, TIMED)
        return

    def ours() -> None:
        memorization.own(masks, train_right)
        for _ in memorization.influence_slabs(masks, right):
            pass

    start = time.perf_counter()
    benchmark.pedantic(ours, rounds=3, warmup_rounds=1)
    beside(way, RUNS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\n{(time.perf_counter() - start) / 4:.2f} s a round; at most {peak:.2f} GB in the process")
