"""The explicit influence function against independent answers: autograd Hessians, retraining, finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import gradients, influence
from bench.influence import Influence, gauss_newton
from bench.models import Flat, build
from bench.outputs import margins
from bench.recipes import Architecture, Recipe

DECAY = 0.02


def _data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64)
    return x, (x[:, 0] + 0.5 * torch.randn(n, generator=rng, dtype=torch.float64) > 0).long() + (x[:, 1] > 1).long()


def _flat(hidden: tuple[int, ...]) -> Flat:
    torch.manual_seed(1)
    return Flat(build(Architecture("mlp", hidden), (4,), 3).double())


def _objective(flat: Flat, v: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    losses = F.cross_entropy(flat(v, x), y, reduction="none")
    return (weights * losses).sum() / len(y) + DECAY / 2 * v.square().sum()


def _solve(flat: Flat, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The minimiser of the weighted objective by Newton's method, to machine precision (it is strictly convex)."""
    v = flat.vector() * 0
    for _ in range(50):
        g = torch.func.grad(_objective, argnums=1)(flat, v, x, y, weights)
        h = torch.func.hessian(_objective, argnums=1)(flat, v, x, y, weights)
        v = v - torch.linalg.solve(h, g)
        if g.abs().max() < 1e-14:
            break
    return v


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_layered_form_is_the_dense_one(hidden: tuple[int, ...]) -> None:
    flat, (x, _) = _flat(hidden), _data(30, 0)
    torch.testing.assert_close(
        gauss_newton(flat, flat.vector(), x),
        influence._dense(flat, flat.vector(), x, torch.float64),
        rtol=1e-9,
        atol=1e-12,
    )


def test_chunks_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, (x, _) = _flat((5,)), _data(30, 0)
    whole = gauss_newton(flat, flat.vector(), x)
    monkeypatch.setattr(influence, "_CHUNK_BYTES", 4 * 25 * 7)  # seven examples at a time
    torch.testing.assert_close(gauss_newton(flat, flat.vector(), x), whole, rtol=1e-12, atol=1e-14)


def test_other_modules_take_the_dense_way() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    flat, (x, _) = Flat(module), _data(12, 0)
    made = gauss_newton(flat, flat.vector(), x)
    j = torch.func.jacrev(lambda v: flat(v, x))(flat.vector())  # [n, C, p]
    p = torch.softmax(flat(flat.vector(), x), 1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(made, torch.einsum("ncp,ncd,ndq->pq", j, curvature, j) / 12, rtol=1e-9, atol=1e-12)


def test_gauss_newton_is_the_hessian_of_logistic_regression() -> None:
    flat, (x, y) = _flat(()), _data(40, 2)
    vector = flat.vector()
    hessian = torch.func.hessian(lambda v: F.cross_entropy(flat(v, x), y))(vector)
    torch.testing.assert_close(gauss_newton(flat, vector, x), hessian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("output", ["logsumexp", "max"])
def test_exact_derivative_of_retrained_logistic_regression(output: str) -> None:
    """A score is the derivative of the refitted model's margin in the example's weight, over n, to 1e-6."""
    flat, train, test = _flat(()), _data(25, 3), _data(6, 4)
    weights = torch.ones(25, dtype=torch.float64)
    vector = _solve(flat, *train, weights)
    scores = Influence(flat, vector, train, test, DECAY, output).scores(0.0)  # type: ignore[arg-type]
    step = 1e-4
    for k in (0, 7, 24):
        sides = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[k] += sign * step
            refitted = _solve(flat, *train, moved)
            sides.append(margins(flat(refitted, test[0]), test[1], output))  # type: ignore[arg-type]
        torch.testing.assert_close(scores[k], (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_leave_one_out_retraining_agrees_to_first_order() -> None:
    flat, train, test = _flat(()), _data(200, 5), _data(8, 6)
    weights = torch.ones(200, dtype=torch.float64)
    vector = _solve(flat, *train, weights)
    scores = Influence(flat, vector, train, test, DECAY, "logsumexp").scores(0.0)
    before = margins(flat(vector, test[0]), test[1])
    actual = []
    for k in range(0, 200, 10):
        left_out = weights.clone()
        left_out[k] = 0
        actual.append(before - margins(flat(_solve(flat, *train, left_out), test[0]), test[1]))
    predicted, seen = scores[::10].reshape(-1).numpy(), torch.stack(actual).reshape(-1).numpy()
    assert np.corrcoef(predicted, seen)[0, 1] > 0.999
    slope = (predicted * seen).sum() / (predicted * predicted).sum()
    assert slope == pytest.approx(1, abs=0.1)  # of second order in 1/n: 5% here


def test_single_precision_solve_is_close_to_double() -> None:
    flat, train, test = _flat((5,)), _data(60, 7), _data(5, 8)
    one = Influence(flat, flat.vector(), train, test, 0.0, "logsumexp")
    ridge = 0.1 * one.mean_diagonal
    exact = one.matrix + ridge * torch.eye(len(one.matrix), dtype=torch.float64)
    single = one.scores(ridge)
    loss_gradients = gradients.stacked(flat, flat.vector(), *train, "loss")
    expected = -loss_gradients @ torch.linalg.solve(exact, one.target_gradients.T) / 60
    torch.testing.assert_close(single, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_singular_matrix_is_said_so() -> None:
    flat, train, test = _flat(()), _data(20, 9), _data(3, 9)
    with pytest.raises(ValueError, match="singular to working precision: use a larger damping"):
        Influence(flat, flat.vector(), train, test, 0.0, "logsumexp").scores(0.0)


def test_early_stopping_ridge() -> None:
    recipe = Recipe(Architecture("logreg"), epochs=10, batch_size=10, lr=0.01, momentum=0.0, schedule="constant")
    ridge = recipe.early_stopping_ridge(100)
    assert ridge == pytest.approx(1 / (0.01 * 100))
    slower = Recipe(Architecture("logreg"), epochs=10, batch_size=10, lr=0.01, momentum=0.9)
    assert slower.early_stopping_ridge(100) == pytest.approx(0.1 / (0.01 * 100 * 1.01 / 2))
