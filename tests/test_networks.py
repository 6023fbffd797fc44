"""Networks: their sizes, their layers, their state, and gradients one example at a time."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import gradients, networks
from bench.errors import InputError
from bench.models import Flat, build, initialise, parameter_count
from bench.networks import BiasNorm, DiracConv2d, Whitening
from bench.recipes import Architecture

TINY = {
    "resnet9": Architecture("resnet9", (4, 6, 8, 6)),
    "resnet18": Architecture("resnet18", (4, 6, 8, 8)),
    "airbench": Architecture("airbench", (6, 8, 8)),
}


@pytest.mark.parametrize(
    ("name", "shape", "n_classes", "count"),
    [
        # By hand: 27·64 + 25·64·128 + 2·9·128² + 9·128·256 + 2·9·256² + 9·256·128 + 128·10, and two per norm channel.
        ("resnet9", (3, 32, 32), 10, 2_272_448 + 2 * (64 + 128 * 3 + 256 * 3 + 128) - 256),
        ("resnet18", (3, 32, 32), 10, 11_173_962),  # as published for CIFAR-10
        ("resnet18", (3, 224, 224), 1000, 11_689_512),  # torchvision's
        # 24 + 9·(24·64 + 64² + 64·256 + 3·256²) + 2·(64 + 256 + 256) + 256·10
        ("airbench", (3, 32, 32), 10, 24 + 9 * (24 * 64 + 64**2 + 64 * 256 + 3 * 256**2) + 2 * 576 + 2560),
    ],
)
def test_parameters(name: str, shape: tuple[int, ...], n_classes: int, count: int) -> None:
    module = build(Architecture(name), shape, n_classes)  # type: ignore[arg-type]
    assert parameter_count(module) == count
    assert not module.training
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, n_classes)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 13, 17), (768,)])
def test_takes_images_of_any_shape(name: str, shape: tuple[int, ...]) -> None:
    architecture = TINY[name] if len(shape) == 3 else Architecture(TINY[name].name, TINY[name].hidden, (3, 16, 16))
    module = build(architecture, shape, 4)
    assert not any(layer.training for layer in module.modules())
    made = module(torch.randn(5, *shape))
    assert made.shape == (5, 4)
    assert made.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "shape", "word"),
    [
        (Architecture("resnet9"), (3, 8, 8), "too small"),
        (Architecture("airbench"), (3, 8, 32), "too small"),
        (Architecture("airbench", (8, 8)), (3, 32, 32), "3 widths"),
        (Architecture("resnet18", (8,)), (3, 32, 32), "4 widths"),
        (Architecture("resnet9"), (64,), "takes images"),
    ],
)
def test_what_does_not_fit_is_refused(architecture: Architecture, shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build(architecture, shape, 10)


@pytest.mark.parametrize("name", TINY)
def test_initialise_forgets_everything(name: str) -> None:
    """Running statistics, filters and all: only the seed counts."""
    modules = [build(TINY[name], (3, 12, 12), 3) for _ in range(2)]
    modules[0].train()
    modules[0](torch.randn(8, 3, 12, 12) * 5 + 2)
    modules[0].eval()
    with torch.no_grad():
        for p in modules[0].parameters():
            p.add_(1)
    for layer in networks.whitenings(modules[0]):
        layer.fit(torch.randn(8, 3, 12, 12))
    for module in modules:
        initialise(module, 7)
    a, b = (Flat(module).vector() for module in modules)
    assert torch.equal(a, b)
    initialise(modules[0], 8)
    assert not torch.equal(Flat(modules[0]).vector(), b)


@pytest.mark.parametrize("name", TINY)
def test_state_holds_all_that_logits_need(name: str) -> None:
    trained, other = build(TINY[name], (3, 12, 12), 3), build(TINY[name], (3, 12, 12), 3)
    for layer in networks.whitenings(trained):
        layer.fit(torch.randn(20, 3, 12, 12))
    trained.train()
    for _ in range(3):
        trained(torch.randn(16, 3, 12, 12) + 1)
    trained.eval()
    flat = Flat(other)
    vector = Flat(trained).vector()
    assert len(vector) > flat.n_parameters
    x = torch.randn(6, 3, 12, 12)
    torch.testing.assert_close(flat(vector, x), trained(x))
    torch.testing.assert_close(flat.load(vector)(x), trained(x))
    assert torch.equal(flat.vector(), vector)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("quantity", ["loss", "margin"])
def test_gradients_one_example_at_a_time(name: str, quantity: str) -> None:
    module = build(TINY[name], (3, 12, 12), 3)
    module.train()
    for _ in range(2):
        module(torch.randn(16, 3, 12, 12))
    module.eval().double()
    flat = Flat(module)
    x, y = torch.randn(4, 3, 12, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    made = gradients.stacked(flat, flat.vector(), x, y, quantity)  # type: ignore[arg-type]
    assert made.shape == (4, flat.n_parameters)
    for i in range(4):
        logits = module(x[i : i + 1])
        if quantity == "loss":
            value = F.cross_entropy(logits, y[i : i + 1])
        else:
            value = logits[0, y[i]] - torch.cat([logits[0, : y[i]], logits[0, y[i] + 1 :]]).logsumexp(0)
        pieces = torch.autograd.grad(value, list(module.parameters()))
        torch.testing.assert_close(made[i], torch.cat([p.reshape(-1) for p in pieces]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated(channels: int) -> None:
    """Of correlated images: the covariance of the outputs is the identity, but for what `eps` takes away."""
    rng = torch.Generator().manual_seed(0)
    smooth = F.avg_pool2d(torch.randn(300, channels, 18, 18, generator=rng), 3, 1) + 0.7
    if channels == 3:
        smooth[:, 1] += 0.8 * smooth[:, 0]
    layer = Whitening(channels, eps=1e-9)
    layer.fit(smooth)
    with torch.no_grad():
        out = layer(smooth).transpose(0, 1).reshape(2 * layer.size, -1)
    half = layer.size
    torch.testing.assert_close(torch.cov(out[:half]), torch.eye(half), atol=2e-3, rtol=0)
    assert torch.equal(out[half:], -out[:half])
    strict = Whitening(channels, eps=0.05)
    strict.fit(smooth)
    with torch.no_grad():
        shrunk = strict(smooth).transpose(0, 1).reshape(2 * half, -1)[:half].var(1)
    variances = torch.linalg.eigvalsh(_patch_covariance(smooth)).flip(0)
    torch.testing.assert_close(shrunk.double(), variances / (variances + 0.05), atol=2e-3, rtol=0)


def _patch_covariance(images: torch.Tensor) -> torch.Tensor:
    """Written out, in numpy."""
    n, _, height, width = images.shape
    patches = [
        images[k, :, i : i + 2, j : j + 2].reshape(-1).double().numpy()
        for k, i, j in itertools.product(range(n), range(height - 1), range(width - 1))
    ]
    return torch.from_numpy(np.cov(np.stack(patches).T))


def test_whitening_is_fixed() -> None:
    layer = Whitening(3)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    layer(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert layer.filters.grad is None
    assert layer.bias.grad is not None


def test_whitening_survives_images_without_variance() -> None:
    layer = Whitening(1)
    layer.fit(torch.ones(3, 1, 6, 6))
    assert layer.filters.isfinite().all()


def test_dirac_convolutions_start_as_the_identity() -> None:
    layer = DiracConv2d(3, 5)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(layer(x)[:, :3], x)
    assert layer(x)[:, 3:].abs().max() > 0
    narrow = DiracConv2d(5, 3)
    torch.testing.assert_close(narrow(torch.randn(1, 5, 6, 6)).shape, torch.Size([1, 3, 6, 6]))


def test_bias_norm_is_batch_norm_without_a_scale() -> None:
    ours, plain = BiasNorm(4, 0.4), nn.BatchNorm2d(4, momentum=0.4)
    with torch.no_grad():
        ours.bias.copy_(plain.bias.uniform_())
    for _ in range(3):
        x = torch.randn(8, 4, 5, 5) * 3 + 1
        torch.testing.assert_close(ours(x), plain(x))
    ours.eval()
    plain.eval()
    torch.testing.assert_close(ours(x), plain(x))
    assert [name for name, _ in ours.named_parameters()] == ["bias"]


def test_norm_biases_are_found() -> None:
    assert [len(p) for p in networks.norm_biases(build(TINY["airbench"], (3, 12, 12), 3))] == [6, 6, 8, 8, 8, 8]
    assert len(networks.norm_biases(build(TINY["resnet9"], (3, 12, 12), 3))) == 8
    assert networks.norm_biases(build(Architecture("mlp", (4,)), (3,), 2)) == []


def test_residual_blocks_add() -> None:
    """ResNet-18 of ones and zeros: with branches silenced, an example passes by its shortcuts alone."""
    module = build(TINY["resnet18"], (3, 12, 12), 3)
    blocks = [layer for layer in module.modules() if isinstance(layer, networks.Residual)]
    assert len(blocks) == 8
    with torch.no_grad():
        for block in blocks:
            nn.init.zeros_(list(block.branch.parameters())[-2])  # the scale of its last normalisation
        x = torch.rand(2, 4, 6, 6)
        torch.testing.assert_close(blocks[0](x), x)
