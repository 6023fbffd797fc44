"""Model outputs: what a subset's scores have to predict."""

import torch
from torch import Tensor

from bench.errors import InputError
from bench.recipes import OUTPUTS, Output


def margins(logits: Tensor, labels: Tensor, output: Output = "logsumexp") -> Tensor:
    """Margin of the true class: its logit minus the logsumexp (or the maximum) of the others.

    logsumexp is log(p / (1 − p)), the output of TRAK (Park et al. 2023, eq. 8); max is the correct-class margin of
    datamodels (Ilyas et al. 2022, section 2). With more than two classes neither is a function of the other, so
    that their LDS differ.

    Args:
        logits: `[..., n, n_classes]`.
        labels: int64 `[n]`, or of the logits' shape without the last axis.
        output: which margin.

    Returns:
        `[..., n]` in the logits' dtype.

    Raises:
        InputError: an unknown output.
    """
    if output not in OUTPUTS:
        raise InputError(f"there is no output {output!r} (there are: {', '.join(OUTPUTS)})")
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    correct = logits.gather(-1, index).squeeze(-1)
    others = logits.scatter(-1, index, -torch.inf)
    return correct - (others.logsumexp(-1) if output == "logsumexp" else others.amax(-1))


def cross_entropy_gradient(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Gradient of the mean cross-entropy of each stacked batch with respect to its logits: (softmax − label) / batch.

    Args:
        logits: `[models, batch, n_classes]`.
        labels: int64 `[models, batch]`.
        smoothing: share of each label that is spread evenly over all classes (Szegedy et al. 2016, section 7).

    Returns:
        `[models, batch, n_classes]`.
    """
    by_class = logits.mT.softmax(1)  # over the last axis of ten it would be ten times slower
    models, batch = labels.shape
    sure = by_class.new_full((1, 1, 1), smoothing - 1).expand(models, 1, batch)
    by_class.scatter_add_(1, labels[:, None, :], sure)
    if smoothing:
        by_class.sub_(smoothing / logits.shape[-1])
    return by_class.div_(batch).mT
