"""SOURCE against unrolled derivatives, converged influence functions and its formula with matrix exponentials."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench import gradients, influence, methods, source
from bench.datasets import Data, Setting
from bench.errors import BenchError
from bench.influence import Influence, gauss_newton
from bench.judge import Judge
from bench.kfac import EKFAC
from bench.launch import Request, make
from bench.models import Flat, build
from bench.outputs import margins
from bench.progress import Progress
from bench.recipes import Architecture, Recipe
from bench.source import Explicit, Segment
from bench.subsets import Plan
from bench.task import TrainedOn
from bench.trajectory import Trajectory
from bench.workbench import Bench

Array = NDArray[np.float64]
N, T = 24, 5
DECAY, SMOOTHING = 0.02, 0.1


def _recipe(momentum: float = 0.0) -> Recipe:
    return Recipe(Architecture("logreg"), 1, N, 1.0, momentum=momentum, weight_decay=DECAY, label_smoothing=SMOOTHING)


def _logreg() -> Flat:
    return Flat(build(Architecture("logreg"), (4,), 3).double())


def _smooth() -> Flat:
    torch.manual_seed(0)
    return Flat(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double())


def _examples() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(N + T, 4, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 3, (N + T,), generator=draw)
    return (x[:N], y[:N]), (x[N:], y[N:])


class _Descent:
    """Gradient descent on all examples, as a differentiable function of their weights."""

    def __init__(self, flat: Flat, rates: Sequence[float], momentum: float = 0.0) -> None:
        self.flat, self.rates, self.momentum = flat, rates, momentum
        self.train, self.test = _examples()
        draw = torch.Generator().manual_seed(1)
        self.start = 0.5 * torch.randn(flat.n_parameters, generator=draw, dtype=torch.float64)

    def loss(self, theta: Tensor, weights: Tensor) -> Tensor:
        x, y = self.train
        each = F.cross_entropy(self.flat(theta, x), y, reduction="none", label_smoothing=SMOOTHING)
        return each @ weights / N + DECAY / 2 * theta.square().sum()

    def states(self, weights: Tensor) -> list[Tensor]:
        """Before every step, and at the end."""
        made, v = [self.start], torch.zeros_like(self.start)
        for rate in self.rates:
            v = self.momentum * v + torch.func.grad(self.loss)(made[-1], weights)
            made.append(made[-1] - rate * v)
        return made

    @property
    def exact(self) -> Tensor:
        """Derivatives of the final margins with respect to the weights, through every step, `[n_train, n_targets]`."""
        x, y = self.test

        def final(weights: Tensor) -> Tensor:
            return margins(self.flat(self.states(weights)[-1], x), y)

        made: Tensor = torch.func.jacrev(final)(torch.ones(N, dtype=torch.float64))
        return made.T

    def hessian(self, theta: Tensor) -> Tensor:
        """Of the mean loss, without weight decay."""
        made: Tensor = torch.func.hessian(self.loss)(theta, torch.ones(N, dtype=torch.float64))
        return made - DECAY * torch.eye(len(theta), dtype=theta.dtype)

    def scores(self, segments: Sequence[Segment], end: Tensor, momentum: float = 0.0) -> Tensor:
        return source.scores(self.flat, segments, end, self.train, self.test, _recipe(momentum), "logsumexp")


def _off(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.mark.parametrize("make_flat", [_logreg, _smooth])
def test_a_segment_for_every_step_is_the_unrolled_derivative(make_flat: Any) -> None:
    """exp(−ηH) is I − ηH to second order: with steps of half the size the error is half as large."""
    errors = []
    for steps in (20, 40, 80):
        rates = [4.0 / steps * (1 - step / steps) for step in range(steps)]
        run = _Descent(make_flat(), rates)
        *before, end = run.states(torch.ones(N, dtype=torch.float64))
        segments = [
            Segment(theta[None], rate, Explicit(run.hessian(theta))) for theta, rate in zip(before, rates, strict=True)
        ]
        errors.append(_off(run.scores(segments, end), run.exact))
    assert errors[-1] < 1e-2
    for large, small in itertools.pairwise(errors):
        assert large / small == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_more_segments_come_nearer_to_the_unrolled_derivative(momentum: float) -> None:
    """Logistic regression, where Gauss–Newton is the Hessian; states, rates and momentum as a method gives them."""
    steps = 384
    rates = [(1 - momentum) * 12.0 / steps * (1 - step / steps) for step in range(steps)]
    run = _Descent(_logreg(), rates, momentum)
    _, *after = run.states(torch.ones(N, dtype=torch.float64))
    exact, errors = run.exact, []
    for segments in (1, 3, 24):
        at = np.arange(1, 2 * segments + 1) * steps // (2 * segments)
        sums = np.add.reduceat(rates, np.r_[0, at[:-1]])
        along = Trajectory(torch.stack([after[step - 1] for step in at]), sums, at)
        parts = source.divided(run.flat, along, run.train, _recipe(momentum), segments, "explicit")
        errors.append(_off(run.scores(parts, after[-1]), exact))
    if momentum:  # a gradient goes on for ten steps, also past the end: 1 − momentum knows of no end
        assert errors[0] > 2 * errors[1] > 2 * errors[2]
        assert errors[2] < 10 / steps
    else:
        assert errors[0] > 3 * errors[1] > 9 * errors[2]
        assert errors[2] < 2e-3


def test_one_segment_that_is_long_is_the_influence_function() -> None:
    """At the optimum of logistic regression, without damping."""
    run = _Descent(_logreg(), [2.0] * 600)
    end = run.states(torch.ones(N, dtype=torch.float64))[-1]
    slope = torch.func.grad(run.loss)(end, torch.ones(N, dtype=torch.float64))
    assert float(slope.norm()) < 1e-9
    one = Influence(run.flat, end, run.train, run.test, DECAY, "logsumexp", SMOOTHING)
    made = run.scores([Segment(end[None], 1e5, Explicit(gauss_newton(run.flat, end, run.train[0])))], end)
    torch.testing.assert_close(made, one.scores(0.0), rtol=1e-8, atol=1e-12)
    assert _off(made, run.exact) < 1e-5


def test_a_short_time_is_tracin() -> None:
    """Before curvature counts, what is left is the learning rates times the products of gradients."""
    run = _Descent(_logreg(), [1e-6] * 4)
    states = torch.stack(run.states(torch.ones(N, dtype=torch.float64))[1:])
    expected = torch.zeros(N, T, dtype=torch.float64)
    for theta in states[::2]:
        train = gradients.Examples(*run.train, "loss", smoothing=SMOOTHING)
        test = gradients.Examples(*run.test, "margin")
        expected -= 2e-6 / N * gradients.products(run.flat, theta, train, test)
    along = Trajectory(states, np.full(4, 1e-6), np.arange(1, 5))
    for kind in ("ekfac", "explicit"):
        parts = source.divided(run.flat, along, run.train, _recipe(), 1, kind)
        assert parts[0].time == pytest.approx(4e-6)
        torch.testing.assert_close(run.scores(parts, states[-1]), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", ["ekfac", "explicit"])
def test_equals_the_formula_with_matrix_exponentials(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Σ_l S_3 ⋯ S_{l+1} (I − S_l) H_l⁻¹ ḡ_l / n from the first segment on, in numpy; in parts of two targets."""
    flat = _smooth()
    run = _Descent(flat, [])
    draw = torch.Generator().manual_seed(5)
    states = 0.7 * torch.randn(12, flat.n_parameters, generator=draw, dtype=torch.float64)
    rates = np.linspace(0.3, 0.1, 12)
    parts = source.divided(flat, Trajectory(states, rates, np.arange(1, 13)), run.train, _recipe(0.5), 3, kind)
    made = run.scores(parts, states[-1], 0.5)

    eye = torch.eye(flat.n_parameters, dtype=torch.float64)
    change: Array = np.zeros((N, flat.n_parameters))
    for number, part in enumerate(parts):
        mine = range(4 * number, 4 * number + 4, 2)
        if kind == "ekfac":
            matrix = EKFAC(flat, states[mine], run.train).apply(lambda c: c, eye)
        else:
            matrix = torch.stack([gauss_newton(flat, states[i], run.train[0]) for i in mine]).mean(0)
        H = matrix.numpy() + DECAY * eye.numpy()
        assert np.abs(H - H.T).max() < 1e-12
        time = rates[4 * number : 4 * number + 4].sum() / 0.5
        assert part.time == pytest.approx(time)
        S = scipy.linalg.expm(-time * H)
        losses = np.zeros((N, flat.n_parameters))
        for i in mine:
            for at, g in gradients.chunks(flat, states[i], *run.train, "loss", smoothing=SMOOTHING):
                losses[at] += g.numpy() / 2
        change = change @ S - losses @ (eye.numpy() - S) @ np.linalg.inv(H) / N
    of_margins = gradients.stacked(flat, states[-1], *run.test, "margin").numpy()
    np.testing.assert_allclose(made.numpy(), change @ of_margins.T, rtol=1e-8, atol=1e-12)

    monkeypatch.setattr(source, "_TARGET_BYTES", 2 * 8 * flat.n_parameters)
    torch.testing.assert_close(run.scores(parts, states[-1], 0.5), made, rtol=1e-10, atol=1e-14)


