"""Per-example gradients against a plain autograd loop."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import gradients
from bench.models import Flat, build
from bench.recipes import Architecture


def _model(hidden: tuple[int, ...]) -> tuple[Flat, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    flat = Flat(build(Architecture("mlp", hidden), (5,), 3).double())
    return flat, flat.vector(), torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 3


@pytest.mark.parametrize("hidden", [(), (4,), (6, 4)])
@pytest.mark.parametrize("quantity", ["loss", "logsumexp", "max"])
def test_equal_to_one_backward_pass_per_example(hidden: tuple[int, ...], quantity: str) -> None:
    flat, vector, x, y = _model(hidden)
    if quantity == "loss":
        made = gradients.stacked(flat, vector, x, y, "loss")
    else:
        made = gradients.stacked(flat, vector, x, y, "margin", quantity)  # type: ignore[arg-type]
    for i in range(len(y)):
        logits = flat.module(x[i : i + 1])
        others = torch.cat([logits[0, : y[i]], logits[0, y[i] + 1 :]])
        if quantity == "loss":
            value = F.cross_entropy(logits, y[i : i + 1])
        else:
            value = logits[0, y[i]] - (others.logsumexp(0) if quantity == "logsumexp" else others.max())
        pieces = torch.autograd.grad(value, list(flat.module.parameters()))
        expected = torch.cat([piece.reshape(-1) for piece in pieces])
        torch.testing.assert_close(made[i], expected, rtol=1e-10, atol=1e-12)


def test_chunks_cover_every_example_once() -> None:
    flat, vector, x, y = _model((4,))
    whole = gradients.stacked(flat, vector, x, y, "loss")
    three = 3 * 4 * 8 * len(vector)
    parts = list(gradients.chunks(flat, vector, x, y, "loss", max_bytes=three))
    assert [(p.start, p.stop) for p, _ in parts] == [(0, 3), (3, 6), (6, 7)]
    torch.testing.assert_close(torch.cat([g for _, g in parts]), whole, rtol=0, atol=1e-15)
