"""Stacked training against a plain loop of torch.optim.SGD, one model at a time."""

import itertools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from bench import subsets
from bench.datasets import Architecture, Data, Recipe
from bench.errors import BenchError, InputError
from bench.models import Flat, build, initialise
from bench.outputs import margins
from bench.recorded import Recorded
from bench.train import Trainer, batch_order, one_torch_thread, pick_device

CPU = torch.device("cpu")
LOGREG, MLP = Architecture("logreg"), Architecture("mlp", (6, 4))
PLAIN = Recipe(MLP, epochs=3, batch_size=8, lr=0.1)


def rows(
    numbers: Sequence[int], seed: int = 0, alpha: float = 0.5
) -> tuple[list[NDArray[np.int64]], list[np.random.SeedSequence]]:
    return (
        [subsets.kept(seed, row, 40, alpha) for row in numbers],
        [subsets.model_seed(seed, row) for row in numbers],
    )


def train(recipe: Recipe, data: Data, numbers: Sequence[int], seed: int = 0, alpha: float = 0.5) -> NDArray[np.float32]:
    chosen, seeds = rows(numbers, seed, alpha)
    found: NDArray[np.float32] = Trainer(recipe, data, CPU, fused=False).train(chosen, seeds).numpy()
    np.testing.assert_allclose(Trainer(recipe, data, CPU).train(chosen, seeds).numpy(), found, atol=1e-5)
    return found


def plain_module(architecture: Architecture, seed: int) -> nn.Module:
    """Written out, so that neither `build` nor `initialise` is trusted."""
    torch.manual_seed(seed)
    if architecture.name == "logreg":
        return nn.Linear(5, 3)
    one, two = architecture.hidden
    return nn.Sequential(nn.Linear(5, one), nn.ReLU(), nn.Linear(one, two), nn.ReLU(), nn.Linear(two, 3))


