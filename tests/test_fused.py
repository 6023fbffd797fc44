"""Compiled training against autograd: the trainer's stacked computation, and a plain loop of torch.optim.SGD."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from bench import fused, subsets
from bench.datasets import Architecture, Data, Recipe
from bench.kernels import sgd
from bench.models import Flat, build, initialise
from bench.outputs import margins
from bench.recipes import Augmentation
from bench.recorded import Recorded
from bench.train import Stopped, Trainer, batch_order

CPU = torch.device("cpu")
MLP = Recipe(Architecture("mlp", (6, 4)), epochs=3, batch_size=8, lr=0.1, weight_decay=1e-2)
LOGREG = replace(MLP, architecture=Architecture("logreg"))

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def examples(n: int, shape: tuple[int, ...], n_classes: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n + 9, *shape)).astype(np.float32), rng.integers(0, n_classes, n + 9)
    return Data(x[:n], y[:n], x[n:], y[n:], n_classes)


def beginnings(recipe: Recipe, data: Data, seeds: Sequence[int]) -> Floats:
    module = build(recipe.architecture, data.train_x.shape[1:], data.n_classes)
    vectors = []
    for seed in seeds:
        initialise(module, seed)
        vectors.append(Flat(module).vector().numpy())
    return np.stack(vectors)


def train(recipe: Recipe, data: Data, start: Floats, orders: Sequence[Integers]) -> Floats:
    return fused.train(recipe, data.train_x, data.train_y, data.n_classes, start, orders, threading.Event())


def by_torch(recipe: Recipe, data: Data, start: Floats, order: Integers) -> Floats:
    """One model by torch.optim.SGD."""
    flat = Flat(build(recipe.architecture, data.train_x.shape[1:], data.n_classes))
    module = flat.load(torch.from_numpy(start))
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.optimiser == "nesterov",
    )
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for step, batch in enumerate(torch.from_numpy(order)):
        optimiser.param_groups[0]["lr"] = recipe.rate(step, len(order))
        optimiser.zero_grad()
        F.cross_entropy(module(x[batch]), y[batch], label_smoothing=recipe.label_smoothing).backward()
        optimiser.step()
    vector: Floats = flat.vector().numpy()
    return vector


def margins_of(recipe: Recipe, data: Data, parameters: Floats) -> Floats:
    found: Floats = Trainer(recipe, data, CPU, fused=False).measured(torch.from_numpy(parameters), Recorded())[
        "margins"
    ]
    return found


recipes = st.builds(
    Recipe,
    architecture=st.lists(st.integers(1, 40), max_size=3).map(
        lambda hidden: Architecture("mlp" if hidden else "logreg", tuple(hidden))
    ),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 40),
    lr=st.sampled_from([0.02, 0.1]),
    momentum=st.sampled_from([0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-3, 0.05]),
    schedule=st.sampled_from(["linear", "constant", "triangular"]),
    optimiser=st.sampled_from(["sgd", "nesterov"]),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.4]),
)
shapes = st.sampled_from([(1,), (5,), (16,), (2, 3), (1, 5, 7)])


@settings(max_examples=40, deadline=None)
@given(recipe=recipes, shape=shapes, n_classes=st.integers(2, 18), sizes=st.lists(st.integers(1, 60), min_size=1))
def test_equal_to_torch_sgd(recipe: Recipe, shape: tuple[int, ...], n_classes: int, sizes: list[int]) -> None:
    """Subsets of several sizes in one call: other numbers of steps, and other batches where a subset is small."""
    data, rng = examples(60, shape, n_classes), np.random.default_rng(0)
    chosen = [rng.choice(60, size, replace=False) for size in sizes[:4]]
    orders = [subset[batch_order(len(subset), recipe, rng)] for subset in chosen]
    start = beginnings(recipe, data, range(len(orders)))
    found = train(recipe, data, start, orders)
    assert found.dtype == np.float32
    expected = np.stack([by_torch(recipe, data, *each) for each in zip(start, orders, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(margins_of(recipe, data, found), margins_of(recipe, data, expected), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("hidden", [(), (6,), (30, 17)])
def test_equal_to_the_stacked_trainer(toy_data: Data, hidden: tuple[int, ...], momentum: float) -> None:
    """From the same subsets and seeds, as the trainer takes its initialisations and batches from them."""
    recipe = replace(MLP, architecture=Architecture("mlp" if hidden else "logreg", hidden), momentum=momentum)
    chosen = [subsets.kept(0, row, 40, 0.5) for row in range(6)]
    orders, seeds = [], []
    for row, subset in enumerate(chosen):
        for_init, for_batches = subsets.model_seed(0, row).spawn(2)
        seeds.append(int(for_init.generate_state(1, np.uint64)[0] >> 1))
        orders.append(subset[batch_order(len(subset), recipe, np.random.default_rng(for_batches))])
    found = train(recipe, toy_data, beginnings(recipe, toy_data, seeds), orders)
    stacked = (
        Trainer(recipe, toy_data, CPU, fused=False)
        .train(chosen, [subsets.model_seed(0, row) for row in range(6)])
        .numpy()
    )
    np.testing.assert_allclose(found, stacked, atol=1e-5)
    np.testing.assert_allclose(
        margins_of(recipe, toy_data, found), margins_of(recipe, toy_data, stacked), rtol=0, atol=1e-5
    )


@settings(max_examples=20, deadline=None)
@given(recipe=recipes, shape=shapes, n_classes=st.integers(2, 18), n=st.integers(1, 700))
def test_logits(recipe: Recipe, shape: tuple[int, ...], n_classes: int, n: int) -> None:
    """More examples than are computed at once, and fewer."""
    data = examples(n, shape, n_classes)
    parameters = beginnings(recipe, data, range(3))
    found = fused.logits(recipe, parameters, data.train_x, n_classes)
    assert found.shape == (3, n, n_classes)
    expected = Trainer(recipe, data, CPU, fused=False).logits(
        torch.from_numpy(parameters), torch.from_numpy(data.train_x)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("recipe", [LOGREG, MLP], ids=["logreg", "mlp"])
def test_models_do_not_depend_on_each_other(toy_data: Data, recipe: Recipe) -> None:
    """To the last bit, though one of them diverges and batches differ in size; and whoever else trains meanwhile."""
    rng = np.random.default_rng(0)
    orders = [rng.integers(0, 40, (int(rng.integers(1, 30)), int(rng.choice([3, 8])))) for _ in range(12)]
    start = beginnings(recipe, toy_data, range(12))
    start[4] *= 1e30
    start[7] = np.nan
    together = train(recipe, toy_data, start, orders)
    alone = np.concatenate([train(recipe, toy_data, start[i : i + 1], orders[i : i + 1]) for i in range(12)])
    np.testing.assert_array_equal(together, alone)
    backwards = train(recipe, toy_data, start[::-1], orders[::-1])[::-1]
    np.testing.assert_array_equal(backwards, together)
    assert np.isfinite(np.delete(together, [4, 7], axis=0)).all()
    threads = [threading.Thread(target=train, args=(recipe, toy_data, start, orders)) for _ in range(3)]
    for thread in threads:
        thread.start()
    np.testing.assert_array_equal(train(recipe, toy_data, start, orders), together)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("recipe", [LOGREG, MLP], ids=["logreg", "mlp"])
@pytest.mark.parametrize("lr", [1e10, 1e38])
def test_divergence_shows(toy_data: Data, recipe: Recipe, lr: float) -> None:
    """No finite margin where autograd has none."""
    recipe = replace(recipe, lr=lr, epochs=40, schedule="constant")
    orders = [batch_order(40, recipe, np.random.default_rng(seed)) for seed in range(3)]
    start = beginnings(recipe, toy_data, range(3))
    expected = np.stack([by_torch(recipe, toy_data, *each) for each in zip(start, orders, strict=True)])
    assert not np.isfinite(margins_of(recipe, toy_data, expected)).any()
    found = train(recipe, toy_data, start, orders)
    assert not np.isfinite(margins_of(recipe, toy_data, found)).any()
    logits = torch.from_numpy(fused.logits(recipe, found, toy_data.test_x, toy_data.n_classes))
    assert not margins(logits, torch.from_numpy(toy_data.test_y)).isfinite().any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_stays_none(toy_data: Data, value: float) -> None:
    """One bad feature of one example spoils the model that sees it, and only that."""
    x = toy_data.train_x.copy()
    x[3, 2] = value
    start = beginnings(MLP, toy_data, [0, 0])
    good = np.delete(np.arange(40), 3)[np.arange(24).reshape(3, 8)]
    bad = good.copy()
    bad[0, 0] = 3
    found = fused.train(MLP, x, toy_data.train_y, 3, start, [bad, good], threading.Event())
    assert not np.isfinite(margins_of(MLP, toy_data, found)[0]).any()
    np.testing.assert_array_equal(found[1:], train(MLP, toy_data, start[1:], [good]))


def test_goes_on_where_it_was(toy_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long trainings are interrupted for a look at the stop flag: that changes nothing."""
    order = batch_order(40, MLP, np.random.default_rng(0))
    start = beginnings(MLP, toy_data, [0])
    whole = train(MLP, toy_data, start, [order])
    monkeypatch.setattr(fused, "_OPERATIONS_AT_ONCE", 1)
    np.testing.assert_array_equal(train(MLP, toy_data, start, [order]), whole)


