"""Influence functions by four ways and representer points, against dense float64 references and retrained models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from bench import conjugate_gradient, converged, datasets, gradients, influence, lanczos, lissa, methods
from bench.curvature import Curvature
from bench.datasets import Data, Setting
from bench.errors import BenchError
from bench.files import Files
from bench.influence import Influence
from bench.launch import Request, make
from bench.models import Flat, build
from bench.outputs import margins
from bench.progress import Progress
from bench.recipes import Architecture
from bench.representer import Representers, features
from bench.subsets import Plan
from bench.workbench import Bench

Array = NDArray[np.float64]
CLASSES = 10


@pytest.fixture(scope="module")
def digits() -> Data:
    return datasets.setting("digits/logreg").dataset.load(Files(()))


def _softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def dense_reference(w: Array, train: tuple[Any, Any], test: tuple[Any, Any], ridge: float) -> Array:
    """Influence in multinomial logistic regression, all derivatives written out; w `[d, C]`, x with a column of ones.

    ∂CE/∂W = x (p − e_y)ᵀ; the Hessian is the mean of x xᵀ ⊗ (diag(p) − p pᵀ); the margin z_y − log Σ_{c≠y} exp z_c has
    the derivative x (e_y − q)ᵀ, q the softmax of the other logits.
    """
    (x, y), (xt, yt) = train, test
    n, (d, c) = len(x), w.shape
    p = _softmax(x @ w)
    hessian = ridge * np.eye(d * c)
    for i in range(n):
        hessian += np.kron(np.outer(x[i], x[i]), np.diag(p[i]) - np.outer(p[i], p[i])) / n
    loss = np.stack([np.outer(x[i], p[i] - np.eye(c)[y[i]]).ravel() for i in range(n)])
    z = xt @ w
    z[np.arange(len(yt)), yt] = -np.inf
    margin = np.stack([np.outer(xt[j], np.eye(c)[yt[j]] - _softmax(z)[j]).ravel() for j in range(len(yt))])
    scores: Array = -loss @ np.linalg.solve(hessian, margin.T) / n
    return scores


def _with_one(x: Any) -> Array:
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.hstack([flat, np.ones((len(x), 1))])


def _vector(w: Array) -> Tensor:
    """State of the module `Linear(d − 1, C)` with these weights: weight row by row, then bias."""
    return torch.from_numpy(np.concatenate([w[:-1].T.ravel(), w[-1]]))


def _linear(data: Data) -> Flat:
    return Flat(build(Architecture("logreg"), data.train_x.shape[1:], data.n_classes).double())


def _relative(made: Any, expected: Any) -> float:
    made, expected = np.asarray(made, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


class Converged:
    """Logistic regression on the first examples of digits, at its minimum."""

    def __init__(self, data: Data, n: int, n_targets: int, decay: float) -> None:
        self.decay, self.flat = decay, _linear(data)
        self.train = torch.from_numpy(data.train_x[:n]).double(), torch.from_numpy(data.train_y[:n])
        self.test = torch.from_numpy(data.test_x[:n_targets]).double(), torch.from_numpy(data.test_y[:n_targets])
        self.x, self.labels = converged.with_one(self.train[0]), converged.soft_labels(self.train[1], CLASSES)
        self.w = converged.fit(self.x, self.labels, decay).weights[0]
        self.vector = _vector(self.w.numpy())

    def explicit(self, ridge: float = 0.0) -> Tensor:
        return Influence(self.flat, self.vector, self.train, self.test, self.decay, "logsumexp").scores(ridge)

    def curvature(self, kind: Any = "gauss-newton") -> Curvature:
        return Curvature(self.flat, self.vector, *self.train, kind)

    def targets(self) -> Tensor:
        return gradients.stacked(self.flat, self.vector, *self.test, "margin")

    def effects(self, solved: Tensor) -> Tensor:
        return influence.effects(self.flat, self.vector, self.train, solved, 0.0)

    def left_out(self, out: Any, kept: float = 0.0) -> Tensor:
        """What the rest of each of `out` adds to margins, from models refitted with it at the weight `kept`."""
        weights = torch.ones(len(out), len(self.x), dtype=torch.float64)
        weights[torch.arange(len(out)), torch.as_tensor(out)] = kept
        refitted = converged.fit(self.x, self.labels, self.decay, weights).weights
        f = converged.with_one(self.test[0])
        return margins(f @ self.w, self.test[1]) - margins(f @ refitted, self.test[1])


@pytest.fixture(scope="module")
def small_digits(digits: Data) -> Converged:
    return Converged(digits, 200, 25, 1e-3)


def test_explicit_is_the_dense_reference(small_digits: Converged) -> None:
    one = small_digits
    train, test = ((_with_one(x), y.numpy()) for x, y in (one.train, one.test))
    for extra, tolerance in ((0.0, 1e-8), (0.01, 1e-6)):  # with damping it is solved in float32
        expected = dense_reference(one.w.numpy(), train, test, one.decay + extra)
        assert _relative(one.explicit(extra), expected) < tolerance


@pytest.mark.parametrize("kind", ["gauss-newton", "hessian"])
def test_conjugate_gradient_agrees_with_explicit(small_digits: Converged, kind: str) -> None:
    one, dampings = small_digits, (0.0, 0.01, 1.0)
    shifts = [one.decay + d for d in dampings]
    found = conjugate_gradient.solve(one.curvature(kind).product, one.targets(), shifts, 1e-6, 500)
    for x, damping in zip(found.x, dampings, strict=True):
        assert _relative(one.effects(x), one.explicit(damping)) < 1e-5


def test_arnoldi_of_full_rank_agrees_with_explicit(small_digits: Converged) -> None:
    one = small_digits
    top = lanczos.pairs(one.curvature().product, one.targets()[0], 650, 650)
    solved = (one.targets() @ top.vectors.T / (top.values + one.decay)) @ top.vectors
    assert _relative(one.effects(solved), one.explicit()) < 1e-6


def test_lissa_agrees_with_explicit(small_digits: Converged) -> None:
    """On all examples to 1e-5; on batches of 50 within their noise, which averaging 8 series brings under 10%."""
    one, ridge = small_digits, 0.02
    matrix, b = one.curvature(), one.targets()
    largest = float(lanczos.pairs(matrix.product, b[0], 20, 1).values[0])
    expected = one.explicit(ridge)

    def solve(how: lissa.Series) -> Tensor:
        return one.effects(lissa.solve(matrix.product, b, one.decay + ridge, len(one.x), largest, how, 0).x)

    assert _relative(solve(lissa.Series(depth=600, batch=200)), expected) < 1e-5
    batches = solve(lissa.Series(batch=50, repeats=8))
    assert _relative(batches, expected) < 0.1
    assert np.corrcoef(batches.ravel(), expected.ravel())[0, 1] > 0.995


def test_converged_is_scikit_learns(small_digits: Converged) -> None:
    """Both minimise the same: C = 1/(n · decay), the bias a penalised column; also without one example."""
    one = small_digits
    x, y, n = one.x.numpy(), one.train[1].numpy(), len(one.x)
    weights = np.ones((2, n))
    weights[1, 17] = 0
    ours = converged.fit(one.x, one.labels, one.decay, torch.from_numpy(weights))
    assert float(ours.gradient.max()) <= 1e-10
    for w, weight in zip(ours.weights, weights, strict=True):
        other = LogisticRegression(C=1 / (n * one.decay), fit_intercept=False, tol=1e-10, max_iter=10_000)
        other.fit(x, y, sample_weight=weight)
        np.testing.assert_allclose(w.numpy(), other.coef_.T, atol=2e-5)


def test_converged_with_diagonal_blocks(small_digits: Converged, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to precondition large ones changes nothing; nor do smoothed labels break it."""
    one = small_digits
    weights = torch.rand(3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = converged.soft_labels(one.train[1], CLASSES, 0.1)
    whole = converged.fit(one.x, labels, one.decay, weights)
    monkeypatch.setattr(converged, "_DENSE_UP_TO", 0)
    monkeypatch.setattr(converged, "_CHUNK_BYTES", 1)
    blocks = converged.fit(one.x, labels, one.decay, weights)
    torch.testing.assert_close(blocks.weights, whole.weights, atol=1e-6, rtol=0)


def test_converged_says_what_does_not(small_digits: Converged) -> None:
    one = small_digits
    with pytest.raises(BenchError, match=r"has a gradient of .* after 2 steps, above 1e-10: give it a larger L2"):
        converged.fit(one.x, one.labels, 1e-6, most=2)


def _agreement(one: Converged, out: Any, kept: float = 0.0) -> tuple[Array, float, float]:
    """Pearson correlations of each target, that of all pairs, and the slope of actual on predicted changes."""
    actual = one.left_out(out, kept).numpy() / (1 - kept)
    predicted = one.explicit()[torch.as_tensor(out)].numpy()
    each = np.array([np.corrcoef(a, p)[0, 1] for a, p in zip(actual.T, predicted.T, strict=True)])
    pooled = float(np.corrcoef(actual.ravel(), predicted.ravel())[0, 1])
    return each, pooled, float((actual * predicted).sum() / (predicted**2).sum())


def test_influence_predicts_leave_one_out_retraining(digits: Data) -> None:
    """Leaving a tenth of an example out is near the derivative; all of it takes its own curvature away too."""
    one, out = Converged(digits, 300, 40, 1e-2), range(0, 300, 5)
    each, pooled, slope = _agreement(one, out)
    assert each.min() > 0.99
    assert pooled > 0.99
    assert 1.05 < slope < 1.2
    each, pooled, slope = _agreement(one, out, kept=0.9)
    assert each.min() > 0.9999
    assert slope == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_influence_predicts_leave_one_out_retraining_on_all_of_digits(digits: Data) -> None:
    """digits/logreg at the recipe's weight decay, 200 of its 1,437 examples left out, all 360 targets."""
    decay = datasets.setting("digits/logreg").recipe.weight_decay
    one, out = Converged(digits, 1437, 360, decay), range(0, 1400, 7)
    each, pooled, slope = _agreement(one, out)
    print(f"Pearson {pooled:.4f}; of targets {each.mean():.4f}, at least {each.min():.4f}; slope {slope:.4f}")
    assert pooled > 0.95
    assert each.mean() > 0.99
    assert (each > 0.95).mean() > 0.99
    assert 1 < slope < 1.2
    each, pooled, slope = _agreement(one, out, kept=0.99)
    print(f"of a hundredth left out: Pearson at least {each.min():.5f}; slope {slope:.4f}")
    assert each.min() > 0.9999
    assert slope == pytest.approx(1, abs=0.01)


def _bench(setting: Setting, data: Data, folder: Path, quiet: Progress) -> Bench:
    make(Request(setting, data, Plan(60, 2), device="cpu"), folder / "gt", quiet)
    return Bench.open(setting, data, folder / "gt", folder, "cpu", quiet, 60)


@pytest.fixture(params=["logreg", "mlp"])
def small(request: pytest.FixtureRequest, toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """The toy setting: 40 examples, 10 targets; 18 or 57 parameters."""
    recipe = type(toy.dataset).models[request.param]
    return _bench(Setting("toy", request.param, toy.dataset, {}, recipe), toy_data, tmp_path, quiet)


def _attribute(bench: Bench, spec: str) -> tuple[Array, list[str]]:
    (one,) = methods.chosen([spec])
    assert bench.unmet(one) is None
    made = bench.attribute(one)
    return np.asarray(made.scores, np.float64), made.notes


def test_methods_agree_with_explicit(small: Bench) -> None:
    damping = "0.5" if small.setting.model == "logreg" else "early-stopping"
    explicit, _ = _attribute(small, f"influence:checkpoints=2,damping={damping}")
    for spec, tolerance in (
        ("influence-cg", 1e-4),
        ("influence-cg:tolerance=1e-6", 1e-5),
        ("influence-arnoldi:rank=60,iterations=60", 1e-4),
        ("influence-arnoldi:rank=60,iterations=60,rest=damped", 1e-4),
        ("influence-lissa:batch=40,depth=300", 1e-2),
    ):
        made, notes = _attribute(small, f"{spec}{',' if ':' in spec else ':'}checkpoints=2,damping={damping}")
        assert notes == []
        assert _relative(made, explicit) < tolerance, spec


def test_arnoldi_drops_or_keeps_the_rest(small: Bench) -> None:
    """Against a dense eigendecomposition: directions outside the top four have no inverse, or one over the ridge."""
    (one,) = methods.chosen(["influence"])
    task = small.task(one, small.folder)
    flat, vector, train = task.flat(), task.checkpoint_vectors(1)[0], task.inputs("train")
    matrix = influence.gauss_newton(flat, vector, train[0])
    values, vectors = torch.linalg.eigh(matrix)
    ridge = task.setting.recipe.weight_decay + 0.5 * float(matrix.diagonal().mean())
    b = gradients.stacked(flat, vector, *task.inputs("test"), "margin").double()
    for rest, outside in (("drop", 0.0), ("damped", 1 / ridge)):
        inverse = torch.cat([torch.full_like(values[:-4], outside), 1 / (values[-4:] + ridge)])
        expected = influence.effects(flat, vector, train, ((b @ vectors * inverse) @ vectors.T).float(), 0.0)
        spec = f"influence-arnoldi:rank=4,iterations=40,checkpoints=1,damping=0.5,rest={rest}"
        assert _relative(_attribute(small, spec)[0], expected) < 1e-3


def test_explicit_method_is_the_dense_reference(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> None:
    """Of one checkpoint of logistic regression, from the file of its state to scores, all in numpy."""
    bench = _bench(toy, toy_data, tmp_path, quiet)
    (one,) = methods.chosen(["influence-cg:tolerance=1e-7,checkpoints=1,damping=0.0"])
    state = bench.task(one, tmp_path).checkpoint_vectors(1)[0].double().numpy()
    w = np.vstack([state[:15].reshape(3, 5).T, state[15:]])
    train = _with_one(toy_data.train_x), toy_data.train_y
    test = _with_one(toy_data.test_x), toy_data.test_y
    expected = dense_reference(w, train, test, toy.recipe.weight_decay)
    assert _relative(bench.attribute(one).scores, expected) < 1e-4


@pytest.mark.parametrize("name", ["influence-cg", "influence-lissa", "influence-arnoldi", "representer"])
def test_tuning_takes_one_of_the_candidates(small: Bench, name: str) -> None:
    what = "l2" if name == "representer" else "damping"
    (one,) = methods.chosen([f"{name}:{what}=tune,checkpoints=1"])
    task = small.task(one, small.folder)
    made = one.method.attribute(task)
    (search,) = task.searches
    assert search.what == what
    assert search.chosen in search.tried
    assert {"l2": "recipe", "damping": "early-stopping"}[what] in search.tried  # the default is one of them
    again, _ = _attribute(small, f"{name}:{what}={search.chosen},checkpoints=1")
    np.testing.assert_allclose(made, again, rtol=1e-2, atol=1e-2 * np.abs(made).max())


def test_many_targets_are_solved_in_parts(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in ("influence-cg:checkpoints=1", "influence-lissa:checkpoints=1,batch=40,depth=50"):
        whole, _ = _attribute(small, spec)
        (one,) = methods.chosen([spec])
        monkeypatch.setattr(f"{type(one.method).__module__}.STATE_BYTES", 4 * 57 * 5 * 3)
        parts, _ = _attribute(small, spec)
        np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-3 * np.abs(whole).max())


def test_what_did_not_converge_is_said(small: Bench) -> None:
    _, notes = _attribute(small, "influence-cg:iterations=1,damping=0.01,deflate=0")
    (note,) = notes
    assert note.startswith("not converged: a relative residual of")
    assert note.endswith("is left after 1 iteration")
    _, notes = _attribute(small, "influence-lissa:depth=2,damping=0.01")
    (note,) = notes
    assert note.startswith("the median target is left with a relative residual of")
    with pytest.raises(BenchError, match=r"LiSSA diverges with scale 1e-05"):
        _attribute(small, "influence-lissa:scale=0.00001,damping=0.5")


def test_arnoldi_without_a_ridge(small: Bench) -> None:
    """Directions without curvature are left out, not divided by rounding errors."""
    small.setting = Setting("toy", small.setting.model, small.setting.dataset, {}, _without_decay(small))
    made, _ = _attribute(small, "influence-arnoldi:rank=60,iterations=60,checkpoints=1")
    damped, _ = _attribute(small, "influence-arnoldi:rank=60,iterations=60,checkpoints=1,damping=0.001")
    assert np.abs(made).max() < 1e3 * np.abs(damped).max()
    with pytest.raises(BenchError, match="and both are 0: give a damping"):
        _attribute(small, "influence-arnoldi:rest=damped")


def _without_decay(bench: Bench) -> Any:
    from dataclasses import replace

    return replace(bench.setting.recipe, weight_decay=0.0)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("influence-arnoldi:rank=0", "rank is 0: it is a number of at least 1"),
        ("influence-arnoldi:iterations=-3", "iterations is -3: it is a number of at least 1"),
        ("influence-lissa:depth=0", "depth of LiSSA is 0: it must be above 0"),
        ("influence-lissa:scale=-1.0", "scale of LiSSA is -1.0: it must be above 0"),
        ("representer:l2=0.0", "l2 is 0.0: it is a number above 0"),
    ],
)
def test_parameters_out_of_range_are_refused(
    spec: str, said: str, toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress
) -> None:
    with pytest.raises(BenchError, match=said):
        _attribute(_bench(toy, toy_data, tmp_path, quiet), spec)


class TestRepresenter:
    """The theorem, its refit, and the method."""

    def test_logits_are_the_sum_of_representers(self, small_digits: Converged) -> None:
        one = small_digits
        fitted = Representers.fit(one.x, one.train[1], CLASSES, 0.01)
        other = LogisticRegression(C=1 / (0.01 * len(one.x)), fit_intercept=False, tol=1e-10, max_iter=10_000)
        other.fit(one.x.numpy(), one.train[1].numpy())
        f = converged.with_one(one.test[0])
        sums = (one.x @ f.T).T @ fitted.alpha
        np.testing.assert_allclose(sums.numpy(), f.numpy() @ other.coef_.T, atol=1e-3)

    @pytest.mark.parametrize("output", ["logsumexp", "max"])
    def test_scores_are_parts_of_the_margin(self, small_digits: Converged, output: Any) -> None:
        """With a margin that is linear in logits (max), they add up to it; else to its linearisation."""
        one = small_digits
        fitted, f = Representers.fit(one.x, one.train[1], CLASSES, 0.01), converged.with_one(one.test[0])
        made = fitted.scores(f, one.test[1], output)
        logits = f @ fitted.weights
        at = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(margins(at, one.test[1], output).sum(), at)
        torch.testing.assert_close(made.sum(0), (slope * logits).sum(1), atol=1e-2, rtol=1e-3)
        if output == "max":
            torch.testing.assert_close(made.sum(0), margins(logits, one.test[1], output), atol=1e-2, rtol=1e-3)

    def test_in_logistic_regression_it_is_graddot_at_the_minimum(self, small_digits: Converged) -> None:
        one = small_digits
        made = Representers.fit(one.x, one.train[1], CLASSES, one.decay).scores(
            converged.with_one(one.test[0]), one.test[1], "logsumexp"
        )
        graddot = one.effects(one.targets())
        assert _relative(made, graddot / one.decay) < 1e-4

    def test_features_are_what_the_last_layer_is_given(self) -> None:
        torch.manual_seed(0)
        body, head = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3)
        x = torch.randn(7, 4)
        expected = torch.cat([body(x), torch.ones(7, 1)], 1).double()
        torch.testing.assert_close(features(nn.Sequential(body, head), x), expected.detach())

        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = head

            def forward(self, x: Tensor) -> Tensor:
                both: Tensor = (self.head(x) + self.head(-3 * x)) / 2
                return both

        wide = torch.randn(7, 6)
        torch.testing.assert_close(features(Twice(), wide)[:, :6], -wide.double())

    def test_a_model_without_linear_layers_is_refused(self) -> None:
        with pytest.raises(BenchError, match="no linear layer"):
            features(nn.Sequential(nn.Flatten()), torch.zeros(2, 3))


