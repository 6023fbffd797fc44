"""The protocol single-model: one seed for all subset models, and weight 0 in the batch for what is left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bench import hashing, launch, methods, results, runner, status, store, subsets
from bench.datasets import Architecture, Augmentation, Data, Recipe, Setting
from bench.errors import BenchError
from bench.judge import Judge
from bench.launch import Request
from bench.meta import Identity
from bench.models import Flat, build
from bench.progress import Progress
from bench.recorded import Recorded
from bench.store import GroundTruth
from bench.subsets import Plan
from bench.train import Trainer
from bench.workbench import Bench

Main = Callable[..., tuple[int, str, str]]

CPU = torch.device("cpu")
SEED = subsets.checkpoint_seed(0, 0)
MLP = Recipe(Architecture("mlp", (6,)), epochs=3, batch_size=8, lr=0.1, weight_decay=1e-2)
LOGREG = replace(MLP, architecture=Architecture("logreg"))
RECIPES = {
    "logreg": LOGREG,
    "mlp": MLP,
    "deep": replace(MLP, architecture=Architecture("mlp", (9, 17)), label_smoothing=0.2, schedule="triangular"),
    "nesterov": replace(MLP, optimiser="nesterov", momentum=0.8, schedule="constant"),
    "plain": replace(LOGREG, momentum=0.0, weight_decay=0.0),
    "one batch": replace(MLP, batch_size=100),
}
CNN = Recipe(Architecture("cnn", (3,), image=(1, 4, 5)), epochs=2, batch_size=8, lr=0.05)


def by_hand(recipe: Recipe, data: Data, weights: NDArray[Any]) -> NDArray[np.float32]:
    """The loop that anyone would write, with torch.optim.SGD; returns the final state."""
    run = Trainer(recipe, data, CPU).full_run(SEED)
    flat = Flat(build(recipe.architecture, data.train_x.shape[1:], data.n_classes))
    module = flat.load(run.start)
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.optimiser == "nesterov",
    )
    x, y, w = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y), torch.from_numpy(weights).float()
    for step, batch in enumerate(torch.from_numpy(run.order)):
        optimiser.param_groups[0]["lr"] = recipe.rate(step, len(run.order))
        loss = F.cross_entropy(module(x[batch]), y[batch], reduction="none", label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad()
        (loss @ w[batch] / len(batch)).backward()
        optimiser.step()
    return flat.vector().numpy()


@pytest.fixture
def pixels() -> Data:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 50)
    x = (rng.standard_normal((3, 20))[y] + rng.standard_normal((50, 20))).astype(np.float32)
    return Data(x[:40], y[:40], x[40:], y[40:], 3, {"made by": "the tests"})


@pytest.mark.parametrize("recipe", [*RECIPES.values(), CNN], ids=[*RECIPES, "cnn"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_equal_to_a_written_out_loop_with_weights(pixels: Data, recipe: Recipe, fused: bool) -> None:
    """Subsets of several sizes in one call: all take the steps of the full set."""
    chosen = [subsets.kept(0, row, 40, alpha) for row, alpha in enumerate([0.5, 0.9, 0.1, 0.97])]
    trainer = Trainer(recipe, pixels, CPU, fused=fused, protocol="single-model")
    found = trainer.train(chosen, [SEED] * 4).numpy()
    for state, subset in zip(found, chosen, strict=True):
        expected = by_hand(recipe, pixels, np.isin(np.arange(40), subset).astype(np.float32))
        np.testing.assert_allclose(state, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_with_everything_kept_it_is_the_checkpoint(pixels: Data, fused: bool) -> None:
    """To the last bit: full weights are what the other protocol's full-set models are trained with."""
    everything = [np.arange(40)] * 2
    seeds = [subsets.checkpoint_seed(0, number) for number in range(2)]
    one = Trainer(MLP, pixels, CPU, fused=fused, protocol="single-model").train(everything, seeds)
    other = Trainer(MLP, pixels, CPU, fused=fused).train(everything, seeds)
    assert torch.equal(one, other)


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_a_batch_that_is_empty_only_decays(pixels: Data, fused: bool) -> None:
    recipe = replace(MLP, epochs=1, batch_size=40, momentum=0.5, weight_decay=0.5, lr=0.3, schedule="constant")
    trainer = Trainer(recipe, pixels, CPU, fused=fused, protocol="single-model")
    (made,) = trainer.train([np.zeros(0, np.int64)], [SEED])
    start = trainer.full_run(SEED).start
    np.testing.assert_allclose(made, start * (1 - 0.3 * 0.5), atol=1e-6)


