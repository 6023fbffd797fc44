"""trak-sjlt and gradient-kernel against TRAK's estimator written out densely in float64 numpy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import datasets, gradients, methods
from bench.datasets import Data, Setting
from bench.errors import BenchError, UnmetError
from bench.files import Files
from bench.gradient_kernels import DAMPINGS, Dual, Kernel, Primal, of_features
from bench.judge import Judge
from bench.launch import Request, make
from bench.models import Flat
from bench.progress import Progress
from bench.projection import Projection
from bench.subsets import Plan
from bench.task import Task
from bench.workbench import Bench

Matrix = NDArray[np.float64]


@pytest.fixture(params=["logreg", "mlp"])
def small(request: pytest.FixtureRequest, toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """45 rows of a toy setting: 30 fit, 3 tune, 6 eval subsets × 2; 18 (logreg) or 57 parameters for 40 examples."""
    setting = Setting("toy", request.param, toy.dataset, {}, toy.dataset.models[request.param])
    data = replace(toy_data)
    make(Request(setting, data, Plan(45, 2), device="cpu"), tmp_path / "gt", quiet)
    return Bench.open(setting, data, tmp_path / "gt", tmp_path, "cpu", quiet, 45)


def _task(bench: Bench, spec: str) -> tuple[methods.Chosen, Task]:
    (one,) = methods.chosen([spec])
    assert bench.unmet(one) is None
    return one, bench.task(one, bench.folder)


def _written_out(
    bench: Bench,
    spec: str,
    project: Callable[[Task, int, Matrix], Matrix],
    ridge: Callable[[Matrix], float],
    *,
    weighted: bool = False,
    ensemble: str = "trak",
    trained_on: Any = "all",
) -> Matrix:
    """Eq. 15–17 of Park et al. (2023), with two checkpoints, from gradients by plain autograd in float64."""
    _, task = _task(bench, spec)
    (x, y), (tx, ty) = task.inputs("train"), task.inputs("test")
    scores, weights, products = [], [], []
    for number, vector in enumerate(task.checkpoint_vectors(2, trained_on)):
        flat = Flat(task.flat().load(vector).double())
        train, test = (
            gradients.stacked(flat, flat.vector(), inputs.double(), labels, "margin", output).numpy()  # type: ignore[arg-type]
            for inputs, labels, output in ((x, y, "logsumexp"), (tx, ty, task.output))
        )
        p = torch.softmax(flat.module(x.double()), 1).gather(1, y[:, None])[:, 0].detach().numpy()
        train, test = project(task, number, train), project(task, number, test)
        curvature = np.diag(p * (1 - p)) if weighted else np.eye(len(y))
        kernel = train.T @ curvature @ train
        made = train @ np.linalg.pinv(kernel + ridge(kernel) * np.eye(len(kernel)), rcond=1e-13) @ test.T
        scores.append(made)
        weights.append(1 - p)
        products.append((1 - p)[:, None] * made)
    found: Matrix = np.mean(products, 0) if ensemble == "scores" else np.mean(scores, 0) * np.mean(weights, 0)[:, None]
    return found


def _sketched(dim: int, nonzeros: int) -> Callable[[Task, int, Matrix], Matrix]:
    def project(task: Task, number: int, g: Matrix) -> Matrix:
        seed = np.random.SeedSequence([task.seed, number])
        return g @ Projection.draw(g.shape[1], dim, nonzeros, seed).matrix()

    return project


def _relative(damping: float) -> Callable[[Matrix], float]:
    return lambda kernel: damping * float(kernel.diagonal().mean())


def _close(made: NDArray[Any], expected: Matrix) -> None:
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("dim", "nonzeros", "damping", "more"),
    [
        (7, 1, 0.0, {}),
        (7, 2, 0.0, {"ensemble": "scores"}),
        (7, 1, 0.5, {"weighting": "gauss-newton"}),
        (100, 2, 0.5, {}),
        (100, 1, 0.5, {"weighting": "gauss-newton", "ensemble": "scores"}),
        (9, 3, 2.0, {"trained_on": "subsets"}),
    ],
)
def test_trak_sjlt_is_the_papers_estimator_with_its_own_matrix(
    small: Bench, dim: int, nonzeros: int, damping: float, more: dict[str, str]
) -> None:
    given = {"checkpoints": 2, "proj_dim": dim, "nonzeros": nonzeros, "damping": damping, **more}
    spec = "trak-sjlt:" + ",".join(f"{name}={value}" for name, value in given.items())
    one, task = _task(small, spec)
    weighted = "weighting" in more
    decay = 40 * 1e-2 * weighted
    expected = _written_out(
        small,
        spec,
        _sketched(dim, nonzeros),
        lambda kernel: _relative(damping)(kernel) + decay,
        weighted=weighted,
        ensemble=more.get("ensemble", "trak"),
        trained_on=more.get("trained_on", "all"),
    )
    _close(one.method.attribute(task), expected)
    assert task.usage.models == 2


@pytest.mark.parametrize("dim", [7, 100])
def test_singular_kernels_get_the_least_ridge_that_is_resolved_and_say_so(small: Bench, dim: int) -> None:
    """Of logistic regression 40 gradients have a rank of at most 12; a sketch to 7 dimensions has empty ones there."""
    spec = f"trak-sjlt:checkpoints=2,proj_dim={dim},nonzeros=1"
    one, task = _task(small, spec)
    made = one.method.attribute(task)
    says = ["a singular kernel, solved with the least ridge that float32 resolves: raise the damping"]
    assert task.notes == (says if small.setting.model == "logreg" else [])
    expected = _written_out(small, spec, _sketched(dim, 1), lambda kernel: 1e-9 * float(np.trace(kernel)))
    np.testing.assert_allclose(made, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_gradients_moved_by_their_rounding_give_the_same_scores(small: Bench) -> None:
    """Without damping, and with more dimensions than examples, rounding must not be what scores are made of."""
    _, task = _task(small, "trak-sjlt")
    (vector,), flat = task.checkpoint_vectors(1), task.flat()
    train, test = (gradients.stacked(flat, vector, *task.inputs(part), "margin") for part in ("train", "test"))
    drawn = Projection.draw(flat.n_parameters, 100, 2, np.random.SeedSequence(0))
    noise = torch.Generator().manual_seed(0)

    def scores(size: float) -> NDArray[Any]:
        phi, psi = (drawn(g * (1 + size * torch.randn(g.shape, generator=noise))) for g in (train, test))
        return of_features(phi, psi, None).scores(0.0).numpy()

    np.testing.assert_allclose(scores(6e-8), scores(0), rtol=0.02, atol=0.02 * np.abs(scores(0)).max())


@pytest.mark.parametrize("ensemble", ["trak", "scores"])
@pytest.mark.parametrize("trained_on", ["all", "subsets"])
@pytest.mark.parametrize(("weighting", "damping"), [("none", 0.5), ("gauss-newton", 0.05), ("gauss-newton", "es")])
def test_gradient_kernel_is_the_estimator_without_projection(
    small: Bench, weighting: str, damping: float | str, trained_on: str, ensemble: str
) -> None:
    """Dots of all pairs solve the same as p × p matrices; also where there are fewer parameters than examples."""
    word = "early-stopping" if damping == "es" else damping
    more = f"weighting={weighting},trained_on={trained_on},ensemble={ensemble}"
    spec = f"gradient-kernel:checkpoints=2,damping={word},{more}"
    one, task = _task(small, spec)
    recipe, weighted = small.setting.recipe, weighting != "none"

    def ridge(kernel: Matrix) -> float:
        level = 40 * recipe.early_stopping_ridge(20) if damping == "es" else float(damping) * kernel.diagonal().mean()
        return float(level) + 40 * recipe.weight_decay * weighted

    expected = _written_out(
        small, spec, lambda *arguments: arguments[2], ridge, weighted=weighted, ensemble=ensemble, trained_on=trained_on
    )
    _close(one.method.attribute(task), expected)


def test_maximum_margins_are_differentiated_where_they_judge(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "gradient-kernel:checkpoints=2,damping=1.0,weighting=none"
    one, task = _task(small, spec)
    usual = one.method.attribute(task)
    task.output = "max"
    monkeypatch.setattr(Bench, "task", lambda *_: task)
    expected = _written_out(small, spec, lambda *arguments: arguments[2], _relative(1.0))
    made = one.method.attribute(task)
    _close(made, expected)
    assert np.abs(made - usual).max() > 1e-2 * np.abs(usual).max()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30), st.integers(1, 40), st.integers(1, 5), st.floats(-4, 3), st.booleans(), st.integers(0, 2**31)
)
def test_both_forms_solve_the_same(n: int, dim: int, targets: int, damping: float, weighted: bool, seed: int) -> None:
    """The identity behind the kernel of pairs, at dampings from 1e-4 to 1e3, through float32 and float64."""
    rng = np.random.default_rng(seed)
    train, test = rng.standard_normal((n, dim)), rng.standard_normal((targets, dim))
    w = rng.random(n) if weighted else np.ones(n)
    matrix = (train.T * w) @ train
    ridge = 10.0**damping * matrix.diagonal().mean()
    expected = train @ np.linalg.solve(matrix + ridge * np.eye(dim), test.T)
    phi, psi = (torch.from_numpy(a).float() for a in (train, test))
    weights = torch.from_numpy(w).float() if weighted else None
    forms: list[Kernel] = [Primal(phi, psi, weights), Dual(phi @ phi.T, phi @ psi.T, dim, weights)]
    for form in forms:
        assert form.mean_diagonal == pytest.approx(matrix.diagonal().mean(), rel=1e-5)
        tolerance = 1e-3 * np.abs(expected).max() + 1e-6 * np.abs(train @ test.T).max() / ridge
        np.testing.assert_allclose(form.scores(ridge).numpy(), expected, rtol=1e-3, atol=tolerance)
    assert isinstance(of_features(phi, psi, weights), Primal if dim < n else Dual)


@pytest.mark.parametrize("method", ["trak-sjlt:proj_dim=9,", "gradient-kernel:", "gradient-kernel:weighting=none,"])
def test_tuning_takes_what_is_best_on_the_tune_rows(small: Bench, method: str) -> None:
    weighted = method == "gradient-kernel:"
    undamped = ["0"] if method.startswith("trak") else []  # the default of trak-sjlt
    candidates = [*undamped, *(f"{d:g}" for d in DAMPINGS), *(["early-stopping"] if weighted else [])]
    judged = Judge.of(small.truth.rows(small.access.tune), 1)

    def scores(damping: str, checkpoints: int) -> tuple[NDArray[Any], Task]:
        one, task = _task(small, f"{method}checkpoints={checkpoints},damping={damping}")
        return one.method.attribute(task), task

    chosen_at = 2 if method.startswith("trak") else 1  # the kernel chooses at its first checkpoint
    tried = {d: judged.score(scores(d, chosen_at)[0]).mean for d in candidates}
    made, task = scores("tune", 2)
    (search,) = task.searches
    assert search.what == "damping"
    assert list(search.tried) == candidates
    for damping, mean in tried.items():
        assert search.tried[damping] == pytest.approx(mean, abs=1e-6)
    assert tried[search.chosen] == pytest.approx(max(tried.values()), abs=1e-6)
    _close(made, scores(search.chosen, 2)[0].astype(np.float64))
    assert task.usage.models == 2 + 3


def test_deterministic_under_the_seed_and_different_between_checkpoints(small: Bench) -> None:
    spec = "trak-sjlt:checkpoints=2,proj_dim=6,damping=0.1"
    first, second = (one.method.attribute(task) for one, task in (_task(small, spec), _task(small, spec)))
    np.testing.assert_array_equal(first, second)
    one, task = _task(small, spec)
    task.seed += 1
    assert np.abs(one.method.attribute(task) - first).max() > 1e-3 * np.abs(first).max()


def test_too_many_examples_for_memory_are_unmet(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one, task = _task(small, "gradient-kernel")
    monkeypatch.setattr("bench.memory.free", lambda _: 1000)
    with pytest.raises(UnmetError, match=r"needs 0\.0 GB for the kernel of 40 training examples, and 0\.0 are free"):
        one.method.attribute(task)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("trak-sjlt:damping=-1", "damping is -1"),
        ("trak-sjlt:damping=early-stopping", "add weighting=gauss-newton"),
        ("trak-sjlt:checkpoints=0", "checkpoints is 0"),
        ("trak-sjlt:proj_dim=0", "proj_dim is 0"),
        ("trak-sjlt:nonzeros=600", "nonzeros is 600"),
        ("gradient-kernel:damping=nan", "damping is"),
        ("gradient-kernel:ensemble=mean", "ensemble is 'mean'"),
        ("gradient-kernel:trained_on=half", "trained_on is 'half'"),
    ],
)
def test_bad_parameters_are_one_sentence(spec: str, says: str) -> None:
    with pytest.raises(BenchError, match=says) as caught:
        methods.chosen([spec])
    assert "\n" not in str(caught.value)


def _on_digits(name: str, models: int, folder: Path, quiet: Progress) -> tuple[Bench, Judge]:
    setting = datasets.setting(name)
    data = setting.dataset.load(Files(()))
    make(Request(setting, data, Plan(models, 2), device="cpu"), folder / "gt", quiet)
    bench = Bench.open(setting, data, folder / "gt", folder, "cpu", quiet, models)
    return bench, Judge.of(bench.truth.rows(bench.access.eval), 2)


def test_lds_is_that_of_the_dense_computation(tmp_path: Path, quiet: Progress) -> None:
    """On digits/logreg, TRAK through all rows has the LDS of the paper's equations without projection, in float64."""
    bench, judge = _on_digits("digits/logreg", 150, tmp_path, quiet)
    spec = "trak:checkpoints=2,damping=10.0,proj_dim=512"
    # A projection keeps the kernel's trace, and its mean diagonal spreads it over 512 dimensions instead of 650. With
    # a damping under 10 what the projection leaves out of the small eigenvalues shows: .79 instead of .84 at 1.
    level = 10 * 650 / 512
    exact = judge.score(_written_out(bench, spec, lambda *arguments: arguments[2], _relative(level)))
    assert exact.ci[0] > 0.2
    for row in (spec, f"trak-sjlt{spec[4:]}", f"gradient-kernel:checkpoints=2,damping={level},weighting=none"):
        one, task = _task(bench, row)
        found = judge.score(one.method.attribute(task))
        assert exact.ci[0] <= found.mean <= exact.ci[1], row


