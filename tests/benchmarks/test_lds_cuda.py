"""LDS on a CUDA device at released scale: 10,000 subsets × 50,000 train × 10,000 targets, with its intervals.

A record of it comes from this command, on a machine with a CUDA device; the correlations of some targets are compared
with those of float64 predictions.

    pytest -m "gpu and benchmark" -s tests/benchmarks/test_lds_cuda.py
"""

import time

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bench.scorer import lds

M, N, T = 10_000, 50_000, 10_000


@pytest.mark.gpu
@pytest.mark.benchmark
def test_released_scale() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator("cuda").manual_seed(0)
    masks = torch.rand(M, N, generator=generator, device="cuda") < 0.5
    scores = torch.randn(N, T, generator=generator, device="cuda")
    margins = torch.empty(M, T, device="cuda")
    for part in range(0, M, 1_000):  # noise as strong as the signal
        noise = torch.randn(1_000, T, generator=generator, device="cuda") * (N / 4) ** 0.5
        margins[part : part + 1_000] = masks[part : part + 1_000].float() @ scores + noise
    seconds = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        found = lds(scores, masks, margins)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30
    some = torch.arange(0, T, T // 20, device="cuda")
    exact = torch.cat([rows.double() @ scores[:, some].double() for rows in masks.split(1_000)]).cpu().numpy()
    expected = [spearmanr(exact[:, k], margins[:, j].cpu().numpy())[0] for k, j in enumerate(some.tolist())]
    off = np.abs(found.per_target[some.cpu().numpy()] - expected)
    print(
        f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}: {M:,} subsets × {N:,} train × {T:,} targets: "
        f"first {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s; {peak:.1f} GiB; LDS {found.mean:.4f} {found.ci}; "
        f"{len(some)} targets differ from float64 by at most {off.max():.1e}, mean {off.mean():.1e}"
    )
    assert off.max() < 1e-5
    assert abs(off.mean()) < 1e-6