class TestDattri:
    """The answers of dattri 0.3, where its own are right: it neither checks convergence nor keeps Arnoldi's basis
    orthogonal, so that beyond the distinct eigenvalues its Arnoldi blows up.
    """

    N, DECAY = 60, 0.05

    @pytest.fixture
    def model(self) -> Flat:
        torch.manual_seed(0)
        return Flat(nn.Linear(4, 3))

    @pytest.fixture
    def examples(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(self.N + 9, 4, generator=draw)
        y = torch.randint(0, 3, (self.N + 9,), generator=draw)
        return x[: self.N], y[: self.N], x[self.N :], y[self.N :]

    @pytest.fixture
    def theirs(self, model: Flat, examples: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        """Scores of one of its attributors; the targets are margins, in our sign and scale."""
        module = pytest.importorskip("dattri.algorithm.influence_function")
        from dattri.task import AttributionTask
        from torch.utils.data import DataLoader, TensorDataset

        def logits(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model.module, parameters, (x,))  # type: ignore[no-any-return]

        def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(logits(parameters, data[0]), data[1].long())  # LiSSA makes labels floats

        def margin(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            return margins(logits(parameters, data[0]), data[1].long()).sum()

        x, y, xt, yt = examples
        train = DataLoader(TensorDataset(x, y), batch_size=len(y))
        test = DataLoader(TensorDataset(xt, yt), batch_size=len(yt))
        task = AttributionTask(loss, model.module, model.module.state_dict(), target_func=margin)

        def call(name: str, **how: Any) -> Tensor:
            attributor = getattr(module, f"IFAttributor{name}")(task, **how)
            attributor.cache(train)
            scores: Tensor = attributor.attribute(train, test)
            return -scores.detach() / len(y)

        return call

    @pytest.mark.parametrize(
        ("name", "how"),
        [
            ("Explicit", {"regularization": DECAY}),
            ("CG", {"regularization": DECAY, "max_iter": 15}),
            ("LiSSA", {"damping": DECAY / 3, "scaling": 3.0, "batch_size": N, "recursion_depth": 400}),
        ],
    )
    def test_explicit_conjugate_gradient_and_lissa(
        self, name: str, how: Any, model: Flat, examples: tuple[Tensor, ...], theirs: Callable[..., Tensor]
    ) -> None:
        x, y, xt, yt = examples
        vector, b = model.vector(), gradients.stacked(model, model.vector(), xt, yt, "margin")
        matrix = Curvature(model, vector, x, y)
        if name == "Explicit":
            ours = Influence(model, vector, (x, y), (xt, yt), self.DECAY, "logsumexp").scores(0.0)
        else:
            if name == "CG":
                solved = conjugate_gradient.solve(matrix.product, b, [self.DECAY], 1e-6, 50).x[0]
            else:
                series = lissa.Series(scale=3.0, depth=400, batch=self.N)
                solved = lissa.solve(matrix.product, b, self.DECAY, self.N, 1.0, series, 0).x
            ours = influence.effects(model, vector, (x, y), solved, 0.0)
        assert _relative(theirs(name, **how), ours) < 1e-5

    def test_arnoldi(self, model: Flat, examples: tuple[Tensor, ...], theirs: Callable[..., Tensor]) -> None:
        """The two largest pairs, which nine products find whatever the start."""
        x, y, xt, yt = examples
        vector = model.vector()
        top = lanczos.pairs(Curvature(model, vector, x, y).product, torch.ones(15), 12, 2)
        b = gradients.stacked(model, vector, xt, yt, "margin")
        solved = (b @ top.vectors.T / (top.values + self.DECAY)) @ top.vectors
        ours = influence.effects(model, vector, (x, y), solved, 0.0)
        made = theirs("Arnoldi", proj_dim=2, max_iter=10, regularization=self.DECAY)
        assert _relative(made, ours) < 1e-2