@given(c=st.floats(-1, 1e6), time=st.floats(1e-6, 1e6))
@example(c=5e-324, time=1.5)
@example(c=-5e-324, time=1.5)
def test_the_integral_is_finite_and_bounded(c: float, time: float) -> None:
    """∫ exp(−c s) ds from 0 to t: t without curvature, 1/c after a long time, never more than either."""
    if -c * time > 600:
        return
    made = float(source.integrated(torch.tensor(c, dtype=torch.float64), time))
    if c >= 0:
        assert 0 < made <= time * (1 + 1e-12)
        assert c * made <= 1
    assert made == pytest.approx(time if abs(c * time) < 1e-14 else -math.expm1(-c * time) / c, rel=1e-9)


def test_curvature_of_several_states_has_their_mean_factors() -> None:
    """Mean covariances over states and examples, their eigenvectors, mean squares in these: written out in numpy."""
    flat, ((x, y), _) = _smooth(), _examples()
    draw = torch.Generator().manual_seed(2)
    states = torch.randn(3, flat.n_parameters, generator=draw, dtype=torch.float64)
    pairs: list[list[tuple[Array, Array]]] = [[], []]
    for state in states:
        W, b, V, d = (piece.numpy() for piece in flat.pieces(state))
        for one, label in zip(x.numpy(), y, strict=True):
            h = np.tanh(W @ one + b)
            z = V @ h + d
            slope = np.exp(z - z.max()) / np.exp(z - z.max()).sum() - np.eye(3)[label]
            pairs[0].append((np.append(one, 1), (V.T @ slope) * (1 - h**2)))
            pairs[1].append((np.append(h, 1), slope))
    found = EKFAC(flat, states, (x, y), fisher="empirical")
    expected = scipy.linalg.block_diag(*(_one_layer(of_layer) for of_layer in pairs))
    eye = torch.eye(flat.n_parameters, dtype=torch.float64)
    made = found.apply(lambda c: 1 / (c + 0.3), eye).numpy()
    np.testing.assert_allclose(np.linalg.inv(made) - 0.3 * eye.numpy(), expected, rtol=1e-7, atol=1e-10)


