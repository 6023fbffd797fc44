"""A fit's memory does not grow with the number of rows: masks stream from disk."""

from pathlib import Path

import numpy as np
import pytest

from bench.cost import metered
from bench.lasso import fit_datamodels

M, N, T = 100_000, 5000, 20


@pytest.mark.slow
def test_100_000_rows_of_5000_examples_stream_from_disk(tmp_path: Path) -> None:
    """500 MB of masks, 2 GB of them as float32; counts and Grams take 100 MB each."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((N, T), np.float32) * (rng.random((N, T)) < 0.01)
    masks = np.lib.format.open_memmap(tmp_path / "masks.npy", "w+", np.bool_, (M, N))
    margins = np.lib.format.open_memmap(tmp_path / "margins.npy", "w+", np.float32, (M, T))
    for at in range(0, M, 5000):
        kept = rng.random((5000, N), np.float32) < 0.5
        masks[at : at + 5000] = kept
        margins[at : at + 5000] = kept.astype(np.float32) @ truth + rng.standard_normal((5000, T), np.float32)
    del masks, margins
    read = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("masks", "margins")]
    with metered() as meter:
        fit = fit_datamodels(*read)
    assert fit.converged.all()
    assert fit.r2.min() > 0.8
    np.testing.assert_allclose(fit.weight, truth, atol=0.15)
    assert meter.peak_bytes < 1.6e9  # with the files' own pages, which the system may take back
