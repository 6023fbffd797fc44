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
from bench.sources_torch import HostSource


class _Placed(torch.Tensor):
    """A tensor that says that it is on some device."""

    @staticmethod
    def __new__(cls, device: str) -> "_Placed":
        made: _Placed = torch.Tensor._make_wrapper_subclass(cls, (20, 2), device=torch.device(device))
        return made

    @classmethod
    def __torch_dispatch__(cls, _: Any, __: Any, arguments: Any = (), ___: Any = None) -> Any:
        return arguments[0]  # detached


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


def test_a_device_without_a_number_is_the_one_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on one device, and to be solved there, is not copied; all else goes through the host."""

    class ChosenError(Exception):
        pass

    def chosen(source: Any, *_: Any, device: torch.device, **__: Any) -> None:
        raise ChosenError(type(source).__name__, str(device))

    monkeypatch.setattr("bench.lasso_torch.fit", chosen)

    def choice(masks_on: str, margins_on: str, device: str) -> Any:
        design = object.__new__(Design)
        design.masks, design.margins = _Placed(masks_on), _Placed(margins_on)
        design.m, design.n, design.T = 20, 5, 2
        with pytest.raises(ChosenError) as raised:
            lasso_device.fit(design, [], torch.device(device), 10, 0.1, 3, TOL, np.ones(2), False)
        return raised.value.args

    assert choice("cuda:0", "cuda:0", "cuda") == ("TensorSource", "cuda:0")
    assert choice("cuda:1", "cuda:1", "cuda") == ("TensorSource", "cuda:1")
    assert choice("cuda:1", "cuda:1", "cuda:1") == ("TensorSource", "cuda:1")
    assert choice("cuda:0", "cuda:0", "cuda:1") == ("HostSource", "cuda:1")
    assert choice("cuda:0", "cuda:1", "cuda") == ("HostSource", "cuda")
    assert choice("cpu", "cuda:0", "cuda:0") == ("HostSource", "cuda:0")
    assert choice("cpu", "cpu", "cuda") == ("HostSource", "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_read_through_the_host(dtype: torch.dtype) -> None:
    """As those of another device are: with a gradient, in a dtype that numpy lacks."""
    masks, margins = problem()
    tensor = torch.from_numpy(margins).to(dtype).requires_grad_()
    ((_, kept, read),) = HostSource(torch.from_numpy(masks), tensor).chunks(1000)
    np.testing.assert_array_equal(kept.numpy(), masks)
    assert torch.equal(read, tensor.detach().float())
    made = through_torch(torch.from_numpy(masks), tensor)
    assert_same(made, fit_datamodels(masks, tensor.detach().float().numpy(), tol=TOL))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("folds", [0, 3])
def test_the_same_on_cuda(folds: int) -> None:
    masks, margins = problem(3000, 400, 50)
    on_cpu = fit_datamodels(masks, margins, folds=folds, tol=TOL)
    assert_same(fit_datamodels(masks, margins, folds=folds, device="cuda", tol=TOL), on_cpu)
    there = torch.from_numpy(masks).cuda(), torch.from_numpy(margins).cuda()
    assert_same(fit_datamodels(*there, folds=folds, tol=TOL), on_cpu)
    assert_same(fit_datamodels(*there, folds=folds, device="cuda", tol=TOL), on_cpu)
    assert_same(fit_datamodels(there[0], margins, folds=folds, device="cuda", tol=TOL), on_cpu)
    assert_same(fit_datamodels(masks, there[1], folds=folds, tol=TOL), on_cpu)