def test_what_is_left_out_is_not_looked_at(pixels: Data) -> None:
    """Another label, and other features, change nothing."""
    kept = np.arange(1, 40)
    before = Trainer(MLP, pixels, CPU, protocol="single-model").train([kept], [SEED])
    other = replace(pixels, train_x=pixels.train_x.copy(), train_y=pixels.train_y.copy())
    other.train_x[0], other.train_y[0] = 7, (other.train_y[0] + 1) % 3
    assert torch.equal(Trainer(MLP, other, CPU, protocol="single-model").train([kept], [SEED]), before)
    assert not torch.equal(Trainer(MLP, other, CPU, protocol="single-model").train([np.arange(40)], [SEED]), before)


def test_order_and_rates_of_a_run(pixels: Data) -> None:
    run = Trainer(MLP, pixels, CPU, protocol="single-model").full_run(SEED)
    assert run.order.shape == (15, 8)
    np.testing.assert_array_equal(np.bincount(run.order.reshape(-1)), 3)
    np.testing.assert_allclose(run.rates, [0.1 * (1 - step / 15) for step in range(15)], rtol=1e-6)
    with pytest.raises(BenchError, match="not plain SGD: its images are augmented"):
        Trainer(replace(MLP, augmentation=Augmentation("random")), pixels, CPU).full_run(SEED)


# Stores


@pytest.fixture
def single(toy_request: Request) -> Request:
    return replace(toy_request, plan=Plan(30, 1), alpha=0.8, protocol="single-model")


def test_rows_are_the_runs_with_examples_left_out(single: Request, quiet: Progress, tmp_path: Path) -> None:
    launch.make(single, tmp_path / "gt", quiet)
    truth = GroundTruth.open(tmp_path / "gt")
    trainer = Trainer(single.setting.recipe, single.data, CPU)
    for row in (0, 7, 29):
        state = by_hand(single.setting.recipe, single.data, truth.masks[row].astype(np.float32))
        expected = trainer.measured(torch.from_numpy(state)[None], Recorded())["margins"][0]
        np.testing.assert_allclose(truth.margins[row], expected, atol=1e-5)
    assert (truth.masks.sum(1) == 32).all()
    fit, tune, judged = ({truth.masks[r].tobytes() for r in truth.of_group(g)} for g in ("fit", "tune", "eval"))
    assert (len(fit), len(tune), len(judged)) == (23, 2, 5)
    assert len(fit | tune | judged) == 30


def test_store_says_so_and_is_checked(single: Request, quiet: Progress, tmp_path: Path, main: Main) -> None:
    launch.make(single, tmp_path / "gt", quiet)
    meta = json.loads((tmp_path / "gt" / "meta.json").read_text())
    assert meta["identity"]["protocol"] == "single-model"
    assert meta["seed_of_row"] == [0] * 30
    assert store.verify(tmp_path / "gt") == []
    assert "alpha 0.8, seed 0, protocol single-model, logsumexp margins" in status.lines(tmp_path / "gt")[0]
    found = status.retrain(GroundTruth.open(tmp_path / "gt"), single.setting, single.data, 30, "cpu")
    assert (found.why_not, found.wrong, len(found.rows)) == (None, [], 30)
    meta["seed_of_row"] = list(range(30))
    (tmp_path / "gt" / "meta.json").write_text(json.dumps(meta))
    code, out, _ = main("verify", str(tmp_path / "gt"), "--retrain", "0")
    assert code == 1
    assert "its rows are not those of its plan" in out


def test_shards_make_the_same_store(
    single: Request, quiet: Progress, tmp_path: Path, same_store: Callable[[Path, Path], None]
) -> None:
    launch.make(single, tmp_path / "whole", quiet)
    assert launch.make(replace(single, shard=(0, 2)), tmp_path / "parts", quiet) is None
    launch.make(replace(single, shard=(1, 2)), tmp_path / "parts", quiet)
    same_store(tmp_path / "whole", tmp_path / "parts")