@pytest.mark.slow
@pytest.mark.parametrize("damping", ["0.0", "1.0", "tune"])
def test_lds_is_that_of_the_package(damping: str, tmp_path: Path, quiet: Progress) -> None:
    """On digits/mlp, at the same damping and dimension, each row's LDS is in the other's interval."""
    bench, judge = _on_digits("digits/mlp", 1500, tmp_path, quiet)
    package, own = (
        judge.score(one.method.attribute(task))
        for one, task in (_task(bench, f"{name}:damping={damping}") for name in ("trak", "trak-sjlt"))
    )
    assert package.ci[0] <= own.mean <= package.ci[1]
    assert own.ci[0] <= package.mean <= own.ci[1]


@pytest.mark.slow
def test_best_gradient_rows_reach_four_fifths_of_the_ceiling(tmp_path: Path, quiet: Progress) -> None:
    bench, judge = _on_digits("digits/mlp", 1500, tmp_path, quiet)
    assert judge.ceiling is not None
    for spec in (
        "trak-sjlt:damping=tune,trained_on=subsets,weighting=gauss-newton",
        "gradient-kernel:damping=tune,trained_on=subsets",
    ):
        one, task = _task(bench, spec)
        assert judge.score(one.method.attribute(task)).mean >= 0.8 * judge.ceiling.lds, spec
