"""Ridge and least-squares datamodels against scikit-learn and numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from bench.errors import InputError
from bench.ridge import fit_least_squares, fit_ridge


def problem(m: int, n: int, T: int, alpha: float = 0.5) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < alpha
    return masks, (3 + masks @ rng.standard_normal((n, T)) + rng.standard_normal((m, T))).astype(np.float32)


def parts_of(m: int, folds: int) -> list[NDArray[np.int64]]:
    order = np.random.default_rng(1).permutation(m)
    return np.array_split(order, folds) if folds else [order[: round(0.2 * m)]]


@pytest.mark.parametrize("shape", [(150, 40), (40, 90)])
@pytest.mark.parametrize("folds", [0, 4])
def test_ridge_equals_sklearn(shape: tuple[int, int], folds: int) -> None:
    m, n = shape
    masks, margins = problem(m, n, 4, alpha=0.3)
    fit = fit_ridge(masks, margins, folds=folds, seed=1)
    parts = parts_of(m, folds)
    X = masks.astype(np.float64)
    grid = X.var(0).sum() / min(m, n) * np.geomspace(100, 1e-4, 50)
    for t in range(4):
        errors = np.zeros(50)
        for held in parts:
            kept = np.setdiff1d(np.arange(m), held)
            for k, lam in enumerate(grid):
                model = Ridge(alpha=len(kept) * lam).fit(X[kept], margins[kept, t])
                errors[k] += ((margins[held, t] - model.predict(X[held])) ** 2).sum()
        assert fit.lam[t] == pytest.approx(grid[errors.argmin()])
        assert fit.loss[t] == pytest.approx(errors.min() / sum(map(len, parts)), rel=1e-4)
        reference = Ridge(alpha=m * fit.lam[t]).fit(X, margins[:, t])
        np.testing.assert_allclose(fit.weight[:, t], reference.coef_, atol=1e-5)
        assert fit.bias[t] == pytest.approx(reference.intercept_, abs=1e-4)
    assert fit.converged.all()


@pytest.mark.parametrize(("m", "n"), [(150, 40), (40, 90)])
@pytest.mark.parametrize("folds", [0, 3])
def test_least_squares_is_that_of_numpy(m: int, n: int, folds: int) -> None:
    masks, margins = problem(m, n, 4)
    fit = fit_least_squares(masks, margins, folds=folds, seed=1)
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    np.testing.assert_allclose(fit.weight, np.linalg.lstsq(X, Y, rcond=None)[0], atol=1e-8)
    np.testing.assert_allclose(fit.bias, (margins - masks @ fit.weight).mean(0), atol=1e-4)
    errors, rows = np.zeros(4), 0
    for held in parts_of(m, folds):
        kept = np.setdiff1d(np.arange(m), held)
        mean, level = masks[kept].mean(0), margins[kept].astype(np.float64).mean(0)
        weight = np.linalg.lstsq(masks[kept] - mean, margins[kept] - level, rcond=None)[0]
        errors += ((margins[held] - level - (masks[held] - mean) @ weight) ** 2).sum(0)
        rows += len(held)
    np.testing.assert_allclose(fit.loss, errors / rows, rtol=1e-5)
    assert fit.converged.all()
    assert (fit.lam == 0).all()


def test_the_certificate_of_least_squares_bounds_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution that is off says so, and by no less than it is."""
    masks, margins = problem(150, 40, 4)
    exact = fit_least_squares(masks, margins)

    def off(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, basis = np.linalg.eigh(matrix)
        return values, basis * (1 + 1e-3)

    monkeypatch.setattr("bench.ridge._spectrum", off)
    fit = fit_least_squares(masks, margins)
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    objective = [0.5 * ((Y - X @ weight) ** 2).mean(0) for weight in (fit.weight, exact.weight)]
    distance = (objective[0] - objective[1]) / (0.5 * (Y**2).mean(0))
    assert (distance > 1e-7).all()
    assert (distance <= fit.gap).all()
    assert not fit.converged.any()


def test_bad_options_are_named() -> None:
    masks, margins = problem(30, 8, 3)
    with pytest.raises(InputError, match="validation is 0"):
        fit_least_squares(masks, margins, validation=0)
    with pytest.raises(InputError, match="n_lambdas is 0"):
        fit_ridge(masks, margins, n_lambdas=0)