class _ThirdLook(threading.Event):
    """Set by somebody else between the second and the third look at it."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 2


def test_stop(toy_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between models, and in the middle of one that takes long."""
    order = batch_order(40, MLP, np.random.default_rng(0))
    start = beginnings(MLP, toy_data, range(4))

    def steps_until_stop() -> int:
        taken, descend = [0], sgd.descend

        def counted(*args: Any) -> None:
            taken[0] += len(args[-6])
            descend(*args)

        with monkeypatch.context() as patch:
            patch.setattr(sgd, "descend", counted)
            with pytest.raises(Stopped):
                fused.train(MLP, toy_data.train_x, toy_data.train_y, 3, start, [order] * 4, _ThirdLook())
        return taken[0]

    assert steps_until_stop() == 2 * len(order)
    monkeypatch.setattr(fused, "_OPERATIONS_AT_ONCE", 1)
    assert steps_until_stop() == 2


def test_unknown_examples_are_refused(toy_data: Data) -> None:
    """The kernels check no bounds."""
    for index in (-2, 40):
        with pytest.raises(IndexError):
            train(MLP, toy_data, beginnings(MLP, toy_data, [0]), [np.full((2, 3), index)])


def test_inputs_are_left_alone(toy_data: Data) -> None:
    """And may be read-only, as memory-mapped data are."""
    order = batch_order(40, MLP, np.random.default_rng(0))
    start = beginnings(MLP, toy_data, [0])
    arrays: list[NDArray[Any]] = [toy_data.train_x, toy_data.train_y, start, order]
    copies = [array.copy() for array in arrays]
    expected = train(MLP, toy_data, start, [order])
    for array in arrays:
        array.flags.writeable = False
    np.testing.assert_array_equal(train(MLP, toy_data, start, [order]), expected)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_exponential() -> None:
    z = np.concatenate([-np.geomspace(1e-8, 80, 10_000), [0.0, -1e4, -np.inf, np.nan]]).astype(np.float32)
    found = z.copy()
    sgd._exp(found)
    np.testing.assert_allclose(found[:-3], np.exp(z[:-3].astype(np.float64)), rtol=2.5e-7)
    assert (found[-3:-1] < 1e-34).all()
    assert np.isnan(found[-1])


def test_supports() -> None:
    assert fused.supports(MLP, CPU)
    assert fused.supports(LOGREG, "cpu")
    assert not fused.supports(MLP, torch.device("cuda"))
    assert not fused.supports(replace(MLP, architecture=Architecture("cnn", (4,))), CPU)
    assert not fused.supports(replace(MLP, augmentation=Augmentation("random")), CPU)
    assert not fused.supports(replace(MLP, mirror=True), CPU)
