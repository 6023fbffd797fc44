"""Datamodel fits in torch against scikit-learn, the CPU's solver, the optimality conditions and brute force."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Lasso

from bench import gram_torch, lasso_torch, memory, moments_torch, slabs_torch, sources_torch
from bench.certificate_torch import certify, improve
from bench.descent_torch import Slab
from bench.errors import BenchError, InputError
from bench.gram_torch import Gram, exact_gather, fitted_gram, means
from bench.lasso import fit_datamodels
from bench.lasso_torch import HostSource, Solution, TensorSource, fit
from bench.moments_torch import moments

Array = NDArray[Any]
OPTIONS: dict[str, Any] = {"n_lambdas": 12, "min_ratio": 0.01, "patience": 12, "tol": 1e-4, "device": "cpu"}


def problem(m: int, n: int, T: int, seed: int = 0, alpha: float = 0.5) -> tuple[Array, Array]:
    """Masks and margins of sparse linear targets with a small dense tail, as real datamodels have."""
    rng = np.random.default_rng(seed)
    masks = rng.random((m, n)) < alpha
    weight = 0.05 * rng.standard_normal((n, T)) + rng.standard_t(3, (n, T)) * (rng.random((n, T)) < 0.1)
    return masks, (3.0 + masks @ weight + 0.5 * rng.standard_normal((m, T))).astype(np.float32)


def source(masks: Array, margins: Array, device: str = "cpu") -> TensorSource:
    return TensorSource(torch.from_numpy(masks).to(device), torch.from_numpy(margins).to(device))


def solve(masks: Array, margins: Array, part: Any = None, n_parts: int = 1, **options: Any) -> Solution:
    part = split(len(masks)) if part is None else part
    return fit(source(masks, margins), part, n_parts, **OPTIONS | options)


def split(m: int, seed: int = 0, folds: int = 0) -> Array:
    """The parts that `fit_datamodels` takes for the same seed, where all masks differ."""
    order = np.random.default_rng(seed).permutation(m)
    part = np.full(m, -1)
    for p, rows in enumerate(np.array_split(order, folds) if folds else [order[: round(0.2 * m)]]):
        part[rows] = p
    return part


def sklearn_lasso(masks: Array, y: Array, lam: float, tol: float = 1e-12) -> Lasso:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Lasso(alpha=lam, tol=tol, max_iter=200_000).fit(masks.astype(np.float64), y.astype(np.float64))


def largest_penalty(masks: Array, margins: Array) -> Array:
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    return np.asarray(np.abs(X.T @ Y).max(0) / len(X))


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_torch, "_BLOCK", 32)
    monkeypatch.setattr(moments_torch, "_WIDE", 32)
    monkeypatch.setattr(moments_torch, "_ENTRIES", 1000)
    monkeypatch.setattr(moments_torch, "_ROWS", 50)
    monkeypatch.setattr(gram_torch, "_WIDE", 7)
    monkeypatch.setattr(gram_torch, "_GATHERED", 30)


@pytest.fixture(params=["gathered", "whole"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Matrices gathered for each target (few targets), or products with the whole Gram (no memory to gather in)."""
    if request.param == "whole":
        monkeypatch.setattr(slabs_torch, "_HOST_BUDGET", 1)
    return str(request.param)


