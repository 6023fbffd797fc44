"""How a datamodel fit's time grows with rows, examples and targets, and how far it is from its floor.

Masks and margins lie on disk as memmaps and are in the page cache. The floor is what a fit by matrix products cannot do
without, at the rate at which both cores multiply large float32 matrices: ½·m·n² multiply-adds for the Gram, m·n·T for
XᵀY, and for every penalty that a target's path visits, the refit and the certificate one gradient of all n examples
from the weights that are not zero; and one reading of the files. Counting bits goes below the first of these, tables of
sums below the second. Prints a Markdown table; no time is asserted.

    tox -e benchmark -- tests/benchmarks/test_lasso_scaling.py
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.cost import metered
from bench.gram import Design
from bench.lasso import fit_datamodels

# m, n, T. The first is the centre; each of the others changes one of the three, and the last is the largest.
SHAPES = [
    (5000, 2000, 500),
    (20_000, 2000, 500),
    (100_000, 2000, 500),
    (5000, 500, 500),
    (5000, 5000, 500),
    (5000, 2000, 1),
    (5000, 2000, 5000),
    (100_000, 5000, 500),
]
PENALTIES, PATIENCE = 100, 10
_CHUNK = 5000


def on_disk(folder: Path, m: int, n: int, T: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Memmaps of half subsets, and of margins with forty strong examples, a dense tail, and as much noise as signal."""
    rng = np.random.default_rng(0)
    weight = 0.05 * rng.standard_normal((n, T), np.float32)
    for t in range(T):
        weight[rng.choice(n, 40, replace=False), t] += rng.standard_t(3, 40)
    scale = 0.5 * np.sqrt((weight**2).sum(0))  # of the signal
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, (m, n))
    margins = np.lib.format.open_memmap(folder / "margins.npy", "w+", np.float32, (m, T))
    for at in range(0, m, _CHUNK):
        kept = rng.random((min(_CHUNK, m - at), n), np.float32) < 0.5
        masks[at : at + len(kept)] = kept
        noise = scale * rng.standard_normal((len(kept), T), np.float32)
        margins[at : at + len(kept)] = (kept.astype(np.float32) - 0.5) @ weight + noise
    masks.flush()
    margins.flush()
    return (np.load(folder / "masks.npy", mmap_mode="r"), np.load(folder / "margins.npy", mmap_mode="r"))


@pytest.fixture(scope="module")
def rates() -> tuple[float, float]:
    """Multiply-adds a second of a large float32 matrix product, and bytes a second of a file in the page cache."""
    a = np.random.default_rng(0).standard_normal((3000, 3000)).astype(np.float32)
    a @ a
    began = time.perf_counter()
    for _ in range(3):
        a @ a
    multiply = 3 * 3000**3 / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(3):
        a.copy()
    return multiply, 3 * a.nbytes / (time.perf_counter() - began)


@pytest.mark.benchmark(group="datamodels, scaling")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_scaling(benchmark: Any, tmp_path: Path, rates: tuple[float, float], shape: tuple[int, int, int]) -> None:
    """Default options, everything from opening the files on."""
    m, n, T = shape
    masks, margins = on_disk(tmp_path, m, n, T)
    fit_datamodels(masks[:50], margins[:50])  # compile
    design = Design(masks, margins)
    began = time.perf_counter()
    count = design.moments(targets=slice(0, 1)).count
    gram = time.perf_counter() - began
    began = time.perf_counter()
    design.moments(count=count)
    cross = time.perf_counter() - began
    with metered() as meter:
        fit_datamodels(masks, margins)
    options = {"n_lambdas": PENALTIES, "patience": PATIENCE}
    fit = benchmark.pedantic(fit_datamodels, (masks, margins), options, rounds=2 if m * n * T < 1e11 else 1)
    seconds = benchmark.stats.stats.median
    step = -np.log(0.01) / (PENALTIES - 1)
    visited = np.minimum(np.log(fit.lam_max / fit.lam) / step + 1 + PATIENCE, PENALTIES)
    multiplied = 0.5 * m * n**2 + m * n * T + float((n * fit.nonzero * (visited + 2)).sum())
    floor = multiplied / rates[0] + (masks.nbytes + margins.nbytes) / rates[1]
    print(
        f"\n| {m:,} | {n:,} | {T:,} | {seconds:.2f} s | {gram:.2f} s | {cross:.2f} s | {np.median(fit.nonzero):.0f} | "
        f"{floor:.2f} s | {seconds / floor:.2g}× | {meter.peak_bytes / 1e6:,.0f} MB | {fit.gap.max():.1e} |"
    )
    for path in tmp_path.iterdir():
        path.unlink()
