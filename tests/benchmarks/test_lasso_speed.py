"""Datamodel fits beside scikit-learn's `lasso_path`, looped over targets, on the same penalties and tolerance.

The peer gets every help: centred float64 columns in Fortran order, or the centred Gram and cross products ready-made,
and BLAS as it likes. It is timed on a few targets and scaled to all (`extra_info`); ours pays for everything from the
masks on, held-out errors and the refit included. No time is asserted: read the ratios.

    tox -e benchmark -- tests/benchmarks/test_lasso_speed.py
"""

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import lasso_path

from bench.lasso import fit_datamodels, fit_ridge

pytestmark = pytest.mark.benchmark(group="lasso")

SHAPES = [(1000, 1437, 360, 0.05), (5000, 1437, 360, 0.03), (5000, 2000, 500, 0.05)]
N_LAMBDAS = 20


def problem(m: int, n: int, T: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Forty strong examples per target, a dense tail on all others, noise as large as the signal."""
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < 0.5
    weight = 0.05 * rng.standard_normal((n, T))
    for t in range(T):
        weight[rng.choice(n, 40, replace=False), t] += rng.standard_t(3, 40)
    signal = (masks - 0.5) @ weight
    return masks, (signal + signal.std(0) * rng.standard_normal((m, T))).astype(np.float32)


@pytest.mark.benchmark
@pytest.mark.parametrize(("m", "n", "T", "min_ratio"), SHAPES)
def test_path_beside_sklearn(benchmark: Any, m: int, n: int, T: int, min_ratio: float) -> None:
    """A whole path without early stopping, then the refit, against the path alone."""
    masks, margins = problem(m, n, T)
    options = {"n_lambdas": N_LAMBDAS, "min_ratio": min_ratio, "patience": N_LAMBDAS, "tol": 1e-4}
    fit_datamodels(masks[:50], margins[:50, :2])  # compile
    fit = benchmark.pedantic(fit_datamodels, (masks, margins), options, rounds=2)
    ours = benchmark.stats.stats.median

    X = np.asfortranarray(masks - masks.mean(0))
    Y = margins - margins.astype(np.float64).mean(0)
    gram, cross = X.T @ X, X.T @ Y
    few = np.linspace(0, T - 1, 3).astype(int)
    seconds = {}
    for name in ("X", "Gram"):
        begin = time.perf_counter()
        for t in few:
            given = {"precompute": False} if name == "X" else {"precompute": gram, "Xy": cross[:, t]}
            alphas = fit.lam_max[t] * np.geomspace(1, min_ratio, N_LAMBDAS)
            # The peer relates its gap to ‖y‖², ours to ½‖y‖².
            lasso_path(X, Y[:, t], alphas=alphas, tol=0.5e-4, max_iter=10_000, **given)
        seconds[name] = (time.perf_counter() - begin) / len(few) * T
    benchmark.extra_info |= {
        "converged": bool(fit.converged.all()),
        "sklearn lasso_path(X), all targets, s": round(seconds["X"], 1),
        "sklearn lasso_path(Gram), all targets, s": round(seconds["Gram"], 1),
        "ratio X": round(seconds["X"] / ours, 1),
        "ratio Gram": round(seconds["Gram"] / ours, 1),
    }
    print(f"\n{m} x {n} x {T}, to {min_ratio} of lam_max: ours {ours:.2f} s, {benchmark.extra_info}")


@pytest.mark.benchmark
@pytest.mark.parametrize("fit", [fit_datamodels, fit_ridge])
def test_default_use(benchmark: Any, fit: Any) -> None:
    """The default setting's shape with default options, everything included but compilation."""
    masks, margins = problem(1000, 1437, 360)
    fit(masks[:50], margins[:50, :2])
    benchmark.pedantic(fit, (masks, margins), rounds=3)
