"""Products with curvature, and what inverts it: conjugate gradient, LiSSA, Lanczos. Against dense matrices."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from bench import conjugate_gradient, curvature, lanczos, lissa
from bench.curvature import Curvature
from bench.errors import BenchError
from bench.influence import gauss_newton
from bench.models import Flat, build
from bench.recipes import Architecture


def _flat(*hidden: int) -> Flat:
    return Flat(build(Architecture("mlp", hidden), (4,), 3).double())


def _tanh() -> Flat:
    torch.manual_seed(0)
    return Flat(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 3)).double().eval())


def _examples(n: int = 30) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n)
    return torch.randn(n, 4, generator=draw, dtype=torch.float64), torch.randint(0, 3, (n,), generator=draw)


def _vectors(k: int, n: int) -> Tensor:
    return torch.randn(k, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _spd(n: int, condition: float, seed: int = 0) -> Tensor:
    q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    made: Tensor = (q * torch.logspace(-math.log10(condition), 0, n, dtype=torch.float64)) @ q.T
    return made


@pytest.mark.parametrize("made", [lambda: _flat(), lambda: _flat(5, 4), _tanh])
@pytest.mark.parametrize("room", [2**26, 500])
def test_gauss_newton_products_are_the_matrix(made: Any, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "_CHUNK_BYTES", room)  # one example and one vector at a time
    flat, (x, y) = made(), _examples()
    vector, matrix = flat.vector(), gauss_newton(flat, flat.vector(), x)
    one, v = Curvature(flat, vector, x, y), _vectors(7, flat.n_parameters)
    torch.testing.assert_close(one.product(v), v @ matrix, rtol=1e-9, atol=1e-11)
    some = torch.tensor([3, 17, 5])
    torch.testing.assert_close(one.product(v, some), v @ gauss_newton(flat, vector, x[some]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("made", [lambda: _flat(), lambda: _flat(5), _tanh])
def test_hessian_products_are_the_hessian(made: Any) -> None:
    flat, (x, y) = made(), _examples()
    count = flat.n_parameters
    parameters, buffers = flat.vector().split([count, len(flat.vector()) - count])

    def loss(v: Tensor) -> Tensor:
        return F.cross_entropy(flat(torch.cat([v, buffers]), x), y, label_smoothing=0.1)

    hessian, v = torch.func.hessian(loss)(parameters), _vectors(4, count)
    one = Curvature(flat, flat.vector(), x, y, "hessian", smoothing=0.1)
    torch.testing.assert_close(one.product(v), v @ hessian, rtol=1e-9, atol=1e-11)


def test_mean_diagonal() -> None:
    flat, (x, y) = _flat(5, 4), _examples()
    expected = float(gauss_newton(flat, flat.vector(), x).diagonal().mean())
    assert Curvature(flat, flat.vector(), x, y).mean_diagonal() == pytest.approx(expected, rel=1e-9)
    other, (x, y) = _tanh(), _examples(2000)
    expected = float(gauss_newton(other, other.vector(), x).diagonal().mean())
    one = Curvature(other, other.vector(), x, y, "hessian")
    assert one.mean_diagonal(3) == pytest.approx(expected, rel=0.05)
    assert one.mean_diagonal(3) == one.mean_diagonal(3) != one.mean_diagonal(4)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 25),
    k=st.integers(1, 6),
    shifts=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=4),
    condition=st.floats(1.0, 1e4),
)
def test_conjugate_gradient_solves_every_shift(n: int, k: int, shifts: list[float], condition: float) -> None:
    matrix, b = _spd(n, condition), _vectors(k, n)
    b[0] = 0
    found = conjugate_gradient.solve(lambda v: v @ matrix, b, shifts, 1e-12, 40 * n)
    eye = torch.eye(n, dtype=torch.float64)
    for x, shift in zip(found.x, shifts, strict=True):
        expected = torch.linalg.solve(matrix + shift * eye, b.T).T
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-7 * float(expected.abs().max()))
    assert float(found.residual.max()) < 1e-9


@pytest.mark.parametrize("iterations", [6, 60])
def test_conjugate_gradient_with_known_pairs(iterations: int) -> None:
    """Good pairs save iterations, and poor ones are left alone; either way the answer is the same."""
    matrix, b, shifts = _spd(60, 1e5), _vectors(4, 60), [1e-4, 1.0]
    plain = conjugate_gradient.solve(lambda v: v @ matrix, b, shifts, 1e-6, 500)
    known = lanczos.pairs(lambda v: v @ matrix, _vectors(1, 60)[0], iterations, iterations // 2)
    found = conjugate_gradient.solve(lambda v: v @ matrix, b, shifts, 1e-6, 500, known)
    torch.testing.assert_close(found.x, plain.x, rtol=1e-3, atol=1e-4 * float(plain.x.abs().max()))
    assert float(found.residual.max()) < 1.1e-6
    assert found.iterations < (0.6 if iterations == 60 else 1.01) * plain.iterations


def test_conjugate_gradient_sees_a_negative_eigenvalue_at_once() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, -1.0]))
    known = lanczos.pairs(lambda v: v @ matrix, torch.ones(3), 3, 3)
    with pytest.raises(BenchError, match=r"not positive definite with 0\.5 added"):
        conjugate_gradient.solve(lambda v: v @ matrix, torch.ones(1, 3), [0.5], 1e-6, 50, known)


def test_conjugate_gradient_says_what_is_left() -> None:
    matrix, b = _spd(40, 1e6), _vectors(3, 40)
    found = conjugate_gradient.solve(lambda v: v @ matrix, b, [0.0], 1e-8, 5)
    assert found.iterations == 5
    expected = (b - found.x[0] @ matrix).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(found.residual, expected)
    assert float(found.residual.min()) > 1e-3


def test_conjugate_gradient_is_worked_in_products_of_what_is_left() -> None:
    """Rows that are done take no more part: a row that is an eigenvector is done after one product."""
    matrix = torch.diag(torch.arange(1.0, 11, dtype=torch.float64))
    b, sizes = torch.ones(3, 10, dtype=torch.float64), []
    b[1] = matrix[4]

    def product(v: Tensor) -> Tensor:
        sizes.append(len(v))
        return v @ matrix

    conjugate_gradient.solve(product, b, [0.5], 1e-10, 50)
    assert sizes[:2] == [3, 2]


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_conjugate_gradient_refuses_what_is_not_positive_definite(bad: float) -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, bad]))
    with pytest.raises(BenchError, match=r"not positive definite with 0\.5 added .* use a larger damping"):
        conjugate_gradient.solve(lambda v: v @ matrix, torch.ones(1, 3), [0.5], 1e-6, 50)


def test_lanczos_finds_all_pairs() -> None:
    values = torch.tensor([-3.0, 2, 2, 2, 1, 0.5, 0, 0, -0.1], dtype=torch.float64)  # a triple and a double
    q = torch.linalg.qr(_vectors(9, 9))[0]
    matrix = (q * values) @ q.T
    found = lanczos.pairs(lambda v: v @ matrix, _vectors(1, 9)[0], 50, 9)
    torch.testing.assert_close(
        found.values, values[values.abs().argsort(descending=True, stable=True)], atol=1e-12, rtol=0
    )
    eye = torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(found.vectors @ found.vectors.T, eye, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.vectors @ matrix, found.values[:, None] * found.vectors, atol=1e-10, rtol=0)


def test_lanczos_errors_are_those_of_the_pairs() -> None:
    matrix = _spd(60, 1e5)
    found = lanczos.pairs(lambda v: v @ matrix, _vectors(1, 60)[0], 12, 8)
    off = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.errors, off, atol=1e-10, rtol=1e-6)
    assert float(found.errors[0]) < 1e-4 < float(found.errors[-1])
    assert float(found.values[0]) == pytest.approx(1, abs=1e-6)


def test_lanczos_stays_orthogonal_in_single_precision() -> None:
    matrix = _spd(300, 1e6).float()
    found = lanczos.pairs(lambda v: v @ matrix, torch.ones(300), 200, 200)
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(200), atol=1e-4, rtol=0)


class _Quadratic:
    """Matrices of examples g gᵀ, and of batches of them."""

    def __init__(self, n: int = 200, size: int = 6) -> None:
        self.rows = _vectors(n, size) * torch.linspace(1, 0.3, size, dtype=torch.float64)
        self.matrix = self.rows.T @ self.rows / n
        self.largest = float(torch.linalg.eigvalsh(self.matrix)[-1])
        self.b = _vectors(4, size)

    def product(self, v: Tensor, batch: Tensor | None) -> Tensor:
        rows = self.rows if batch is None else self.rows[batch]
        return (v @ rows.T) @ rows / len(rows)

    def solve(self, how: lissa.Series, ridge: float = 0.05, seed: int = 0) -> lissa.Solution:
        return lissa.solve(self.product, self.b, ridge, len(self.rows), self.largest, how, seed)

    def exact(self, ridge: float = 0.05) -> Tensor:
        eye = torch.eye(len(self.matrix), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(self.matrix + ridge * eye, self.b.T).T
        return solved


def test_lissa_on_all_examples_is_the_neumann_series() -> None:
    one = _Quadratic()
    found = one.solve(lissa.Series(scale=2.0, depth=9, batch=200))
    eye = torch.eye(6, dtype=torch.float64)
    shrunk = eye - (one.matrix + 0.05 * eye) / 2
    expected = sum((one.b @ torch.linalg.matrix_power(shrunk, k) for k in range(10)), torch.zeros_like(one.b)) / 2
    torch.testing.assert_close(found.x, expected)
    long = one.solve(lissa.Series(depth=2000, batch=200))
    torch.testing.assert_close(long.x, one.exact(), rtol=1e-8, atol=1e-10)


def test_lissa_on_batches_is_right_on_average() -> None:
    one = _Quadratic()
    few = one.solve(lissa.Series(depth=400, batch=20))
    many = one.solve(lissa.Series(depth=400, batch=20, repeats=100))
    off = [float((found.x - one.exact()).norm() / one.exact().norm()) for found in (few, many)]
    assert off[0] < 0.6
    assert off[1] < 0.05 < off[0]  # noise falls as the root of the repeats
    left = (one.b - many.x @ one.matrix - 0.05 * many.x).norm(dim=1) / one.b.norm(dim=1)
    torch.testing.assert_close(many.residual, left)
    again = one.solve(lissa.Series(depth=400, batch=20))
    assert torch.equal(few.x, again.x)
    assert not torch.equal(few.x, one.solve(lissa.Series(depth=400, batch=20), seed=1).x)


def test_lissa_depth_leaves_a_share() -> None:
    series = lissa.Series()
    depth = series.terms(2.0, 0.05)
    assert (1 - 0.05 / 2.0) ** depth <= lissa.LEFT < (1 - 0.05 / 2.0) ** (depth - 1)
    assert series.terms(2.0, 0.0) == series.terms(2.0, 1e-9) == lissa.DEEPEST
    assert lissa.Series(depth=7).terms(2.0, 0.05) == 7


def test_lissa_takes_the_gentlest_scale_that_a_given_depth_allows() -> None:
    deep = lissa.Series(depth=2000, batch=20)
    scale = deep.first_scale(largest=2.0, ridge=0.05, n=200)
    assert (1 - 0.05 / scale) ** 2000 == pytest.approx(lissa.LEFT)
    assert scale > 2.05
    least = pytest.approx(2.05)  # what the matrix itself needs: fewer terms, no noise, or no depth to use
    assert lissa.Series(depth=10, batch=20).first_scale(2.0, 0.05, 200) == least
    assert lissa.Series(depth=2000, batch=200).first_scale(2.0, 0.05, 200) == least
    assert lissa.Series(batch=20).first_scale(2.0, 0.05, 200) == least
    one = _Quadratic()
    gentle, rough = one.solve(deep), one.solve(lissa.Series(scale=one.largest + 0.05, depth=2000, batch=20))
    assert gentle.residual.mean() < 0.7 * rough.residual.mean()


def test_lissa_notices_divergence() -> None:
    one = _Quadratic()
    with pytest.raises(lissa.DivergedError, match=r"LiSSA diverges with scale 0\.2 .* give a larger scale"):
        one.solve(lissa.Series(scale=0.2, depth=200))


def test_lissa_doubles_its_own_scale() -> None:
    one = _Quadratic()
    one.largest /= 6  # as if batches had far larger eigenvalues than the whole
    found = one.solve(lissa.Series(depth=300, batch=200))
    assert found.scale == pytest.approx(4 * (one.largest + 0.05))
    torch.testing.assert_close(found.x, one.exact(), rtol=1e-2, atol=1e-2)
    one.largest /= 1e4
    with pytest.raises(lissa.DivergedError):
        one.solve(lissa.Series(depth=300, batch=200), ridge=1e-3)
