"""Datamodel fits against scikit-learn, against the optimality conditions, and against brute force."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Lasso
from sklearn.linear_model import lasso_path as lasso_path_of_sklearn

from bench.errors import InputError
from bench.gram import Design, centre, gram_product
from bench.lasso import Datamodels, fit_datamodels, lasso_path
from bench.ridge import fit_least_squares, fit_ridge
from bench.rows import RowView

Array = NDArray[Any]


def problem(m: int, n: int, T: int, seed: int = 0, alpha: float = 0.5, noise: float = 0.5) -> tuple[Array, Array]:
    """Masks and margins of sparse linear targets with a small dense tail, as real datamodels have."""
    rng = np.random.default_rng(seed)
    masks = rng.random((m, n)) < alpha
    weight = 0.05 * rng.standard_normal((n, T)) + rng.standard_t(3, (n, T)) * (rng.random((n, T)) < 0.1)
    margins = 3.0 + masks @ weight + noise * rng.standard_normal((m, T))
    return masks, margins.astype(np.float32)


def sklearn_lasso(masks: Array, y: Array, lam: float, tol: float = 1e-12) -> Lasso:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Lasso(alpha=lam, tol=tol, max_iter=200_000).fit(masks.astype(np.float64), y.astype(np.float64))


def sklearn_path(X: Array, y: Array, lams: Array, gram: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lasso_path_of_sklearn(X, y, alphas=lams, precompute=gram, Xy=X.T @ y, tol=1e-12, max_iter=100_000)


def objective(masks: Array, y: Array, weight: Array, bias: float, lam: float) -> float:
    residual = y.astype(np.float64) - masks @ weight.astype(np.float64) - bias
    return float(0.5 * (residual**2).mean() + lam * np.abs(weight).sum())


@pytest.mark.parametrize(("m", "n"), [(300, 40), (60, 90), (130, 1)])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_equal_to_sklearn_at_given_lambda(m: int, n: int, ratio: float, alpha: float) -> None:
    masks, margins = problem(m, n, 5, alpha=alpha)
    lam = ratio * fit_datamodels(masks, margins, lam=1.0).lam_max
    fit = fit_datamodels(masks, margins, lam=lam, tol=1e-12)
    assert fit.converged.all()
    for t in range(5):
        reference = sklearn_lasso(masks, margins[:, t], lam[t])
        np.testing.assert_allclose(fit.weight[:, t], reference.coef_, atol=3e-6)
        assert fit.bias[t] == pytest.approx(reference.intercept_, abs=3e-5)


@pytest.mark.parametrize(("m", "n", "T"), [(2000, 500, 50), (100, 150, 8)])
def test_the_whole_path_equals_sklearn(m: int, n: int, T: int) -> None:
    """Coefficients within 1e-6 of coordinate descent at tolerance 1e-12, which takes scikit-learn a while."""
    masks, margins = problem(m, n, T)
    path = lasso_path(masks, margins, n_lambdas=12, min_ratio=0.02, tol=1e-13)
    assert path.weight.shape == (12, n, T)
    assert path.gap.max() <= 1e-12
    X, Y = np.asfortranarray(masks - masks.mean(0)), margins - margins.astype(np.float64).mean(0)
    gram = X.T @ X
    for t in range(T):
        _, reference, _ = sklearn_path(X, Y[:, t], path.lams[:, t], gram)
        np.testing.assert_allclose(path.weight[:, :, t], reference.T, atol=1e-6)
        np.testing.assert_allclose(
            path.bias[:, t], margins[:, t].astype(np.float64).mean() - masks.mean(0) @ reference, atol=1e-4
        )


def test_a_given_path_and_one_without_certificate() -> None:
    masks, margins = problem(80, 30, 4)
    whole = lasso_path(masks, margins, n_lambdas=5)
    again = lasso_path(masks, margins, lams=whole.lams, certify=False)
    np.testing.assert_allclose(again.weight, whole.weight, atol=1e-4)
    assert np.isnan(again.gap).all()
    assert (whole.gap <= 1e-4).all()
    assert whole.converged.all()
    assert not again.converged.any()
    shared = lasso_path(masks, margins, lams=[0.05, 0.02])
    assert shared.lams.shape == (2, 4)
    one = fit_datamodels(masks, margins, lam=0.02)
    np.testing.assert_allclose(shared.weight[1], one.weight, atol=0.02 * np.abs(one.weight).max())


def test_lam_max_is_the_least_penalty_without_weights() -> None:
    masks, margins = problem(80, 30, 4)
    lam_max = fit_datamodels(masks, margins, lam=1.0).lam_max
    assert not fit_datamodels(masks, margins, lam=lam_max, tol=1e-12).weight.any()
    assert fit_datamodels(masks, margins, lam=0.999 * lam_max, tol=1e-12).weight.any(0).all()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(10, 40),
    n=st.integers(1, 60),
    alpha=st.sampled_from([0.1, 0.5, 0.9]),
    ratio=st.floats(0.005, 1.2),
    seed=st.integers(0, 10_000),
)
def test_optimality_conditions(m: int, n: int, alpha: float, ratio: float, seed: int) -> None:
    """From the rows themselves: |Xᵀr/m| ≤ λ, with equality and the weight's sign where the weight is not 0."""
    masks, margins = problem(m, n, 3, seed, alpha)
    lam = ratio * fit_datamodels(masks, margins, lam=1.0).lam_max
    lam = np.where(lam > 0, lam, 1.0)
    fit = fit_datamodels(masks, margins, lam=lam, tol=1e-13)
    X = masks - masks.mean(0)
    Y = margins.astype(np.float64)
    gradient = X.T @ (Y - Y.mean(0) - X @ fit.weight) / m
    scale = np.maximum(np.abs(X.T @ (Y - Y.mean(0))).max(0) / m, 1e-9)
    assert (np.abs(gradient) <= lam + 1e-5 * scale).all()
    on = fit.weight != 0
    assert (np.abs(gradient - lam * np.sign(fit.weight))[on] <= np.broadcast_to(1e-5 * scale, on.shape)[on]).all()
    np.testing.assert_allclose(fit.bias, (Y - masks @ fit.weight).mean(0), atol=1e-4)
    assert fit.kkt.max() < 1e-5


