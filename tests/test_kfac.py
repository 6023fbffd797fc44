"""EK-FAC against Kronecker products written out in numpy, against kronfluence, and where it is exact."""

import itertools
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bench import gradients, methods
from bench.datasets import Architecture, Data, Recipe, Setting
from bench.errors import BenchError, InputError, UnmetError
from bench.influence import Influence
from bench.judge import Judge
from bench.kfac import EKFAC, Fisher
from bench.launch import Request, make
from bench.models import Flat, build
from bench.networks import Mirrored
from bench.progress import Progress
from bench.subsets import Plan
from bench.task import Task, TrainedOn
from bench.workbench import Bench

Array = NDArray[np.float64]
Part = tuple[torch.Tensor, torch.Tensor]


def _problem(
    hidden: tuple[int, ...], n: int = 30, features: int = 5, classes: int = 3
) -> tuple[Flat, torch.Tensor, Part, Part]:
    """A float64 network with random parameters, training examples and targets."""
    torch.manual_seed(len(hidden))
    flat = Flat(build(Architecture("mlp", hidden), (features,), classes).double())
    vector = 0.7 * torch.randn(flat.n_parameters, dtype=torch.float64)
    x = torch.randn(n + 6, features, dtype=torch.float64)
    y = torch.randint(0, classes, (n + 6,))
    return flat, vector, (x[:n], y[:n]), (x[n:], y[n:])


def _written_out(
    hidden: tuple[int, ...], vector: Array, train: Part, test: Part, smoothing: float, empirical: bool, damping: float
) -> Array:
    """Scores by full Kronecker products of each layer's factors and a dense Fisher matrix, nothing from torch."""
    x, y, tx, ty = (t.numpy() for t in (*train, *test))
    sizes = [x.shape[1], *hidden, 3]
    weights, at = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        W = vector[at : at + n_in * n_out].reshape(n_out, n_in)
        b = vector[at + n_in * n_out : at + (n_in + 1) * n_out]
        weights.append((W, b))
        at += (n_in + 1) * n_out

    def through(one: Array) -> tuple[list[Array], list[Array], Array]:
        """Layer inputs with a 1, Jacobians of the logits in each layer's outputs, probabilities."""
        inputs, masks, h = [], [], one
        for i, (W, b) in enumerate(weights):
            inputs.append(np.append(h, 1))
            h = W @ h + b
            if i < len(weights) - 1:
                masks.append(h > 0)
                h = np.maximum(h, 0)
        jacobians = [np.eye(3)]
        for (W, _), mask in zip(weights[:0:-1], masks[::-1], strict=True):
            jacobians.insert(0, (jacobians[0] @ W) * mask)
        e = np.exp(h - h.max())
        return inputs, jacobians, e / e.sum()

    n, layers = len(y), len(weights)
    factors_a, factors_b, fishers = ([np.zeros(1)] * layers for _ in range(3))
    losses: list[list[Array]] = [[] for _ in range(layers)]
    for one, label in zip(x, y, strict=True):
        inputs, jacobians, p = through(one)
        target = (1 - smoothing) * np.eye(3)[label] + smoothing / 3
        labels = [(1.0, p - target)] if empirical else [(p[c], p - np.eye(3)[c]) for c in range(3)]
        for i, (a, J) in enumerate(zip(inputs, jacobians, strict=True)):
            factors_a[i] = factors_a[i] + np.outer(a, a) / n
            losses[i].append(np.kron(J.T @ (p - target), a))
            for weight, v in labels:
                g = np.kron(J.T @ v, a)
                factors_b[i] = factors_b[i] + weight * np.outer(J.T @ v, J.T @ v) / n
                fishers[i] = fishers[i] + weight * np.outer(g, g) / n
    scores = np.zeros((n, len(ty)))
    bases = [np.kron(np.linalg.eigh(b)[1], np.linalg.eigh(a)[1]) for a, b in zip(factors_a, factors_b, strict=True)]
    for j, (one, label) in enumerate(zip(tx, ty, strict=True)):
        inputs, jacobians, p = through(one)
        others = np.where(np.arange(3) == label, 0, p)
        slope = np.eye(3)[label] - others / others.sum()
        for i, U in enumerate(bases):
            margin = np.kron(jacobians[i].T @ slope, inputs[i])
            inverse = U @ np.diag(1 / (np.diag(U.T @ fishers[i] @ U) + damping)) @ U.T
            scores[:, j] -= np.stack(losses[i]) @ inverse @ margin / n
    return scores


