"""Sparse projections against their matrix written out, and against what a projection promises."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import factors, gradients, projection
from bench.errors import InputError
from bench.gradients import Examples
from bench.models import Flat, build
from bench.projection import Projection, features
from bench.recipes import Architecture

SEED = np.random.SeedSequence(5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**31))
def test_matrix_has_so_many_nonzeros_a_parameter(size: int, dim: int, nonzeros: int, seed: int) -> None:
    nonzeros = min(nonzeros, dim)
    matrix = Projection.draw(size, dim, nonzeros, np.random.SeedSequence(seed)).matrix()
    assert matrix.shape == (size, dim)
    assert ((matrix != 0).sum(1) == nonzeros).all()
    np.testing.assert_allclose(np.abs(matrix[matrix != 0]), nonzeros**-0.5)


@pytest.mark.parametrize("nonzeros", [1, 3])
def test_inner_products_are_kept_on_average(nonzeros: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50))
    x += y
    made = []
    for seed in range(400):
        matrix = Projection.draw(50, 20, nonzeros, np.random.SeedSequence(seed)).matrix()
        made.append((x @ matrix) @ (y @ matrix))
    assert np.mean(made) == pytest.approx(x @ y, abs=4 * np.std(made) / 20)
    # Kane and Nelson: the variance of a sketch's inner product is at most (|x|²|y|² + (x·y)²) / dim.
    assert np.var(made) < 1.3 * (x @ x * (y @ y) + (x @ y) ** 2) / 20


def test_drawn_from_the_seed_alone_and_all_over() -> None:
    one, same = (Projection.draw(4000, 16, 2, np.random.SeedSequence(9)) for _ in range(2))
    other = Projection.draw(4000, 16, 2, np.random.SeedSequence(10))
    np.testing.assert_array_equal(one.slots, same.slots)
    assert (one.slots != other.slots).mean() > 0.8
    counts = np.bincount(one.slots.reshape(-1), minlength=32)  # 8,000 in 32 slots: 250 ± 15
    assert counts.min() > 180
    assert counts.max() < 320


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "size", "dim", "nonzeros"), [(7, 60, 8, 1), (7, 60, 8, 3), (1, 5, 5, 5), (3, 4, 50, 1)])
def test_is_multiplication_by_the_matrix(
    n: int, size: int, dim: int, nonzeros: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 goes through the compiled kernels, float64 through what serves other devices."""
    monkeypatch.setattr(projection, "_CHUNK_BYTES", 2000)
    drawn = Projection.draw(size, dim, nonzeros, SEED)
    g = torch.randn(n, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = g.double().numpy() @ drawn.matrix()
    np.testing.assert_allclose(drawn(g).numpy(), expected, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("nonzeros", [1, 2])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (Architecture("logreg"), (30,)),
        (Architecture("mlp", (12, 9)), (30,)),
        (Architecture("cnn", (3, 4)), (1, 8, 8)),
        (Architecture("resnet9", (2, 3, 4, 4)), (3, 16, 16)),
    ],
)
def test_features_are_the_gradients_times_the_matrix(
    architecture: Architecture, shape: tuple[int, ...], nonzeros: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_CHUNK", 4)
    flat = Flat(build(architecture, shape, 3))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(11, *shape, generator=generator).clamp_min(-0.2) + 0.2  # some zeros, as images have
    x[3] = 0
    y, drawn = torch.arange(11) % 3, Projection.draw(flat.n_parameters, 10, nonzeros, SEED)
    for examples in (Examples(x, y, "margin"), Examples(x, y, "loss", smoothing=0.2), Examples(x, y, "margin", "max")):
        vector = flat.vector()
        arguments = x, y, examples.quantity, examples.output
        g = torch.cat([g for _, g in gradients.chunks(flat, vector, *arguments, smoothing=examples.smoothing)])
        made = features(flat, vector, examples, drawn)
        np.testing.assert_allclose(made.numpy(), g.double().numpy() @ drawn.matrix(), rtol=1e-4, atol=1e-5)


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are worked on at once, with one module whose own parameters are others."""
    monkeypatch.setattr(projection, "_CHUNK", 8)
    flat = Flat(build(Architecture("mlp", (30, 20)), (40,), 5))
    vector, x = torch.randn(flat.n_parameters), torch.randn(400, 40)
    examples = Examples(x, torch.arange(400) % 5, "margin")
    drawn = Projection.draw(flat.n_parameters, 16, 1, SEED)
    before, interval, made = torch.get_num_threads(), sys.getswitchinterval(), []
    sys.setswitchinterval(1e-6)
    try:
        for threads in (1, 6, 6, 6):
            torch.set_num_threads(threads)
            made.append(features(flat, vector, examples, drawn))
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(interval)
    g = gradients.stacked(flat, vector, x, examples.y, "margin")
    np.testing.assert_allclose(made[0].numpy(), g.double().numpy() @ drawn.matrix(), rtol=1e-3, atol=1e-3)
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-4, atol=1e-4)


def test_never_more_gradients_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a convolution gradients are made densely, a chunk at a time; of linear layers not at all."""
    made: list[int] = []
    dense = factors.dense

    def counted(parts: list[factors.Part]) -> torch.Tensor:
        made.append(len(parts[0].a))
        return dense(parts)

    monkeypatch.setattr(factors, "dense", counted)
    monkeypatch.setattr(projection, "_CHUNK", 4)
    for architecture, expected in ((Architecture("mlp", (5,)), []), (Architecture("cnn", (3,)), [3, 4, 4])):
        flat, made[:] = Flat(build(architecture, (1, 4, 4), 3)), []
        drawn = Projection.draw(flat.n_parameters, 10, 1, SEED)
        features(flat, flat.vector(), Examples(torch.randn(11, 1, 4, 4), torch.arange(11) % 3, "margin"), drawn)
        assert sorted(made) == expected


@pytest.mark.parametrize(
    ("dim", "nonzeros", "says"),
    [(0, 1, "proj_dim is 0"), (4, 0, "nonzeros is 0"), (4, 5, "nonzeros is 5.*proj_dim, 4")],
)
def test_projections_that_there_are_not(dim: int, nonzeros: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Projection.draw(10, dim, nonzeros, SEED)