@pytest.mark.parametrize(("m", "n"), [(200, 50), (100, 160)])
def test_default_precision_is_certified_and_near_optimal(m: int, n: int) -> None:
    masks, margins = problem(m, n, 12)
    fit = fit_datamodels(masks, margins)
    assert fit.weight.dtype == np.float32
    assert fit.weight.shape == (n, 12)
    assert fit.converged.all()
    for t in range(12):
        reference = sklearn_lasso(masks, margins[:, t], fit.lam[t])
        least = objective(masks, margins[:, t], reference.coef_, reference.intercept_, fit.lam[t])
        mine = objective(masks, margins[:, t], fit.weight[:, t], float(fit.bias[t]), fit.lam[t])
        null = 0.5 * margins[:, t].astype(np.float64).var()
        # The certificate bounds the true suboptimality.
        assert -1e-7 <= (mine - least) / null <= fit.gap[t] + 1e-7
        assert fit.gap[t] <= 1e-4


def test_weights_are_per_kept_example_whatever_alpha() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((2000, 6)) < 0.8
    truth = np.array([2.0, -1.0, 0.5, 0, 0, 0])
    margins = (7 + masks @ truth)[:, None]
    fit = fit_datamodels(masks, margins, lam=1e-5, tol=1e-10)
    np.testing.assert_allclose(fit.weight[:, 0], truth, atol=1e-3)
    assert fit.bias[0] == pytest.approx(7, abs=1e-3)


@pytest.mark.parametrize(("m", "n"), [(10, 1), (63, 5), (64, 64), (129, 130), (200, 67)])
def test_counts_are_exact(m: int, n: int) -> None:
    masks = np.random.default_rng(m).random((m, n)) < 0.4
    design = Design(masks, np.zeros((m, 1)))
    X = masks.astype(np.int64)
    np.testing.assert_array_equal(design.moments().count, X.T @ X)
    np.testing.assert_array_equal(design.row_counts(), X @ X.T)


