"""Derivatives through the training run, against finite differences and against autograd through the unrolled loop."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import halving, launch, lds, metagradient, methods, subsets
from bench.datasets import Architecture, Augmentation, Data, Recipe, Setting
from bench.errors import BenchError
from bench.launch import Request
from bench.metagradient import Replay, margins_by_weights
from bench.models import Flat, build
from bench.progress import Progress
from bench.subsets import Plan
from bench.train import Trainer, TrainingRun
from bench.workbench import Bench

CPU = torch.device("cpu")
DOUBLE = torch.float64
BASE = Recipe(Architecture("mlp", (6,)), epochs=3, batch_size=8, lr=0.1, weight_decay=1e-2)
LOGREG = replace(BASE, architecture=Architecture("logreg"))
RECIPES = {
    "logreg": LOGREG,
    "mlp": BASE,
    "plain": replace(LOGREG, momentum=0.0, weight_decay=0.0, schedule="constant"),
    "nesterov": replace(BASE, optimiser="nesterov", schedule="triangular", momentum=0.8),
    "nesterov without decay": replace(LOGREG, optimiser="nesterov", weight_decay=0.0),
    "smoothed labels": replace(BASE, label_smoothing=0.2, schedule="triangular"),
    "odd batches": replace(BASE, batch_size=7, epochs=2),  # an example is twice in a batch
    "one step": replace(BASE, batch_size=40, epochs=1),
}


Examples = tuple[Tensor, Tensor]


def pieces(recipe: Recipe, data: Data) -> tuple[Flat, TrainingRun, Examples, Examples]:
    trainer = Trainer(recipe, data, CPU)
    run = trainer.full_run(subsets.checkpoint_seed(0, 0))
    return trainer.flat(), run, trainer.inputs("train"), trainer.inputs("test")


def unrolled(recipe: Recipe, data: Data, weights: Tensor) -> Tensor:
    """Final margins `[n_targets]` of the training with these weights, written out; autograd can follow it."""
    _, run, (x, y), (test_x, test_y) = pieces(recipe, data)
    shapes = [p.shape for p in build(recipe.architecture, data.train_x.shape[1:], data.n_classes).parameters()]
    parts = [p.reshape(s) for p, s in zip(run.start.double().split([s.numel() for s in shapes]), shapes, strict=True)]
    parts = [p.clone().requires_grad_() for p in parts]

    def logits(parts: list[Tensor], x: Tensor) -> Tensor:
        x = x.double()
        for i in range(0, len(parts) - 2, 2):
            x = torch.relu(x @ parts[i].T + parts[i + 1])
        return x @ parts[-2].T + parts[-1]

    velocity = [torch.zeros_like(p) for p in parts]
    mu = recipe.momentum
    for rate, batch in zip(run.rates.tolist(), torch.from_numpy(run.order), strict=True):
        p = logits(parts, x[batch]).log_softmax(1)
        hard, even = -p[torch.arange(len(batch)), y[batch]], -p.mean(1)
        loss = ((1 - recipe.label_smoothing) * hard + recipe.label_smoothing * even) @ weights[batch] / len(batch)
        gradients = torch.autograd.grad(loss, parts, create_graph=True)
        slopes = [g + recipe.weight_decay * q for g, q in zip(gradients, parts, strict=True)]
        velocity = [mu * v + s for v, s in zip(velocity, slopes, strict=True)]
        nesterov = recipe.optimiser == "nesterov"
        moves = [s + mu * v for s, v in zip(slopes, velocity, strict=True)] if nesterov else velocity
        parts = [q - rate * m for q, m in zip(parts, moves, strict=True)]
    z = logits(parts, test_x)
    correct = z.gather(1, test_y[:, None])[:, 0]
    return correct - z.scatter(1, test_y[:, None], -torch.inf).logsumexp(1)


def exact(recipe: Recipe, data: Data, **options: Any) -> Tensor:
    flat, run, train, test = pieces(recipe, data)
    return margins_by_weights(Replay(flat, recipe, run, train, DOUBLE, **options), test)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_finite_differences(toy_data: Data, recipe: Recipe) -> None:
    """Of single weights, and of all together along random directions."""
    made = exact(recipe, toy_data).numpy()
    assert made.shape == (40, 10)
    rng, step = np.random.default_rng(0), 1e-6
    directions = np.concatenate([np.eye(40)[:4], rng.standard_normal((3, 40))])
    for direction in directions:
        ahead, behind = (unrolled(recipe, toy_data, torch.from_numpy(1 + s * direction)) for s in (step, -step))
        found = ((ahead - behind) / (2 * step)).detach().numpy()
        expected = direction @ made
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_autograd_through_the_unrolled_loop(toy_data: Data, recipe: Recipe) -> None:
    weights = torch.ones(40, dtype=DOUBLE, requires_grad=True)
    ends = unrolled(recipe, toy_data, weights)
    expected = torch.stack([torch.autograd.grad(end, weights, retain_graph=True)[0] for end in ends], 1)
    torch.testing.assert_close(exact(recipe, toy_data), expected, rtol=1e-9, atol=1e-12)


def test_at_other_weights(toy_data: Data) -> None:
    weights = torch.rand(40, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ends = unrolled(BASE, toy_data, weights)
    expected = torch.stack([torch.autograd.grad(end, weights, retain_graph=True)[0] for end in ends], 1)
    torch.testing.assert_close(exact(BASE, toy_data, weights=weights.detach()), expected, rtol=1e-9, atol=1e-12)


def test_a_network_of_convolutions() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 30)
    x = (rng.standard_normal((3, 20))[y] + rng.standard_normal((30, 20))).astype(np.float32)
    data = Data(x[:24], y[:24], x[24:], y[24:], 3, {})
    recipe = Recipe(Architecture("cnn", (3,), image=(1, 4, 5)), epochs=2, batch_size=8, lr=0.05)
    flat, run, train, test = pieces(recipe, data)
    made = margins_by_weights(Replay(flat, recipe, run, train, DOUBLE), test)
    direction = torch.from_numpy(rng.standard_normal(24))

    def end(size: float) -> Tensor:
        from bench.outputs import margins

        replay = Replay(flat, recipe, run, train, DOUBLE, weights=1 + size * direction)
        return margins(flat(replay.end, test[0].double()), test[1])

    with torch.no_grad():
        found = (end(1e-6) - end(-1e-6)) / 2e-6
    expected = direction @ made
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_float32_and_the_other_margin(toy_data: Data) -> None:
    flat, run, train, test = pieces(BASE, toy_data)
    made = margins_by_weights(Replay(flat, BASE, run, train), test)
    expected = exact(BASE, toy_data)
    assert made.dtype == torch.float32
    assert (made - expected).norm() <= 1e-4 * expected.norm()
    other = margins_by_weights(Replay(flat, BASE, run, train, DOUBLE), test, "max")
    assert (other - expected).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("recipe", [LOGREG, BASE, RECIPES["nesterov"]], ids=["logreg", "mlp", "nesterov"])
def test_replay_ends_at_the_checkpoint(toy_data: Data, recipe: Recipe) -> None:
    flat, run, train, _ = pieces(recipe, toy_data)
    (trained,) = Trainer(recipe, toy_data, CPU).train([np.arange(40)], [subsets.checkpoint_seed(0, 0)])
    torch.testing.assert_close(Replay(flat, recipe, run, train).end, trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epochs", [20, 80])
def test_states_held_grow_as_the_root_of_the_steps(
    toy_data: Data, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """100 and 400 steps: at no time are there more than 4 √steps + 8 states (θ or v) alive."""
    recipe = replace(LOGREG, epochs=epochs)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most, after = [0], Replay._after

    def counted(self: Replay, *inputs: Any) -> tuple[Tensor, Tensor]:
        theta, v = after(self, *inputs)
        alive.add(theta)
        alive.add(v)
        most[0] = max(most[0], len(alive))
        return theta, v

    monkeypatch.setattr(Replay, "_after", counted)
    monkeypatch.setattr(metagradient, "cpu_threads", lambda: 1)
    flat, run, train, (x, y) = pieces(recipe, toy_data)
    steps = len(run.rates)
    assert steps == 5 * epochs
    gc.collect()
    margins_by_weights(Replay(flat, recipe, run, train), (x[:1], y[:1]))
    assert 2 * steps**0.5 <= most[0] <= 4 * steps**0.5 + 8


def test_targets_go_in_chunks_and_threads(toy_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = exact(BASE, toy_data)
    flat, run, train, test = pieces(BASE, toy_data)
    replay, sizes, by_weights = Replay(flat, BASE, run, train, DOUBLE), [], Replay.by_weights

    def watched(self: Replay, a: Tensor) -> Tensor:
        sizes.append(len(a))
        return by_weights(self, a)

    monkeypatch.setattr(Replay, "by_weights", watched)
    for threads in (1, 3, 20):
        monkeypatch.setattr(metagradient, "cpu_threads", lambda count=threads: count)
        torch.testing.assert_close(margins_by_weights(replay, test), expected, rtol=1e-9, atol=1e-12)
        assert max(sizes) == -(-10 // threads)
        sizes.clear()
    torch.testing.assert_close(margins_by_weights(replay, test, max_bytes=1), expected, rtol=1e-9, atol=1e-12)
    assert sizes == [1] * 10


def test_half_as_many_where_memory_runs_out(toy_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, by_weights = exact(BASE, toy_data), Replay.by_weights

    def greedy(self: Replay, a: Tensor) -> Tensor:
        if len(a) > 3:
            raise MemoryError
        return by_weights(self, a)

    monkeypatch.setattr(Replay, "by_weights", greedy)
    monkeypatch.setattr(metagradient, "cpu_threads", lambda: 1)
    said: list[str] = []
    with halving.told(said.append):
        torch.testing.assert_close(exact(BASE, toy_data), expected, rtol=1e-9, atol=1e-12)
    assert said == ["memory ran out with 10 targets at a time: done 2 at a time"]


# Rounded kinks


def test_rounded_relu() -> None:
    """Over `width` times the size of its inputs: near by ReLU's values, and its second derivative is a density."""
    x = torch.linspace(-4, 4, 8001, dtype=DOUBLE).requires_grad_()
    size = 0.1 * x.detach().square().mean().sqrt()
    y = metagradient._Softplus(0.1)(x)
    torch.testing.assert_close(y, size * F.softplus(x / size, threshold=200))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert (curvature >= 0).all()
    assert float(torch.trapezoid(curvature, x.detach())) == pytest.approx(1, abs=1e-3)


