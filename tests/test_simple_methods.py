"""Controls, similarities and plain gradient products on a small ground truth, each against an answer written out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bench import methods
from bench.datasets import Data, Setting
from bench.errors import UnmetError
from bench.features import penultimate
from bench.judge import Judge
from bench.launch import Request, make
from bench.networks import Mirrored
from bench.outputs import margins
from bench.progress import Progress
from bench.ridge import fit_ridge
from bench.subsets import Plan
from bench.workbench import Bench

Array = NDArray[np.float64]


@pytest.fixture
def mlp(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """135 rows of the toy's small network, trained with label smoothing."""
    setting = replace(toy, model="mlp", recipe=replace(toy.dataset.models["mlp"], label_smoothing=0.2))
    make(Request(setting, toy_data, Plan(135, 2), device="cpu"), tmp_path / "gt", quiet)
    return Bench.open(setting, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, 135)


def _made(bench: Bench, spec: str) -> Any:
    (one,) = methods.chosen([spec])
    assert bench.unmet(one) is None
    return bench.attribute(one)


def _loss_and_margin_gradients(bench: Bench, state: torch.Tensor) -> tuple[Array, Array]:
    """∇ℓ_k `[n, p]` with smoothed labels and ∇m_j `[t, p]`, one backward pass each, in float64."""
    flat = bench.pool.trainer.flat()
    model = flat.load(state).double()
    parameters = list(model.parameters())

    def gradient(value: torch.Tensor) -> Array:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)]).numpy()

    losses, outputs = [], []
    for x, y in zip(bench.data.train_x, bench.data.train_y, strict=True):
        logp = torch.log_softmax(model(torch.from_numpy(x).double()[None]), 1)[0]
        losses.append(gradient(-0.8 * logp[int(y)] - 0.2 * logp.mean()))
    for x, y in zip(bench.data.test_x, bench.data.test_y, strict=True):
        logits = model(torch.from_numpy(x).double()[None])
        outputs.append(gradient(margins(logits, torch.tensor([int(y)]))[0]))
    return np.stack(losses), np.stack(outputs)


def _same_class(data: Data) -> NDArray[np.bool_]:
    return np.array([[a == b for b in data.test_y] for a in data.train_y])


def test_label_match_is_one_within_a_class(mlp: Bench) -> None:
    np.testing.assert_array_equal(_made(mlp, "label-match").scores, _same_class(mlp.data))


def test_a_constant_says_nothing(mlp: Bench) -> None:
    made = _made(mlp, "constant").scores
    assert len(np.unique(made)) == 1
    found = Judge.of(mlp.truth.rows(mlp.access.eval), 2).score(made)
    assert found.mean == 0
    assert found.zeroed == {"predictions constant": 10}


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("labels", [False, True])
def test_similarity_is_that_of_the_hidden_units(mlp: Bench, metric: str, labels: bool) -> None:
    made = _made(mlp, f"similarity:checkpoints=2,metric={metric},labels={labels}").scores
    expected = np.zeros_like(made, np.float64)
    for state in mlp.pool.get(2)[0].double().numpy():
        W, b = state[:30].reshape(6, 5), state[30:36]
        f, g = (np.maximum(x @ W.T + b, 0) for x in (mlp.data.train_x, mlp.data.test_x))
        dots = f @ g.T
        if metric == "cosine":
            dots = dots / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(g, axis=1)
        expected += dots / 2
    if labels:
        expected = np.where(_same_class(mlp.data), expected, -expected)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


def test_features_are_the_input_of_the_last_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, 4, 4)
    assert torch.equal(penultimate(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), x), x.flatten(1))
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    mirrored = (network[:3](x) + network[:3](x.flip(-1))) / 2
    torch.testing.assert_close(penultimate(Mirrored(network, (2, 4, 4)), x), mirrored)
    with pytest.raises(UnmetError, match="needs a model with a linear layer"):
        penultimate(nn.Conv2d(2, 3, 3), x)


def test_gradcos_is_minus_the_cosine(mlp: Bench) -> None:
    made = _made(mlp, "gradcos:checkpoints=2").scores
    expected = np.zeros_like(made, np.float64)
    for state in mlp.pool.get(2)[0]:
        losses, outputs = _loss_and_margin_gradients(mlp, state)
        lengths = np.linalg.norm(losses, axis=1)[:, None] * np.linalg.norm(outputs, axis=1)
        expected -= losses @ outputs.T / lengths / 2
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.abs(made).max() <= 1 + 1e-6


def test_tracin_is_the_sum_along_the_run(mlp: Bench) -> None:
    found = _made(mlp, "tracin:checkpoints=2,states=3")
    assert found.cost.models == 2
    expected = np.zeros_like(found.scores, np.float64)
    rates = [0.1 * (1 - step / 15) for step in range(15)]  # 3 epochs of 40 examples in batches of 8
    for number in range(2):
        run = mlp.pool.trajectory(number, 3)[0]
        for state, span in zip(run.states, (slice(0, 5), slice(5, 10), slice(10, 15)), strict=True):
            losses, outputs = _loss_and_margin_gradients(mlp, state)
            expected -= sum(rates[span]) * losses @ outputs.T / 40 / 2
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)


def test_ridge_scores_are_the_fitted_weights(mlp: Bench) -> None:
    (one,) = methods.chosen(["ridge"])
    fit = mlp.truth.rows(mlp.access.fit)
    expected = fit_ridge(fit.masks, fit.margins, seed=mlp.task(one, mlp.folder).seed)
    found = mlp.attribute(one)
    np.testing.assert_array_equal(found.scores, expected.weight)
    np.testing.assert_array_equal(found.extra["bias"], expected.bias)
    assert found.cost.models == len(mlp.access.fit)


def test_ridge_says_what_cannot_be_fitted(mlp: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = methods.chosen(["ridge"])
    task = mlp.task(one, mlp.folder)
    masks, given = task.fit.masks.copy(), task.fit.margins.copy()
    masks[:, :2], given[:, 4] = True, 2.5
    monkeypatch.setitem(task._given, "fit as stored", replace(task.fit, masks=masks, margins=given))
    assert not one.method.attribute(task)[:2].any()
    assert task.notes == [
        "1 of 10 targets are constant over the fit rows: zero datamodels",
        "2 of 40 examples are in all fit subsets or in none: their weights are 0",
    ]


def test_those_that_know_something_beat_chance(mlp: Bench) -> None:
    judge = Judge.of(mlp.truth.rows(mlp.access.eval), 2)
    for spec in ("label-match", "similarity:labels=True", "gradcos", "tracin", "ridge"):
        assert judge.score(_made(mlp, spec).scores).mean > 0.2, spec
