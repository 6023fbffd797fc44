"""`bench.fit_datamodels` on a CUDA device: the same rows, parts and results, solved by `bench.lasso_torch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.certificate import r_squared
from bench.lasso import Datamodels

if TYPE_CHECKING:
    import torch

    from bench.gram import Design, Float, Index


def pick(device: Any, margins: Any) -> torch.device | None:
    """The CUDA device to solve on, or None for the CPU: the one asked for, else the one that the margins are on.

    Raises:
        BenchError: an unknown device, or CUDA where there is none.
    """
    wanted = str(getattr(margins, "device", "cpu") if device is None else device)
    if wanted == "cpu":
        return None
    from bench.train import pick_device

    found = pick_device(wanted)
    return found if found.type == "cuda" else None


def fit(
    design: Design,
    held: list[Index],
    device: torch.device,
    n_lambdas: int,
    min_ratio: float,
    patience: int,
    tol: float,
    lam: Float | None,
    debias: bool,
) -> Datamodels:
    """Arguments as of `bench.fit_datamodels`, checked; `held` are the held-out rows of each part."""
    import torch

    from bench import lasso_torch

    both = isinstance(design.masks, torch.Tensor) and isinstance(design.margins, torch.Tensor)
    there = design.masks.device if both and design.masks.device == design.margins.device else None
    # A device without a number means any of its type.
    if there is not None and there.type == device.type and device.index in (None, there.index):
        device = there
        source: lasso_torch.Source = lasso_torch.TensorSource(design.masks, design.margins)
    else:
        source = lasso_torch.HostSource(design.masks, design.margins, device)
    part = np.full(design.m, -1)
    for number, rows in enumerate(held):
        part[rows] = number
    found = lasso_torch.fit(
        source,
        part,
        len(held),
        n_lambdas=n_lambdas,
        min_ratio=min_ratio,
        patience=patience,
        tol=tol,
        lam=lam,
        debias=debias,
        device=device,
    )
    return Datamodels(
        weight=found.weight,
        bias=found.bias,
        lam=found.lam,
        gap=found.gap,
        kkt=found.kkt,
        converged=found.gap <= tol,
        lam_max=found.lam_max,
        loss=found.loss,
        r2=r_squared(found.loss, found.null, found.constant),
        tol=tol,
        constant=found.constant,
        unused=(found.kept == 0) | (found.kept == design.m),
        refit_kkt=found.refit_kkt,
    )
