"""States along a training run: those of the checkpoint's own training, kept on disk, charged as one model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import subsets, trajectory
from bench.checkpoints import Pool
from bench.datasets import Architecture, Data, Recipe, Setting
from bench.errors import InputError, UnmetError
from bench.launch import Request, make
from bench.progress import Progress
from bench.recipes import Augmentation
from bench.subsets import Plan
from bench.task import Task
from bench.train import Trainer

EVERYTHING = np.arange(40)
RECIPES = {
    "logreg": Recipe(Architecture("logreg"), epochs=4, batch_size=8, lr=0.2, weight_decay=1e-2, label_smoothing=0.1),
    "mlp": Recipe(Architecture("mlp", (6,)), epochs=4, batch_size=8, lr=0.1, optimiser="nesterov"),
    "no momentum": Recipe(Architecture("mlp", (6,)), epochs=4, batch_size=16, lr=0.1, momentum=0, optimiser="nesterov"),
}


def _trainer(recipe: Recipe, data: Data) -> Trainer:
    return Trainer(recipe, data, torch.device("cpu"))


@pytest.fixture
def pool(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> Callable[[], Pool]:
    """Pools of one folder: each is what a new process would have."""
    return lambda: Pool(_trainer(toy.recipe, toy_data), 0, tmp_path, "k" * 64, quiet)


@pytest.mark.parametrize("name", RECIPES)
def test_ends_at_the_trained_model(name: str, toy_data: Data) -> None:
    trainer, seed = _trainer(RECIPES[name], toy_data), subsets.checkpoint_seed(3, 1)
    steps = RECIPES[name].steps(40)
    made = trajectory.train(trainer, seed, [1, 5, steps])
    assert made.shape == (3, trainer.n_parameters)
    torch.testing.assert_close(made[-1:], trainer.train([EVERYTHING], [seed]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_passes_through_the_models_of_shorter_training(name: str, toy_data: Data) -> None:
    """At a constant rate, a model of two epochs is a stop on the way of one of four: it has the same batches."""
    long = replace(RECIPES[name], schedule="constant")
    short = replace(long, epochs=2)
    seed = subsets.checkpoint_seed(0, 0)
    made = trajectory.train(_trainer(long, toy_data), seed, [short.steps(40)])
    torch.testing.assert_close(made, _trainer(short, toy_data).train([EVERYTHING], [seed]), atol=1e-5, rtol=0)


def test_rates_add_up_between_the_stops(pool: Callable[[], Pool], toy: Setting) -> None:
    run, _ = trajectory.of_checkpoint(pool(), 0, 4)
    assert run.steps.tolist() == [3, 7, 11, 15]  # 3 epochs of 40 in batches of 8
    rates = [0.2 * (1 - step / 15) for step in range(15)]
    expected = [sum(rates[:3]), sum(rates[3:7]), sum(rates[7:11]), sum(rates[11:])]
    np.testing.assert_allclose(run.rates, expected)
    assert toy.recipe.lr == 0.2


def test_is_kept_and_read_back(
    pool: Callable[[], Pool], tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, seconds = trajectory.of_checkpoint(pool(), 2, 3)
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "train", lambda *_: pytest.fail("a kept training run was trained again"))
        again, charged = trajectory.of_checkpoint(pool(), 2, 3)
    assert torch.equal(first.states, again.states)
    assert charged == seconds > 0
    content = path.read_bytes()
    for torn in (content[:-40], b"", content.replace(b"states.npy", b"statez.npy")):
        path.write_bytes(torn)
        anew, _ = trajectory.of_checkpoint(pool(), 2, 3)
        torch.testing.assert_close(anew.states, first.states, atol=1e-6, rtol=0)
    assert quiet.log is not None
    assert quiet.log.read_text().count(f"the training run {path.name} is torn or altered") == 3
    trajectory.of_checkpoint(pool(), 2, 4)
    trajectory.of_checkpoint(pool(), 1, 3)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_on_a_subset_ends_at_its_checkpoint(name: str, toy_data: Data, tmp_path: Path, quiet: Progress) -> None:
    pool = Pool(_trainer(RECIPES[name], toy_data), 3, tmp_path, "k" * 64, quiet).on_subsets(0.5)
    run, _ = trajectory.of_checkpoint(pool, 1, 2)
    steps = RECIPES[name].steps(20)
    assert run.steps.tolist() == [steps // 2, steps]
    torch.testing.assert_close(run.states[-1], pool.get(2)[0][1], atol=1e-5, rtol=0)
    other, _ = trajectory.of_checkpoint(pool, 0, 2)
    assert float((other.states[-1] - run.states[-1]).abs().max()) > 0.01
    again, _ = trajectory.of_checkpoint(pool, 1, 2)
    assert torch.equal(again.states, run.states)


def test_runs_on_subsets_that_share_their_batches_are_refused(
    toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress
) -> None:
    trainer = replace(_trainer(toy.recipe, toy_data), protocol="single-model")
    pool = Pool(trainer, 0, tmp_path, "k" * 64, quiet)
    with pytest.raises(UnmetError, match="needs the protocol expectation"):
        trajectory.of_checkpoint(pool.on_subsets(0.5), 0, 2)
    run, _ = trajectory.of_checkpoint(pool, 0, 2)
    torch.testing.assert_close(run.states[-1], pool.get(1)[0][0], atol=1e-5, rtol=0)


def test_augmented_recipes_are_refused(toy: Setting, toy_data: Data, tmp_path: Path, quiet: Progress) -> None:
    recipe = replace(toy.recipe, augmentation=Augmentation(flip="random"))
    with pytest.raises(UnmetError, match="needs a recipe of plain SGD steps"):
        trajectory.of_checkpoint(Pool(_trainer(recipe, toy_data), 0, tmp_path, "k", quiet), 0, 2)


def test_a_task_charges_a_run_as_its_checkpoint(
    toy: Setting, toy_data: Data, toy_request: Request, tmp_path: Path, quiet: Progress
) -> None:
    from bench import methods
    from bench.workbench import Bench

    make(replace(toy_request, plan=Plan(30, 2)), tmp_path / "gt", quiet)
    bench = Bench.open(toy, toy_data, tmp_path / "gt", tmp_path, "cpu", quiet, 30)
    task: Task = bench.task(methods.chosen(["random"])[0], tmp_path)
    run = task.trajectory(0, 5)
    assert task.usage.models == 1
    seconds = task.usage.train_seconds
    assert seconds > 0
    torch.testing.assert_close(run.states[-1], task.checkpoint_vectors(1)[0], atol=1e-5, rtol=0)
    task.trajectory(0, 3)
    assert (task.usage.models, task.usage.train_seconds) == (1, seconds)
    task.trajectory(1, 3)
    assert task.usage.models == 2
    assert task.usage.train_seconds > seconds
    run = task.trajectory(1, 3, "subsets")
    assert (task.usage.checkpoints, task.usage.on_subsets) == (2, 2)
    torch.testing.assert_close(run.states[-1], task.checkpoint_vectors(2, "subsets")[1], atol=1e-5, rtol=0)
    assert (task.usage.checkpoints, task.usage.on_subsets) == (2, 2)
    for states, message in ((0, "0 states"), (16, r"16 states .*: it has 15 steps, so 1 to 15")):
        with pytest.raises(InputError, match=message):
            task.trajectory(0, states)
    with pytest.raises(InputError, match="checkpoint -1 is asked for: they are numbered from 0"):
        task.trajectory(-1, 2)
