"""Full-set checkpoints: made once, read back, and never from a damaged or misplaced file."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import subsets
from bench.checkpoints import Pool
from bench.datasets import Data, Setting
from bench.errors import BenchError
from bench.progress import Progress
from bench.train import Trainer


@pytest.fixture
def trainer(toy: Setting, toy_data: Data) -> Trainer:
    return Trainer(toy.recipe, toy_data, torch.device("cpu"))


@pytest.fixture
def pool(trainer: Trainer, tmp_path: Path, quiet: Progress) -> Callable[..., Pool]:
    """Pools of one folder: each is what a new process would have."""

    def make(seed: int = 0, key: str = "k" * 64) -> Pool:
        return Pool(trainer, seed, tmp_path, key, quiet)

    return make


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_are_the_models_of_their_seeds(pool: Callable[..., Pool], trainer: Trainer) -> None:
    vectors, seconds = pool().get(3)
    assert vectors.shape == (3, trainer.n_parameters)
    assert seconds > 0
    for number, vector in enumerate(vectors):
        (alone,) = trainer.train([np.arange(40)], [subsets.checkpoint_seed(0, number)])
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 0.01


def test_do_not_depend_on_how_many_are_asked_for(pool: Callable[..., Pool], tmp_path: Path) -> None:
    one_by_one = pool()
    for count in (1, 2, 5):
        vectors, _ = one_by_one.get(count)
        assert len(vectors) == count
    shutil.rmtree(tmp_path)
    at_once, _ = pool().get(5)
    torch.testing.assert_close(vectors, at_once, atol=1e-5, rtol=0)
    assert torch.equal(one_by_one.get(2)[0], vectors[:2])


def test_are_read_back_and_charged_for_again(
    pool: Callable[..., Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, seconds = pool().get(3)
    assert names(tmp_path) == [f"000{n}-kkkkkkkkkkkkkkkk.npz" for n in range(3)]

    def refuse(*_: object) -> None:
        raise AssertionError("a kept checkpoint was trained again")

    monkeypatch.setattr(Trainer, "train", refuse)
    again, charged = pool().get(3)
    assert torch.equal(vectors, again)
    assert charged == seconds
    fewer, less = pool().get(2)
    assert torch.equal(vectors[:2], fewer)
    assert 0 < less < seconds


def test_handing_out_is_not_sharing(pool: Callable[..., Pool]) -> None:
    """A method that changes its checkpoints in place does not change the next method's."""
    shared = pool()
    first, _ = shared.get(2)
    kept = first.clone()
    first.zero_()
    assert torch.equal(shared.get(2)[0], kept)


@pytest.mark.parametrize("fault", ["truncated", "flipped", "emptied", "another's number", "not a zip"])
def test_damaged_file_is_named_and_trained_anew(
    pool: Callable[..., Pool], tmp_path: Path, quiet: Progress, fault: str
) -> None:
    vectors, _ = pool().get(3)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    path = tmp_path / "0001-kkkkkkkkkkkkkkkk.npz"
    content = bytearray(path.read_bytes())
    match fault:
        case "truncated":
            path.write_bytes(content[:-30])
        case "flipped":
            content[content.index(b"vector.npy") + 200] ^= 1
            path.write_bytes(content)
        case "emptied":
            path.write_bytes(b"")
        case "another's number":
            shutil.copy(tmp_path / "0002-kkkkkkkkkkkkkkkk.npz", path)
        case "not a zip":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
    again, _ = pool().get(3)
    torch.testing.assert_close(vectors, again, atol=1e-5, rtol=0)
    assert torch.equal(vectors[[0, 2]], again[[0, 2]])
    assert quiet.log is not None
    assert f"{path.name} is torn or altered" in quiet.log.read_text()
    for name in before:
        if name != path.name:
            assert (tmp_path / name).stat().st_mtime_ns == before[name][0]
    assert torch.equal(pool().get(3)[0], again)


def test_of_another_ground_truth_are_never_used(pool: Callable[..., Pool], tmp_path: Path, quiet: Progress) -> None:
    mine, _ = pool().get(1)
    other, _ = pool(seed=1, key="m" * 64).get(1)
    assert (mine - other).abs().max() > 0.01
    assert len(names(tmp_path)) == 2
    # The name carries 16 digits of the key; the file carries all of it.
    shutil.copy(tmp_path / f"0000-{'m' * 16}.npz", tmp_path / f"0000-{'k' * 16}.npz")
    torch.testing.assert_close(pool().get(1)[0], mine, atol=1e-5, rtol=0)
    assert quiet.log is not None
    assert f"0000-{'k' * 16}.npz is torn or altered, or of another setting" in quiet.log.read_text()


def test_share_no_model_with_a_row(pool: Callable[..., Pool], trainer: Trainer) -> None:
    vectors, _ = pool().get(2)
    rows = trainer.train([np.arange(40)] * 2, [subsets.model_seed(0, row) for row in range(2)])
    assert (vectors - rows).abs().max(1).values.min() > 0.01


def test_threads_do_not_matter(
    pool: Callable[..., Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    made = []
    for threads in (1, 3):
        monkeypatch.setattr("bench.train.cpu_threads", lambda threads=threads: threads)
        made.append(pool().get(7)[0])
        shutil.rmtree(tmp_path)
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=0)
    assert replace(trainer).n_parameters == made[0].shape[1]


def test_a_failure_does_not_stop_the_next(pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    """One method's full disk, or its interrupt, leaves the trainer that all methods share ready to train."""
    made = pool()
    with monkeypatch.context() as patch:
        patch.setattr("bench.atomic.write", raise_no)
        with pytest.raises(BenchError, match="no"):
            made.get(2)
    assert made.trainer.stop.is_set()
    vectors, _ = made.get(3)
    torch.testing.assert_close(vectors, pool().get(3)[0], atol=1e-5, rtol=0)


def raise_no(*_: object) -> None:
    raise BenchError("no")


def test_on_subsets_are_models_of_subsets_of_their_own(
    pool: Callable[..., Pool], trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = pool()
    made = everywhere.on_subsets(0.3)
    assert made is everywhere.on_subsets(0.3)
    vectors, seconds = made.get(3)
    assert seconds > 0
    kept = [made.examples(number) for number in range(3)]
    assert [len(np.unique(examples)) for examples in kept] == [12, 12, 12]
    assert len({tuple(examples) for examples in kept}) == 3
    judged = {tuple(subsets.kept(0, row, 40, 0.3)) for row in range(1000)}
    assert not judged & {tuple(examples) for examples in kept}
    for number, vector in enumerate(vectors):
        (alone,) = trainer.train([kept[number]], [made.model_seed(number)])
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=0)
    full, _ = everywhere.get(3)
    assert (full - vectors).abs().max(1).values.min() > 0.01
    assert names(tmp_path) == sorted(f"000{n}{kind}-{'k' * 16}.npz" for n in range(3) for kind in ("", "-0.3"))
    # A file of the other kind under this one's name is not taken for it.
    shutil.copy(tmp_path / f"0000-{'k' * 16}.npz", tmp_path / f"0000-0.3-{'k' * 16}.npz")
    again, _ = pool().on_subsets(0.3).get(3)
    torch.testing.assert_close(again, vectors, atol=1e-5, rtol=0)

    def refuse(*_: object) -> None:
        raise AssertionError("a kept checkpoint was trained again")

    monkeypatch.setattr(Trainer, "train", refuse)
    assert torch.equal(pool().on_subsets(0.3).get(3)[0], again)
