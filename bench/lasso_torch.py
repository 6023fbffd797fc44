"""LASSO datamodels on a device: what `bench.lasso` does, in torch, for many train examples and targets.

One pass over the rows gives the moments of all rows and of the held-out ones (`bench.moments_torch`). Targets then go
down their paths in slabs that fit the device (`bench.descent_torch`), in units near their standard deviations, and
after all paths through the refit on all rows.
Certificates are computed in float64 from the exact counts and the rounded weights, with none of the solver's numbers;
a target that they find short of `tol` is taken up again with those same numbers.

What stays on the device at a time, N being the train examples padded to a multiple of 32: counts of all rows (4N²),
two Grams in the solver's precision (4N² each, the held-out one in place of its counts), cross products of all and of
held-out rows (8NT each), weights (4NT), and a slab. At N = 50,000, T = 10,000: 30 GB + 8 GB + 2 GB, and 1.8 MB for each
target of a slab.

Floors at m = 300,000, N = 50,000, T = 10,000 on a GPU of 1,000 int8 TOPS, 400 TF32 and 55 float64 TFLOPS, 3.3 TB/s
(derived from those rates, not measured): counts, mN² operations on and above the diagonal, 0.75 s, and 0.2 s to add
them up; cross products, 6mNT operations in int8, 0.9 s, and 0.02 s per chunk and part to add them up; one update of all
gradients, 2N²T operations, 0.13 s in TF32; working sets of 500 examples, 0.03 s to gather (a 32-byte sector per entry)
and 3 ms per iteration; the certificate, 2N²T operations in float64, 0.9 s. So a λ has its floor near 0.2 s, 100 of them
near 20 s, and all is about half a minute beside making or reading the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import least_squares_torch as least_squares
from bench import memory
from bench.certificate_torch import certify, greatest_penalty, improve
from bench.descent_torch import Slab, greatest, held_losses
from bench.errors import InputError
from bench.gram_torch import (
    Moments,
    fitted_cross,
    fitted_gram,
    held_cross,
    held_gram,
    means,
    padded,
    slices,
    units,
    variances,
)
from bench.lasso_solver import settled
from bench.moments_torch import moments
from bench.slabs_torch import in_slabs
from bench.sources_torch import HostSource, Source, TensorSource, chunk_rows
from bench.wording import counted

__all__ = ["HostSource", "Solution", "Source", "TensorSource", "fit"]

Float = NDArray[np.float64]

_PATH_TOL = 10.0  # in tol, as in bench.lasso
_FLOAT32_TOL = 3e-5  # gaps below this need float64 in the solver and in the weights
_TF32_TOL = 3e-4  # and gaps below this full float32
_ROUGH = 0.1  # tolerance on the way to a λ
_POLISH = 3  # times that targets short of tol are taken up again
_COLD = 6  # penalties on the way to one that nothing is warm for


@dataclass(frozen=True)
class Solution:
    """One linear model per target; the names are those of `bench.lasso.Datamodels`.

    Attributes:
        weight: `[n, T]`, in margin per kept example: float32, or float64 where tol < 3e-5 asks for it; numpy, or a
            tensor on the device where that was asked for.
        bias: float32 `[T]`, the prediction for the empty mask.
        lam: float64 `[T]`, penalty; 0 for a constant target.
        gap: float64 `[T]`, duality gap / ½‖y − ȳ‖²/m, of the LASSO's weights (before `debias`).
        kkt: float64 `[T]`, greatest violation of the LASSO's optimality conditions, relative to `lam_max`.
        lam_max: float64 `[T]`, the least penalty that makes all weights zero.
        loss: float64 `[T]`, mean squared error on the held-out rows at `lam` (NaN where λ was given).
        null: float64 `[T]`, their mean squared distance from the fitted rows' mean (NaN where λ was given).
        constant: bool `[T]`, targets that do not vary.
        kept: int64 `[n]`, rows that keep each example.
        refit_kkt: float64 `[T]`, with `debias`: greatest |gradient| on the support of the least-squares refit, relative
            to `lam_max`; else None.
        seconds: of each phase: "moments", "paths", "refit".
    """

    weight: Any
    bias: NDArray[np.float32]
    lam: Float
    gap: Float
    kkt: Float
    lam_max: Float
    loss: Float
    null: Float
    constant: NDArray[np.bool_]
    kept: NDArray[np.int64]
    refit_kkt: Float | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Task:
    """What all phases need to know."""

    source: Source
    device: torch.device
    dtype: torch.dtype
    tol: float
    slab: int | None
    limit: int
    seconds: dict[str, float] = field(default_factory=dict)

    def in_slabs(self, work: Callable[[slice, int], None]) -> None:
        in_slabs(work, self.source.T, padded(self.source.n), self.dtype, self.device, self.slab)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def fit(
    source: Source,
    part: Tensor | NDArray[Any],
    n_parts: int,
    *,
    n_lambdas: int,
    min_ratio: float,
    patience: int,
    tol: float,
    lam: Float | None = None,
    debias: bool = False,
    slab: int | None = None,
    device: torch.device | str = "cuda",
    on_device: bool = False,
    max_iterations: int = 2000,
    chunk: int | None = None,
) -> Solution:
    """Fit a LASSO datamodel for every target, with λ chosen per target on held-out rows.

    The path has `n_lambdas` penalties, geometric from `lam_max` (of all rows) to `min_ratio·lam_max`. It is fitted once
    per part, without that part's rows; each target keeps the λ of least held-out squared error (summed over parts) and
    is refitted on all rows.

    Args:
        source: the rows, on `device`; each row is read once (with more parts than fit on the device: once per part).
        part: int `[m]`, the part that holds out each row, 0 … n_parts − 1, or −1 for none.
        n_parts: 1 for a validation split, K for K-fold cross-validation; not used where `lam` is given.
        n_lambdas: penalties on the path.
        min_ratio: last penalty / first penalty.
        patience: a target's path stops after this many penalties without a better held-out error. With more parts than
            one, where their sum stops is not known on the way: paths are gone down in full, and the choice stops there.
        tol: relative duality gap to reach; below 3e-5 all is done in float64.
        lam: penalties `[T]`, instead of choosing.
        debias: replace the weights by those of least squares on their support.
        slab: targets that are solved together; by default, as many as fit.
        device: where to compute.
        on_device: leave `weight` on the device.
        max_iterations: per λ.
        chunk: rows read at a time; by default, as many as fit.

    Returns:
        The datamodels. A target that did not reach `tol` shows in `gap`.

    Raises:
        InputError: wrong values in the rows, a part without rows.
        torch.OutOfMemoryError: the moments, or a single target, do not fit on the device.
    """
    device = torch.device(device)
    task = _Task(source, device, torch.float32 if tol >= _FLOAT32_TOL else torch.float64, tol, slab, max_iterations)
    label = np.asarray(part.cpu() if isinstance(part, Tensor) else part).astype(np.int64)
    step = chunk or chunk_rows(source, memory.free(device) // 8 if device.type == "cuda" else 2**28)
    weight = torch.zeros(source.T, padded(source.n), dtype=task.dtype, device=device)
    if lam is None:
        _check_parts(label, source.m, n_parts)
        chosen, loss, null, every = _paths(task, label, n_parts, step, weight, n_lambdas, min_ratio, patience)
    else:
        with task.phase("moments"):
            every, _ = moments(source, label, [], task.dtype, step)
        chosen = torch.as_tensor(np.array(lam, np.float64), device=device)
        if chosen.shape != (source.T,) or not bool((chosen > 0).all()):
            raise InputError(f"lam has shape {tuple(chosen.shape)} or values ≤ 0; give one penalty per target.")
        loss = null = torch.full_like(chosen, torch.nan)
    with task.phase("refit"):
        last = _Refit(task, every, chosen, debias)
        task.in_slabs(partial(last.run, weight))
        judged = last.judged
        bias = last.own.y + every.shift
        for rows in slices(source.T, 2**25 // weight.shape[1]):
            bias[rows] -= weight[rows].double() @ last.own.x
    solution = weight[:, : source.n].T
    return Solution(
        weight=solution if on_device else np.ascontiguousarray(solution.cpu().numpy()),
        bias=bias.float().cpu().numpy(),
        lam=chosen.cpu().numpy(),
        gap=judged.gap.cpu().numpy(),
        kkt=judged.kkt.cpu().numpy(),
        lam_max=judged.lam_max.cpu().numpy(),
        loss=loss.cpu().numpy(),
        null=null.cpu().numpy(),
        constant=(variances(every, None, last.own, slice(None)) == 0).cpu().numpy(),
        kept=every.count.diagonal()[: source.n].long().cpu().numpy(),
        refit_kkt=judged.refit_kkt.cpu().numpy() if debias else None,
        seconds=task.seconds,
    )


def _check_parts(label: NDArray[np.int64], m: int, n_parts: int) -> None:
    if label.shape != (m,):
        raise InputError(f"part has shape {label.shape} and masks {counted(m, 'row')}; give one part per row.")
    sizes = np.array([np.count_nonzero(label == p) for p in range(n_parts)])
    if n_parts < 1 or not sizes.all() or sizes.max() == m or sizes.sum() + np.count_nonzero(label == -1) != m:
        raise InputError(
            f"part has sizes {sizes.tolist()} of {m} rows; give some rows, not all, to each part from 0 to"
            f" {n_parts - 1}, and -1 to rows that none holds out."
        )


def _paths(
    task: _Task,
    label: NDArray[np.int64],
    n_parts: int,
    step: int,
    weight: Tensor,
    n_lambdas: int,
    min_ratio: float,
    patience: int,
) -> tuple[Tensor, Tensor, Tensor, Moments]:
    """All targets' paths; `weight` becomes the last part's solutions at that part's best λ.

    Returns:
        The chosen λ, its held-out loss, that of no weights at all, `[T]` each, and the moments of all rows.
    """
    source, N = task.source, weight.shape[1]
    need = (n_parts + 1) * N * (4 * N + 8 * source.T) + 2 * task.dtype.itemsize * N * N
    together = n_parts == 1 or need < 0.7 * memory.free(task.device)
    total = torch.zeros(source.T, n_lambdas, dtype=torch.float64, device=task.device)
    null = torch.zeros_like(total[:, 0])
    alone = patience if n_parts == 1 else n_lambdas  # with folds, their sum says where to stop, and is not known yet
    ratios = torch.from_numpy(np.geomspace(1, min_ratio, n_lambdas)).to(task.device)
    share = 0.0
    every: Moments | None = None
    for wanted in [list(range(n_parts))] if together else [[p] for p in range(n_parts)]:
        every = None  # frees those of the pass before
        with task.phase("moments"):
            every, helds = moments(source, label, wanted, task.dtype, step)
            lam_max = greatest_penalty(every)
        with task.phase("paths"):
            while helds:
                path = _Path(task, every, helds.pop(0), lam_max[:, None] * ratios, alone)
                task.in_slabs(partial(path.run, weight, total, null))
                share += path.share
                del path
    assert every is not None  # n_parts is at least 1
    best = torch.from_numpy(settled(total.cpu().numpy(), patience)[0]).to(task.device)
    return lam_max * ratios[best], total.gather(1, best[:, None])[:, 0] / share, null / share, every


class _Path:
    """The paths of one part: fitted on all other rows, judged on the part's. Takes the memory of the part's counts."""

    def __init__(self, task: _Task, every: Moments, out: Moments, grid: Tensor, patience: int):
        self.task, self.every, self.out, self.grid, self.patience = task, every, out, grid, patience
        self.share = out.rows / every.rows
        self.s = out.count.diagonal().double()
        self.own = means(every, out)
        self.fitted = fitted_gram(every, out, task.dtype)
        self.held = held_gram(out, self.own, task.dtype)

    def run(self, weight: Tensor, total: Tensor, null: Tensor, rows: slice, budget: int) -> None:
        """Take some targets down their paths: `weight` becomes their best λ's; `total`, `null` grow."""
        task = self.task
        unit = units(self.every, self.out, self.own, rows)
        lams = self.grid[rows] / unit[:, None]
        tol = min(_PATH_TOL * task.tol, 0.1)
        fast = tol >= _TF32_TOL
        k, K = lams.shape
        C, yy = fitted_cross(self.every, self.out, self.own, rows, task.dtype, unit)
        Ch, yh = held_cross(self.out, self.s, self.own, rows, task.dtype, unit)
        spread = yh
        before = torch.maximum(greatest(C), lams[:, 0])
        slab = Slab(self.fitted, C, yy, torch.zeros_like(C), fast, budget)
        del C
        best = weight[rows].zero_()
        losses = torch.full_like(lams, torch.inf)
        least = torch.full_like(yy, torch.inf)
        waited = torch.zeros(k, dtype=torch.int64, device=yy.device)
        live = torch.arange(k, device=yy.device)
        for step in range(K):
            lam = lams[live, step]
            slab.solve(lam, before, tol, task.limit)
            before = lam
            loss = held_losses(self.held, Ch, yh, slab.W, fast, budget)
            losses[live, step] = loss
            better = loss < least[live] if step else torch.ones_like(loss, dtype=torch.bool)
            gained = better.nonzero()[:, 0]
            best[live[gained]] = slab.W[gained]
            least[live[gained]] = loss[gained]
            waited = torch.where(better, 0, waited + 1)
            stay = (waited < self.patience).nonzero()[:, 0]
            if not len(stay):
                break
            if len(stay) < len(live):
                slab.keep(stay)
                live, before, waited, Ch, yh = live[stay], before[stay], waited[stay], Ch[stay], yh[stay]
        best.mul_(unit.to(best.dtype)[:, None])
        total[rows] += losses * (unit**2 * self.share)[:, None]
        null[rows] += spread * (unit**2 * self.share)


