"""Datamodel fits beside scikit-learn, celer and skglm, looped over targets, at the same penalties and an equal gap.

The peers get every help: centred float64 columns in Fortran order, or the centred Gram and cross products ready-made,
warm starts down the path, and in a second column both cores (two processes of one thread each). They are timed on a few
targets and scaled to all; the tolerance of each is the loosest that brings the worst relative duality gap of these
targets' paths to 1e-4 (scikit-learn's and celer's is that gap itself; skglm's is searched for). Ours pays for all from
the masks on: `path` is the same path, `fit` the whole of `fit_datamodels`, with held-out rows, refit and certificate.
No time is asserted: read the ratios.

    tox -e benchmark -- tests/benchmarks/test_lasso_speed.py
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.linear_model import lasso_path as sklearn_path
from threadpoolctl import threadpool_limits

from bench import runner
from bench.lasso import fit_datamodels, lasso_path
from bench.ridge import fit_ridge
from bench.store import GroundTruth

Array = NDArray[Any]
Masks = NDArray[np.bool_]
Margins = NDArray[np.float32]

N_LAMBDAS = 30
GAP = 1e-4
# m, n, T, last λ / λ_max; margins of digits/mlp, or synthetic ones.
PROBLEMS = {
    "synthetic": (5000, 2000, 500, 0.05),
    "digits": (5000, 1437, 360, 0.02),
    "digits, fewer rows than examples": (1000, 1437, 360, 0.05),
    "synthetic, one target": (5000, 2000, 1, 0.05),
    "synthetic, wide, one target": (10_000, 5000, 1, 0.05),
    "digits, one target": (5000, 1437, 1, 0.02),
}


def synthetic(m: int, n: int, T: int) -> tuple[Masks, Margins]:
    """Forty strong examples per target, a dense tail on all others, noise as large as the signal."""
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < 0.5
    weight = 0.05 * rng.standard_normal((n, T))
    for t in range(T):
        weight[rng.choice(n, 40, replace=False), t] += rng.standard_t(3, 40)
    signal = (masks - 0.5) @ weight
    return masks, (signal + signal.std(0) * rng.standard_normal((m, T))).astype(np.float32)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Masks, Margins]:
    """5,000 rows of digits/mlp."""
    store: Path = tmp_path_factory.mktemp("digits") / "store"
    runner.train(runner.Options(models=5030, repeats=1, eval_subsets=10, tune_rows=10, quiet=True), store)
    truth = GroundTruth.open(store)
    rows = truth.rows(truth.of_group("fit")[:5000])
    return rows.masks, rows.margins


@dataclass(frozen=True)
class Prepared:
    """What the peers are given: centred columns, their Gram, the targets, and XᵀY."""

    X: Array
    Y: Array
    gram: Array
    cross: Array

    @classmethod
    def of(cls, masks: Masks, margins: Margins) -> "Prepared":
        X = np.asfortranarray(masks - masks.mean(0))
        Y = margins - margins.astype(np.float64).mean(0)
        return cls(X, Y, X.T @ X, X.T @ Y)

    def gap(self, t: int, lams: Array, coefs: Array) -> float:
        """Worst relative duality gap along a path `[n, K]`."""
        m, y = len(self.X), self.Y[:, t]
        worst = 0.0
        for lam, w in zip(lams, coefs.T, strict=True):
            residual = y - self.X @ w
            largest = np.abs(self.X.T @ residual).max() / m
            s = min(1.0, lam / largest)
            primal = 0.5 * residual @ residual / m + lam * np.abs(w).sum()
            dual = s * (residual @ y) / m - 0.5 * s**2 * (residual @ residual) / m
            worst = max(worst, (primal - dual) / (0.5 * y @ y / m))
        return worst


def by_sklearn(given: Prepared, t: int, lams: Array, tol: float) -> Array:
    # scikit-learn and celer relate the gap to ‖y‖², here it is related to ½‖y‖².
    coefs: Array = sklearn_path(given.X, given.Y[:, t], alphas=lams, tol=tol / 2, max_iter=10_000)[1]
    return coefs


def by_sklearn_with_gram(given: Prepared, t: int, lams: Array, tol: float) -> Array:
    options = {"precompute": given.gram, "Xy": given.cross[:, t], "tol": tol / 2, "max_iter": 10_000}
    coefs: Array = sklearn_path(given.X, given.Y[:, t], alphas=lams, **options)[1]
    return coefs


def by_celer(given: Prepared, t: int, lams: Array, tol: float) -> Array:
    from celer import celer_path

    coefs: Array = celer_path(given.X, given.Y[:, t], "lasso", alphas=lams, tol=tol / 2)[1]
    return coefs


def by_skglm(given: Prepared, t: int, lams: Array, tol: float) -> Array:
    from skglm import Lasso

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver = Lasso(fit_intercept=False, tol=tol * lams[0], max_iter=1000)
        coefs: Array = solver.path(given.X, given.Y[:, t], alphas=lams)[1]
    return coefs


PEERS: dict[str, Callable[[Prepared, int, Array, float], Array]] = {
    "scikit-learn lasso_path": by_sklearn,
    "scikit-learn lasso_path, Gram given": by_sklearn_with_gram,
    "celer": by_celer,
    "skglm": by_skglm,
}


def measure(peer: Any, given: Prepared, lams: Array, targets: Array) -> dict[str, float]:
    """Seconds for one target with one process, the same with two, and the worst gap."""
    tols = [GAP] if peer is not by_skglm else [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5]
    for tol in tols:  # the first call compiles, too
        gap = max(given.gap(t, lams[:, t], peer(given, t, lams[:, t], tol)) for t in targets[:2])
        if gap <= 1.05 * GAP:
            break
    began = time.perf_counter()
    for t in targets:
        peer(given, t, lams[:, t], tol)
    alone = (time.perf_counter() - began) / len(targets)
    with Parallel(n_jobs=2, mmap_mode="c") as pool:  # the peers want to be able to write
        pool(delayed(peer)(given, t, lams[:, t], tol) for t in targets[:2])  # starts the processes
        began = time.perf_counter()
        pool(delayed(peer)(given, t, lams[:, t], tol) for t in np.repeat(targets, 2))
        both = (time.perf_counter() - began) / (2 * len(targets))
    return {"alone": alone, "both": both, "gap": gap, "tol": tol}


@pytest.mark.benchmark(group="lasso")
@pytest.mark.parametrize("name", PROBLEMS)
def test_path_beside_peers(benchmark: Any, digits: tuple[Masks, Margins], name: str) -> None:
    """The path alone, at all its penalties."""
    m, n, T, ratio = PROBLEMS[name]
    masks, margins = synthetic(m, n, T) if name.startswith("synthetic") else (digits[0][:m], digits[1][:m, :T])
    options: dict[str, Any] = {"n_lambdas": N_LAMBDAS, "min_ratio": ratio, "tol": GAP}
    fit_datamodels(masks[:50], margins[:50])  # compile
    path = benchmark.pedantic(
        lasso_path, (masks, margins), {**options, "certify": False}, rounds=5, iterations=1, warmup_rounds=1
    )
    ours = benchmark.stats.stats.median
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        fit = fit_datamodels(masks, margins, **options, patience=N_LAMBDAS)
        seconds.append(time.perf_counter() - began)
    whole = float(np.median(seconds))
    gap = lasso_path(masks, margins, **options).gap.max()
    nonzero = np.count_nonzero(path.weight[-1], axis=0).mean()
    assert fit.converged.all()
    print(
        f"\n{name}: {m} x {n} x {T}, {N_LAMBDAS} penalties to {ratio} of lam_max, {nonzero:.0f} non-zeros at the last"
    )
    print(f"  {'path':<38}{ours:>9.3f} s{'':>32}  gap {gap:.1e}")
    print(f"  {'fit':<38}{whole:>9.3f} s{'':>32}  gap {fit.gap.max():.1e}")
    given = Prepared.of(masks, margins)
    few = np.unique(np.linspace(0, T - 1, 3).astype(int))
    print(f"  {'all targets by':<38}{'1 process':>11}{'path':>7}{'fit':>7}{'2 proc.':>12}{'path':>6}")
    for peer, function in PEERS.items():
        with threadpool_limits(None if T == 1 else 1):
            one = measure(function, given, path.lams, few)
        alone, both = one["alone"] * T, one["both"] * T
        print(
            f"  {peer:<38}{alone:>9.3f} s{alone / ours:>6.3g}×{alone / whole:>6.3g}×{both:>10.3f} s{both / ours:>5.3g}×"
            f"  gap {one['gap']:.1e} (tol {one['tol']:g})",
            flush=True,
        )
        benchmark.extra_info |= {f"{peer}, ratio": round(alone / ours, 1)}


@pytest.mark.benchmark(group="datamodels of 1,000 x 1,437 x 360")
@pytest.mark.parametrize("fit", [fit_datamodels, fit_ridge])
def test_default_use(benchmark: Any, digits: tuple[Masks, Margins], fit: Any) -> None:
    """The default setting's shape with default options, everything included but compilation."""
    masks, margins = digits[0][:1000], digits[1][:1000]
    fit(masks[:50], margins[:50, :2])
    benchmark.pedantic(fit, (masks, margins), rounds=3)