def _one_layer(pairs: list[tuple[Array, Array]]) -> Array:
    """Its curvature, weights first and then the biases, as the layer has them."""
    a, b = (np.stack(part) for part in zip(*pairs, strict=True))
    basis = np.kron(np.linalg.eigh(b.T @ b)[1], np.linalg.eigh(a.T @ a)[1])
    gradients_ = np.stack([np.kron(one_b, one_a) for one_a, one_b in pairs])
    matrix = basis @ np.diag(((gradients_ @ basis) ** 2).mean(0)) @ basis.T
    place = np.arange(len(matrix)).reshape(b.shape[1], a.shape[1])
    order = np.concatenate([place[:, :-1].ravel(), place[:, -1]])
    ordered: Array = matrix[np.ix_(order, order)]
    return ordered


@pytest.mark.parametrize("architecture", [Architecture("mlp", (6, 4)), Architecture("cnn", (2, 3), (1, 4, 4))])
def test_a_function_of_the_curvature_is_what_scores_are_made_with(architecture: Architecture) -> None:
    torch.manual_seed(0)
    flat = Flat(build(architecture, (16,), 3).double())
    vector = 0.5 * torch.randn(flat.n_parameters, dtype=torch.float64)
    x, y = torch.randn(26, 16, dtype=torch.float64), torch.randint(0, 3, (26,))
    train, test = (x[:20], y[:20]), (x[20:], y[20:])
    one = EKFAC(flat, vector, train)
    solved = one.apply(lambda c: 1 / (c + 0.1), gradients.stacked(flat, vector, *test, "margin"))
    expected = influence.effects(flat, vector, train, solved, 0.0)
    torch.testing.assert_close(one.scores(test, "logsumexp", [0.1])[0], expected, rtol=1e-8, atol=1e-12)


