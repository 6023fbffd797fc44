"""How a model is trained: plain data, hashed into the ground truth that it makes."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, prod
from typing import Literal, get_args

from bench.errors import InputError

Output = Literal["logsumexp", "max"]
OUTPUTS: tuple[str, ...] = get_args(Output)
Name = Literal["logreg", "mlp", "cnn", "resnet9", "resnet18", "airbench"]
Flip = Literal["none", "random", "alternating"]
Schedule = Literal["linear", "constant", "triangular"]
Optimiser = Literal["sgd", "nesterov"]
_STACKED = ("logreg", "mlp", "cnn")


def _one_of(what: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InputError(f"{what} of a recipe is {value!r}: it is one of {', '.join(words)}")


def _whole(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"{what} of a recipe is {value!r}: it is a whole number of at least {least}")


def _between(what: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        raise InputError(f"{what} of a recipe is {value!r}: it is a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class Architecture:
    """A model by name with its sizes; `bench.models.build` makes the torch module.

    Attributes:
        name: the family.
        hidden: widths of the hidden layers (`mlp`), channels of the convolutions (`cnn`, 3×3, each halved in size by
            max pooling), or of the stages of a residual network (empty: its usual ones).
        image: `(channels, height, width)` that flat inputs are reshaped to first; empty where they are images already.
    """

    name: Name
    hidden: tuple[int, ...] = ()
    image: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what there is not.

        Raises:
            InputError: an unknown name, or sizes that are no positive whole numbers.
        """
        _one_of("the model", self.name, get_args(Name))
        for name in ("hidden", "image"):
            if not isinstance(getattr(self, name), tuple):
                raise InputError(f"{name} of a recipe is {getattr(self, name)!r}: it is a tuple, such as (64,)")
        for size in (*self.hidden, *self.image):
            _whole(f"a size of the model {self.name}", size, 1)
        if self.image and len(self.image) != 3:
            raise InputError(f"image of a recipe is {self.image!r}: it is (channels, height, width)")
        if self.name == "cnn" and not self.hidden:
            raise InputError("hidden of a recipe is (): a cnn has channels, such as (16, 32)")

    @property
    def stacked(self) -> bool:
        """Whether many models of it train fastest as one stacked computation (all others: one after another)."""
        return self.name in _STACKED

    def parameters(self, input_shape: tuple[int, ...], n_classes: int) -> int:
        """Number of parameters of a stacked architecture, weights and biases.

        Raises:
            ValueError: the architecture is not a stacked one (build it and count).
        """
        if not self.stacked:
            raise ValueError(f"{self.name} is not counted by formula")
        if self.name == "cnn":
            channels, height, width = self.image or input_shape
            convolutions = sum((9 * a + 1) * b for a, b in pairwise((channels, *self.hidden)))
            halved = 1 << len(self.hidden)
            return convolutions + (self.hidden[-1] * (height // halved) * (width // halved) + 1) * n_classes
        sizes = [prod(input_shape), *self.hidden, n_classes]
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))

    def activations(self, input_shape: tuple[int, ...], n_classes: int) -> int:
        """Numbers that a stacked architecture holds per example, inputs and logits included."""
        if self.name != "cnn":
            return prod(input_shape) + 2 * sum(self.hidden) + n_classes
        _, height, width = self.image or input_shape
        maps = sum(2 * channels * (height >> i) * (width >> i) for i, channels in enumerate(self.hidden))
        return prod(input_shape) + maps + n_classes


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each training image, drawn anew for every pass over the subset.

    Attributes:
        flip: mirror left to right: `random` with probability ½ each time; `alternating` at random in the first pass
            and then every other pass (Jordan 2024, section 3.6).
        translate: shift by up to so many pixels each way, the border filled by reflection.
        cutout: zero a square of this side at a random place (DeVries and Taylor 2017).
    """

    flip: Flip = "none"
    translate: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        """Refuse what there is not.

        Raises:
            InputError: an unknown flip, or a negative number of pixels.
        """
        _one_of("flip", self.flip, get_args(Flip))
        _whole("translate", self.translate, 0)
        _whole("cutout", self.cutout, 0)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self != Augmentation()


@dataclass(frozen=True)
class Evidence:
    """What a recipe was seen to do: it is no part of the recipe's hash.

    Attributes:
        accuracy: share of targets right, of models trained on the full training set; models: how many of them.
        seconds: to train one of them.
        where: data, hardware and versions.
    """

    accuracy: float
    models: int
    seconds: float
    where: str


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, over `epochs` shuffles of the subset.

    A row's steps come from its subset alone: `epochs` shuffles of it, one after another, cut into batches; the
    last batch is dropped where it is not full. The schedule stretches over those steps, however many they are.

    Attributes:
        architecture: the model.
        epochs: passes over the subset.
        batch_size: examples a step.
        lr: highest learning rate, per mean loss of a batch.
        momentum: heavy-ball momentum (torch.optim.SGD's, no dampening).
        weight_decay: L2 penalty in torch.optim.SGD's scaling: the objective is mean loss + weight_decay/2 ‖θ‖².
        schedule: `linear` multiplies `lr` by 1 − step/steps; `triangular` raises it over the first `warmup` share of
            the steps and lowers it to zero over the others.
        warmup: of the triangular schedule, in (0, 1).
        optimiser: `sgd` with heavy-ball momentum, or `nesterov`'s.
        label_smoothing: share of each label that is spread evenly over all classes.
        augmentation: of the training images.
        norm_bias_lr: the biases of normalisation layers learn so many times faster, with a weight decay that is as many
            times smaller.
        lookahead: every so many steps, weights go back part of the way to a slow average of theirs (Zhang et al. 2019,
            by the schedule of Jordan 2024); 0 for never.
        mirror: logits of a test image are the mean of its own and its mirror image's.
        evidence: what the recipe was seen to do.
    """

    architecture: Architecture
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "linear"
    warmup: float = 0.2
    optimiser: Optimiser = "sgd"
    label_smoothing: float = 0.0
    augmentation: Augmentation = Augmentation()
    norm_bias_lr: float = 1.0
    lookahead: int = 0
    mirror: bool = False
    evidence: Evidence | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by.

        Raises:
            InputError: a field that is out of range or an unknown word.
        """
        for name, kind in (("architecture", Architecture), ("augmentation", Augmentation)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} of a recipe is {getattr(self, name)!r}: it is of type {kind.__name__}")
        _one_of("schedule", self.schedule, get_args(Schedule))
        _one_of("optimiser", self.optimiser, get_args(Optimiser))
        _whole("epochs", self.epochs, 1)
        _whole("batch_size", self.batch_size, 1)
        _whole("lookahead", self.lookahead, 0)
        for name, high in (("lr", inf), ("weight_decay", inf), ("momentum", 1), ("norm_bias_lr", inf)):
            _between(name, getattr(self, name), 0, high)
        _between("label_smoothing", self.label_smoothing, 0, 1)
        _between("warmup", self.warmup, 1e-9, 1 - 1e-9)

    @property
    def stacked(self) -> bool:
        """Whether many models train at once; else one after another, each as fast as it can."""
        return self.not_plain is None

    @property
    def not_plain(self) -> str | None:
        """Why training is not plain SGD, as a clause; None where it is.

        Plain is: each step follows the gradient of a sum over the batch of what depends on one unaltered example each.
        """
        if not self.architecture.stacked:
            return f"{self.architecture.name} normalises over batches"
        if self.augmentation:
            return "its images are augmented"
        if self.lookahead:
            return "its weights go back to an average of theirs"
        return "its test images are mirrored" if self.mirror else None

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "linear":
            return self.lr * (1 - step / steps)
        peak = self.warmup * steps
        at = step + 0.5  # the middle of the step: neither end of the triangle is wasted on a rate of zero
        return self.lr * (at / peak if at < peak else (steps - at) / (steps - peak))

    def steps(self, n: int) -> int:
        """Optimiser steps of a model trained on `n` examples (at least one: a small subset is one smaller batch)."""
        return max(1, self.epochs * n // min(self.batch_size, n))

    def early_stopping_ridge(self, n: int) -> float:
        """The ridge λ that stopping after this recipe's steps on `n` examples amounts to: (1 − momentum) / Σ_t lr_t.

        Gradient flow for a time t shrinks a direction of curvature c by 1 − exp(−ct), a ridge λ by c/(c + λ): alike
        for λ = 1/t (Ali, Kolter and Tibshirani 2019, "A continuous-time view of early stopping", theorem 1).
        """
        steps = self.steps(n)
        return (1 - self.momentum) / sum(self.rate(step, steps) for step in range(steps))
