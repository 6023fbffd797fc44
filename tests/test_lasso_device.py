"""`fit_datamodels` through torch: the same results, whatever computes them."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bench
from bench import lasso_device
from bench.errors import BenchError
from bench.gram import Design
from bench.held_out import held_out
from bench.lasso import Datamodels, fit_datamodels

TOL = 1e-10  # at a rougher one, neighbouring penalties of a flat valley may be chosen


def problem(m: int = 200, n: int = 40, T: int = 6) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    masks = rng.random((m, n)) < 0.5
    masks[:, 3], masks[:, 4] = True, False
    margins = 3 + masks @ (rng.standard_t(3, (n, T)) * (rng.random((n, T)) < 0.2)) + rng.standard_normal((m, T))
    margins[:, 1] = 0.5
    return masks, margins.astype(np.float32)


def assert_same(one: Datamodels, other: Datamodels) -> None:
    for name in ("converged", "constant", "unused"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("lam", "lam_max", "loss", "r2", "bias"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-4)
    assert max(one.gap.max(), other.gap.max()) <= TOL


def through_torch(masks: Any, margins: Any, lam: Any = None, debias: bool = False, folds: int = 0) -> Datamodels:
    design = Design(masks, margins)
    held = held_out(design, 0.2, folds, 0, None) if lam is None else []
    return lasso_device.fit(design, held, torch.device("cpu"), 100, 0.01, 10, TOL, lam, debias)


@pytest.mark.parametrize("folds", [0, 3])
def test_the_same_through_torch(folds: int) -> None:
    masks, margins = problem()
    assert_same(through_torch(masks, margins, folds=folds), fit_datamodels(masks, margins, folds=folds, tol=TOL))


def test_the_same_at_given_penalties_and_debiased() -> None:
    masks, margins = problem()
    lam = np.full(6, 0.05)
    plain = fit_datamodels(masks, margins, lam=lam, tol=TOL)
    assert_same(through_torch(masks, margins, lam), plain)
    mine, other = (
        through_torch(masks, margins, lam, debias=True),
        fit_datamodels(masks, margins, lam=lam, debias=True, tol=TOL),
    )
    np.testing.assert_array_equal(mine.weight != 0, plain.weight != 0)
    np.testing.assert_allclose(mine.weight, other.weight, atol=1e-4)
    assert mine.refit_kkt is not None
    assert mine.refit_kkt.max() < 1e-6


def test_tensors_are_taken_as_arrays_are() -> None:
    masks, margins = problem()
    made = bench.fit_datamodels(torch.from_numpy(masks), torch.from_numpy(margins), tol=TOL)
    np.testing.assert_array_equal(made.weight, fit_datamodels(masks, margins, tol=TOL).weight)
    assert_same(through_torch(torch.from_numpy(masks), torch.from_numpy(margins)), made)


def test_an_unknown_device_is_named() -> None:
    masks, margins = problem()
    with pytest.raises(BenchError, match="'abacus': use auto, cpu or cuda"):
        fit_datamodels(masks, margins, device="abacus")
    assert lasso_device.pick("cpu", margins) is lasso_device.pick(None, margins) is None


@pytest.mark.gpu
@pytest.mark.parametrize("folds", [0, 3])
def test_the_same_on_cuda(folds: int) -> None:
    masks, margins = problem(3000, 400, 50)
    on_cpu = fit_datamodels(masks, margins, folds=folds, tol=TOL)
    assert_same(fit_datamodels(masks, margins, folds=folds, device="cuda", tol=TOL), on_cpu)
    there = torch.from_numpy(masks).cuda(), torch.from_numpy(margins).cuda()
    assert_same(fit_datamodels(*there, folds=folds, tol=TOL), on_cpu)