def test_rounding_leaves_the_run_as_it_is(toy_data: Data) -> None:
    flat, run, train, _ = pieces(BASE, toy_data)
    hard, soft = (Replay(flat, BASE, run, train, kinks=width) for width in (0.0, 0.1))
    assert torch.equal(hard.end, soft.end)
    assert [type(layer) for layer in flat.module.children()] == [type(layer) for layer in hard.flat.module.children()]
    expected = exact(BASE, toy_data)
    assert (exact(BASE, toy_data, kinks=0.1) - expected).norm() > 0.01 * expected.norm()
    assert (exact(BASE, toy_data, kinks=1e-6) - expected).norm() < 1e-3 * expected.norm()  # no input is so near
    assert torch.equal(exact(LOGREG, toy_data, kinks=0.1), exact(LOGREG, toy_data))  # which has no ReLU


# The method


@pytest.fixture
def opened(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Callable[..., Bench]:
    def make(model: str = "logreg", **changes: Any) -> Bench:
        setting = replace(toy, model=model, recipe=type(toy.dataset).models[model])
        request = replace(
            Request(setting, toy_data, Plan(150, 1), alpha=0.9, device="cpu", protocol="single-model"), **changes
        )
        launch.make(request, tmp_path / "gt", quiet)
        return Bench.open(setting, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, request.plan.n_rows)

    return make


def run_method(bench: Bench, spec: str) -> Any:
    (one,) = methods.chosen([spec])
    assert bench.unmet(one) is None
    return bench.attribute(one)


def test_by_single_model_it_is_nearly_optimal(opened: Callable[..., Bench], toy_data: Data) -> None:
    """On logistic regression, which has no kinks, with 4 of 40 examples left out."""
    bench = opened()
    made = run_method(bench, "magic")
    expected = exact(bench.setting.recipe, toy_data)
    np.testing.assert_allclose(made.scores, expected, rtol=1e-3, atol=1e-4)
    assert made.cost.models == 1
    assert made.notes == []
    judged = bench.truth.rows(bench.access.eval)
    assert lds(made.scores, judged.masks, judged.margins).mean > 0.95
    precise = run_method(bench, "magic:dtype=float64")
    np.testing.assert_allclose(precise.scores, expected, rtol=1e-6, atol=1e-7)
    two = run_method(bench, "magic:checkpoints=2")
    assert two.cost.models == 2
    assert np.abs(two.scores - made.scores).max() > 0.01


def test_by_expectation_it_is_a_mean_of_three(opened: Callable[..., Bench], toy_data: Data) -> None:
    bench = opened("mlp", protocol="expectation", alpha=0.5)
    made = run_method(bench, "magic")
    assert made.cost.models == 3
    recipe = bench.setting.recipe
    trainer = Trainer(recipe, toy_data, CPU)
    each = [
        margins_by_weights(Replay(trainer.flat(), recipe, run, trainer.inputs("train"), DOUBLE), trainer.inputs("test"))
        for run in (trainer.full_run(subsets.checkpoint_seed(0, number)) for number in range(3))
    ]
    np.testing.assert_allclose(made.scores, torch.stack(each).mean(0), rtol=1e-3, atol=1e-3)


def test_kinks_are_chosen_on_tune_rows(opened: Callable[..., Bench]) -> None:
    bench = opened("mlp")
    made = run_method(bench, "magic:kinks=tune")
    (search,) = made.searches
    assert set(search.tried) == {"0", "0.02", "0.05", "0.1", "0.2"}
    assert made.cost.models == 1 + len(bench.access.tune)
    np.testing.assert_array_equal(made.scores, run_method(bench, f"magic:kinks={search.chosen}").scores)


def test_what_it_needs(opened: Callable[..., Bench]) -> None:
    bench = opened(plan=Plan(20, 1, judge_only=True))
    (tuned,) = methods.chosen(["magic:kinks=tune"])
    assert bench.unmet(tuned) == "needs 2 tune rows, and there are 0"
    (one,) = methods.chosen(["magic"])
    assert bench.unmet(one) is None
    recipe = replace(bench.setting.recipe, augmentation=Augmentation("random"))
    other = replace(bench, setting=replace(bench.setting, recipe=recipe))
    assert other.unmet(one) == "needs a recipe of plain SGD, and of this one its images are augmented"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("magic:checkpoints=0", "checkpoints is 0: it is a number of at least 1"),
        ("magic:kinks=-0.1", "kinks is -0.1: it is a number of at least 0"),
        ("magic:kinks=soft", "kinks is 'soft', and must be a number or 'tune'"),
        ("magic:dtype=float16", "dtype is 'float16', and must be 'float32' or 'float64'"),
    ],
)
def test_parameters_are_checked(spec: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        methods.chosen([spec])


def test_a_replay_that_ends_elsewhere_is_said(opened: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench, full_run = opened(), Trainer.full_run

    def other(self: Trainer, seed: np.random.SeedSequence) -> TrainingRun:
        run = full_run(self, seed)
        return replace(run, rates=run.rates * np.float32(1.5))

    monkeypatch.setattr(Trainer, "full_run", other)
    (note,) = run_method(bench, "magic").notes
    assert note.startswith("checkpoint 0 replayed ends ")
