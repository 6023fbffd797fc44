"""Per-example gradients against a plain autograd loop, and products of them against their definition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import factors, gradients, halving
from bench.gradients import Examples
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


@pytest.mark.parametrize("plain", [True, False])
def test_chunks_are_halved_when_memory_runs_out(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    flat, vector, x, y = _model((4,))
    whole = gradients.stacked(flat, vector, x, y, "loss")
    parts_of, vmap = factors.parts, torch.func.vmap

    def starved(layers: Any, pieces: Any, some_x: Tensor, *rest: Any) -> Any:
        if len(some_x) > 2:
            raise MemoryError("too many at once")
        return parts_of(layers, pieces, some_x, *rest)

    def narrow(function: Any, in_dims: Any) -> Any:
        def call(v: Tensor, some_x: Tensor, some_y: Tensor) -> Any:
            if len(some_y) > 2:
                raise MemoryError("too many at once")
            return vmap(function, in_dims=in_dims)(v, some_x, some_y)

        return call

    if plain:
        monkeypatch.setattr(factors, "parts", starved)
    else:
        monkeypatch.setattr(factors, "stack", lambda _: None)
        monkeypatch.setattr(torch.func, "vmap", narrow)
    said: list[str] = []
    with halving.told(said.append):
        parts = list(gradients.chunks(flat, vector, x, y, "loss"))
    assert max(part.stop - part.start for part, _ in parts) <= 2
    torch.testing.assert_close(torch.cat([g for _, g in parts]), whole)
    assert len(said) == 1
    assert "memory ran out with 7 examples at a time" in said[0]


def test_chunks_cover_every_example_once() -> None:
    flat, vector, x, y = _model((4,))
    whole = gradients.stacked(flat, vector, x, y, "loss")
    three = 3 * 4 * 8 * len(vector)
    parts = list(gradients.chunks(flat, vector, x, y, "loss", max_bytes=three))
    assert [(p.start, p.stop) for p, _ in parts] == [(0, 3), (3, 6), (6, 7)]
    torch.testing.assert_close(torch.cat([g for _, g in parts]), whole, rtol=0, atol=1e-15)


STRIDED = nn.Sequential(
    nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
    nn.ReLU(),
    nn.Conv2d(3, 4, (1, 2), dilation=2, padding=(0, 2)),
    nn.Flatten(),
    nn.Linear(120, 3, bias=False),
)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "logreg": (lambda: build(Architecture("logreg"), (2, 8, 8), 3), (2, 8, 8)),
    "mlp": (lambda: build(Architecture("mlp", (7, 6)), (5,), 3), (5,)),
    "cnn": (lambda: build(Architecture("cnn", (4, 5)), (2, 8, 8), 3), (2, 8, 8)),
    "flat cnn": (lambda: build(Architecture("cnn", (4,), (2, 8, 8)), (128,), 3), (128,)),
    "strides, dilation, no biases": (lambda: STRIDED, (2, 12, 6)),
    "resnet9": (lambda: build(Architecture("resnet9", (2, 3, 4, 4)), (3, 16, 16), 3), (3, 16, 16)),
}


def _network(name: str) -> tuple[Flat, Tensor, Tensor, Tensor]:
    make, shape = NETWORKS[name]
    torch.manual_seed(1)
    flat = Flat(make().double())
    return flat, flat.vector(), torch.randn(9, *shape, dtype=torch.float64), torch.arange(9) % 3


@pytest.mark.parametrize("name", NETWORKS)
def test_factors_make_the_gradients_of_autograd(name: str) -> None:
    flat, vector, x, y = _network(name)
    assert (factors.stack(flat.module) is None) == (name == "resnet9")
    made = gradients.stacked(flat, vector, x, y, "margin")
    by_vmap = torch.cat([g for _, g in gradients._by_vmap(flat, vector, Examples(x, y, "margin"), 2**20)])
    torch.testing.assert_close(made, by_vmap, rtol=1e-9, atol=1e-12)
    values = Examples(x, y, "margin").values(flat(vector, x))
    assert made.shape == (9, flat.n_parameters)
    for value, row in zip(values, made, strict=True):
        flat.module.zero_grad()
        again = Examples(x, y, "margin").values(flat.module(x))[int((values == value).nonzero()[0])]
        expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(again, list(flat.module.parameters()))])
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_is_the_vectors_not_the_modules(name: str) -> None:
    """The module that comes along holds other parameters; it stays as it was."""
    flat, vector, x, y = _network(name)
    before = gradients.stacked(flat, vector, x, y, "loss")
    with torch.no_grad():
        for parameter in flat.module.parameters():
            parameter.normal_()
    other = flat.vector()
    assert torch.equal(gradients.stacked(flat, vector, x, y, "loss"), before)
    assert torch.equal(flat.vector(), other)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), Doubled(128, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(256, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(256, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.Tanh(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(128, 3))),
    ],
)
def test_whatever_is_not_plain_goes_by_autograd(module: nn.Sequential) -> None:
    assert factors.stack(module) is None
    flat = Flat(module.double())
    x, y = torch.randn(2, 2, 8, 8, dtype=torch.float64), torch.arange(2)
    made = gradients.stacked(flat, flat.vector(), x, y, "loss")
    parameters = list(module.parameters())
    for i in range(2):
        found = torch.autograd.grad(F.cross_entropy(module(x[i : i + 1]), y[i : i + 1]), parameters)
        expected = torch.cat([g.reshape(-1) for g in found])
        torch.testing.assert_close(made[i], expected, rtol=1e-9, atol=1e-12)


def test_a_layer_used_twice_is_not_plain() -> None:
    twice = nn.Linear(4, 4)
    assert factors.stack(nn.Sequential(twice, nn.ReLU(), twice)) is None


@pytest.mark.parametrize("name", ["logreg", "mlp", "cnn", "resnet9"])
@pytest.mark.parametrize("max_bytes", [1, 2**40])
def test_products_are_those_of_the_gradients(name: str, max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "_CHUNK_BYTES", max_bytes)
    monkeypatch.setattr(gradients, "_LEFT_BYTES", max_bytes)
    flat, vector, x, y = _network(name)
    left, right = Examples(x, y, "loss", smoothing=0.1), Examples(x[:4].flip(0), y[:4], "margin", "max")
    g = torch.cat([g for _, g in gradients.chunks(flat, vector, x, y, "loss", smoothing=0.1)])
    h = gradients.stacked(flat, vector, right.x, right.y, "margin", "max")
    torch.testing.assert_close(gradients.products(flat, vector, left, right), g @ h.T, rtol=1e-9, atol=1e-11)