def test_moments_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts add up exactly in integers, chunks change nothing, held-out moments are about the fitted means."""
    masks, margins = problem(150, 37, 4)
    whole = Design(masks, margins).moments()
    monkeypatch.setattr("bench.gram._PACK_ROWS", 64)
    monkeypatch.setattr("bench.gram._CHUNK_BYTES", 1)
    design = Design(masks, margins)
    held = np.arange(150)[::4]
    kept = np.setdiff1d(np.arange(150), held)
    out, rest = design.moments(held), design.moments(kept)
    for part in ("count", "cross", "total", "square"):
        np.testing.assert_allclose(getattr(out + rest, part), getattr(whole, part), rtol=1e-12)
        np.testing.assert_allclose(getattr(whole - out, part), getattr(rest, part), rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal((whole - out).count, rest.count)
    for rows, about in ((kept, None), (held, rest)):
        centred = centre(rest) if about is None else centre(out, rest)
        X = masks[rows] - masks[kept].mean(0)
        Y = margins[rows] - margins[kept].astype(np.float64).mean(0)
        np.testing.assert_allclose(centred.G, X.T @ X / len(rows), atol=1e-13)
        np.testing.assert_allclose(centred.C, X.T @ Y / len(rows), atol=1e-12)
        np.testing.assert_allclose(centred.yy, (Y**2).mean(0), rtol=1e-12)
    W = np.random.default_rng(0).standard_normal((37, 4))
    np.testing.assert_allclose(gram_product(rest, W), centre(rest).G @ W, atol=1e-12)


def brute_force(masks: Array, margins: Array, parts: list[Array], n_lambdas: int, min_ratio: float) -> Array:
    """Held-out error of scikit-learn fits `[n_lambdas, T]`, and the grid `[n_lambdas, T]`."""
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    grid = np.abs(X.T @ Y).max(0) / len(X) * np.geomspace(1, min_ratio, n_lambdas)[:, None]
    errors = np.zeros_like(grid)
    for held in parts:
        kept = np.setdiff1d(np.arange(len(masks)), held)
        for k, t in np.ndindex(*grid.shape):
            model = sklearn_lasso(masks[kept], margins[kept, t], grid[k, t], 1e-9)
            errors[k, t] += ((margins[held, t] - model.predict(masks[held].astype(np.float64))) ** 2).sum()
    return np.stack([errors / sum(map(len, parts)), grid])


@pytest.mark.parametrize("folds", [0, 3])
def test_lambda_is_the_brute_force_choice(folds: int) -> None:
    masks, margins = problem(90, 30, 6)
    fit = fit_datamodels(masks, margins, n_lambdas=12, folds=folds, seed=3, patience=12, tol=1e-9)
    order = np.random.default_rng(3).permutation(90)
    parts = np.array_split(order, 3) if folds else [order[:18]]
    errors, grid = brute_force(masks, margins, parts, 12, 0.01)
    best = errors.argmin(0)
    np.testing.assert_allclose(fit.lam, grid[best, np.arange(6)], rtol=1e-9)
    np.testing.assert_allclose(fit.loss, errors.min(0), rtol=1e-5)
    assert len(set(best)) > 1  # chosen per target


@pytest.mark.parametrize("seed", range(3))
def test_folds_stop_where_their_sum_does(seed: int) -> None:
    """One noisy fold must not end the path of all."""
    masks, margins = problem(60, 40, 8, seed, noise=8)
    fit = fit_datamodels(masks, margins, n_lambdas=30, folds=5, patience=4, seed=1, tol=1e-9)
    parts = np.array_split(np.random.default_rng(1).permutation(60), 5)
    errors, grid = brute_force(masks, margins, parts, 30, 0.01)
    for t in range(8):
        best = 0
        for k in range(30):
            if k - best == 4:
                break
            best = k if errors[k, t] < errors[best, t] else best
        assert fit.lam[t] == pytest.approx(grid[best, t])
        assert fit.loss[t] == pytest.approx(errors[best, t], rel=1e-5)


def test_patience_stops_at_the_first_valley() -> None:
    masks, margins = problem(90, 30, 6)
    errors, grid = brute_force(masks, margins, [np.random.default_rng(3).permutation(90)[:18]], 12, 0.01)
    fit = fit_datamodels(masks, margins, n_lambdas=12, seed=3, patience=1, tol=1e-9)
    for t in range(6):
        rising = np.flatnonzero(np.diff(errors[:, t]) >= 0)
        assert fit.lam[t] == pytest.approx(grid[rising[0] if len(rising) else -1, t])


def test_rows_of_one_mask_are_held_out_together() -> None:
    masks, margins = problem(40, 12, 3)
    repeated = Design(np.repeat(masks, 3, axis=0), np.repeat(margins, 3, axis=0))
    np.testing.assert_array_equal(repeated.groups(), np.repeat(np.arange(40), 3))
    once = fit_datamodels(masks, margins, tol=1e-9)
    thrice = fit_datamodels(np.repeat(masks, 3, axis=0), np.repeat(margins, 3, axis=0), tol=1e-9)
    np.testing.assert_allclose(thrice.lam, once.lam, rtol=1e-6)
    np.testing.assert_allclose(thrice.weight, once.weight, atol=1e-5)
    by_hand = fit_datamodels(masks, margins, groups=[f"{i:02d}" for i in range(40)], tol=1e-9)
    np.testing.assert_array_equal(by_hand.weight, once.weight)


def test_degenerate_columns_and_targets() -> None:
    masks, margins = problem(120, 20, 4)
    masks[:, 3] = True
    masks[:, 4] = False
    masks[:, 6] = masks[:, 5]
    margins[:, 1] = 0.1
    fits = [fit_datamodels(masks, margins), fit_datamodels(masks, margins, debias=True)]
    for dense in (fit_ridge, fit_least_squares):
        fits += [dense(masks, margins), dense(masks[:18], margins[:18])]
    for fit in fits:
        assert fit.unused.tolist()[3:5] == [True, True]
        assert fit.unused.sum() == 2
        assert fit.constant.tolist() == [False, True, False, False]
        assert np.isnan(fit.r2[1])
        assert not fit.weight[3:5].any()
        assert not fit.weight[:, 1].any()
        assert fit.bias[1] == pytest.approx(0.1)
        assert fit.gap[1] == fit.kkt[1] == fit.lam_max[1] == 0
        assert fit.converged.all()
        assert all(np.isfinite(part).all() for part in (fit.weight, fit.bias, fit.lam, fit.gap, fit.kkt, fit.loss))


def test_saturated_fit_with_duplicates_is_certified() -> None:
    """Far more columns than rows, each twice, at the small end of the path."""
    masks, margins = problem(150, 300, 3)
    masks = np.hstack([masks, masks])
    lam = 0.003 * fit_datamodels(masks, margins, lam=1.0).lam_max
    fit = fit_datamodels(masks, margins, lam=lam)
    assert fit.converged.all()
    assert (fit.weight != 0).sum(0).min() > 75


def test_a_dense_solution_outgrows_the_first_working_set() -> None:
    masks, margins = problem(900, 700, 2, noise=0.1)
    margins += (masks @ np.random.default_rng(1).standard_normal((700, 2))).astype(np.float32)
    lam = 0.01 * fit_datamodels(masks, margins, lam=1.0).lam_max
    fit = fit_datamodels(masks, margins, lam=lam)
    assert (fit.weight != 0).sum(0).min() > 400
    assert fit.converged.all()


@pytest.mark.parametrize(("m", "n"), [(800, 1500), (3000, 500)])
def test_strongly_correlated_masks_are_solved_in_the_end(m: int, n: int) -> None:
    """Rows keep from 5% to 95% of the examples: all columns then go together, and descent is slow."""
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < rng.uniform(0.05, 0.95, (m, 1))
    margins = (masks @ rng.standard_normal((n, 6)) * 0.1 + rng.standard_normal((m, 6))).astype(np.float32)
    fit = fit_datamodels(masks, margins)
    assert fit.weight.dtype == np.float32
    assert fit.gap.max() <= 1e-4


def test_a_fit_that_falls_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.lasso_solver._MAX_SWEEPS", 1)
    monkeypatch.setattr("bench.lasso._LAST_SWEEPS", 2)
    masks, margins = problem(60, 90, 4)
    lam = 0.02 * fit_datamodels(masks, margins, lam=1.0).lam_max
    fit = fit_datamodels(masks, margins, lam=lam, tol=1e-9)
    assert not fit.converged.any()
    assert (fit.gap > 1e-9).all()


def test_same_seed_same_bits_whatever_the_threads() -> None:
    masks, margins = problem(100, 80, 40)
    fits = [fit_datamodels(masks, margins, threads=k, seed=5) for k in (1, 2, 3)]
    for fit in fits[1:]:
        for part in ("weight", "bias", "lam", "gap"):
            np.testing.assert_array_equal(getattr(fit, part), getattr(fits[0], part))
    assert (fit_datamodels(masks, margins, seed=6).lam != fits[0].lam).any()


def test_any_layout_and_kind_of_array(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    masks, margins = problem(80, 21, 5)
    margins = margins.astype(np.float16).astype(np.float32)
    reference = fit_datamodels(masks, margins).weight
    np.save(tmp_path / "fortran.npy", np.asfortranarray(masks))
    wide = np.zeros((80, 42), np.bool_)
    wide[:, ::2] = masks
    for taken in (
        np.asfortranarray(masks),
        np.load(tmp_path / "fortran.npy", mmap_mode="r"),
        wide[:, ::2],
        masks.tolist(),
        pd.DataFrame(masks),
        torch.from_numpy(masks),
    ):
        np.testing.assert_array_equal(fit_datamodels(taken, margins).weight, reference)
    tensor = torch.from_numpy(margins)
    for values in (np.asfortranarray(margins), margins.astype(">f4"), tensor.requires_grad_(), margins.tolist()):
        np.testing.assert_array_equal(fit_datamodels(masks, values).weight, reference)
    rounded = tensor.detach().bfloat16()
    np.testing.assert_array_equal(
        fit_datamodels(masks, rounded).weight, fit_datamodels(masks, rounded.float().numpy()).weight
    )


@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e-8, 1e8, 1e25])
def test_any_scale_of_margins(scale: float) -> None:
    masks, margins = problem(120, 30, 4)
    fit, plain = (fit_datamodels(masks, margins.astype(float) * by, tol=1e-6) for by in (scale, 1.0))
    np.testing.assert_allclose(fit.lam / scale, plain.lam, rtol=1e-9)
    np.testing.assert_allclose(fit.weight / scale, plain.weight, atol=1e-6)
    assert fit.converged.all()


def test_what_float32_cannot_hold_is_not_called_converged() -> None:
    masks, margins = problem(120, 30, 4)
    fit = fit_datamodels(masks, margins.astype(float) * 1e-60)
    assert not fit.weight.any()
    assert not fit.converged.any()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_memmaps_and_other_dtypes(tmp_path: Path, dtype: type) -> None:
    masks, margins = problem(80, 21, 5)
    np.save(tmp_path / "masks.npy", masks.astype(dtype))
    np.save(tmp_path / "margins.npy", margins)
    read = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("masks", "margins")]
    fit, reference = fit_datamodels(*read), fit_datamodels(masks, margins)
    np.testing.assert_array_equal(fit.weight, reference.weight)
    one = fit_datamodels(masks, margins[:, :1])
    np.testing.assert_allclose(one.weight[:, 0], reference.weight[:, 0], atol=1e-6)


MASKS, MARGINS = problem(30, 8, 3)
NAN = MARGINS.copy()
NAN[4, 1] = NAN[5, 2] = np.nan
HALF = MARGINS.astype(np.float16)
HALF[3, 0] = np.inf  # what 70,000 becomes


@pytest.mark.parametrize(
    ("masks", "margins", "options", "message"),
    [
        (MASKS[0], MARGINS, {}, r"masks has shape \(8,\)"),
        (MASKS, MARGINS[:, 0], {}, r"margins has shape \(30,\)"),
        (MASKS[:, :0], MARGINS, {}, r"masks has shape \(30, 0\)"),
        (MASKS[:20], MARGINS, {}, "masks has 20 rows and margins 30"),
        (MASKS * 2, MARGINS, {}, r"masks\[0, \d\] is 2"),
        (MASKS - 0.5, MARGINS, {}, r"masks\[0, 0\] is"),
        (MASKS, NAN, {}, "2 values are NaN or infinite, in rows 4, 5; retrain"),
        (MASKS, HALF, {}, "1 value is NaN or infinite, in row 3; float16 ends at 65504"),
        (MASKS[:9], MARGINS[:9], {}, "masks has 9 rows; a datamodel takes at least 10"),
        (MASKS, MARGINS * np.float64(1e39), {}, r"90 values are NaN, infinite or as large as .*e\+39, in rows 0, 1"),
        (np.ma.masked_array(MASKS), MARGINS, {}, "masks is a masked array"),
        (sparse.csr_matrix(MASKS), MARGINS, {}, "masks is sparse"),
        ([[True], [True, False]], MARGINS, {}, "masks is not an array"),
        (MASKS, MARGINS, {"groups": np.zeros(30)}, "groups has 1 distinct groups; choosing λ needs at least 3"),
        (MASKS, MARGINS.astype(str), {}, "margins has dtype"),
        (MASKS, MARGINS, {"folds": 1}, "folds is 1"),
        (MASKS, MARGINS, {"folds": 31}, r"masks has \d\d distinct rows"),
        (MASKS, MARGINS, {"validation": 1.0}, "validation is 1.0"),
        (MASKS, MARGINS, {"n_lambdas": 0}, "n_lambdas is 0"),
        (MASKS, MARGINS, {"min_ratio": 0.0}, "min_ratio"),
        (MASKS, MARGINS, {"groups": [1, 2]}, "groups has 2 entries"),
        (MASKS, MARGINS, {"threads": 0}, "threads is 0"),
        (np.repeat(MASKS[:2], 15, 0), MARGINS, {}, "masks has 2 distinct rows"),
    ],
)
@pytest.mark.parametrize("fit", [fit_datamodels, fit_ridge])
def test_bad_input_is_named(fit: Any, masks: Array, margins: Array, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(masks, margins, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_lambdas": 0}, "n_lambdas is 0"),
        ({"min_ratio": 2.0}, "min_ratio is 2.0"),
        ({"tol": 1.0}, "tol is 1.0"),
        ({"lams": []}, r"lams has shape \(0,\)"),
        ({"lams": [[1.0, 2.0]]}, r"lams has shape \(1, 2\)"),
        ({"lams": [1.0, 2.0]}, "lams goes up from 1 to 2"),
        ({"lams": [1.0, 0.0]}, "lams has the value 0.0"),
    ],
)
def test_bad_path_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lasso_path(MASKS, MARGINS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "tol is 0.0"),
        ({"patience": 0}, "patience is 0"),
        ({"lam": 0.0}, "lam has the value 0.0; give positive"),
        ({"lam": np.inf}, "lam has the value inf"),
        ({"lam": "x"}, "lam is 'x'"),
        ({"patience": 2.5}, "patience is 2.5; give a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"tol": "a"}, "tol is 'a'; give a number"),
        ({"min_ratio": None}, "min_ratio is None; give a number"),
        ({"validation": "x"}, "validation is 'x'; give a number"),
        ({"threads": 2.5}, "threads is 2.5; give a whole number"),
        ({"folds": 2.5}, "folds is 2.5"),
        ({"lam": [1.0, 2.0]}, r"lam has shape \(2,\)"),
    ],
)
def test_bad_lasso_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_datamodels(MASKS, MARGINS, **options)


def test_recovers_the_examples_that_matter() -> None:
    """λ on held-out rows finds signal, and leaves pure noise alone."""
    rng = np.random.default_rng(0)
    masks = rng.random((400, 100)) < 0.5
    truth = np.zeros((100, 2))
    truth[[5, 50], 0] = 1.0, -1.0
    margins = masks @ truth + 0.3 * rng.standard_normal((400, 2))
    fit: Datamodels = fit_datamodels(masks, margins)
    np.testing.assert_allclose(fit.weight[[5, 50], 0], [1, -1], atol=0.15)
    assert np.abs(np.delete(fit.weight[:, 0], [5, 50])).max() < 0.1
    assert np.abs(fit.weight[:, 1]).max() < 0.1


def test_r2_is_of_the_held_out_rows() -> None:
    masks, margins = problem(90, 30, 6)
    fit = fit_datamodels(masks, margins, seed=3, tol=1e-9)
    held = np.random.default_rng(3).permutation(90)[:18]
    kept = np.setdiff1d(np.arange(90), held)
    null = ((margins[held] - margins[kept].astype(np.float64).mean(0)) ** 2).mean(0)
    np.testing.assert_allclose(fit.r2, 1 - fit.loss / null, rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"folds": 3}, {"lam": 0.05}, {"debias": True}])
def test_slabs_of_targets_change_nothing(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    masks, margins = problem(100, 30, 7)
    whole = fit_datamodels(masks, margins, **options)
    monkeypatch.setattr("bench.lasso._SLAB_BYTES", 8 * 30 * 8 * 3)  # two or three targets at a time
    slabs = fit_datamodels(masks, margins, **options)
    for name in ("weight", "lam", "converged", "constant", "unused"):
        np.testing.assert_array_equal(getattr(slabs, name), getattr(whole, name), err_msg=name)
    for name in ("bias", "gap", "kkt", "lam_max", "loss", "r2"):
        np.testing.assert_allclose(getattr(slabs, name), getattr(whole, name), rtol=1e-6, atol=1e-12, err_msg=name)


class Watched:
    """An array on disk, so to speak: it can be read by rows only, and remembers how many at most."""

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.most = array, array.shape, 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> Array:
        found: Array = self.array[rows]
        self.most = max(self.most, len(found))
        return found


def test_rows_are_read_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, margins = problem(700, 40, 5)
    monkeypatch.setattr("bench.gram._PACK_ROWS", 64)
    reading = Watched(masks), Watched(margins)
    fit = fit_datamodels(*reading)
    assert [array.most for array in reading] == [64, 64]
    reference = fit_datamodels(masks, margins)
    np.testing.assert_array_equal(fit.weight, reference.weight)


def test_debiased_is_least_squares_on_the_support() -> None:
    masks, margins = problem(200, 50, 6)
    masks[:, 7] = masks[:, 8]  # on a support that is dependent too
    lam = 0.02 * fit_datamodels(masks, margins, lam=1.0).lam_max
    plain, debiased = (fit_datamodels(masks, margins, lam=lam, debias=debias) for debias in (False, True))
    assert plain.refit_kkt is None
    assert debiased.refit_kkt is not None
    assert debiased.refit_kkt.max() < 1e-9
    assert debiased.nonzero.max() > 10
    np.testing.assert_array_equal(debiased.gap, plain.gap)
    X = masks - masks.mean(0)
    for t in range(6):
        on = np.flatnonzero(plain.weight[:, t])
        assert 0 < len(on) < 50
        reference = np.linalg.lstsq(X[:, on], margins[:, t] - margins[:, t].mean(), rcond=None)[0]
        np.testing.assert_allclose(debiased.weight[on, t], reference, atol=1e-4)
        assert debiased.nonzero[t] == len(on)
        fitted = masks @ debiased.weight[:, t] + debiased.bias[t]
        assert (margins[:, t] - fitted).mean() == pytest.approx(0, abs=1e-4)


def test_debiasing_a_dependent_support_keeps_it_finite() -> None:
    masks, margins = problem(30, 60, 4)
    lam = 0.001 * fit_datamodels(np.hstack([masks, masks]), margins, lam=1.0).lam_max
    fit = fit_datamodels(np.hstack([masks, masks]), margins, lam=lam, debias=True)
    assert fit.refit_kkt is not None
    assert np.isfinite(fit.weight).all()
    assert fit.refit_kkt.max() < 1e-6


def test_a_path_takes_up_again_what_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, margins = problem(60, 90, 3)
    monkeypatch.setattr("bench.lasso_solver._MAX_SWEEPS", 2)
    assert lasso_path(masks, margins, n_lambdas=6, tol=1e-6).converged.all()
    monkeypatch.setattr("bench.lasso._LAST_SWEEPS", 2)
    path = lasso_path(masks, margins, n_lambdas=6, min_ratio=0.001, tol=1e-9)
    assert (path.converged == (path.gap <= 1e-9)).all()
    assert not path.converged.all()


def test_rows_of_a_store_are_named_by_their_numbers_there(tmp_path: Path) -> None:
    masks, margins = problem(40, 12, 3)
    margins[7, 1] = np.inf
    np.save(tmp_path / "margins.npy", margins)
    index = np.arange(5, 35, 2)
    stored = np.load(tmp_path / "margins.npy", mmap_mode="r")
    with pytest.raises(InputError, match=rf"{tmp_path}/margins.npy: 1 value is NaN or infinite, in row 7; retrain"):
        fit_datamodels(RowView(masks, index), RowView(stored, index))
