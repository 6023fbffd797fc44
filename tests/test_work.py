"""What is kept of each model: other outputs, other subsets, and models that diverge or do not fit into memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import blocks, cli, launch, memory, status, store, subsets
from bench.datasets import Data, Setting
from bench.errors import BenchError, InputError
from bench.launch import Request, make
from bench.models import Flat
from bench.outputs import margins
from bench.progress import Progress
from bench.recipes import Architecture, Augmentation, Recipe
from bench.recorded import EXTRAS, Recorded
from bench.runner import Options, run
from bench.store import GroundTruth
from bench.subsets import Plan
from bench.train import Trainer
from bench.work import Work

ALL: Any = EXTRAS


def states(request: Request, rows: list[int]) -> tuple[Flat, torch.Tensor]:
    trainer = Trainer(request.setting.recipe, request.data, torch.device("cpu"))
    subset, _ = request.plan.layout()
    kept = [subsets.kept(request.seed, int(subset[r]), 40, request.alpha, request.sampling) for r in rows]
    return trainer.flat(), trainer.train(kept, [subsets.model_seed(request.seed, r) for r in rows])


# Outputs


@pytest.mark.parametrize("output", ["logsumexp", "max"])
def test_everything_that_can_be_kept(
    tmp_path: Path, toy_request: Request, quiet: Progress, output: Literal["logsumexp", "max"]
) -> None:
    request = replace(toy_request, keep=ALL, output=output)
    make(request, tmp_path / "s", quiet)
    truth = GroundTruth.open(tmp_path / "s")
    flat, vectors = states(request, list(range(30)))
    data = request.data
    for part, x, y in (("", data.test_x, data.test_y), ("train_", data.train_x, data.train_y)):
        labels = torch.from_numpy(y)
        for row, vector in enumerate(vectors):
            logits = flat(vector, torch.from_numpy(x)).detach()
            stored = truth.array(f"{part}margins")[row]
            np.testing.assert_allclose(stored, margins(logits, labels, output), atol=1e-5)
            np.testing.assert_array_equal(truth.array(f"{part}correct")[row], logits.argmax(1) == labels)
            if not part:
                np.testing.assert_allclose(truth.array("logits")[row], logits, atol=1e-5)
    assert store.verify(tmp_path / "s") == []
    spec = json.loads((tmp_path / "s" / "spec.json").read_text())
    for name, entry in spec["schema"].items():
        array = np.load(tmp_path / "s" / f"{name}.npy", mmap_mode="r")
        assert array.shape == (spec["num_models"], *entry["shape"])
        assert array.dtype == np.dtype(getattr(np, entry["dtype"]))
    meta = truth.meta
    assert meta is not None
    assert meta.accuracy == pytest.approx(truth.array("correct").mean(), abs=1e-5)


def test_keeping_more_does_not_change_what_is_trained(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "plain", quiet)
    make(replace(toy_request, keep=ALL), tmp_path / "all", quiet)
    plain, everything = (np.load(tmp_path / name / "margins.npy") for name in ("plain", "all"))
    np.testing.assert_array_equal(plain, everything)


def test_a_store_that_keeps_more_serves_as_well(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(replace(toy_request, keep=("logits",)), tmp_path / "s", quiet)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*.*")}
    make(toy_request, tmp_path / "s", quiet)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*.*")}
    with pytest.raises(BenchError, match=r"was made with keep \('logits',\), not \('correct',\)"):
        make(replace(toy_request, keep=("correct",)), tmp_path / "s", quiet)


def test_an_array_that_is_not_kept(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "s", quiet)
    with pytest.raises(InputError, match=r"keeps no 'logits'.*--keep logits"):
        GroundTruth.open(tmp_path / "s").array("logits")


def test_float16_is_float32_rounded(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "32", quiet)
    make(replace(toy_request, dtype="float16", keep=("logits",)), tmp_path / "16", quiet)
    half = GroundTruth.open(tmp_path / "16")
    full = np.load(tmp_path / "32" / "margins.npy")
    assert half.margins.dtype == half.array("logits").dtype == np.float16
    np.testing.assert_array_equal(half.margins, full.astype(np.float16))
    assert half.rows(np.arange(4)).margins.dtype == np.float32
    assert store.verify(tmp_path / "16") == []


def test_float16_does_not_hold_everything() -> None:
    made = {"margins": np.array([[1.0, 70_000.0], [np.nan, np.inf]], np.float32)}
    with pytest.raises(BenchError, match="margins reach 7e\\+04, and float16 ends at 65504: use --dtype float32"):
        Recorded(dtype="float16").stored(made)
    assert np.isinf(Recorded().stored(made)["margins"][1, 1])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--keep", "logit"], "did you mean 'logits'"),
        (["--dtype", "float64"], "float64"),
        (["--sampling", "half"], "half"),
        (["--alpha", "0.2,1.5"], "--alpha is 1.5"),
        (["--alpha", "0.2,x"], "--alpha is '0.2,x'"),
        (["--workers", "0"], "--workers is 0"),
    ],
)
def test_refused_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str) -> None:
    words = ["train", "digits/logreg", "--models", "20", "--out", str(tmp_path / "s"), *flags]
    try:
        code: Any = cli.main(words)
    except SystemExit as error:
        code = error.code
    told = capsys.readouterr().err
    assert code == 2
    assert named in told
    assert told.count("\n") == 1
    assert not (tmp_path / "s").exists()


# Subsets


def test_bernoulli_subsets(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    request = replace(toy_request, sampling="bernoulli", empty_classes=True, plan=Plan(300))
    make(request, tmp_path / "s", quiet)
    masks = np.load(tmp_path / "s" / "masks.npy")
    sizes = masks.sum(1)
    assert len(np.unique(sizes)) > 5
    assert sizes.var() == pytest.approx(40 / 4, rel=0.35)
    assert masks.mean() == pytest.approx(0.5, abs=0.02)
    assert store.verify(tmp_path / "s") == []
    stored = np.load(tmp_path / "s" / "margins.npy")
    for row in (0, 7, 299):  # alone, with its own number of steps
        flat, vector = states(request, [row])
        logits = flat(vector[0], torch.from_numpy(request.data.test_x)).detach()
        np.testing.assert_allclose(stored[row], margins(logits, torch.from_numpy(request.data.test_y)), atol=1e-4)


@pytest.mark.parametrize("sampling", ["exact", "bernoulli"])
def test_a_smaller_alpha_keeps_a_part(sampling: Literal["exact", "bernoulli"]) -> None:
    for subset in range(20):
        few, many = (subsets.kept(3, subset, 50, alpha, sampling) for alpha in (0.3, 0.6))
        assert set(few) < set(many)


def test_subsets_smaller_than_a_batch(toy_data: Data) -> None:
    """Batches of several sizes in one stack: each model still trains as it does alone."""
    recipe = Recipe(Architecture("mlp", (6,)), epochs=3, batch_size=12, lr=0.1)
    trainer = Trainer(recipe, toy_data, torch.device("cpu"))
    chosen = [np.arange(n) for n in (5, 30, 12, 7, 25, 5)]
    seeds = [subsets.model_seed(0, row) for row in range(6)]
    together = trainer.train(chosen, seeds)
    for row in range(6):
        alone = trainer.train(chosen[row : row + 1], seeds[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_a_ground_truth_for_judging_only(tmp_path: Path) -> None:
    """Every row judges: methods that fit are skipped with the reason, and the ceiling is there."""
    options = Options("digits/logreg", ["random", "heldout"], models=60, repeats=3, judge_only=True, device="cpu")
    board = run(options, out=str(tmp_path / "r"), quiet=True)
    assert (board.rows.fit, board.rows.tune, board.rows.eval) == (0, 0, 60)
    found = {row.name: row for row in board.methods}
    assert found["heldout"].status == "skipped"
    assert "fit rows" in str(found["heldout"].reason)
    assert abs(found["random"].lds or 1) < 0.2
    assert board.ceiling is not None
    truth = GroundTruth.open(tmp_path / "r" / "ground-truth")
    masks = truth.masks.reshape(20, 3, -1)
    assert (masks == masks[:, :1]).all()
    assert len(np.unique(masks[:, 0], axis=0)) == 20
    with pytest.raises(BenchError, match="--models is 61: with --judge-only"):
        run(replace(options, models=61), out=str(tmp_path / "s"), quiet=True)


def test_several_alphas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["digits/logreg", "--models", "20", "--device", "cpu", "--quiet"]
    family = tmp_path / "family"
    assert cli.main(["train", *words, "--alpha", "0.5,0.2", "--out", str(family)]) == 0
    assert "alpha-0.2: 20 rows" in capsys.readouterr().out
    assert cli.main(["train", *words, "--alpha", "0.2", "--out", str(tmp_path / "alone")]) == 0
    capsys.readouterr()
    one, alone = (np.load(f / "margins.npy") for f in (family / "alpha-0.2", tmp_path / "alone"))
    np.testing.assert_array_equal(one, alone)
    few, many = (np.load(family / f"alpha-{a}" / "masks.npy") for a in ("0.2", "0.5"))
    assert (few <= many).all()
    assert cli.main(["train", "--status", str(family)]) == 0
    assert capsys.readouterr().out.count("rows: 20 of 20 done (100%)") == 2
    assert cli.main(["verify", str(family), "--retrain", "1"]) == 0
    told = capsys.readouterr()
    assert told.out.count("is sound") == told.err.count("trained again: row ") == 2


def test_a_subset_without_a_class(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    labels = np.array([0, 1] * 19 + [2, 2])
    rare = replace(toy_request, data=replace(toy_request.data, train_y=labels))
    with pytest.raises(BenchError, match=r"the subset of row \d+ keeps none of the 2 training examples of class 2"):
        make(rare, tmp_path / "s", quiet)
    assert not (tmp_path / "s").exists()
    assert make(replace(rare, empty_classes=True), tmp_path / "s", quiet) is not None
    absent = np.array([0, 1] * 20)  # a class that no example has is not a subset's fault
    subsets.check_classes(0, np.arange(30), absent, 0.5)


def test_a_subset_without_any_example(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    """Also where classes may be missing: nothing can be trained on nothing."""
    few = replace(toy_request, alpha=0.03, sampling="bernoulli", empty_classes=True)
    with pytest.raises(BenchError, match=r"the subset of row \d+ keeps no example at all: raise --alpha from 0.03"):
        make(few, tmp_path / "s", quiet)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schedule": "cosine"}, "schedule of a recipe is 'cosine'"),
        ({"optimiser": "adamw"}, "optimiser of a recipe is 'adamw'"),
        ({"batch_size": 0}, "batch_size of a recipe is 0"),
        ({"epochs": 1.5}, "epochs of a recipe is 1.5"),
        ({"lr": float("nan")}, "lr of a recipe is nan"),
        ({"warmup": 1.0}, "warmup of a recipe is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing of a recipe is -0.1"),
    ],
)
def test_recipes_that_say_nothing_known(change: dict[str, Any], named: str) -> None:
    good = Recipe(Architecture("logreg"), epochs=3, batch_size=8, lr=0.2)
    with pytest.raises(InputError, match=named):
        replace(good, **change)


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: Architecture("vgg"), "the model of a recipe is 'vgg'"),  # type: ignore[arg-type]
        (lambda: Architecture("cnn"), r"hidden of a recipe is \(\)"),
        (lambda: Architecture("mlp", (0,)), "a size of the model mlp of a recipe is 0"),
        (lambda: Augmentation("Random"), "flip of a recipe is 'Random'"),  # type: ignore[arg-type]
        (lambda: Augmentation(translate=-1), "translate of a recipe is -1"),
    ],
)
def test_models_and_changes_that_there_are_not(make_it: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_it()


def test_rare_classes_are_looked_for_only_where_they_could_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "kept", None)
    subsets.check_classes(0, np.arange(100_000), np.arange(50_000) % 10, 0.5)


# Models that diverge


def test_diverged_rows_are_flagged_and_left_out(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 4 always comes out as NaN, row 9 only the first time."""
    real, seen = Trainer.rows, []

    def rows(self: Trainer, chosen: Any, seeds: Any, recorded: Recorded) -> dict[str, NDArray[Any]]:
        made = real(self, chosen, seeds, recorded)
        for i, seed in enumerate(seeds):
            row = seed.entropy[-1]
            if row == 4 or (row == 9 and row not in seen):
                made["margins"][i] = np.nan
            seen.append(row)
        return made

    monkeypatch.setattr(Trainer, "rows", rows)
    meta = make(toy_request, tmp_path / "s", quiet)
    monkeypatch.undo()
    assert meta is not None
    assert (meta.diverged, meta.retried) == ([4], [4, 9])
    assert sorted(seen) == sorted([*range(30), 4, 9])
    truth = GroundTruth.open(tmp_path / "s")
    assert list(np.flatnonzero(~truth.completed)) == [4]
    assert np.isnan(truth.margins[4]).all()
    assert np.isfinite(np.delete(truth.margins, 4, 0)).all()
    assert store.verify(tmp_path / "s") == []
    group = next(
        g
        for g in ("fit", "tune", "eval")
        if 4 in np.flatnonzero(toy_request.plan.layout()[1] == ("fit", "tune", "eval").index(g))
    )
    assert 4 not in truth.of_group(group)  # type: ignore[arg-type]
    assert "rows that diverged: 4;" in (quiet.log.read_text() if quiet.log else "")
    assert any("diverged: 1 row (4)" in line for line in status.lines(tmp_path / "s"))
    again = make(toy_request, tmp_path / "s", quiet)  # it is not tried for ever
    assert again == meta


