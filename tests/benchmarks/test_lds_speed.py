"""LDS beside what people use, from scores to correlations, and its second half alone: ranking what the product gives.

The peers are the loop of the LDS notebook (`scipy.stats.spearmanr` per target after one product) and dattri's `lds`.
The floor is the product alone, in float32, as numpy's BLAS does it on both cores.

    tox -e benchmark -- tests/benchmarks/test_lds_speed.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.kernels import ranks as kernel
from bench.kernels.packed import rank_block
from bench.scorer import MarginRanks, lds

Array = NDArray[Any]
Beside = Callable[..., None]

SIZES = [(100, 5_000, 1_000), (1_000, 5_000, 500)]


def problem(m: int, n: int, t: int) -> tuple[Array, Array, Array]:
    """Scores, masks of half the examples, margins."""
    rng = np.random.default_rng(0)
    masks = np.argsort(rng.random((m, n)), axis=1) < n // 2
    scores = rng.standard_normal((n, t)).astype(np.float32)
    margins = (masks @ scores / 30 + rng.standard_normal((m, t))).astype(np.float32)
    return scores, masks, margins


def correlations(predictions: Array, margins: Array) -> Array:
    """The loop over targets."""
    return np.array([spearmanr(predictions[:, j], margins[:, j])[0] for j in range(margins.shape[1])])


def loop(scores: Array, masks: Array, margins: Array) -> Array:
    """The LDS notebook's way."""
    return correlations(masks.astype(np.float32) @ scores, margins)


def by_dattri(scores: Array, masks: Array, margins: Array) -> Callable[[], Array]:
    """As its users call it: the subsets as indices, everything a tensor."""
    from dattri.metric import lds as dattri_lds

    kept = torch.from_numpy(np.stack([np.flatnonzero(row) for row in masks]))
    given = torch.from_numpy(scores), (torch.from_numpy(margins), kept)
    return lambda: np.asarray(dattri_lds(*given)[0])


@pytest.mark.benchmark
@pytest.mark.parametrize("way", ["scipy loop", "dattri lds", "lds", "lds, ranks cached", "floor"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_lds(benchmark: Any, beside: Beside, size: tuple[int, int, int], way: str) -> None:
    scores, masks, margins = problem(*size)
    ranks = MarginRanks.of(margins)
    as_floats = masks.astype(np.float32)
    ways: dict[str, Callable[[], Array]] = {
        "scipy loop": lambda: loop(scores, masks, margins),
        "dattri lds": by_dattri(scores, masks, margins),
        "lds": lambda: lds(scores, masks, margins).per_target,
        "lds, ranks cached": lambda: lds(scores, masks, margins, ranks=ranks).per_target,
        "floor": lambda: as_floats @ scores,
    }
    benchmark.group = "LDS, {} subsets x {} train x {} targets".format(*size)
    rounds = {"scipy loop": 9, "dattri lds": 3}.get(way, 60)
    result = benchmark.pedantic(ways[way], rounds=rounds, warmup_rounds=1)
    beside(way, 1, peer=way in ("scipy loop", "dattri lds"))
    if way != "floor":
        # Another order of summation in float32 swaps some near-ties, each worth up to 12 / m².
        np.testing.assert_allclose(result, loop(scores, masks, margins), atol=40 / size[0] ** 2)


@pytest.mark.benchmark
@pytest.mark.parametrize("way", ["scipy loop", "rank and correlate", "rank and correlate, margins' ranks cached"])
@pytest.mark.parametrize("size", [(100, 1_000), (1_000, 500)], ids=lambda size: "x".join(map(str, size)))
def test_ranking(benchmark: Any, beside: Beside, size: tuple[int, int], way: str) -> None:
    """From predictions to correlations with the influences that intervals come from: what `lds` does to a slab."""
    m, t = size
    scores, masks, margins = problem(m, 500, t)
    predictions = masks.astype(np.float32) @ scores
    by_target = np.ascontiguousarray(predictions.T)
    ranks = MarginRanks.of(margins)

    def rank_and_correlate(cached: bool) -> Array:
        rho, kinds = np.empty(t), np.empty(t, np.uint8)
        parts = kernel.blocks(t, m)
        space = kernel.Workspace(parts, m)

        def work(block: slice) -> None:
            size = block.stop - block.start
            x, y, h = space.x[:size], space.y[:size], space.influence[:size]
            rank_block(by_target[block], space.values, x, kinds[block])
            if cached:
                y = ranks.ranks[block]
            else:
                rank_block(margins[:, block].T, space.values, y, kinds[block])
            kernel.correlate_rows(x, y, rho[block], h)

        kernel.map_blocks(work, parts)
        return rho

    ways: dict[str, Callable[[], Array]] = {
        "scipy loop": lambda: correlations(predictions, margins),
        "rank and correlate": lambda: rank_and_correlate(False),
        "rank and correlate, margins' ranks cached": lambda: rank_and_correlate(True),
    }
    benchmark.group = f"ranks and correlations alone, {m} subsets x {t} targets"
    result = benchmark.pedantic(ways[way], rounds=9 if way == "scipy loop" else 60, warmup_rounds=1)
    beside(way, 1)
    np.testing.assert_allclose(result, correlations(predictions, margins), atol=1e-12)
