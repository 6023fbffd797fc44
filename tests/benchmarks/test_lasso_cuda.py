"""The LASSO of all targets at released scale on one GPU: counts, paths, validation and refit, from the rows on.

Masks and margins are made on the device, chunk by chunk, from a seeded generator: 300,000 × 50,000 masks and 10,000
targets by default, which takes about 70 GB. Time for making the rows is counted and printed apart. No time is asserted.

    pytest -m "gpu and benchmark" -s tests/benchmarks/test_lasso_cuda.py

`BENCH_LASSO_M`, `_N`, `_T` and `_LAMBDAS` set other sizes; `BENCH_LASSO_DEVICE=cpu` runs it on the host, to see that it
runs: `BENCH_LASSO_DEVICE=cpu BENCH_LASSO_M=2000 BENCH_LASSO_N=300 BENCH_LASSO_T=40 pytest -m "gpu and benchmark" -s …`.
"""

import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import memory
from bench.lasso_torch import Solution, fit

DEVICE = torch.device(os.environ.get("BENCH_LASSO_DEVICE", "cuda"))
M, N, T, LAMBDAS = (
    int(os.environ.get(f"BENCH_LASSO_{name}", default))
    for name, default in (("M", 300_000), ("N", 50_000), ("T", 10_000), ("LAMBDAS", 100))
)
STRONG = 40  # examples per target that matter
TOL = 1e-4


class Synthetic:
    """Rows of a sparse linear truth with noise as large as the signal; each block of rows has a seed of its own.

    Args:
        m: rows.
        n: train examples, kept in half of the rows.
        T: targets.
        device: where the rows are made.
    """

    block = 1024

    def __init__(self, m: int, n: int, T: int, device: torch.device):
        self.m, self.n, self.T, self.device = m, n, T, device
        self.seconds = 0.0
        rng = np.random.default_rng(0)
        strong = min(STRONG, n)
        index = torch.from_numpy(rng.integers(0, n, (strong, T)))
        size = torch.from_numpy(rng.standard_t(3, (strong, T)).astype(np.float32))
        # Half precision holds what the product needs, and multiplies at full speed where there are units for it.
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.truth = torch.zeros(n, T, dtype=dtype, device=device)
        self.truth.scatter_(0, index.to(device), size.to(device, dtype))
        self.noise = (0.25 * size.square().sum(0)).sqrt().to(device)

    def chunks(self, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """See `bench.sources_torch.Source`."""
        for first in range(0, self.m, step):
            start = time.perf_counter()
            last = min(first + step, self.m)
            masks = torch.empty(last - first, self.n, dtype=torch.uint8, device=self.device)
            margins = torch.empty(last - first, self.T, device=self.device)
            for b in range(first // self.block, -(-last // self.block)):
                rows = slice(max(first, b * self.block), min(last, (b + 1) * self.block))
                here = slice(rows.start - b * self.block, rows.stop - b * self.block)
                there = slice(rows.start - first, rows.stop - first)
                kept, noise = self._block(b)
                masks[there] = kept[here]
                margins[there] = (kept[here].to(self.truth.dtype) @ self.truth).float() + noise[here]
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - start
            yield slice(first, last), masks, margins

    def _block(self, b: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator(self.device).manual_seed(1 + b)
        kept = torch.randint(0, 2, (self.block, self.n), dtype=torch.uint8, device=self.device, generator=draw)
        return kept, self.noise * torch.randn(self.block, self.T, device=self.device, generator=draw)


def test_rows_do_not_depend_on_chunks() -> None:
    source = Synthetic(2500, 30, 5, torch.device("cpu"))
    whole = next(source.chunks(2500))
    for step in (100, 1024, 1500):
        rows, masks, margins = zip(*source.chunks(step), strict=True)
        assert [r.start for r in rows] == list(range(0, 2500, step))
        assert torch.equal(torch.cat(masks), whole[1])
        torch.testing.assert_close(torch.cat(margins), whole[2])
    assert 0.48 < whole[1].float().mean() < 0.52


@pytest.mark.gpu
@pytest.mark.benchmark(group="lasso at released scale")
@pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device")
def test_released_scale(benchmark: Any) -> None:
    # Counts, two Grams, two sets of cross products, weights and truth; and 12 GB to work in at full size.
    need = 12 * N * N + (8 + 8 + 4 + 2) * N * T + min(12 << 30, 40 * N * T)
    if memory.free(DEVICE) < need:
        pytest.skip(f"needs {need / 1e9:.0f} GB free on {DEVICE}; set BENCH_LASSO_M, _N and _T for a smaller run")
    source = Synthetic(M, N, T, DEVICE)
    part = np.full(M, -1)
    part[np.random.default_rng(0).permutation(M)[: M // 5]] = 0
    options: dict[str, Any] = {"n_lambdas": LAMBDAS, "min_ratio": 0.01, "patience": 3, "tol": TOL}
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats(DEVICE)
    found: Solution = benchmark.pedantic(
        fit, (source, part, 1), options | {"device": DEVICE, "on_device": True}, rounds=1
    )
    report = {
        "shape": {"m": M, "n": N, "T": T, "lambdas": LAMBDAS, "tol": TOL},
        "seconds": {name: round(seconds, 2) for name, seconds in found.seconds.items()}
        | {"all": round(benchmark.stats.stats.median, 2), "of which making the rows": round(source.seconds, 2)},
        "peak GB": round(_peak() / 1e9, 2),
        "gap": {f"{q:g}%": float(f"{np.percentile(found.gap, q):.3g}") for q in (50, 99, 100)},
        "share of targets with gap <= tol": float((found.gap <= TOL).mean()),
        "kkt, greatest": float(f"{found.kkt.max():.3g}"),
        "lam/lam_max, median": float(f"{np.median(found.lam / found.lam_max):.3g}"),
        "weights that are not zero, mean per target": round(float((found.weight != 0).sum() / T), 1),
        "device": torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
    }
    benchmark.extra_info |= report
    print("\n" + json.dumps(report, indent=2))
    assert np.isfinite(found.gap).all()
    # The strongest example of each target is found.
    strongest = source.truth.abs().argmax(0)
    hit = (found.weight.abs().argmax(0) == strongest).float().mean()
    assert hit > (0.9 if M >= 5 * N else 0.5)


def _peak() -> float:
    if DEVICE.type == "cuda":
        return float(torch.cuda.max_memory_allocated(DEVICE))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
