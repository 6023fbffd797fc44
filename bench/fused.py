"""Train small dense models on the CPU, each from start to finish inside a compiled call (`bench.kernels.sgd`)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.kernels import sgd
from bench.recipes import Recipe

if TYPE_CHECKING:
    import threading

    import torch

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_OPERATIONS_AT_ONCE = 2e10  # operations between two looks at `stop`: a fraction of a second
_ROWS_AT_ONCE = 96 * sgd.ROWS  # whose activations are computed together: they stay in the cache


def supports(recipe: Recipe, device: torch.device | str) -> bool:
    """Whether `train` trains what `recipe` says there: dense networks on the CPU, without augmentation."""
    kind = device if isinstance(device, str) else device.type
    return kind == "cpu" and recipe.stacked and recipe.architecture.name in ("logreg", "mlp")


@dataclass(frozen=True)
class _Layout:
    """Where the kernels keep what, for a network's sizes and a number of examples at once.

    Attributes:
        sizes: int64 `[layers + 1]`: features, hidden units, classes.
        strides: int64 `[layers + 1]`, floats a row of activations.
        at: int64 `[layers + 2]`, where each layer's activations begin, and their total.
        start: int64 `[layers + 1]`, where each layer's weights begin, and their total.
        where: int64 `[n_parameters]`, place in the panels of each number of a parameter vector.
        rows: examples at once, rounded up to whole tiles.
    """

    sizes: Integers
    strides: Integers
    at: Integers
    start: Integers
    where: Integers
    rows: int

    @classmethod
    def of(cls, recipe: Recipe, n_features: int, n_classes: int, examples: int) -> _Layout:
        sizes = [n_features, *recipe.architecture.hidden, n_classes]
        strides = [*map(sgd.stride, sizes[:-1]), _up(n_classes, sgd.LANES)]
        rows = _up(examples, sgd.ROWS)
        start, where = [0], []
        for n_in, n_out in itertools.pairwise(sizes):
            panels, deep = _up(n_out, sgd.LANES) // sgd.LANES, _up(n_in + 1, sgd.ROWS)
            places = start[-1] + np.arange(panels * deep * sgd.LANES).reshape(panels, deep, sgd.LANES)
            places = places.transpose(0, 2, 1).reshape(-1, deep)[:n_out]  # [out, in + 1 and padding]
            where += [places[:, :n_in].reshape(-1), places[:, n_in]]
            start.append(start[-1] + panels * deep * sgd.LANES)
        at = np.cumsum([0, *(rows * stride for stride in strides)])
        return cls(np.array(sizes), np.array(strides), at, np.array(start), np.concatenate(where), rows)

    def weights(self) -> Floats:
        return _zeros(int(self.start[-1]))

    def activations(self) -> Floats:
        made = _zeros(int(self.at[-1]))
        made[self.sizes[0] : self.at[1] : self.strides[0]] = 1  # what the bias is multiplied by
        return made


class _Room(NamedTuple):
    """What one model needs while it trains, used again by the next: only `w` and `v` outlast a step."""

    w: Floats
    v: Floats
    g: Floats
    a: Floats
    slopes: Floats
    transposed: Floats

    @classmethod
    def of(cls, layout: _Layout) -> _Room:
        w, v, g = (layout.weights() for _ in range(3))
        hidden = itertools.pairwise(layout.sizes[1:].tolist())
        largest = max((_up(n_in, sgd.LANES) * n_out for n_in, n_out in hidden), default=0)
        return cls(w, v, g, layout.activations(), _zeros(int(layout.at[-1])), _zeros(largest))


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _zeros(n: int) -> Floats:
    """Float32 `[n]` that begin a cache line: vectors that straddle two are read twice."""
    whole = np.zeros(n + sgd.LANES, np.float32)
    first = -(whole.ctypes.data // 4) % sgd.LANES
    return whole[first : first + n]


def train(
    recipe: Recipe,
    x: Floats,
    y: Integers,
    n_classes: int,
    start: Floats,
    orders: Sequence[Integers],
    stop: threading.Event,
) -> Floats:
    """Train models one after another, on the thread that calls; others run meanwhile.

    Args:
        recipe: one that is supported.
        x: float32 `[n_train, …]`.
        y: int64 `[n_train]`.
        n_classes: number of classes.
        start: float32 `[models, n_parameters]`, initial parameters in the order of `bench.models.Flat`.
        orders: for each model the indices into `x` of each step's batch, int64 `[steps, batch]`; −1 for a place that
            is left empty, of a batch whose mean loss counts it all the same. Models may differ in both.
        stop: once it is set, training is given up.

    Returns:
        The parameters, float32 `[models, n_parameters]`. Each row depends on its own start and order alone, to the
        last bit. Where training diverged there are infinities or NaN.

    Raises:
        Stopped: `stop` was set.
    """
    from bench.train import Stopped

    x, y = _flattened(x), np.ascontiguousarray(y, np.int64)
    trained = np.empty_like(start)
    made: dict[int, tuple[_Layout, _Room]] = {}
    rates: dict[int, Floats] = {}
    factors = (np.float32(recipe.momentum), np.float32(recipe.weight_decay), np.float32(recipe.label_smoothing))
    for model, order in enumerate(orders):
        steps, batch = order.shape
        if order.size and not -1 <= order.min() <= order.max() < len(x):
            raise IndexError("the order of batches names examples that there are not")
        if batch not in made:
            layout = _Layout.of(recipe, x.shape[1], n_classes, batch)
            made[batch] = layout, _Room.of(layout)
        if steps not in rates:
            rates[steps] = np.array([recipe.rate(step, steps) for step in range(steps)], np.float32)
        layout, room = made[batch]
        room.w.fill(0)
        room.v.fill(0)
        room.w[layout.where] = start[model]
        at_once = max(1, int(_OPERATIONS_AT_ONCE / (6 * room.w.size * batch)))
        for first in range(0, steps, at_once):
            if stop.is_set():
                raise Stopped
            span = slice(first, first + at_once)
            examples = np.ascontiguousarray(order[span], np.int64)
            sgd.descend(
                *room, layout.sizes, layout.strides, layout.at, layout.start, x, y, examples, rates[steps][span],
                *factors, recipe.optimiser == "nesterov",
            )  # fmt: skip
        trained[model] = room.w[layout.where]
    return trained


def logits(recipe: Recipe, parameters: Floats, x: Floats, n_classes: int) -> Floats:
    """Logits of every model on every example.

    Args:
        recipe: one that is supported.
        parameters: float32 `[models, n_parameters]`, as `train` returns them.
        x: float32 `[n, …]`.
        n_classes: number of classes.

    Returns:
        float32 `[models, n, n_classes]`.
    """
    x = _flattened(x)
    made = np.empty((len(parameters), len(x), n_classes), np.float32)
    layout = _Layout.of(recipe, x.shape[1], n_classes, min(len(x), _ROWS_AT_ONCE))
    w, a = layout.weights(), layout.activations()
    inputs, outputs = (
        a[layout.at[i] : layout.at[i + 1]].reshape(layout.rows, layout.strides[i]) for i in (0, len(layout.sizes) - 1)
    )
    for first in range(0, len(x), layout.rows):
        chunk = x[first : first + layout.rows]
        inputs[: len(chunk), : x.shape[1]] = chunk
        for model, vector in enumerate(parameters):
            w[layout.where] = vector
            sgd.forward(w, a, layout.sizes, layout.strides, layout.at, layout.start, layout.rows)
            made[model, first : first + len(chunk)] = outputs[: len(chunk), :n_classes]
    return made


def _flattened(x: Floats) -> Floats:
    return np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