def test_an_eval_subset_with_a_diverged_seed_is_left_out_whole(
    tmp_path: Path, toy_request: Request, quiet: Progress
) -> None:
    make(toy_request, tmp_path / "s", quiet)
    truth = GroundTruth.open(tmp_path / "s")
    judged = truth.of_group("eval")
    truth.completed[judged[3]] = False
    left = truth.of_group("eval")
    assert set(judged) - set(left) == {judged[2], judged[3]}


def test_a_recipe_that_always_diverges(tmp_path: Path, toy_source: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "toy.py"
    path.write_text(toy_source.replace("lr=0.2", "lr=1e30"))
    out = str(tmp_path / "run")
    assert (
        cli.main(["run", f"{path}/logreg", "--models", "20", "--device", "cpu", "--method", "random", "--out", out])
        == 2
    )
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "diverged" in told
    assert "lower the recipe's learning rate" in told


def test_diverged_rows_are_counted_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer.measured

    def measured(self: Trainer, state: torch.Tensor, recorded: Recorded) -> dict[str, NDArray[Any]]:
        made = real(self, state, recorded)
        if len(state) == 1 or len(state) == 16:
            made["margins"][0] = np.nan
        return made

    monkeypatch.setattr(Trainer, "measured", measured)
    board = run(Options("digits/logreg", ["random"], models=60, out=str(tmp_path / "r"), device="cpu", quiet=True))
    assert board.rows.diverged > 0
    assert f"{board.rows.diverged} models diverged" in (tmp_path / "r" / "leaderboard.md").read_text()


def test_the_slower_of_two_runs_keeps_the_others_block(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays may have been gathered from it: where roundings differ, they would not fit another."""
    make(toy_request, tmp_path / "other", quiet)
    real, key = Trainer.rows, launch.identity(toy_request).key
    theirs = sorted((tmp_path / "other" / "blocks").iterdir())[0]
    (tmp_path / "blocks").mkdir()

    def rows(self: Trainer, *arguments: Any) -> dict[str, NDArray[Any]]:
        (tmp_path / "blocks" / theirs.name).write_bytes(theirs.read_bytes())
        made = real(self, *arguments)
        made["margins"] += 1
        return made

    monkeypatch.setattr(Trainer, "rows", rows)
    trainer = Trainer(toy_request.setting.recipe, toy_request.data, torch.device("cpu"))
    done = Work(trainer, toy_request, key, tmp_path).block((0, 8))
    assert done.by_other
    assert (tmp_path / "blocks" / theirs.name).read_bytes() == theirs.read_bytes()


# Memory


def starved(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Training more than `most` models at once runs out of memory."""
    real, tried = Trainer.train, []

    def train(self: Trainer, chosen: Any, seeds: Any) -> torch.Tensor:
        tried.append(len(chosen))
        if len(chosen) > most:
            raise error
        return real(self, chosen, seeds)

    monkeypatch.setattr(Trainer, "train", train)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["cuda", "numpy", "torch"],
)
def test_half_as_many_where_memory_runs_out(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    make(toy_request, tmp_path / "whole", quiet)
    tried = starved(monkeypatch, 3, error)
    monkeypatch.setattr("bench.train.cpu_threads", lambda: 1)
    make(toy_request, tmp_path / "s", quiet)
    assert tried[:6] == [8, 4, 2, 2, 2, 2]  # what is done of a block stays done
    one, two = (np.load(tmp_path / f / "margins.npy") for f in ("whole", "s"))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_no_memory_for_a_single_model(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    starved(monkeypatch, 0, MemoryError("no"))
    with pytest.raises(BenchError, match="not enough memory on cpu to train a single model"):
        make(toy_request, tmp_path / "s", quiet)


def test_other_errors_are_not_taken_for_it(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    starved(monkeypatch, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make(toy_request, tmp_path / "s", quiet)


def test_stacks_fit_the_free_memory(toy: Setting, toy_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(toy.recipe, toy_data, torch.device("cpu"))
    sizes = []
    for free in (0, 10**5, 10**6, 10**9):
        monkeypatch.setattr(memory, "free", lambda _, free=free: free)
        sizes.append(trainer.stack_size())
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[3] > 100 * sizes[1]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_margins_do_not_depend_on_the_block(tmp_path: Path, toy_request: Request, quiet: Progress, block: int) -> None:
    request = replace(toy_request, plan=Plan(70))
    make(replace(request, block_rows=16), tmp_path / "16", quiet)
    make(replace(request, block_rows=block), tmp_path / "s", quiet)
    one, two = (np.load(tmp_path / f / "margins.npy") for f in ("16", "s"))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_measuring_in_chunks(toy_data: Data, toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(toy.recipe, toy_data, torch.device("cpu"))
    chosen = [np.arange(0, 40, 2)] * 5
    state = trainer.train(chosen, [subsets.model_seed(0, r) for r in range(5)])
    recorded = Recorded(keep=ALL)
    whole = trainer.measured(state, recorded)
    for most in (1, 30, 200):
        monkeypatch.setattr("bench.train._MEASURED", most)
        for name, part in trainer.measured(state, recorded).items():
            np.testing.assert_allclose(part, whole[name], atol=1e-6)


def test_a_stack_of_one_is_trained_as_one_of_many(toy_data: Data) -> None:
    train_x, test_x = (x[:, :4].reshape(-1, 1, 2, 2) for x in (toy_data.train_x, toy_data.test_x))
    images = replace(toy_data, train_x=train_x, test_x=test_x)
    recipe = Recipe(Architecture("cnn", (3,)), epochs=3, batch_size=8, lr=0.1)
    trainer = Trainer(recipe, images, torch.device("cpu"))
    chosen, seeds = [np.arange(20)] * 3, [subsets.model_seed(0, row) for row in range(3)]
    assert trainer.stack_size() == 1
    together = trainer.train(chosen, seeds)
    alone = torch.cat([trainer.train(chosen[:1], [seed]) for seed in seeds])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    made = trainer.rows(chosen, seeds, Recorded())["margins"]
    np.testing.assert_allclose(made, trainer.measured(together, Recorded())["margins"], atol=1e-5)


# Status and retraining


def test_status_of_an_unfinished_store(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(replace(toy_request, shard=(0, 2)), tmp_path / "s", quiet)
    path = next((tmp_path / "s" / "blocks").iterdir())
    path.write_bytes(path.read_bytes()[:-7])
    told = status.lines(tmp_path / "s")
    assert told[0] == "toy/logreg, alpha 0.5, seed 0, logsumexp margins, exact subsets"
    assert "rows: 8 of 30 done (27%), in 1 block" in told
    assert f"bad: {path.name} is torn (BadZipFile)" in told
    assert told[-1] == "arrays: not gathered yet"
    make(toy_request, tmp_path / "s", quiet)
    assert status.lines(tmp_path / "s")[-1] == "arrays: 30 rows gathered"


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_status_of_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    if content is not None:
        (tmp_path / "identity.json").write_text(content)
    assert cli.main(["train", "--status", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "identity.json" in told
    assert told.count("\n") == 1


def test_retraining_finds_margins_that_the_seeds_do_not_give(
    tmp_path: Path, toy_request: Request, quiet: Progress
) -> None:
    """A whole store made of altered blocks: only training again can tell."""
    folder = tmp_path / "s"
    make(toy_request, folder, quiet)
    key = launch.identity(toy_request).key
    for path in sorted((folder / "blocks").iterdir()):
        header, arrays = blocks.read(path, key)
        blocks.write(path.parent, key, header.start, {"margins": arrays["margins"] + 0.01}, 1.0)
    (folder / "meta.json").unlink()
    make(toy_request, folder, quiet)
    assert store.verify(folder) == []
    truth = GroundTruth.open(folder)
    found = status.retrain(truth, toy_request.setting, toy_request.data, 3, "auto")
    assert len(found.rows) == len(found.wrong) == 3
    assert "trained again has margins up to 0.01 apart" in found.wrong[0]


def test_retraining_finds_nothing_in_a_sound_store(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "s", quiet)
    truth = GroundTruth.open(tmp_path / "s")
    found = status.retrain(truth, toy_request.setting, toy_request.data, 100, "auto")
    assert found.wrong == []
    assert list(found.rows) == list(range(30))
    other = replace(toy_request.setting, recipe=replace(toy_request.setting.recipe, lr=0.1))
    assert (
        status.retrain(truth, other, toy_request.data, 1, "auto").why_not
        == "it was made by other recipe than here and now"
    )


def test_a_store_of_a_newer_version(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "s", quiet)
    path = tmp_path / "s" / "meta.json"
    path.write_text(json.dumps({"format": 99, "what": "is not known yet"}))
    told = r"meta.json is of format 99, and this version knows up to 1: update ldsbench"
    with pytest.raises(InputError, match=told):
        GroundTruth.open(tmp_path / "s")
    before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.*")}
    with pytest.raises(InputError, match=told):
        make(toy_request, tmp_path / "s", quiet)
    assert before == {p: p.read_bytes() for p in (tmp_path / "s").rglob("*.*")}


# Damage that verify must name, whatever it hits


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("fault", ["cut", "emptied", "missing"])
def test_damaged_arrays_that_are_kept(
    tmp_path: Path, toy_request: Request, quiet: Progress, name: str, fault: str
) -> None:
    make(replace(toy_request, keep=ALL), tmp_path / "s", quiet)
    path = tmp_path / "s" / f"{name}.npy"
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 90 if fault == "cut" else 0])
    wrong = store.verify(tmp_path / "s")
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{name}.npy ")
    make(replace(toy_request, keep=ALL), tmp_path / "s", quiet)
    assert store.verify(tmp_path / "s") == []


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"seed": -1}},
        {"identity": {"alpha": 7}},
        {"identity": {"keep": []}},
        {"identity": {"plan": {"repeats": 0, "eval_subsets": 200, "tune_rows": 100}}},
        {"diverged": [3]},
        {"blocks": None},
    ],
    ids=str,
)
def test_altered_meta_is_named(tmp_path: Path, toy_request: Request, quiet: Progress, change: dict[str, Any]) -> None:
    make(replace(toy_request, keep=("correct",)), tmp_path / "s", quiet)
    path = tmp_path / "s" / "meta.json"
    meta = json.loads(path.read_text())
    if change == {"blocks": None}:
        meta["blocks"][0]["accuracy"] = 1.0
    for name, value in change.items():
        if value is not None:
            meta[name] = meta[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(meta))
    assert any("meta.json" in sentence for sentence in store.verify(tmp_path / "s"))


def test_blocks_of_a_store_without_arrays_are_checked(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    make(toy_request, tmp_path / "s", quiet)
    for name in ("masks.npy", "margins.npy", "meta.json"):
        (tmp_path / "s" / name).unlink()
    block = next((tmp_path / "s" / "blocks").iterdir())
    block.write_bytes(block.read_bytes()[:-9])
    assert f"{block.name} is torn (BadZipFile)" in store.verify(tmp_path / "s")


def test_a_store_of_nothing_but_diverged_models(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    wild = replace(toy_request.setting, recipe=replace(toy_request.setting.recipe, lr=1e30))
    make(replace(toy_request, setting=wild), tmp_path / "s", quiet)
    assert store.verify(tmp_path / "s") == []
    truth = GroundTruth.open(tmp_path / "s")
    assert status.retrain(truth, wild, toy_request.data, 2, "auto").why_not == "every model diverged"


@pytest.mark.parametrize("architecture", [Architecture("cnn", (4,)), Architecture("resnet9")])
def test_a_model_that_does_not_fit_the_examples(
    tmp_path: Path, toy_request: Request, quiet: Progress, architecture: Architecture
) -> None:
    """Found before anything is written."""
    recipe = replace(toy_request.setting.recipe, architecture=architecture)
    request = replace(toy_request, setting=replace(toy_request.setting, recipe=recipe))
    with pytest.raises(InputError, match="takes images"):
        make(request, tmp_path / "s", quiet)
    assert not (tmp_path / "s").exists()
