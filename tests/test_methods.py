"""Every shipped method on a small ground truth, against an independent answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import methods
from bench.datasets import Data, Setting
from bench.errors import BenchError
from bench.judge import Judge
from bench.lasso import fit_datamodels
from bench.launch import Request, make
from bench.outputs import margins
from bench.progress import Progress
from bench.subsets import Plan
from bench.task import TrainedOn
from bench.workbench import Bench

Attribute = Callable[[str], tuple[NDArray[Any], Any, list[str]]]


@pytest.fixture
def small(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Bench:
    """135 rows of the toy setting: 90 fit, 9 tune, 18 eval subsets × 2."""
    data = replace(toy_data)
    make(Request(toy, data, Plan(135, 2), device="cpu"), tmp_path / "gt", quiet)
    return Bench.open(toy, data, tmp_path / "gt", tmp_path, "cpu", quiet, 135)


def _attribute(bench: Bench, spec: str) -> NDArray[Any]:
    (one,) = methods.chosen([spec])
    assert bench.unmet(one) is None
    return bench.attribute(one).scores


def test_heldout_is_the_difference_of_means(small: Bench) -> None:
    made = _attribute(small, "heldout")
    fit = small.truth.rows(small.access.fit)
    for k in range(small.data.n_train):
        kept = fit.masks[:, k]
        expected = fit.margins[kept].mean(0) - fit.margins[~kept].mean(0)
        np.testing.assert_allclose(made[k], expected, rtol=1e-4, atol=1e-4)


def test_heldout_scores_zero_what_it_never_saw_both_ways(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = methods.chosen(["heldout"])
    task = small.task(one, small.folder)
    always = task.fit.masks.copy()
    always[:, 0], always[:, 1] = True, False
    monkeypatch.setitem(task._given, "fit as stored", replace(task.fit, masks=always))
    made = one.method.attribute(task)
    assert not made[:2].any()
    assert made[2:].any()
    assert np.isfinite(made).all()
    assert np.isnan(task.kept["stderr"][:2]).all()
    assert task.notes == ["2 of 40 examples are in all fit subsets or in none: they score 0"]


def test_heldout_keeps_standard_errors(small: Bench) -> None:
    (one,) = methods.chosen(["heldout"])
    made, fit = small.attribute(one), small.truth.rows(small.access.fit)
    assert set(made.extra) == {"stderr"}  # the store has no outputs on the training examples
    assert made.notes == []
    for k, kept in enumerate(fit.masks.T):
        sides = [fit.margins[kept].astype(float), fit.margins[~kept].astype(float)]
        expected = np.sqrt(sum(side.var(0, ddof=1) / len(side) for side in sides))
        np.testing.assert_allclose(made.extra["stderr"][k], expected, rtol=1e-5)


def test_heldout_keeps_memorization_where_rows_know_their_training_outputs(
    toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress
) -> None:
    request = Request(toy, toy_data, Plan(135, 2), device="cpu", keep=("train_margins", "train_correct"))
    make(request, tmp_path / "gt", quiet)
    bench = Bench.open(toy, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, 135)
    made = bench.attribute(methods.chosen(["heldout"])[0]).extra
    fit = bench.access.fit
    masks = bench.truth.masks[fit]
    for name, outputs in (
        ("self_influence", np.load(tmp_path / "gt" / "train_margins.npy")[fit]),
        ("memorization", np.unpackbits(np.load(tmp_path / "gt" / "train_correct.npy"), axis=1)[fit]),
    ):
        for i, kept in enumerate(masks.T):
            sides = [outputs[kept, i].astype(float), outputs[~kept, i].astype(float)]
            error = np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
            assert made[name][i] == pytest.approx(sides[0].mean() - sides[1].mean(), abs=1e-5)
            assert made[f"{name}_stderr"][i] == pytest.approx(error, rel=1e-4, abs=1e-6)
    assert set(made) == {
        *("stderr", "memorization", "memorization_stderr", "self_influence", "self_influence_stderr"),
    }


def test_datamodels_are_the_fitted_weights(small: Bench) -> None:
    (one,) = methods.chosen(["datamodels"])
    task = small.task(one, small.folder)
    fit = small.truth.rows(small.access.fit)
    expected = fit_datamodels(fit.masks, fit.margins, seed=task.seed, **one.parameters)
    made = small.attribute(one)
    np.testing.assert_array_equal(made.scores, expected.weight)
    assert made.notes == []
    assert set(made.extra) == {"bias", "lam", "lam_max", "gap", "kkt", "converged", "loss", "r2", "nonzero"}
    for name in set(made.extra) - {"nonzero"}:
        np.testing.assert_array_equal(made.extra[name], getattr(expected, name))
    np.testing.assert_array_equal(made.extra["nonzero"], [(column != 0).sum() for column in expected.weight.T])
    assert made.extra["gap"].max() <= 1e-4


def test_datamodels_that_did_not_converge_say_so(small: Bench) -> None:
    (one,) = methods.chosen(["datamodels:tol=1e-15"])
    made = small.attribute(one)
    assert len(made.notes) == 1
    short = int((~made.extra["converged"]).sum())
    assert made.notes[0] == f"{short} of 10 targets did not reach a relative duality gap of 1e-15"
    assert short == (made.extra["gap"] > 1e-15).sum() > 0


def test_datamodels_of_constant_targets_and_unused_examples_say_so(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = methods.chosen(["datamodels"])
    task = small.task(one, small.folder)
    masks, margins = task.fit.masks.copy(), task.fit.margins.copy()
    masks[:, :2], masks[:, 7] = True, False
    margins[:, 4] = 2.5
    monkeypatch.setitem(task._given, "fit as stored", replace(task.fit, masks=masks, margins=margins))
    made = one.method.attribute(task)
    assert task.notes == [
        "1 of 10 targets are constant over the fit rows: zero datamodels",
        "3 of 40 examples are in all fit subsets or in none: their weights are 0",
    ]
    assert not made[:, 4].any()
    assert not made[[0, 1, 7]].any()
    assert task.kept["bias"][4] == 2.5
    assert task.kept["nonzero"][4] == 0
    assert task.kept["nonzero"].max() > 0


def test_graddot_is_minus_the_dot_product(small: Bench) -> None:
    made = _attribute(small, "graddot:checkpoints=2")
    expected = np.zeros_like(made)
    for model in (m.double() for m in small.task(methods.chosen(["graddot"])[0], small.folder).checkpoints(2)):
        parameters = list(model.parameters())

        def gradient(value: torch.Tensor, parameters: list[torch.nn.Parameter] = parameters) -> NDArray[np.float64]:
            pieces = torch.autograd.grad(value, parameters)
            return torch.cat([p.reshape(-1) for p in pieces]).numpy()

        x, y = torch.from_numpy(small.data.train_x).double(), torch.from_numpy(small.data.train_y)
        tx, ty = torch.from_numpy(small.data.test_x).double(), torch.from_numpy(small.data.test_y)
        losses = [gradient(torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])) for i in range(len(y))]
        outputs = [gradient(margins(model(tx[j : j + 1]), ty[j : j + 1])[0]) for j in range(len(ty))]
        expected -= np.stack(losses) @ np.stack(outputs).T / 2
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_trak_is_the_papers_estimator(small: Bench, damping: float) -> None:
    """Eq. 17 of the paper on the package's own projection, for two checkpoints, written out in numpy."""
    from trak.projectors import BasicProjector, ProjectionType

    from bench import gradients

    dim = 7
    (one,) = methods.chosen([f"trak:checkpoints=2,proj_dim={dim},damping={damping}"])
    made = small.attribute(one).scores
    task = small.task(one, small.folder)
    vectors = task.checkpoint_vectors(2)
    size = vectors.shape[1]
    total, weights = np.zeros(made.shape), np.zeros(small.data.n_train)
    for number, vector in enumerate(vectors):
        projector = BasicProjector(size, dim, task.seed, ProjectionType.rademacher, torch.device("cpu"), dim)
        flat, train, test = task.flat(), task.inputs("train"), task.inputs("test")
        phi, targets = (
            projector.project(gradients.stacked(flat, vector, *part, "margin"), number).double().numpy() / size**0.5
            for part in (train, test)
        )
        kernel = phi.T @ phi
        inverse = np.linalg.inv(kernel + damping * np.trace(kernel) / dim * np.eye(dim))
        total += phi @ (inverse / np.abs(inverse).mean()) @ targets.T / 2
        p = torch.softmax(flat(vector, train[0]), 1).gather(1, train[1][:, None])[:, 0]
        weights += 1 - p.double().numpy()
    expected = total * (weights / 2)[:, None]
    scale = (made * expected).sum() / (expected * expected).sum()
    np.testing.assert_allclose(made, scale * expected, rtol=2e-3, atol=2e-3 * np.abs(made).max())
    assert scale > 0