def one_at_a_time(recipe: Recipe, data: Data, row: int) -> NDArray[np.float32]:
    (subset,), (seed,) = rows([row])
    for_init, for_batches = seed.spawn(2)
    module = plain_module(recipe.architecture, int(for_init.generate_state(1, np.uint64)[0] >> 1))
    optimiser = torch.optim.SGD(
        module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    order = batch_order(len(subset), recipe, np.random.default_rng(for_batches))
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for step, batch in enumerate(order):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * (1 - step / len(order) if recipe.schedule == "linear" else 1)
        optimiser.zero_grad()
        picked = torch.from_numpy(subset[batch])
        nn.functional.cross_entropy(module(x[picked]), y[picked]).backward()
        optimiser.step()
    found: NDArray[np.float32] = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    return found


@pytest.mark.parametrize("architecture", [LOGREG, MLP], ids=["logreg", "mlp"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_equal_to_torch_sgd(
    toy_data: Data,
    architecture: Architecture,
    momentum: float,
    weight_decay: float,
    schedule: Literal["linear", "constant"],
) -> None:
    recipe = Recipe(architecture, 4, 6, 0.1, momentum, weight_decay, schedule)
    stack = train(recipe, toy_data, range(5))
    with torch.random.fork_rng(devices=[]):
        reference = np.stack([one_at_a_time(recipe, toy_data, row) for row in range(5)])
    np.testing.assert_allclose(stack, reference, atol=1e-5)
    assert np.abs(stack - stack[0]).max(1)[1:].min() > 0.01  # different rows are different models


def test_images_are_flattened(toy_data: Data) -> None:
    """Inputs of any shape: `[n, 1, 5]` trains what `[n, 5]` trains."""
    images = replace(toy_data, train_x=toy_data.train_x[:, None], test_x=toy_data.test_x[:, None])
    np.testing.assert_allclose(train(PLAIN, images, [0, 1]), train(PLAIN, toy_data, [0, 1]), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 11)), order=st.permutations(range(12)))
def test_row_does_not_depend_on_its_stack(cuts: set[int], order: list[int]) -> None:
    data = toy()
    edges = [0, *sorted(cuts), 12]
    pieces = [train(PLAIN, data, order[a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(pieces), train(PLAIN, data, range(12))[order], atol=1e-5)


def toy() -> Data:
    """Hypothesis wants no fixtures that are made once for all examples."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((50, 5)).astype(np.float32), rng.integers(0, 3, 50)
    return Data(x[:40], y[:40], x[40:], y[40:], 3)


def test_row_does_not_depend_on_threads(toy_data: Data) -> None:
    """Threads that train at once share torch's one global generator: none may disturb another's initialisation."""
    alone = train(PLAIN, toy_data, range(64))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool, one_torch_thread():
            pieces = list(pool.map(lambda at: train(PLAIN, toy_data, range(at, at + 4)), range(0, 64, 4)))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_allclose(np.concatenate(pieces), alone, atol=1e-5)


def test_modules_built_at_once_do_not_disturb_each_other() -> None:
    def vector(seed: int) -> NDArray[np.float32]:
        module = build(MLP, (5,), 3)
        initialise(module, seed)
        found: NDArray[np.float32] = Flat(module).vector().numpy()
        return found

    alone = [vector(seed) for seed in range(300)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(vector, range(300)))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_array_equal(np.stack(together), np.stack(alone))


def test_same_seed_object_twice(toy_data: Data) -> None:
    """A SeedSequence remembers what it spawned; training must not."""
    trainer = Trainer(PLAIN, toy_data, CPU)
    chosen, seeds = rows([3, 4])
    first = trainer.train(chosen, seeds)
    assert torch.equal(first, trainer.train(chosen, seeds))


def test_seeds_differ(toy_data: Data) -> None:
    """One subset, two model seeds: other parameters. One row, two root seeds: other subset and parameters."""
    trainer = Trainer(PLAIN, toy_data, CPU)
    subset = subsets.kept(0, 0, 40, 0.5)
    one, two = trainer.train([subset, subset], [subsets.model_seed(0, 0), subsets.model_seed(0, 1)])
    assert (one - two).abs().max() > 0.01
    assert np.abs(train(PLAIN, toy_data, [0], seed=0) - train(PLAIN, toy_data, [0], seed=1)).max() > 0.01


def test_global_generators_are_left_alone(toy_data: Data) -> None:
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), repr(np.random.get_state())
    train(PLAIN, toy_data, [0, 1])
    assert torch.equal(before, torch.get_rng_state())
    assert repr(np.random.get_state()) == numpy_before


def test_examples_left_out_do_not_matter(toy_data: Data) -> None:
    """Scrambling every example that the subset leaves out changes nothing, bit for bit."""
    chosen, seeds = rows([2])
    out = np.setdiff1d(np.arange(40), chosen[0])
    x, y = toy_data.train_x.copy(), toy_data.train_y.copy()
    x[out], y[out] = 1e6, (y[out] + 1) % 3
    a = Trainer(PLAIN, toy_data, CPU).train(chosen, seeds)
    b = Trainer(PLAIN, replace(toy_data, train_x=x, train_y=y), CPU).train(chosen, seeds)
    assert torch.equal(a, b)


@given(
    n=st.integers(1, 60),
    epochs=st.integers(1, 5),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_every_epoch_visits_every_example_once(n: int, epochs: int, batch_size: int, seed: int) -> None:
    recipe = replace(PLAIN, epochs=epochs, batch_size=batch_size)
    order = batch_order(n, recipe, np.random.default_rng(seed))
    batch = min(n, batch_size)
    assert order.shape == (epochs * n // batch, batch)
    visits = order.reshape(-1)
    assert epochs * n - batch < len(visits) <= epochs * n  # the last batch is dropped where it is not full
    for epoch in range(epochs):
        one = visits[epoch * n : (epoch + 1) * n]
        assert len(set(one.tolist())) == len(one)
        assert one.size == 0 or (one.min() >= 0 and one.max() < n)
        if len(visits) >= (epoch + 1) * n:
            assert len(one) == n


def test_epochs_are_shuffled_differently() -> None:
    order = batch_order(32, replace(PLAIN, epochs=3, batch_size=32), np.random.default_rng(0))
    assert (order[0] != order[1]).any()
    assert (order[1] != order[2]).any()


@pytest.mark.parametrize("alpha", [0.1, 0.025])
def test_subset_smaller_than_a_batch(toy_data: Data, alpha: float) -> None:
    """Four examples, and one: each epoch is one step on the whole subset, whatever the order."""
    recipe = replace(PLAIN, batch_size=16)
    (subset,), (seed,) = rows([0], alpha=alpha)
    assert batch_order(len(subset), recipe, np.random.default_rng(0)).shape == (3, round(40 * alpha))
    found = Trainer(recipe, toy_data, CPU).train([subset], [seed])
    exact = Trainer(replace(recipe, batch_size=len(subset)), toy_data, CPU).train([subset], [seed])
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)
    assert found.isfinite().all()


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_margin_is_the_log_odds(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4, 30, n_classes))
    labels = rng.integers(0, n_classes, 30)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = np.take_along_axis(p, np.broadcast_to(labels, (4, 30))[..., None], -1)[..., 0]
    found = margins(torch.from_numpy(logits), torch.from_numpy(labels))
    np.testing.assert_allclose(found.numpy(), np.log(p / (1 - p)), atol=1e-9)
    low = margins(torch.from_numpy(logits).float(), torch.from_numpy(labels))
    assert low.dtype == torch.float32
    np.testing.assert_allclose(low.numpy(), np.log(p / (1 - p)), atol=1e-5)


def test_max_margin_is_the_lead_over_the_next_class() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (4, 30, 5)), rng.integers(0, 5, 30)
    found = margins(torch.from_numpy(logits), torch.from_numpy(labels), "max").numpy()
    for model, i in itertools.product(range(4), range(30)):
        others = np.delete(logits[model, i], labels[i])
        assert found[model, i] == logits[model, i, labels[i]] - others.max()
    assert (found > margins(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()).all()


@pytest.mark.parametrize("output", ["logsumexp", "max"])
@pytest.mark.parametrize("size", [80.0, 1e4, 1e30])
def test_extreme_logits_stay_finite(output: Literal["logsumexp", "max"], size: float) -> None:
    """Where p is 0 or 1 to float precision, log(p/(1−p)) computed from p would be infinite."""
    logits = torch.tensor([[size, 0.0, -size], [-size, size, size], [0.0, 0.0, size]])
    found = margins(logits, torch.tensor([0, 0, 2]), output)
    assert found.isfinite().all()
    np.testing.assert_allclose(found, [size, -2 * size, size], rtol=1e-2)


def test_unknown_output_is_refused() -> None:
    with pytest.raises(InputError, match="'lse'"):
        margins(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), "lse")  # type: ignore[arg-type]


def test_margins_of_a_stack_are_each_models_own(toy_data: Data) -> None:
    trainer = Trainer(PLAIN, toy_data, CPU)
    parameters = torch.from_numpy(train(PLAIN, toy_data, range(3)))
    found = trainer.measured(parameters, Recorded())["margins"]
    assert found.shape == (3, 10)
    assert found.dtype == np.float32
    x, y = torch.from_numpy(toy_data.test_x), torch.from_numpy(toy_data.test_y)
    for vector, mine in zip(parameters, found, strict=True):
        module = Flat(build(MLP, (5,), 3)).load(vector)
        with torch.no_grad():
            np.testing.assert_allclose(mine, margins(module(x), y).numpy(), atol=1e-5)


def test_recipes_learn(toy_data: Data) -> None:
    """On the clusters that they were trained on, most margins are positive."""
    found = Trainer(replace(PLAIN, epochs=30), toy_data, CPU)
    everything = np.arange(40)
    parameters = found.train([everything], [subsets.checkpoint_seed(0, 0)])
    x, y = found.inputs("train")
    assert (margins(found.logits(parameters, x), y) > 0).float().mean() > 0.8


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", ""])
def test_unknown_device_names_the_flag(name: str) -> None:
    with pytest.raises(BenchError, match="--device"):
        pick_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BenchError, match="--device is cuda:7, and torch sees none above cuda:1 here"):
        pick_device("cuda:7")
    assert [str(pick_device(name)) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(BenchError, match="--device cpu"):
        pick_device("cuda")
    assert pick_device("auto") == CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", [LOGREG, MLP], ids=["logreg", "mlp"])
def test_cuda_agrees_with_the_cpu(toy_data: Data, architecture: Architecture) -> None:
    """The same masks, initialisations and batches: margins to float rounding, and CUDA's generator is left alone."""
    recipe = replace(PLAIN, architecture=architecture)
    chosen, seeds = rows(range(16))
    before = torch.cuda.get_rng_state()
    made = {}
    for device in (CPU, torch.device("cuda")):
        trainer = Trainer(recipe, toy_data, device)
        made[device.type] = trainer.measured(trainer.train(chosen, seeds), Recorded())["margins"]
    np.testing.assert_allclose(made["cuda"], made["cpu"], atol=1e-4)
    assert torch.equal(before, torch.cuda.get_rng_state())