@pytest.fixture
def small(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """60 rows of the toy's small network, trained with label smoothing."""
    setting = replace(toy, model="mlp", recipe=replace(toy.dataset.models["mlp"], label_smoothing=0.1))
    make(Request(setting, toy_data, Plan(60, 2), device="cpu"), tmp_path / "gt", quiet)
    return Bench.open(setting, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, 60)


@pytest.mark.parametrize(
    ("trained_on", "curvature", "states"), [("all", "ekfac", 2), ("all", "explicit", 1), ("subsets", "ekfac", 1)]
)
def test_the_method_is_the_mean_over_checkpoints(
    trained_on: TrainedOn, curvature: Any, states: int, small: Bench
) -> None:
    more = f"states={states},curvature={curvature},trained_on={trained_on}"
    (one,) = methods.chosen([f"source:checkpoints=2,segments=2,{more}"])
    assert small.unmet(one) is None
    found, task, recipe = small.attribute(one), small.task(one, small.folder), small.setting.recipe
    flat, train, test = task.flat(), task.inputs("train"), task.inputs("test")
    expected = np.zeros((40, 10), np.float32)
    for number in range(2):
        run = task.trajectory(number, 4 * states, trained_on)
        steps = recipe.steps(20 if trained_on == "subsets" else 40)
        assert run.steps[-1] == steps
        parts = source.divided(flat, run, train, recipe, 2, curvature)
        whole = sum(recipe.rate(step, steps) for step in range(steps)) / (1 - recipe.momentum)
        assert sum(part.time for part in parts) == pytest.approx(whole)
        expected += source.scores(flat, parts, run.states[-1], train, test, recipe, "logsumexp").numpy() / 2
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-6)
    assert found.scores.dtype == np.float32
    assert found.cost.models == 2
    judge = Judge.of(small.truth.rows(small.access.eval), 2)
    assert judge.score(found.scores).mean > 0.3


def test_explicit_curvature_is_for_small_models(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(small.pool.trainer), "n_parameters", property(lambda _: 5_001))
    (explicit,), (ekfac,) = methods.chosen(["source:curvature=explicit"]), methods.chosen(["source"])
    assert small.unmet(explicit) == "needs a model of at most 5,000 parameters, and this one has 5,001"
    assert small.unmet(ekfac) is None


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("segments=0", "segments of SOURCE is 0: it takes at least 1"),
        ("states=-1", "states of SOURCE is -1: it takes at least 1"),
        ("curvature=hessian", "the parameter curvature is 'hessian'"),
    ],
)
def test_wrong_parameters_are_one_sentence(parameters: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        methods.chosen([f"source:{parameters}"])


def test_more_states_than_steps(small: Bench) -> None:
    (one,) = methods.chosen(["source:segments=4,states=2"])
    with pytest.raises(
        BenchError,
        match="segments × states is 8, and SOURCE takes twice as many states: 16 states along",
    ):
        small.attribute(one)