def test_older_stores_are_of_the_other_protocol(toy_request: Request, quiet: Progress, tmp_path: Path) -> None:
    """They do not say so, keep their key, and are gone on with."""
    folder = tmp_path / "gt"
    launch.make(toy_request, folder, quiet)
    before = {path.name: path.read_bytes() for path in (folder / "blocks").iterdir()}
    for name in ("identity.json", "meta.json"):
        said = json.loads((folder / name).read_text())
        who = said if name == "identity.json" else said["identity"]
        assert who.pop("protocol") == "expectation"
        (folder / name).write_text(json.dumps(said))
    key = hashing.digest(json.loads((folder / "identity.json").read_text()))
    truth = GroundTruth.open(folder)
    assert truth.meta is not None
    assert truth.meta.identity.protocol == "expectation"
    assert truth.meta.key == truth.meta.identity.key == key
    assert store.verify(folder) == []
    launch.make(replace(toy_request, plan=Plan(46, 2)), folder, quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["gt"]  # nothing was set aside
    after = {path.name: path.read_bytes() for path in (folder / "blocks").iterdir()}
    assert before.items() < after.items()


def test_code_that_makes_the_same_numbers_keeps_its_stores(
    toy_request: Request, quiet: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_SAME_NUMBERS", {})
    now = hashing.training_code()
    monkeypatch.setattr(hashing, "_SAME_NUMBERS", {now: "0" * 64, "f" * 64: "e" * 64})
    assert hashing.training_code() == launch.identity(toy_request).code == "0" * 64
    launch.make(toy_request, tmp_path / "gt", quiet)
    assert (
        status.retrain(GroundTruth.open(tmp_path / "gt"), toy_request.setting, toy_request.data, 1, "cpu").wrong == []
    )


def test_protocol_is_part_of_the_key(single: Request) -> None:
    one = launch.identity(single)
    other = launch.identity(replace(single, protocol="expectation"))
    assert one.key != other.key
    assert one.clash(other) == "protocol 'expectation', not 'single-model'"
    assert isinstance(one, Identity)


def test_store_of_the_other_protocol_is_refused(single: Request, quiet: Progress, tmp_path: Path) -> None:
    launch.make(single, tmp_path / "gt", quiet)
    with pytest.raises(BenchError, match="was made with protocol 'single-model', not 'expectation'"):
        launch.make(replace(single, protocol="expectation"), tmp_path / "gt", quiet)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"augmentation": Augmentation("random")}, "its images are augmented"),
        ({"mirror": True}, "its test images are mirrored"),
        ({"lookahead": 2}, "its weights go back to an average of theirs"),
        ({"architecture": Architecture("resnet9", image=(1, 1, 5))}, "resnet9 normalises over batches"),
    ],
)
def test_recipes_that_are_not_plain_are_refused(
    single: Request, toy: Setting, change: dict[str, Any], why: str, tmp_path: Path, quiet: Progress
) -> None:
    setting = replace(toy, recipe=replace(toy.recipe, **change))
    with pytest.raises(BenchError, match=f"--protocol single-model .* with toy/logreg, where {why}"):
        launch.make(replace(single, setting=setting), tmp_path / "gt", quiet)
    assert not (tmp_path / "gt").exists()


def test_repeats_are_refused(single: Request) -> None:
    with pytest.raises(BenchError, match="--repeats is 2, and by --protocol single-model every model has the same"):
        launch.check(replace(single, plan=Plan(30, 2)))


def test_too_few_subsets_are_refused_before_training(single: Request) -> None:
    with pytest.raises(BenchError, match=r"40 examples have only 40 subsets of 39: take another --alpha than 0\.98"):
        launch.check(replace(single, alpha=0.98))
    launch.check(replace(single, alpha=0.98, plan=Plan(12, 1, judge_only=True)))  # which may judge twice by one


# Runs


@pytest.fixture
def toy_setting(tmp_path: Path, toy_source: str) -> str:
    (tmp_path / "toy.py").write_text(toy_source)
    return f"{tmp_path / 'toy.py'}/logreg"