@pytest.mark.parametrize("hidden", [(), (4,), (6, 4)])
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equals_kronecker_products_written_out(hidden: tuple[int, ...], fisher: Any, smoothing: float) -> None:
    flat, vector, train, test = _problem(hidden)
    one = EKFAC(flat, vector, train, smoothing=smoothing, fisher=fisher)
    made = one.scores(test, "logsumexp", [1e-3, 0.7])
    for scores, damping in zip(made, (1e-3, 0.7), strict=True):
        expected = _written_out(hidden, vector.numpy(), train, test, smoothing, fisher == "empirical", damping)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_is_the_explicit_influence_where_the_curvature_is_a_kronecker_product() -> None:
    """A linear model with no weights expects all classes alike, of any example: the Fisher matrix is A ⊗ B."""
    flat, vector, train, test = _problem(())
    vector.zero_()
    explicit = Influence(flat, vector, train, test, 0.01, "logsumexp").scores(0.02)
    (made,) = EKFAC(flat, vector, train).scores(test, "logsumexp", [0.03])
    torch.testing.assert_close(made, explicit, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "mirrored", "strided"])
def test_much_damping_leaves_gradient_products(kind: str) -> None:
    """Of every kind of layer: (Λ + λ)⁻¹ → 1/λ, so the scores are products of whole gradients, in whatever basis."""
    torch.manual_seed(0)
    x, y = torch.randn(9, 2, 6, 6, dtype=torch.float64), torch.arange(9) % 3
    module: nn.Module = build(Architecture("mlp" if kind == "mlp" else "cnn", (4,)), (2, 6, 6), 3)
    if kind == "strided":
        module = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    flat = Flat(Mirrored(module.double(), (2, 6, 6)) if kind == "mirrored" else module.double())
    vector = flat.vector()
    losses = gradients.stacked(flat, vector, x, y, "loss")
    targets = gradients.stacked(flat, vector, x, y, "margin", "max")
    (made,) = EKFAC(flat, vector, (x, y)).scores((x, y), "max", [1e9])
    torch.testing.assert_close(made * 1e9, -losses @ targets.T / 9, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_eigenvalues_keep_the_trace(kind: Any) -> None:
    """Rotations do not change it: mean Σ_c p_c ‖∇ log p_c‖², from one backward pass for each example and class."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3
    flat = Flat(build(Architecture(kind, (3,)), (1, 4, 4), 3).double())
    one = EKFAC(flat, flat.vector(), (x, y))
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        logp = torch.log_softmax(flat.module(x[i : i + 1]), 1)[0]
        for c in range(3):
            pieces = torch.autograd.grad(logp[c], list(flat.module.parameters()), retain_graph=True)
            for g in pieces:
                expected += logp[c].detach().exp() * g.square().sum() / 6
    torch.testing.assert_close(one.eigenvalues.sum(), expected, rtol=1e-9, atol=0)
    assert sum(one.sizes) == len(one.eigenvalues) == flat.n_parameters


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, vector, train, test = _problem((4,))
    (whole,) = EKFAC(flat, vector, train).scores(test, "logsumexp", [0.1])
    monkeypatch.setattr("bench.kfac._CHUNK_BYTES", 5_000)
    monkeypatch.setattr("bench.kfac._TARGET_BYTES", 4 * 4 * flat.n_parameters)
    (made,) = EKFAC(flat, vector, train).scores(test, "logsumexp", [0.1])
    torch.testing.assert_close(made, whole, rtol=1e-9, atol=1e-12)


def test_drawn_labels_come_from_the_model_and_the_generator() -> None:
    """Over many examples at one place the drawn labels' matrix comes near the expected one."""
    flat, vector, train, _ = _problem((), n=20_000)
    x = train[0][:1].expand(20_000, -1)
    kinds: list[tuple[Fisher, int]] = [("exact", 0), ("sampled", 1), ("sampled", 2), ("sampled", 1)]
    exact, first, second, same = (
        EKFAC(flat, vector, (x, train[1]), fisher=kind, generator=torch.Generator().manual_seed(seed)).eigenvalues.sum()
        for kind, seed in kinds
    )
    assert float(first) == pytest.approx(float(exact), rel=0.05)
    assert first == same
    assert first != second


def test_damping_is_relative_to_the_layers_mean() -> None:
    flat, vector, train, _ = _problem((4,))
    one = EKFAC(flat, vector, train)
    assert one.sizes == [6 * 4, 5 * 3]
    made = one.damping(0.5)
    torch.testing.assert_close(made[:24], (0.5 * one.eigenvalues[:24].mean()).expand(24))
    torch.testing.assert_close(made[24:], (0.5 * one.eigenvalues[24:].mean()).expand(15))


def test_what_it_cannot_do() -> None:
    flat, vector, train, _ = _problem(())
    with pytest.raises(InputError, match="fisher is 'true': it is one of exact, sampled, empirical"):
        EKFAC(flat, vector, train, fisher="true")  # type: ignore[arg-type]
    grouped = Flat(nn.Sequential(nn.Conv2d(2, 2, 2, groups=2), nn.Flatten()))
    with pytest.raises(UnmetError, match="needs a model with linear or convolutional layers"):
        EKFAC(grouped, grouped.vector(), train)


@pytest.fixture
def small(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """135 rows of the toy's small network."""
    setting = replace(toy, model="mlp", recipe=toy.dataset.models["mlp"])
    make(Request(setting, toy_data, Plan(135, 2), device="cpu"), tmp_path / "gt", quiet)
    return Bench.open(setting, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, 135)


def _task(bench: Bench, spec: str) -> Task:
    folder = bench.folder / "cache"
    folder.mkdir(exist_ok=True)
    return bench.task(methods.chosen([spec])[0], folder)


@pytest.mark.parametrize("trained_on", ["all", "subsets"])
def test_the_method_is_the_mean_over_checkpoints(trained_on: TrainedOn, small: Bench) -> None:
    (one,) = methods.chosen([f"ekfac-direct:checkpoints=2,damping=0.3,trained_on={trained_on}"])
    found = small.attribute(one)
    task = _task(small, "ekfac-direct")
    expected = np.zeros_like(found.scores)
    for vector in task.checkpoint_vectors(2, trained_on):
        part = EKFAC(task.flat(), vector, task.inputs("train"))
        damping = part.damping(0.3) + small.setting.recipe.weight_decay
        expected += part.scores(task.inputs("test"), "logsumexp", [damping])[0].numpy() / 2
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-6)
    assert found.notes == []
    assert found.cost.models == 2


def test_tuning_takes_the_best_on_the_tune_rows_at_all_checkpoints(small: Bench) -> None:
    (one,) = methods.chosen(["ekfac-direct:checkpoints=2,damping=tune"])
    found = small.attribute(one)
    tune = Judge.of(small.truth.rows(small.access.tune), 1)
    candidates = {}
    for level in (0.0, 0.01, 0.1, 1.0, 10.0):
        (fixed,) = methods.chosen([f"ekfac-direct:checkpoints=2,damping={level}"])
        candidates[level] = small.attribute(fixed).scores
    best = max(candidates, key=lambda level: tune.score(candidates[level]).mean)
    np.testing.assert_allclose(found.scores, candidates[best], rtol=1e-5, atol=1e-7)
    assert [(search.what, search.chosen) for search in found.searches] == [("damping", f"{best:g}")]


def test_parameters_that_are_left_out_are_counted(tmp_path: Path, toy: Setting, quiet: Progress) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 1, 12, 12)).astype(np.float32), rng.integers(0, 2, 40)
    data = Data(x[:30], y[:30], x[30:], y[30:], 2)
    recipe = Recipe(Architecture("resnet9", (2, 2, 2, 2)), epochs=1, batch_size=10, lr=0.1)
    setting = replace(toy, model="resnet9", recipe=recipe)
    make(Request(setting, data, Plan(9, 2), device="cpu"), tmp_path / "gt", quiet)
    bench = Bench.open(setting, data, tmp_path / "gt", tmp_path, "cpu", quiet, 9)
    found = bench.attribute(methods.chosen(["ekfac-direct:checkpoints=1"])[0])
    assert np.isfinite(found.scores).all()
    assert found.notes == ["32 parameters of other than linear and convolutional layers are left out"]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equals_kronfluence_with_the_same_labels(kind: Any, small: Bench) -> None:
    """With the examples' own labels nothing is drawn, and both compute the same: to 1e-3 of the largest score."""
    pytest.importorskip("kronfluence")
    from bench.through_kronfluence import Analysis

    architecture = Architecture(kind, (4,), image=(1, 4, 4) if kind == "cnn" else ())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 16)).astype(np.float32), rng.integers(0, 3, 50)
    data = Data(x[:40], y[:40], x[40:], y[40:], 3)
    recipe = replace(small.setting.recipe, architecture=architecture)
    small = replace(small, pool=_pool(small, recipe, data))
    task = _task(small, "ekfac")
    vector = small.pool.trainer.train([np.arange(40)], [np.random.SeedSequence(1)])[0]
    theirs = Analysis(task, task.flat().load(vector), "ekfac", kind, empirical=True)
    ours = EKFAC(task.flat(), vector, task.inputs("train"), fisher="empirical")
    assert theirs.mean_eigenvalue == pytest.approx(float(ours.eigenvalues.mean()), rel=1e-5)
    for damping in (1e-3, 1.0):
        (expected,) = ours.scores(task.inputs("test"), "logsumexp", [damping])
        made = theirs.scores(damping)
        np.testing.assert_allclose(made, expected.numpy(), atol=1e-3 * float(expected.abs().max()))
        assert np.corrcoef(made.ravel(), expected.numpy().ravel())[0, 1] > 0.99999


