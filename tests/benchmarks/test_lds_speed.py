"""LDS beside the loop that users write, `scipy.stats.spearmanr` per target after one product.

tox -e benchmark -- tests/benchmarks/test_lds_speed.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.scorer import MarginRanks, lds

Array = NDArray[Any]

SIZES = [(100, 5_000, 1_000), (1_000, 5_000, 500)]


def loop(scores: Array, masks: Array, margins: Array) -> Array:
    """The LDS notebook's way."""
    predictions = masks.astype(np.float32) @ scores
    return np.array([spearmanr(predictions[:, j], margins[:, j])[0] for j in range(margins.shape[1])])


@pytest.mark.benchmark
@pytest.mark.parametrize("way", ["loop", "lds", "lds, ranks cached"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_lds(benchmark: Any, beside: Callable[[str, float], None], size: tuple[int, int, int], way: str) -> None:
    m, n, t = size
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < 0.5
    scores = rng.standard_normal((n, t)).astype(np.float32)
    margins = (masks @ scores / 30 + rng.standard_normal((m, t))).astype(np.float32)
    ranks = MarginRanks.of(margins)
    ways: dict[str, Callable[[], Array]] = {
        "loop": lambda: loop(scores, masks, margins),
        "lds": lambda: lds(scores, masks, margins).per_target,
        "lds, ranks cached": lambda: lds(scores, masks, margins, ranks=ranks).per_target,
    }
    benchmark.group = f"LDS, {m} subsets x {n} train x {t} targets"
    result = benchmark.pedantic(ways[way], rounds=9 if way == "loop" else 40, warmup_rounds=1)
    beside(way, 1)
    # Another order of summation in float32 swaps some near-ties, each worth up to 12 / m².
    np.testing.assert_allclose(result, loop(scores, masks, margins), atol=40 / m**2)