def test_tuning_takes_the_damping_that_is_best_on_the_tune_rows(small: Bench) -> None:
    (one,) = methods.chosen(["trak:checkpoints=1,proj_dim=7,damping=tune"])
    found = small.attribute(one)
    made, cost = found.scores, found.cost
    tune = Judge.of(small.truth.rows(small.access.tune), 1)
    candidates = {
        d: _attribute(small, f"trak:checkpoints=1,proj_dim=7,damping={d}") for d in (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
    }
    best = max(candidates, key=lambda d: tune.score(candidates[d]).mean)
    np.testing.assert_allclose(made, candidates[best], rtol=1e-5)
    assert found.notes == []
    (search,) = found.searches
    assert (search.what, search.chosen, list(search.tried)) == ("damping", f"{best:g}", [f"{d:g}" for d in candidates])
    for d, scores in candidates.items():
        assert search.tried[f"{d:g}"] == pytest.approx(tune.score(scores).mean)
    assert cost.models == 1 + len(small.access.tune)


@pytest.mark.parametrize(
    ("damping", "trained_on"), [("early-stopping", "all"), ("tune", "all"), ("0.1", "all"), ("0.1", "subsets")]
)
def test_influence_is_the_mean_over_checkpoints(small: Bench, damping: str, trained_on: TrainedOn) -> None:
    from bench.influence import Influence

    (one,) = methods.chosen([f"influence:checkpoints=2,damping={damping},trained_on={trained_on}"])
    found = small.attribute(one)
    made = found.scores
    task = small.task(one, small.folder)
    recipe = small.setting.recipe
    parts = [
        Influence(task.flat(), v, task.inputs("train"), task.inputs("test"), recipe.weight_decay, "logsumexp")
        for v in task.checkpoint_vectors(2, trained_on)
    ]
    if damping == "early-stopping":
        ridges = [recipe.early_stopping_ridge(20)] * 2
    else:
        level = float(found.searches[0].chosen) if damping == "tune" else float(damping)
        ridges = [level * part.mean_diagonal for part in parts]
    expected = sum(part.scores(ridge).numpy() for part, ridge in zip(parts, ridges, strict=True)) / 2
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-6)