def test_a_run_and_its_table(toy_setting: str, main: Main) -> None:
    flags = ("--models", "60", "--device", "cpu", "--quiet", "--method", "graddot", "--method", "random")
    single = ("run", toy_setting, *flags, "--protocol", "single-model", "--alpha", "0.8")
    code, out, _ = main(*single, "--out", "one")
    assert code == 0
    assert out.splitlines()[0].endswith(
        "10 held-out subsets × one seed (protocol single-model, α = 0.8, logsumexp margin, 40 train × 10 targets); "
        "45 fit and 5 tune rows."
    )
    assert out.splitlines()[1] == (
        "No noise ceiling: every model has the same seed, so that nothing of its margins is noise."
    )
    board = results.read(Path("one"))
    assert (board.protocol, board.rows.repeats, board.ceiling) == ("single-model", 1, None)
    assert "--protocol single-model" in board.command
    assert "--repeats" not in board.command
    assert "all subset models have one seed" in Path("one/report.html").read_text()
    code, again, _ = main(*single, "--out", "one")
    assert (code, again) == (0, out)
    assert main("run", toy_setting, *flags, "--alpha", "0.8", "--repeats", "1", "--out", "other")[0] == 0
    assert "(protocol expectation, α = 0.8" in Path("other/leaderboard.md").read_text()
    code, _, err = main("compare", "one", "other")
    assert code == 2
    assert "judged differently: protocol (single-model, expectation)" in err
    code, _, err = main(*single, "--repeats", "2", "--out", "two")
    assert code == 2
    assert err.startswith("bench: --repeats is 2, and by --protocol single-model")
    assert not Path("two/ground-truth").exists()


def test_train_and_attribute(toy_setting: str, main: Main) -> None:
    flags = ("--models", "30", "--protocol", "single-model", "--alpha", "0.8", "--device", "cpu", "--quiet")
    assert main("train", toy_setting, *flags, "--out", "gt")[0] == 0
    assert main("attribute", toy_setting, "--method", "graddot", "--store", "gt", "--out", "s.npy", "--quiet")[0] == 0
    code, out, _ = main("lds", "--store", "gt", "--scores", "s.npy")
    assert code == 0
    assert "5 subsets × 10 targets" in out


def test_folders_of_results(toy: Setting) -> None:
    names = [runner.Options(protocol="single-model", repeats=r).folder(toy).name for r in (None, 1)]
    assert names[0] == names[1] != runner.Options().folder(toy).name == runner.Options(repeats=2).folder(toy).name
    assert names[0].endswith("-singlemodel")
    assert runner.Options(repeats=1).folder(toy).name.endswith("-repeats1")


def test_checkpoint_0_is_the_full_run(single: Request, quiet: Progress, tmp_path: Path) -> None:
    launch.make(single, tmp_path / "gt", quiet)
    bench = Bench.open(single.setting, single.data, tmp_path / "gt", tmp_path, "cpu", quiet, 30)
    (one,) = methods.chosen(["random"])
    task = bench.task(one, tmp_path)
    assert task.protocol == "single-model"
    expected = by_hand(single.setting.recipe, single.data, np.ones(40))
    np.testing.assert_allclose(task.checkpoint_vectors(1)[0], expected, atol=1e-5)
    assert task.usage.models == 1
    run = task.training_run(2)
    assert task.usage.models == 3
    same = Trainer(single.setting.recipe, single.data, CPU).full_run(subsets.checkpoint_seed(0, 2))
    assert torch.equal(run.start, same.start)
    np.testing.assert_array_equal(run.order, same.order)


def test_one_seed_has_its_own_reason(single: Request, quiet: Progress, tmp_path: Path) -> None:
    launch.make(single, tmp_path / "gt", quiet)
    rows = GroundTruth.open(tmp_path / "gt")
    judged = rows.rows(rows.of_group("eval"))
    assert "every model has the same seed" in (Judge.of(judged, 1, protocol="single-model").why_no_ceiling or "")
    assert "--repeats 2" in (Judge.of(judged, 1).why_no_ceiling or "")