def _pool(bench: Bench, recipe: Recipe, data: Data) -> Any:
    pool = bench.pool
    return type(pool)(replace(pool.trainer, recipe=recipe, data=data), 0, pool.folder, "k" * 64, pool.progress)


@pytest.mark.parametrize("strategy", ["kfac", "ekfac"])
def test_through_kronfluence(strategy: str, small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are seeded, the files stay in the cache, dampings are relative, and the sign is right."""
    pytest.importorskip("kronfluence")
    monkeypatch.setattr("bench.through_kronfluence.DAMPINGS", (0.1, 1.0))
    first, second = (
        small.attribute(methods.chosen([f"{strategy}:checkpoints=1,damping={d}"])[0]) for d in ("tune", "library")
    )
    judge = Judge.of(small.truth.rows(small.access.eval), 2)
    assert judge.score(first.scores).mean > 0.3
    assert judge.score(second.scores).mean > 0.1
    level = first.searches[0].chosen
    again = small.attribute(methods.chosen([f"{strategy}:checkpoints=1,damping={level}"])[0])
    np.testing.assert_allclose(again.scores, first.scores, rtol=1e-5, atol=1e-7)
    assert first.cost.disk_bytes > first.scores.nbytes
    assert sorted(p.name for p in small.folder.iterdir()) == ["checkpoints", "gt"]


@pytest.mark.parametrize("name", ["kfac", "ekfac", "ekfac-direct"])
def test_a_damping_is_at_least_0(name: str) -> None:
    with pytest.raises(BenchError, match=r"damping is -0\.1: it is a number of at least 0"):
        methods.chosen([f"{name}:damping=-0.1"])
    with pytest.raises(BenchError, match="the parameter damping is 'much'"):
        methods.chosen([f"{name}:damping=much"])


def test_without_the_package_the_sentence_says_how_to_get_it(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("bench.packages.version", missing)
    said = small.unmet(methods.chosen(["ekfac"])[0])
    assert said is not None
    assert "kronfluence" in said
    assert said.endswith("pip install 'ldsbench[kronfluence]'")
    assert small.unmet(methods.chosen(["ekfac-direct"])[0]) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("strategy", ["kfac", "ekfac"])
def test_kronfluence_is_near_the_explicit_influence_where_that_is_a_kronecker_product(
    strategy: Any, small: Bench, toy: Setting
) -> None:
    """Its labels are drawn, so near is all it can be: the linear model without weights again, 1,200 examples."""
    pytest.importorskip("kronfluence")
    from bench.through_kronfluence import Analysis

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1210, 4)).astype(np.float32), rng.integers(0, 3, 1210)
    data = Data(x[:1200], y[:1200], x[1200:], y[1200:], 3)
    task = _task(replace(small, pool=_pool(small, toy.recipe, data)), "ekfac")
    vector = torch.zeros(15)
    train, test = task.inputs("train"), task.inputs("test")
    made = Analysis(task, task.flat().load(vector), strategy, strategy).scores(0.02)
    expected = Influence(task.flat(), vector, train, test, 0.0, "logsumexp").scores(0.02).numpy()
    assert np.corrcoef(made.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.linalg.norm(made - expected) < 0.1 * np.linalg.norm(expected)