@dataclass(frozen=True)
class _Judged:
    """Certificates of all targets, float64 `[T]` each; see `Solution`."""

    lam_max: Tensor
    gap: Tensor
    kkt: Tensor
    refit_kkt: Tensor


class _Refit:
    """All targets on all rows, at the chosen λ."""

    def __init__(self, task: _Task, every: Moments, lam: Tensor, debias: bool):
        self.task, self.every, self.lam, self.debias = task, every, lam, debias
        self.own = means(every)
        self.gram = fitted_gram(every, None, task.dtype)
        self.judged = _Judged(greatest_penalty(every), *(torch.zeros_like(lam) for _ in range(3)))

    def run(self, weight: Tensor, rows: slice, budget: int) -> None:
        """Solve some targets from `weight`, which becomes the solution, and certify it."""
        task, lam = self.task, self.lam[rows]
        targets = torch.arange(rows.start, rows.stop, device=lam.device)
        unit = units(self.every, None, self.own, rows)
        C, yy = fitted_cross(self.every, None, self.own, rows, task.dtype, unit)
        # What still changes in the weights is small, and so is what TF32 does to it.
        start = weight[rows] / unit.to(weight.dtype).clamp_(min=torch.finfo(weight.dtype).tiny)[:, None]
        slab = Slab(self.gram, C, yy, start, task.dtype == torch.float32, budget)
        del C, start
        self.judged.gap[rows] = torch.inf
        scaled = lam / unit
        slab.solve(scaled, self._approach(slab, scaled, self.judged.lam_max[rows] / unit), task.tol, task.limit)
        W, R = slab.W.mul_(unit.to(slab.W.dtype)[:, None]), slab.R
        del slab
        self._certify(W, R, targets, lam, weight, budget)
        for _ in range(_POLISH):
            short = (self.judged.gap[targets] > task.tol).nonzero()[:, 0]
            if not len(short):
                break
            W, R, targets, lam = W[short], R[short], targets[short], lam[short]
            improve(self.every, self.own, W, R, targets, lam, task.tol, task.limit, budget)
            self._certify(W, R, targets, lam, weight, budget)
        del W, R
        if self.debias:
            targets = torch.arange(rows.start, rows.stop, device=lam.device)
            self.judged.refit_kkt[rows] = least_squares.refit(self.every, self.own, weight[rows], targets, budget)

    def _approach(self, slab: Slab, lam: Tensor, lam_max: Tensor) -> Tensor:
        """Bring targets without warm weights near their λ by a few penalties on the way: working sets stay small.

        Returns:
            The penalties whose solutions the weights then are.
        """
        warm = slab.W.any(1)
        before = torch.where(warm, lam, torch.maximum(lam_max, lam))
        if bool((before > 1.5 * lam).any()):
            first = before
            for power in np.linspace(1, 0, _COLD, endpoint=False)[1:]:
                penalty = torch.where(lam > 0, lam * (first / lam) ** power, lam)
                slab.solve(penalty, before, _ROUGH, self.task.limit)
                before = penalty
        return before

    def _certify(self, W: Tensor, R: Tensor, targets: Tensor, lam: Tensor, weight: Tensor, budget: int) -> None:
        """Certify weights, and keep them where they are the best so far; `R` becomes their gradient."""
        gap, kkt = certify(self.every, self.own, W, targets, lam, budget, R)
        better = (gap < self.judged.gap[targets]).nonzero()[:, 0]
        at = targets[better]
        weight[at] = W[better]
        self.judged.gap[at], self.judged.kkt[at] = gap[better], kkt[better]
