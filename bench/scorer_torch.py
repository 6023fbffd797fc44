"""LDS of torch tensors on their device: the same definition, exclusions and influences as `bench.scorer`, in torch.

The predictions are one matrix product per slab of targets, with TF32 off; ranks come from a sort, are kept as the
integers `2·rank − (M + 1)` and summed as int64, so correlations equal the CPU's for equal predictions.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import InputError
from bench.predictions import Precision, check_shapes, resolve_precision
from bench.scorer import LDS, MarginRanks, summarise
from bench.stats.intervals import group_ids

_SLAB_BYTES = 2 << 30
_BYTES_PER_VALUE = 128
"""Peak bytes per prediction: sorting, ranks of two variables, and the influence's temporaries."""


def lds(
    scores: Any,
    masks: Any,
    margins: Any,
    *,
    groups: npt.ArrayLike | None = None,
    ranks: MarginRanks | None = None,
    precision: Precision = "auto",
    level: float = 0.95,
    undefined: Literal["exclude", "zero"] = "exclude",
    device: torch.device | str | None = None,
    slab_bytes: int = _SLAB_BYTES,
) -> LDS:
    """`bench.scorer.lds` on a device.

    Args:
        scores: tensor or array [n_train, n_targets].
        masks: bool or 0/1 [n_subsets, n_train].
        margins: [n_subsets, n_targets].
        groups: as in `bench.scorer.lds`.
        ranks: ranks of the margins, from the CPU.
        precision: as in `bench.scorer.lds`.
        level: nominal coverage of the interval.
        undefined: as in `bench.scorer.lds`.
        device: where to compute; by default the device of `scores`.
        slab_bytes: memory on the device for one slab of targets, beside the three inputs and the masks as floats.

    Raises:
        InputError: as `bench.scorer.lds`.
    """
    device = torch.device(device or (scores.device if isinstance(scores, torch.Tensor) else "cpu"))
    score_tensor = _matrix("scores", scores, device)
    mask_tensor = _matrix("masks", masks, device)
    margin_tensor = _matrix("margins", margins, device)
    check_shapes(tuple(score_tensor.shape), tuple(mask_tensor.shape), tuple(margin_tensor.shape))
    m, n_targets = margin_tensor.shape
    if ranks is not None and ranks.ranks.shape != (n_targets, m):
        raise InputError(
            f"ranks are of margins with shape {ranks.ranks.shape[::-1]}, but margins has shape {(m, n_targets)};"
            " compute them from the same margins"
        )
    first = _check_and_identify(mask_tensor)
    clusters = group_ids(first.cpu().numpy() if groups is None else groups, m)
    group_of_row = torch.from_numpy(clusters).to(device)
    singletons = int(clusters.max()) + 1 == m

    wide = not score_tensor.is_floating_point() or score_tensor.dtype == torch.float64
    chosen = resolve_precision(precision, wide, m * mask_tensor.shape[1] * n_targets)
    dtype = torch.float64 if chosen == "float64" else torch.float32
    float_masks = mask_tensor.to(dtype)
    rho = np.full(n_targets, np.nan)
    noise = np.zeros(n_targets)
    total = torch.zeros(m, dtype=torch.float64, device=device)
    kinds = np.zeros((3, n_targets), np.uint8)

    step = max(1, slab_bytes // (_BYTES_PER_VALUE * m + 8 * mask_tensor.shape[1]))
    for start in range(0, n_targets, step):
        part = slice(start, start + step)
        columns = score_tensor[:, part].to(dtype)
        finite = torch.isfinite(score_tensor[:, part]).all(dim=0)
        with _no_tf32():
            predictions = (columns.T @ float_masks.T)[:, first]
        x, prediction_kinds = rank_rows(predictions)
        if ranks is None:
            y, margin_kinds = rank_rows(margin_tensor[:, part].T)
        else:
            y = torch.from_numpy(ranks.ranks[part]).to(device, torch.int64)
            margin_kinds = torch.from_numpy(ranks.kinds[part]).to(device)
        r, h = correlate_rows(x * finite[:, None], y)
        sums = h if singletons else h.new_zeros(len(h), int(clusters.max()) + 1).index_add_(1, group_of_row, h)
        rho[part] = r.cpu().numpy()
        noise[part] = sums.square().sum(dim=1).cpu().numpy()
        total += h.sum(dim=0)
        kinds[:, part] = torch.stack([(~finite).to(torch.uint8), margin_kinds, prediction_kinds]).cpu().numpy()

    if kinds[0].all() and not bool(torch.isfinite(score_tensor).any()):
        raise InputError(
            f"scores has no finite value in its {tuple(score_tensor.shape)} entries; nothing can be ranked"
        )
    return summarise(rho, total.cpu().numpy(), noise, kinds[0], kinds[1], kinds[2], clusters, level, undefined)


def rank_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred doubled average ranks of each row, and what each row is, as `bench.kernels.ranks.rank_rows`.

    Args:
        values: real numbers [T, M].

    Returns:
        int64 [T, M], zeros for constant rows and rows with NaN; uint8 [T].
    """
    from bench.kernels.ranks import CONSTANT, NOT_A_NUMBER, TIED

    rows, m = values.shape
    ordered, order = torch.sort(values, dim=1)
    changes = torch.ones(rows, m + 1, dtype=torch.bool, device=values.device)
    changes[:, 1:m] = ordered[:, 1:] != ordered[:, :-1]
    place = torch.arange(m + 1, device=values.device).expand(rows, m + 1)
    first = torch.where(changes[:, :m], place[:, :m], 0).cummax(dim=1).values
    stop = torch.where(changes[:, 1:], place[:, 1:], m).flip(1).cummin(dim=1).values.flip(1)
    ranks = torch.empty(rows, m, dtype=torch.int64, device=values.device).scatter_(1, order, first + stop - m)
    nan = values.isnan().any(dim=1)
    kinds = torch.where(changes.sum(dim=1) < m + 1, TIED, 0)
    kinds = torch.where(ordered[:, 0] == ordered[:, -1], CONSTANT, kinds)
    kinds = torch.where(nan, NOT_A_NUMBER, kinds).to(torch.uint8)
    return ranks * (~nan)[:, None], kinds


def correlate_rows(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spearman correlation and influence of each row; the formulas are those of `bench.kernels.ranks.correlate_rows`.

    Args:
        x: int64 [T, M], centred doubled average ranks.
        y: the same for the other variable.

    Returns:
        float64 [T], NaN where a row is all zeros, and float64 [T, M].
    """
    m = x.shape[1]
    sum_xy, sum_xx, sum_yy = (x * y).sum(1), (x * x).sum(1), (y * y).sum(1)
    good = ((sum_xx > 0) & (sum_yy > 0))[:, None]
    xx, yy = (s.clamp(min=1).double()[:, None] for s in (sum_xx, sum_yy))
    root = (xx * yy).sqrt()
    rho = (sum_xy.double()[:, None] / root).clamp(-1, 1)
    (d_xx, d_xy), (d_yy, d_yx) = _above(x, (x, y)), _above(y, (y, x))
    dc = m * (x * y + d_xy + d_yx) - 3 * sum_xy[:, None]
    da = m * (x * x + 2 * d_xx) - 3 * sum_xx[:, None]
    db = m * (y * y + 2 * d_yy) - 3 * sum_yy[:, None]
    influence = dc.double() / root - 0.5 * rho * (da.double() / xx + db.double() / yy)
    return torch.where(good, rho, torch.nan)[:, 0], torch.where(good, influence, 0.0)


def _above(ranks: torch.Tensor, values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """For each observation, twice the sum of the values ranked above it plus the sum of those tied with it."""
    rows, m = ranks.shape
    bucket = ranks + m
    out = []
    for value in values:
        here = torch.zeros(rows, 2 * m, dtype=torch.int64, device=ranks.device).scatter_add_(1, bucket, value)
        upto = here.cumsum(dim=1)
        out.append((2 * (upto[:, -1:] - upto) + here).gather(1, bucket))
    return out


def _matrix(name: str, value: Any, device: torch.device) -> torch.Tensor:
    tensor = value.detach() if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    if tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}; give real numbers")
    if tensor.ndim != 2:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; give a matrix")
    return tensor.to(device)


def _check_and_identify(masks: torch.Tensor) -> torch.Tensor:
    """For each row, the first row with the same mask."""
    kept = masks != 0
    if masks.dtype != torch.bool and not bool((kept == masks).all()):
        row, column = torch.nonzero(kept != masks)[0].tolist()
        raise InputError(
            f"masks[{row}, {column}] is {masks[row, column].item()}; use 1 for examples kept, 0 for others"
        )
    # Sums of 30-bit weights are exact in float64: rows with equal masks, and (but for odds of 2⁻⁶⁰) no others, agree.
    weights = torch.randint(1 << 30, (masks.shape[1], 2), generator=torch.Generator().manual_seed(0))
    weights = weights.to(masks.device, torch.float64)
    prints = torch.cat([rows.double() @ weights for rows in kept.split(max(1, (1 << 25) // masks.shape[1]))])
    _, label = torch.unique(prints, dim=0, return_inverse=True)
    place = torch.arange(len(masks), device=masks.device)
    first = torch.full_like(place, len(masks)).scatter_reduce_(0, label, place, "amin")
    return first[label]


class _no_tf32:  # noqa: N801 - a context manager, read as a verb
    """Full float32 products inside; the user's setting again afterwards."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before
