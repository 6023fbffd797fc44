"""Convolutional networks with normalisation: ResNet-9, ResNet-18, and the fast network of airbench.

All are built in evaluation mode, where each example's logits are its own; training switches to batch statistics and
back. Running means and variances, and fixed filters, are buffers: part of a model's state, not of its parameters.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import InputError

RESNET9, RESNET18, AIRBENCH = (64, 128, 256, 128), (64, 128, 256, 512), (64, 256, 256)
_SMALL = 64  # images up to so many pixels a side keep their size in the stem of ResNet-18
_PATCH = 2
FIT_IMAGES = 5000
"""Whitening filters are computed from so many of the model's own training images."""


class Scale(nn.Module):
    """Multiplies by a constant: logits start small, so that the largest learning rates stay stable."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """`x`, scaled."""
        return x * self.factor


class GlobalMax(nn.Module):
    """The largest value of each channel, `[batch, channels]`: its gradient needs no atomic sums on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """From `[batch, channels, height, width]`."""
        return x.amax((2, 3))


class GlobalMean(nn.Module):
    """The mean of each channel, `[batch, channels]`."""

    def forward(self, x: Tensor) -> Tensor:
        """From `[batch, channels, height, width]`."""
        return x.mean((2, 3))


class Residual(nn.Module):
    """after(shortcut(x) + branch(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        made: Tensor = self.after(self.shortcut(x) + self.branch(x))
        return made


class HeConv2d(nn.Conv2d):
    """A convolution without biases, drawn as in He et al. (2015): normal, by the fan out."""

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class DiracConv2d(nn.Conv2d):
    """A 3×3 convolution without biases whose first filters pass their channel on (Zagoruyko and Komodakis 2017)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew; the first `n_in` filters become identities."""
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class BiasNorm(nn.BatchNorm2d):
    """Batch normalisation that learns a shift and no scale."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Forget the running statistics and the shift."""
        super().reset_parameters()
        if self.bias is not None:  # None while the base class is being made
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised by the batch in training, by the running statistics otherwise."""
        one = torch.ones_like(self.bias)  # with no scale at all, cuDNN would not take the call
        return F.batch_norm(
            x, self.running_mean, self.running_var, one, self.bias, self.training, self.momentum or 0.0, self.eps
        )


class Whitening(nn.Module):
    """2×2 convolution whose outputs are uncorrelated with variance one; each comes with its negative.

    The filters are computed from images, once, and then stay: a buffer. A shift of each output is learnt. Page (2019),
    "How to train your ResNet 8"; the negatives are from Jordan (2024), "94% on CIFAR-10 in 3.29 seconds", section 3.2.
    """

    filters: Tensor

    def __init__(self, channels: int, eps: float = 5e-4) -> None:
        super().__init__()
        self.size, self.eps = channels * _PATCH**2, eps
        self.register_buffer("filters", torch.zeros(2 * self.size, channels, _PATCH, _PATCH))
        self.bias = nn.Parameter(torch.zeros(2 * self.size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Until `fit`, each filter passes a pixel of the patch on."""
        with torch.no_grad():
            self._set(torch.eye(self.size))
            self.bias.zero_()

    def _set(self, rows: Tensor) -> None:
        self.filters.copy_(torch.cat([rows, -rows]).view_as(self.filters))

    def fit(self, images: Tensor) -> None:
        """Compute the filters from the patches of `[n, channels, height, width]`.

        The decomposition is made in float64 on the CPU and the signs are fixed: the same on every device.
        """
        with torch.no_grad():
            total = torch.zeros(self.size, self.size, dtype=torch.float64, device=images.device)
            mean = torch.zeros(self.size, dtype=torch.float64, device=images.device)
            count = 0
            for part in images.split(500):
                patches = F.unfold(part.float(), _PATCH).transpose(1, 2).reshape(-1, self.size)
                total += (patches.T @ patches).double()
                mean += patches.sum(0).double()
                count += len(patches)
            mean = mean.cpu() / count
            variances, vectors = torch.linalg.eigh(total.cpu() / count - mean.outer(mean))
            rows = (vectors / (variances.clamp_min(0) + self.eps).sqrt()).T.flip(0)
            sign = (rows @ torch.arange(self.size).double().cos()).sign()  # of no symmetry that patches may have
            self._set((sign[:, None] * rows).float())

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 2 · 4 · channels, height − 1, width − 1]`."""
        # Never in bfloat16: small differences of pixels are multiplied by up to 1/√eps = 45.
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, self.filters, self.bias)


class Mirrored(nn.Module):
    """Logits of a network, the mean over an image and its mirror image: what is judged where a recipe says `mirror`."""

    def __init__(self, network: nn.Module, image: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.image = network, image

    def forward(self, x: Tensor) -> Tensor:
        """Of inputs `[n, …]`, logits `[n, n_classes]`."""
        mirrored = x.reshape(-1, *self.image).flip(-1).reshape(x.shape)
        logits: Tensor = (self.network(x) + self.network(mirrored)) / 2
        return logits


def _conv_norm_relu(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


def resnet9(widths: Sequence[int], image: tuple[int, int, int], n_classes: int) -> nn.Module:
    """The ResNet-9 of datamodels (Ilyas et al. 2022) and of ffcv's CIFAR-10 example; 2.3 million parameters.

    Five convolutions and two residual pairs; all pooling is by the maximum, and logits are scaled by 0.2.

    Raises:
        InputError: not four widths, or images under 12 pixels.
    """
    one, two, three, four = _widths("resnet9", widths or RESNET9, 4)
    _at_least("resnet9", image, 9)
    return nn.Sequential(
        *_conv_norm_relu(image[0], one),
        *_conv_norm_relu(one, two, 5, 2, 2),
        Residual(nn.Sequential(*_conv_norm_relu(two, two), *_conv_norm_relu(two, two))),
        *_conv_norm_relu(two, three),
        nn.MaxPool2d(2),
        Residual(nn.Sequential(*_conv_norm_relu(three, three), *_conv_norm_relu(three, three))),
        *_conv_norm_relu(three, four, padding=0),
        GlobalMax(),
        nn.Linear(four, n_classes, bias=False),
        Scale(0.2),
    )


def resnet18(widths: Sequence[int], image: tuple[int, int, int], n_classes: int) -> nn.Module:
    """ResNet-18 (He et al. 2016); 11.2 million parameters.

    Images up to 64 pixels a side enter by a 3×3 convolution that keeps their size, larger ones by the paper's 7×7
    with stride two and a pooling.

    Raises:
        InputError: not four widths.
    """
    stages = _widths("resnet18", widths or RESNET18, 4)
    first = stages[0]
    if max(image[1:]) <= _SMALL:
        layers: list[nn.Module] = [
            HeConv2d(image[0], first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
    else:
        stem = HeConv2d(image[0], first, 7, 2, 3, bias=False)
        layers = [stem, nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for at, (n_in, n_out) in enumerate(itertools.pairwise((first, *stages))):
        layers += [_basic_block(n_in, n_out, 2 if at else 1), _basic_block(n_out, n_out, 1)]
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(stages[-1], n_classes))


def _basic_block(n_in: int, n_out: int, stride: int) -> nn.Module:
    branch = nn.Sequential(
        HeConv2d(n_in, n_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
        HeConv2d(n_out, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
    )
    if stride == 1 and n_in == n_out:
        return Residual(branch, after=nn.ReLU())
    shortcut = nn.Sequential(HeConv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    return Residual(branch, shortcut, nn.ReLU())


def airbench(widths: Sequence[int], image: tuple[int, int, int], n_classes: int) -> nn.Module:
    """The network of Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.

    Two million parameters. Fixed whitening filters, then three stages of two convolutions that start near the identity,
    with normalisation that learns no scale, then the maximum over what is left of the image; logits are scaled by 1/9.

    Raises:
        InputError: not three widths, or images under 9 pixels.
    """
    stages = _widths("airbench", widths or AIRBENCH, 3)
    _at_least("airbench", image, _PATCH - 1 + 8)
    whitening = Whitening(image[0])
    layers: list[nn.Module] = [whitening, nn.GELU()]
    for n_in, n_out in itertools.pairwise((2 * whitening.size, *stages)):
        layers += [DiracConv2d(n_in, n_out), nn.MaxPool2d(2), BiasNorm(n_out, 0.4), nn.GELU()]
        layers += [DiracConv2d(n_out, n_out), BiasNorm(n_out, 0.4), nn.GELU()]
    return nn.Sequential(*layers, GlobalMax(), nn.Linear(stages[-1], n_classes, bias=False), Scale(1 / 9))


NETWORKS: dict[str, Callable[[Sequence[int], tuple[int, int, int], int], nn.Module]] = {
    "resnet9": resnet9,
    "resnet18": resnet18,
    "airbench": airbench,
}


def _widths(name: str, widths: Sequence[int], count: int) -> Sequence[int]:
    if len(widths) != count:
        raise InputError(f"the model {name} has {count} widths, and hidden gives {len(widths)}: {tuple(widths)}")
    return widths


def _at_least(name: str, image: tuple[int, int, int], pixels: int) -> None:
    if min(image[1:]) < pixels:
        raise InputError(f"images of {image[1]}×{image[2]} pixels are too small for the model {name}")


def whitenings(module: nn.Module) -> list[Whitening]:
    """The layers to be fitted to a model's own training images before its first step; most networks have none."""
    return [layer for layer in module.modules() if isinstance(layer, Whitening)]


def norm_biases(module: nn.Module) -> list[nn.Parameter]:
    """The shifts of all normalisation layers, which some recipes train faster."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return [layer.bias for layer in layers if layer.bias is not None]