@pytest.mark.parametrize("units", ["int8", "float32"])
@pytest.mark.parametrize(("m", "n", "chunk"), [(1, 1, 64), (63, 5, 17), (64, 64, 64), (129, 130, 50), (200, 67, 1000)])
@pytest.mark.usefixtures("tiny_blocks")
def test_moments_are_exact(m: int, n: int, chunk: int, units: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of all rows and of parts, at ragged shapes, from the layout that int8 units take and from floats."""
    monkeypatch.setattr(moments_torch, "_multiplies_integers", lambda _: units == "int8")
    masks, margins = problem(m, n, 40, seed=m)
    part = np.random.default_rng(m).integers(-1, 3, m)
    wanted = [p for p in range(3) if (part == p).any()]
    every, parts = moments(source(masks, margins), part, wanted, torch.float32, chunk)
    for got, rows in [(every, np.full(m, True)), *((x, part == p) for x, p in zip(parts, wanted, strict=True))]:
        X = masks[rows].astype(np.int64)
        Y = (margins - margins[0])[rows].astype(np.float64)
        assert got.rows == rows.sum()
        np.testing.assert_array_equal(got.count[:n, :n].numpy(), X.T @ X)
        assert not got.count[n:].any()
        assert not got.count[:, n:].any()
        np.testing.assert_allclose(got.cross[:, :n].numpy(), Y.T @ X, atol=1e-5 * max(1, np.abs(Y).max()))
        np.testing.assert_allclose(got.total.numpy(), Y.sum(0), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(got.square.numpy(), (Y**2).sum(0), rtol=1e-5)


@pytest.mark.parametrize("units", ["int8", "float32"])
def test_cross_products_are_those_of_float64(units: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where margins lie far from the first row's: a chunk's mean goes through float64."""
    monkeypatch.setattr(moments_torch, "_multiplies_integers", lambda _: units == "int8")
    masks, margins = problem(3000, 40, 5)
    margins += 1000 * (np.arange(3000) > 10)[:, None]
    exact = (margins.astype(np.float64) - margins[0]).T @ masks
    for dtype, close in ((torch.float32, 1e-8), (torch.float64, 1e-14)):
        every, _ = moments(source(masks, margins), np.zeros(3000, np.int64), [0], dtype, 1000)
        np.testing.assert_allclose(every.cross[:, :40].numpy(), exact, rtol=close)


@pytest.mark.parametrize(("units", "close"), [("int8", 3e-8), ("float32", 1e-6)])
def test_cross_products_are_off_by_what_is_said(units: str, close: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one example that explains a whole target, of weak ones, and at any scale; in one chunk of 8192 rows."""
    monkeypatch.setattr(moments_torch, "_multiplies_integers", lambda _: units == "int8")
    rng = np.random.default_rng(0)
    masks = rng.random((8192, 40)) < 0.5
    margins = np.column_stack([np.pi * masks[:, 0], rng.standard_normal((8192, 3))]) * [1, 1, 1e25, 1e-30]
    margins = margins.astype(np.float32)
    centred = margins.astype(np.float64) - margins.astype(np.float64).mean(0)
    every, _ = moments(source(masks, margins), np.zeros(8192, np.int64), [0], torch.float32, 8192)
    own = means(every)
    C = gram_torch.fitted_cross(every, None, own, slice(0, 4))[0][:, :40].numpy()
    off = np.abs(C - centred.T @ (masks - masks.mean(0)) / 8192).max(1)
    assert (off <= close * centred.std(0)).all()


def test_digits_lose_nothing() -> None:
    largest = moments_torch._LARGEST
    rng = np.random.default_rng(0)
    whole = np.concatenate([rng.integers(-largest, largest + 1, 5000), [-largest, largest, 0, 127, 128, -128, -129]])
    high, middle, low = moments_torch._digits(torch.from_numpy(whole[None] + rng.uniform(-0.4, 0.4, whole.shape)))
    np.testing.assert_array_equal((65536 * high.long() + 256 * middle.long() + low.long())[0].numpy(), whole)


PRECISION = """
import os, sys, torch
from bench.gram_torch import tf32
matmul = torch.backends.cuda.matmul
new = hasattr(matmul, "fp32_precision")
now = lambda: matmul.fp32_precision if new else matmul.allow_tf32
for setting in sys.argv[1:]:
    if "fp32_precision" in setting and not new:
        continue
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, setting
        continue
    code = 1
    try:
        exec(setting)
        before = now()
        for on in (True, False):
            inside = ("tf32" if on else "ieee") if new else on
            with tf32(on):
                assert now() == inside, now()
                with tf32(not on):
                    assert now() != inside, now()
                assert now() == inside, now()
            assert now() == before, (now(), before)
        if "backends.fp32_precision" in setting:
            torch.backends.fp32_precision = other = "ieee" if before == "tf32" else "tf32"
            assert now() == other, now()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)
"""


def test_the_users_precision_is_given_back() -> None:
    """Wherever it was set, and still in force; each in a process of its own, as some cannot be taken back."""
    settings = [f"torch.set_float32_matmul_precision('{name}')" for name in ("medium", "high", "highest")]
    settings += [
        f"torch.backends.{where}fp32_precision = '{name}'"
        for where in ("", "cuda.matmul.")
        for name in ("tf32", "ieee")
    ]
    settings += ["pass", "torch.backends.cuda.matmul.allow_tf32 = True"]
    made = subprocess.run([sys.executable, "-c", PRECISION, *settings], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.usefixtures("tiny_blocks")
def test_gathered_parts_are_those_of_the_matrix() -> None:
    masks, margins = problem(50, 40, 2)
    every, _ = moments(source(masks, margins), np.zeros(50, np.int64), [0], torch.float64, 64)
    index = torch.stack([torch.from_numpy(np.random.default_rng(i).permutation(40)[:8]) for i in range(5)])
    exact = np.cov(masks.T, bias=True)[index[:, :, None], index[:, None, :]]
    for found in (fitted_gram(every, None, torch.float64).gather(index), exact_gather(every, index)):
        np.testing.assert_allclose(found.numpy(), exact, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
@pytest.mark.parametrize("folds", [0, 3])
def test_margins_of_any_scale(scale: float, folds: int) -> None:
    masks, margins = problem(300, 40, 4)
    part = split(300, folds=folds)
    one = solve(masks, margins, part, max(folds, 1), debias=True)
    found = solve(masks, (margins.astype(np.float64) * scale).astype(np.float32), part, max(folds, 1), debias=True)
    assert found.gap.max() <= 1e-4
    assert found.refit_kkt is not None
    assert found.refit_kkt.max() <= 1e-5
    for name, unit in (("lam", scale), ("lam_max", scale), ("bias", scale), ("loss", scale**2), ("null", scale**2)):
        np.testing.assert_allclose(getattr(found, name) / unit, getattr(one, name), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.weight / scale, one.weight, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-44, 1e-60])
def test_weights_that_float32_cannot_hold_have_not_converged(scale: float) -> None:
    masks, margins = problem(300, 40, 4)
    found = solve(masks, margins.astype(np.float64) * scale)
    assert (found.gap > 1e-4).all()


@pytest.mark.parametrize(("m", "n"), [(300, 40), (60, 90), (130, 1)])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_equal_to_sklearn_at_given_lambda(m: int, n: int, ratio: float, alpha: float, way: str) -> None:
    masks, margins = problem(m, n, 5, alpha=alpha)
    lam = ratio * largest_penalty(masks, margins)
    found = solve(masks, margins, lam=lam, tol=1e-12, slab=1 if way == "gathered" else None)
    assert found.gap.max() <= 1e-12
    np.testing.assert_allclose(found.lam_max, lam / ratio, rtol=1e-12)
    for t in range(5):
        reference = sklearn_lasso(masks, margins[:, t], lam[t])
        np.testing.assert_allclose(found.weight[:, t], reference.coef_, atol=3e-6)
        assert found.bias[t] == pytest.approx(reference.intercept_, abs=3e-5)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(3, 40),
    n=st.integers(1, 60),
    alpha=st.sampled_from([0.1, 0.5, 0.9]),
    ratio=st.floats(0.01, 1.2),
    seed=st.integers(0, 10_000),
)
def test_certificate_is_true(m: int, n: int, alpha: float, ratio: float, seed: int) -> None:
    """Gap and KKT violation in float32, from the rows themselves; the gap bounds what is left to gain."""
    masks, margins = problem(m, n, 3, seed, alpha)
    margins[:, 2] = 5.5
    scale = largest_penalty(masks, margins)
    lam = np.where(scale > 1e-9, ratio * scale, 1.0)
    found = solve(masks, margins, lam=lam)
    assert found.weight.dtype == np.float32
    assert found.gap.max() <= 1e-4
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    W = found.weight.astype(np.float64)
    residual = Y - X @ W
    gradient = X.T @ residual / m
    for t in range(2):
        if scale[t] <= 1e-9:
            continue
        y, r, g, w = Y[:, t], residual[:, t], gradient[:, t], W[:, t]
        null = 0.5 * (y @ y) / m
        s = min(1.0, lam[t] / np.abs(g).max())
        gap = 0.5 * (r @ r) / m + lam[t] * np.abs(w).sum() - (s * (r @ y) - 0.5 * s * s * (r @ r)) / m
        assert found.gap[t] == pytest.approx(gap / null, abs=1e-6)
        off = np.where(w != 0, np.abs(g - lam[t] * np.sign(w)), np.maximum(np.abs(g) - lam[t], 0))
        rounding = 3e-6 * np.sqrt(2 * null) / scale[t]  # of Xᵀy in float32
        assert found.kkt[t] == pytest.approx(off.max() / scale[t], abs=1e-6 + rounding)
        reference = sklearn_lasso(masks, margins[:, t], lam[t], 1e-10)
        best = y - X @ reference.coef_
        least = 0.5 * (best @ best) / m + lam[t] * np.abs(reference.coef_).sum()
        assert 0.5 * (r @ r) / m + lam[t] * np.abs(w).sum() - least <= (found.gap[t] + 1e-6) * null
    assert not found.weight[:, 2].any()
    assert found.gap[2] == found.kkt[2] == found.lam_max[2] == 0
    assert found.bias[2] == 5.5


@pytest.mark.parametrize(("m", "n"), [(400, 60), (150, 200)])
@pytest.mark.parametrize(("folds", "patience"), [(0, 8), (0, 1), (3, 2)])
def test_agrees_with_the_cpu_solver(m: int, n: int, folds: int, patience: int, way: str) -> None:
    masks, margins = problem(m, n, 4)
    options: dict[str, Any] = {"n_lambdas": 8, "min_ratio": 0.02, "patience": patience, "tol": 1e-9}
    reference = fit_datamodels(masks, margins, folds=folds, **options)
    slab = 1 if way == "gathered" and not folds else None
    found = solve(masks, margins, split(m, folds=folds), max(folds, 1), **options, slab=slab)
    np.testing.assert_allclose(found.lam, reference.lam, rtol=1e-9)
    np.testing.assert_allclose(found.lam_max, reference.lam_max, rtol=1e-9)
    np.testing.assert_allclose(found.loss, reference.loss, rtol=1e-5)
    np.testing.assert_allclose(found.weight, reference.weight, atol=3e-5)
    np.testing.assert_allclose(found.bias, reference.bias, atol=3e-4)
    assert found.gap.max() <= 1e-9


def test_float32_is_near_float64() -> None:
    masks, margins = problem(400, 60, 12)
    single, double = (solve(masks, margins, tol=tol) for tol in (1e-4, 1e-9))
    np.testing.assert_allclose(single.lam, double.lam, rtol=1e-5)
    np.testing.assert_allclose(single.weight, double.weight, atol=2e-3)
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-2)
    assert single.gap.max() <= 1e-4


@pytest.mark.parametrize("folds", [0, 3])
def test_lambda_is_the_brute_force_choice(folds: int) -> None:
    masks, margins = problem(90, 30, 6)
    part = split(90, 3, folds)
    found = solve(masks, margins, part, max(folds, 1), tol=1e-9)
    grid = largest_penalty(masks, margins) * np.geomspace(1, 0.01, 12)[:, None]
    errors = np.zeros_like(grid)
    for p in range(max(folds, 1)):
        kept, held = part != p, part == p
        for k, t in np.ndindex(*grid.shape):
            model = sklearn_lasso(masks[kept], margins[kept, t], float(grid[k, t]), 1e-9)
            errors[k, t] += ((margins[held, t] - model.predict(masks[held].astype(np.float64))) ** 2).sum()
    best = errors.argmin(0)
    np.testing.assert_allclose(found.lam, grid[best, np.arange(6)], rtol=1e-9)
    np.testing.assert_allclose(found.loss, errors.min(0) / (part >= 0).sum(), rtol=1e-5)
    assert len(set(best)) > 1  # chosen per target


@pytest.mark.parametrize("lam", [None, 0.05])
def test_slabs_change_nothing(lam: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, margins = problem(200, 45, 8)
    given_lam = None if lam is None else np.full(8, lam)
    whole = solve(masks, margins, lam=given_lam, tol=1e-9, n_lambdas=6)
    for slab in (1, 7):
        part = solve(masks, margins, lam=given_lam, tol=1e-9, slab=slab, n_lambdas=6)
        np.testing.assert_allclose(part.lam, whole.lam, rtol=1e-12)
        np.testing.assert_allclose(part.weight, whole.weight, atol=1e-5)
        np.testing.assert_allclose(part.loss, whole.loss, rtol=1e-6)
    real, sizes = Slab.solve, []

    def cramped(self: Slab, *arguments: Any) -> Any:
        sizes.append(len(self.W))
        if len(self.W) > 4:
            raise torch.OutOfMemoryError("no room")
        return real(self, *arguments)

    monkeypatch.setattr(Slab, "solve", cramped)
    after = solve(masks, margins, lam=given_lam, tol=1e-9, n_lambdas=6)
    assert sizes[:2] == [8, 4]
    np.testing.assert_allclose(after.weight, whole.weight, atol=1e-5)


def test_one_target_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Slab, "solve", never)
    with pytest.raises(torch.OutOfMemoryError):
        solve(*problem(50, 10, 3))


def test_a_target_alone_is_tried_in_less_memory_before_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs_torch, "_HOST_BUDGET", 2**30)
    tried = []

    def work(rows: slice, budget: int) -> None:
        tried.append((rows.stop - rows.start, budget))
        if budget > 2**28:
            raise torch.OutOfMemoryError("no room")

    slabs_torch.in_slabs(work, 2, 32, torch.float32, torch.device("cpu"), 1)
    assert tried == [(1, 2**30), (1, 2**29), (1, 2**28), (1, 2**28)]


def test_a_slab_has_fewer_entries_than_torch_can_index() -> None:
    sizes = []
    slabs_torch.in_slabs(
        lambda rows, _: sizes.append(rows.stop - rows.start), 10, 2**29, torch.float32, torch.device("cpu"), 10
    )
    assert sizes == [3, 3, 3, 1]


def test_parts_that_do_not_fit_together_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, margins = problem(120, 30, 5)
    together = solve(masks, margins, split(120, folds=4), 4, tol=1e-9)
    passes = []
    real = moments

    def counted(source: Any, part: Any, wanted: Any, *rest: Any) -> Any:
        passes.append(wanted)
        return real(source, part, wanted, *rest)

    monkeypatch.setattr(lasso_torch, "moments", counted)
    monkeypatch.setattr(memory, "free", lambda _: 0)
    apart = solve(masks, margins, split(120, folds=4), 4, tol=1e-9)
    assert passes == [[0], [1], [2], [3]]
    np.testing.assert_allclose(apart.lam, together.lam, rtol=1e-12)
    np.testing.assert_allclose(apart.weight, together.weight, atol=1e-6)


@pytest.mark.parametrize("tol", [1e-4, 1e-9])
@pytest.mark.parametrize("folds", [0, 3])
def test_degenerate_columns_and_targets(tol: float, folds: int) -> None:
    masks, margins = problem(120, 20, 4)
    masks[:, 3], masks[:, 4] = True, False
    masks[:, 6] = masks[:, 5]
    margins[:, 1] = 0.1
    part = split(120, folds=folds)
    margins[part != 0, 3] = 2.0  # varies in one part only
    found = solve(masks, margins, part, max(folds, 1), tol=tol, debias=True)
    assert found.refit_kkt is not None
    for values in (found.weight, found.bias, found.gap, found.kkt, found.loss, found.refit_kkt):
        assert np.isfinite(values).all()
    assert not found.weight[3:5].any()
    assert not found.weight[:, 1].any()
    assert found.lam[1] == found.gap[1] == found.kkt[1] == found.loss[1] == 0
    assert found.bias[1] == np.float32(0.1)
    assert found.gap.max() <= tol
    pair = solve(masks, margins, part, max(folds, 1), tol=tol).weight[5:7]
    assert (pair[0] * pair[1] >= 0).all()


def correlated(kind: str, m: int, n: int) -> Array:
    rng = np.random.default_rng(0)
    if kind == "groups":  # ten examples come and go together, nearly
        return np.asarray(np.repeat(rng.random((m, n // 10)) < 0.5, 10, 1) ^ (rng.random((m, n)) < 0.03))
    if kind == "twins":
        return np.tile(rng.random((m, n // 2)) < 0.5, 2)
    return rng.random((m, n)) < rng.uniform(0.05, 0.95, (m, 1))  # each row has a share of its own


@pytest.mark.parametrize("kind", ["groups", "twins", "shares"])
@pytest.mark.parametrize("shape", [(400, 100), (80, 150)])
@pytest.mark.parametrize("tensor_cores", [False, True])
def test_masks_that_are_not_random(
    kind: str, shape: tuple[int, int], tensor_cores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step lengths and precision are tuned to random masks, and right for all; also with TF32's 11 bits, imitated."""
    if tensor_cores:
        monkeypatch.setattr(Gram, "product", rounded_product)
        monkeypatch.setattr(Gram, "subtract", rounded_subtract)
    masks = correlated(kind, *shape)
    margins = problem(*shape, 4)[1] + 0.2 * (masks @ np.random.default_rng(1).standard_normal((shape[1], 4)))
    found = solve(masks, margins.astype(np.float32), debias=True, n_lambdas=6)
    assert found.gap.max() <= 1e-4
    assert found.refit_kkt is not None
    assert found.refit_kkt.max() <= 1e-5


@pytest.mark.parametrize("shape", [(2000, 300), (300, 400)])
def test_random_masks_in_eleven_bits(shape: tuple[int, int], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device does in TF32, imitated on the CPU: it costs no precision that shows."""
    masks, margins = problem(*shape, 4)
    slab = 1 if way == "gathered" else None
    exact = solve(masks, margins, slab=slab)
    monkeypatch.setattr(Gram, "product", rounded_product)
    monkeypatch.setattr(Gram, "subtract", rounded_subtract)
    found = solve(masks, margins, slab=slab)
    assert found.gap.max() <= 1e-4
    np.testing.assert_allclose(found.lam, exact.lam)
    np.testing.assert_allclose(found.weight, exact.weight, atol=5e-3)


def rounded_product(self: Gram, W: torch.Tensor, fast: bool = False) -> torch.Tensor:
    out = eleven_bits(W) @ eleven_bits(self.off) if fast else W @ self.off
    return out + W * self.diagonal


def rounded_subtract(self: Gram, R: torch.Tensor, D: torch.Tensor, fast: bool = False) -> None:
    R -= rounded_product(self, D, fast)


def eleven_bits(x: torch.Tensor) -> torch.Tensor:
    assert x.dtype == torch.float32  # float64 solvers never ask for it
    return ((x.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


@pytest.mark.parametrize("limit", [1, 4])
def test_gap_is_honest_where_iterations_end(limit: int) -> None:
    """Too few iterations: the gap that is returned is the weights' true one, and above tol."""
    masks, margins = problem(150, 200, 4)
    lam = 0.02 * largest_penalty(masks, margins)
    found = solve(masks, margins, lam=lam, max_iterations=limit, tol=1e-6)
    assert found.gap.max() > 1e-6
    X, Y = masks - masks.mean(0), margins - margins.astype(np.float64).mean(0)
    r = Y - X @ found.weight
    s = np.minimum(1, lam / np.abs(X.T @ r / 150).max(0))
    gap = 0.5 * (r**2).mean(0) + lam * np.abs(found.weight).sum(0) - s * (r * Y).mean(0) + 0.5 * s**2 * (r**2).mean(0)
    np.testing.assert_allclose(found.gap, gap / (0.5 * (Y**2).mean(0)), rtol=1e-6)


@pytest.mark.parametrize(("m", "n"), [(300, 40), (100, 120)])
@pytest.mark.parametrize("tol", [1e-4, 1e-9])
def test_debiased_weights_are_least_squares_on_the_support(m: int, n: int, tol: float, way: str) -> None:
    masks, margins = problem(m, n, 3)
    slab = 1 if way == "gathered" else None
    lasso, refit = (solve(masks, margins, debias=debias, tol=tol, slab=slab, n_lambdas=6) for debias in (False, True))
    assert lasso.refit_kkt is None
    assert refit.refit_kkt is not None
    assert refit.refit_kkt.max() <= (1e-6 if tol == 1e-4 else 1e-9)
    np.testing.assert_array_equal(refit.gap, lasso.gap)
    np.testing.assert_array_equal(refit.kkt, lasso.kkt)
    for t in range(3):
        support = np.flatnonzero(lasso.weight[:, t])
        assert set(np.flatnonzero(refit.weight[:, t])) <= set(support)
        X = np.column_stack([masks[:, support], np.ones(m)]).astype(np.float64)
        if len(support) < m / 2:
            exact = np.linalg.lstsq(X, margins[:, t].astype(np.float64), rcond=None)[0]
            np.testing.assert_allclose(refit.weight[support, t], exact[:-1], atol=1e-5)
            assert refit.bias[t] == pytest.approx(exact[-1], abs=1e-4)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("margin_dtype", [np.float16, np.float32, np.float64, np.int32])
def test_memmaps_in_odd_chunks(tmp_path: Path, dtype: type, margin_dtype: type) -> None:
    masks, margins = problem(80, 21, 5)
    margins = np.round(4 * margins).astype(margin_dtype)
    np.save(tmp_path / "masks.npy", masks.astype(dtype))
    np.save(tmp_path / "margins.npy", margins)
    host = HostSource(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("masks", "margins")))
    rows = list(host.chunks(33))
    assert [r for r, _, _ in rows] == [slice(0, 33), slice(33, 66), slice(66, 80)]
    np.testing.assert_array_equal(torch.cat([x for _, x, _ in rows]).numpy(), masks)
    np.testing.assert_array_equal(torch.cat([y for _, _, y in rows]).numpy(), margins)
    found = fit(host, split(80), 1, **OPTIONS | {"chunk": 33})
    reference = solve(masks, margins.astype(np.float64))
    np.testing.assert_allclose(found.weight, reference.weight, atol=1e-4)
    np.testing.assert_allclose(found.lam, reference.lam, rtol=1e-6)


def test_a_chunk_on_the_host_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, margins = problem(80, 20, 5)
    monkeypatch.setattr(sources_torch, "_HOST_BYTES", 10 * (20 + 4 * 5))
    assert [rows.stop - rows.start for rows, _, _ in HostSource(masks, margins).chunks(33)] == [10] * 8


def test_weights_may_stay_on_the_device() -> None:
    masks, margins = problem(80, 21, 5)
    here, there = (solve(masks, margins, on_device=on) for on in (False, True))
    assert isinstance(there.weight, torch.Tensor)
    assert here.weight.flags.c_contiguous
    np.testing.assert_array_equal(there.weight.numpy(), here.weight)


def test_certificate_of_any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of counts and of targets."""
    masks, margins = problem(70, 40, 6)
    every, _ = moments(source(masks, margins), np.zeros(70, np.int64), [0], torch.float64, 64)
    rng = np.random.default_rng(0)
    W = torch.zeros(4, 64)
    W[:, :40] = torch.from_numpy(rng.standard_normal((4, 40)) * (rng.random((4, 40)) < 0.5))
    targets, lam = torch.tensor([0, 2, 3, 5]), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    R = torch.empty_like(W)
    monkeypatch.setattr(gram_torch, "row_blocks", lambda matrix: gram_torch.slices(len(matrix), 9))
    gap, kkt = certify(every, means(every), W, targets, lam, 1, R)
    X, Y = masks - masks.mean(0), (margins - margins.astype(np.float64).mean(0))[:, targets]
    w, penalty = W[:, :40].double().numpy().T, lam.numpy()
    r = Y - X @ w
    gradient = X.T @ r / 70
    s = np.minimum(1, penalty / np.abs(gradient).max(0))
    primal = 0.5 * (r**2).mean(0) + penalty * np.abs(w).sum(0)
    null = 0.5 * (Y**2).mean(0)
    np.testing.assert_allclose(gap.numpy(), (primal - s * (r * Y).mean(0) + 0.5 * s**2 * (r**2).mean(0)) / null)
    off = np.where(w != 0, np.abs(gradient - penalty * np.sign(w)), np.maximum(np.abs(gradient) - penalty, 0))
    np.testing.assert_allclose(kkt.numpy(), off.max(0) / np.abs(X.T @ Y / 70).max(0))
    np.testing.assert_allclose(R[:, :40].numpy().T, gradient, atol=1e-6)


@pytest.mark.parametrize("budget", [2**20, 1])
def test_weights_short_of_tol_are_improved_in_float64(budget: int) -> None:
    """From weights far off, by rounds of working sets alone, on matrices gathered or not."""
    masks, margins = problem(200, 40, 4)
    every, _ = moments(source(masks, margins), np.zeros(200, np.int64), [0], torch.float32, 64)
    own, targets = means(every), torch.arange(4)
    lam = torch.from_numpy(0.05 * largest_penalty(masks, margins))
    W = torch.zeros(4, 64, dtype=torch.float64)
    R = torch.empty_like(W)
    gaps = [certify(every, own, W, targets, lam, 2**20, R)[0].max()]
    for _ in range(4):
        improve(every, own, W, R, targets, lam, 1e-10, 2000, budget)
        gaps.append(certify(every, own, W, targets, lam, 2**20, R)[0].max())
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-7  # float32 margins: cross products are no better
    for t in range(4):
        reference = sklearn_lasso(masks, margins[:, t], float(lam[t]))
        np.testing.assert_allclose(W[t, :40].numpy(), reference.coef_, atol=1e-4)


MASKS, MARGINS = problem(30, 8, 3)
NAN = MARGINS.copy()
NAN[4, 1] = NAN[5, 2] = np.nan


@pytest.mark.parametrize(
    ("masks", "margins", "part", "options", "message"),
    [
        (MASKS[0], MARGINS, None, {}, r"masks has shape \(8,\)"),
        (MASKS, MARGINS[:, 0], None, {}, r"margins has shape \(30,\)"),
        (MASKS[:20], MARGINS, None, {}, "masks has 20 rows and margins 30"),
        (MASKS * 2, MARGINS, None, {}, r"masks\[0, \d\] is 2"),
        (MASKS.astype(np.uint8) * 3, MARGINS, None, {}, "values other than 0/1, first in column 0"),
        (MASKS - 0.5, MARGINS, None, {}, r"masks\[0, 0\] is"),
        (MASKS, NAN, None, {}, "margins of 2 targets are NaN.* the first of target 1"),
        (MASKS, MARGINS, np.zeros(30), {}, r"part has sizes \[30\] of 30 rows"),
        (MASKS, MARGINS, np.full(30, -1), {}, r"part has sizes \[0\]"),
        (MASKS, MARGINS, np.arange(30) % 2, {}, r"part has sizes \[15\]"),
        (MASKS, MARGINS, np.zeros(29), {}, r"part has shape \(29,\)"),
        (MASKS, MARGINS, None, {"lam": np.zeros(3)}, "lam has shape"),
        (MASKS, MARGINS, None, {"lam": np.ones(2)}, r"lam has shape \(2,\)"),
    ],
)
def test_bad_input_is_named(masks: Array, margins: Array, part: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(source(masks, margins), split(30) if part is None else part, 1, **OPTIONS | options)
    if "masks[" in message.replace("\\", ""):
        with pytest.raises(InputError, match=message):
            fit(HostSource(masks, margins), split(30), 1, **OPTIONS)


def test_margins_of_the_host_are_real() -> None:
    with pytest.raises(InputError, match="margins has dtype"):
        fit(HostSource(MASKS, MARGINS.astype(str)), split(30), 1, **OPTIONS)


def test_wrong_integer_units_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out = (a.int() @ b.int()).to(torch.int32)
        out[0, 1] += 1
        return out

    monkeypatch.setattr(torch, "_int_mm", wrong)
    monkeypatch.setattr(moments_torch, "_multiplies_integers", lambda _: True)
    with pytest.raises(BenchError, match="integer products on cpu are wrong"):
        solve(MASKS, MARGINS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnADevice:
    @pytest.mark.parametrize(
        ("m", "n", "chunk"), [(1, 1, 64), (129, 130, 50), (5000, 1437, 999), (40_000, 300, 32_768)]
    )
    def test_moments_are_exact(self, m: int, n: int, chunk: int) -> None:
        assert moments_torch._multiplies_integers(torch.device("cuda"))
        masks, margins = problem(m, n, 9)
        part = np.random.default_rng(m).integers(-1, 1, m)
        part[0] = 0
        every, (held,) = moments(source(masks, margins, "cuda"), part, [0], torch.float32, chunk)
        for got, rows in ((every, np.full(m, True)), (held, part == 0)):
            X = masks[rows].astype(np.float64)
            Y = (margins - margins[0])[rows].astype(np.float64)
            np.testing.assert_array_equal(got.count[:n, :n].cpu().numpy(), X.T @ X)
            np.testing.assert_allclose(got.cross[:, :n].cpu().numpy(), Y.T @ X, rtol=1e-5, atol=1e-3)

    def test_pinned_chunks_are_the_rows(self) -> None:
        masks, margins = problem(1000, 333, 7)
        rows = list(HostSource(masks, margins, "cuda").chunks(129))
        np.testing.assert_array_equal(torch.cat([x for _, x, _ in rows]).cpu().numpy(), masks)
        np.testing.assert_array_equal(torch.cat([y for _, _, y in rows]).cpu().numpy(), margins)

    @pytest.mark.parametrize(("m", "n", "T"), [(400, 60, 60), (5000, 1437, 100), (300, 700, 60)])
    @pytest.mark.parametrize("folds", [0, 3])
    @pytest.mark.parametrize("tol", [1e-4, 1e-9])
    def test_agrees_with_the_cpu_solver(self, m: int, n: int, T: int, folds: int, tol: float) -> None:
        masks, margins = problem(m, n, T)
        options: dict[str, Any] = {"n_lambdas": 20, "min_ratio": 0.02, "patience": 3, "tol": tol}
        reference = fit_datamodels(masks, margins, folds=folds, **options)
        host = HostSource(masks, margins, "cuda")
        found = fit(host, split(m, folds=folds), max(folds, 1), **options, device="cuda", debias=True)
        lasso = fit(host, split(m, folds=folds), max(folds, 1), **options, device="cuda")
        assert found.gap.max() <= tol
        assert found.refit_kkt is not None
        assert found.refit_kkt.max() <= 1e-5
        same = np.isclose(lasso.lam, reference.lam, rtol=1e-5)
        assert same.mean() > (0.9 if tol == 1e-4 else 0.999)
        np.testing.assert_allclose(lasso.weight[:, same], reference.weight[:, same], atol=1e-2 if tol == 1e-4 else 1e-4)

    @pytest.mark.parametrize("kind", ["groups", "twins", "shares"])
    def test_masks_that_are_not_random(self, kind: str) -> None:
        masks = correlated(kind, 2000, 500)
        margins = problem(2000, 500, 30)[1]
        found = fit(HostSource(masks, margins, "cuda"), split(2000), 1, **OPTIONS | {"device": "cuda"})
        assert found.gap.max() <= 1e-4

    def test_matrices_of_more_than_2_31_entries(self) -> None:
        m, n = 64, 47_000
        if memory.free(torch.device("cuda")) < 24e9:
            pytest.skip("needs 24 GB free on the device")
        rng = np.random.default_rng(0)
        masks = rng.random((m, n)) < 0.5
        margins = rng.standard_normal((m, 2)).astype(np.float32)
        every, _ = moments(source(masks, margins, "cuda"), np.full(m, -1), [], torch.float32, m)
        gram = fitted_gram(every, None, torch.float32)
        share = masks.mean(0)
        np.testing.assert_allclose(gram.diagonal[:n].cpu().numpy(), share * (1 - share), rtol=1e-6)
        assert not gram.off.diagonal().any()
        index = torch.tensor([[0, 1, n - 3, n - 1], [20_000, 46_000, n - 2, n - 1]], device="cuda")
        for rows, part, counted in zip(index, gram.gather(index), exact_gather(every, index), strict=True):
            exact = np.cov(masks[:, rows.cpu().numpy()].T, bias=True)
            np.testing.assert_allclose(part.cpu().numpy(), exact, atol=1e-7)
            np.testing.assert_allclose(counted.cpu().numpy(), exact, atol=1e-12)