def test_influence_skips_models_that_are_too_large(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = methods.chosen(["influence"])
    monkeypatch.setattr(type(small.pool.trainer), "n_parameters", property(lambda _: 20_001))
    assert small.unmet(one) == "needs a model of at most 20,000 parameters, and this one has 20,001"


def test_random_depends_on_the_seed_alone(small: Bench) -> None:
    first, second = _attribute(small, "random"), _attribute(small, "random")
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean()) < 0.3
    assert first.std() == pytest.approx(1, abs=0.2)


def test_every_default_variant_beats_chance(small: Bench) -> None:
    """Gradient methods and fitted ones rank the toy's subsets; the control does not."""
    judge = Judge.of(small.truth.rows(small.access.eval), 2)
    found = {one.name: judge.score(small.attribute(one).scores).mean for one in _without_projection()}
    assert abs(found.pop("random")) < 0.3
    variants = ("", ":damping=tune", ":trained_on=subsets", ":damping=tune,trained_on=subsets")
    kernel = {f"gradient-kernel{more}" for more in variants}
    influence = {f"influence{more}" for more in variants[:3]}
    expected = {"datamodels", "graddot", "heldout", "tracin"} | influence | kernel
    assert set(found) >= expected
    assert min(found.values()) > 0.3, found


def _without_projection() -> list[methods.Chosen]:
    """TRAK's default projects to 512 dimensions, more than the toy has examples: its kernel is singular."""
    return [one for one in methods.chosen(None) if not one.name.startswith("trak")]


def test_wrong_parameters_are_one_sentence() -> None:
    with pytest.raises(BenchError, match="trak has no parameter 'dampin'; did you mean 'damping'"):
        methods.chosen(["trak:dampin=1"])
    with pytest.raises(BenchError, match="the parameter damping is 'much'"):
        methods.chosen(["trak:damping=much"])
