"""Ground truth on disk: what it holds, and every way that it can be damaged, refused or set aside."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from bench import blocks, cli, hashing, launch, store, subsets
from bench.datasets import Data, Setting
from bench.errors import BenchError, InputError
from bench.launch import Request, make
from bench.progress import Progress
from bench.store import GroundTruth
from bench.subsets import Plan

BLOCKS = [
    "rows-000000000-000000008",
    "rows-000000008-000000016",
    "rows-000000016-000000024",
    "rows-000000024-000000030",
]
GATHERED = ["_completed.npy", "asked.json", "identity.json", "margins.npy", "masks.npy", "meta.json", "spec.json"]


@pytest.fixture
def folder(tmp_path: Path, toy_request: Request, quiet: Progress) -> Path:
    made = tmp_path / "store"
    assert make(toy_request, made, quiet) is not None
    return made


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items()}


def arrays(folder: Path) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    return np.load(folder / "masks.npy"), np.load(folder / "margins.npy")


def block(folder: Path, number: int) -> Path:
    return folder / "blocks" / f"{BLOCKS[number]}.npz"


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def truncate(path: Path, keep: float = 0.7) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# What a store holds


def test_files_are_those_of_the_contract(folder: Path) -> None:
    assert sorted(contents(folder)) == sorted(GATHERED + [f"blocks/{name}.npz" for name in BLOCKS])
    opened = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("masks", "margins", "_completed")}
    assert {name: (a.dtype, a.shape) for name, a in opened.items()} == {
        "masks": (np.dtype(bool), (30, 40)),
        "margins": (np.dtype(np.float32), (30, 10)),
        "_completed": (np.dtype(bool), (30,)),
    }
    assert opened["_completed"].all()
    assert json.loads((folder / "spec.json").read_text()) == {
        "num_models": 30,
        "schema": {"masks": {"shape": [40], "dtype": "bool_"}, "margins": {"shape": [10], "dtype": "float32"}},
    }
    np.testing.assert_array_equal(opened["masks"].sum(1), 20)
    assert np.isfinite(opened["margins"]).all()


def test_meta_says_what_made_it(folder: Path, toy_request: Request, toy_data: Data) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    subset, group = toy_request.plan.layout()
    assert meta["format"] == 1
    assert meta["identity"] == {
        "setting": "toy/logreg",
        "alpha": 0.5,
        "seed": 0,
        "output": "logsumexp",
        "plan": {"repeats": 2, "eval_subsets": 200, "tune_rows": 100, "judge_only": False},
        "sampling": "exact",
        "dtype": "float32",
        "keep": [],
        "compiled": True,
        "protocol": "expectation",
        "device": "cpu",
        "data": hashing.data(toy_data),
        "recipe": hashing.recipe(toy_request.setting.recipe),
        "code": hashing.training_code(),
    }
    assert meta["key"] == launch.identity(toy_request).key
    assert meta["subset_of_row"] == subset.tolist()
    assert meta["group_of_row"] == group.tolist()
    assert meta["seed_of_row"] == list(range(30))
    assert (meta["n_train"], meta["n_targets"], meta["n_classes"]) == (40, 10, 3)
    assert meta["groups"] == ["fit", "tune", "eval"]
    assert meta["origin"] == {"made by": "the tests"}
    assert {"python", "numpy", "torch", "ldsbench"} <= set(meta["versions"])
    assert {"machine", "processor", "cores"} <= set(meta["hardware"])
    assert [(b["start"], b["stop"]) for b in meta["blocks"]] == [(0, 8), (8, 16), (16, 24), (24, 30)]
    assert all(b["seconds"] > 0 for b in meta["blocks"])
    for name, known in meta["checksums"].items():
        assert hashing.file(folder / name) == known


def test_rows_come_from_the_seeds_that_meta_names(folder: Path) -> None:
    """As written in the documentation of `Meta`, without this project's code for masks."""
    meta = json.loads((folder / "meta.json").read_text())
    masks, _ = arrays(folder)
    for row, subset in enumerate(meta["subset_of_row"]):
        order = np.random.default_rng(np.random.SeedSequence([0, 0, subset])).permutation(40)
        assert set(np.flatnonzero(masks[row])) == set(order[:20])
    same = masks[:, None] == masks[None]
    number = np.array(meta["subset_of_row"])
    np.testing.assert_array_equal(same.all(-1), number[:, None] == number[None])


def test_repeats_share_a_mask_and_nothing_else(folder: Path) -> None:
    truth = GroundTruth.open(folder)
    judged = truth.rows(truth.of_group("eval"))
    assert len(judged) == 8
    assert (judged.masks[::2] == judged.masks[1::2]).all()
    assert (judged.subset[::2] == judged.subset[1::2]).all()
    assert np.abs(judged.margins[::2] - judged.margins[1::2]).max(1).min() > 1e-3


def test_rows_are_copies_that_cannot_be_written(folder: Path) -> None:
    truth = GroundTruth.open(folder)
    some = truth.rows(np.array([3, 1]))
    masks, margins = arrays(folder)
    np.testing.assert_array_equal(some.masks, masks[[3, 1]])
    np.testing.assert_array_equal(some.margins, margins[[3, 1]])
    for value in (some.masks, some.margins, truth.masks, truth.margins):
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 0


def test_groups_of_fewer_rows_are_those_of_the_shorter_plan(folder: Path) -> None:
    """Where the shorter plan ends inside an eval subset, its rows fit, though the whole store judges by them."""
    truth = GroundTruth.open(folder)
    for n_rows in range(9, 31):
        codes = Plan(n_rows).layout()[1]
        for code, group in enumerate(subsets.GROUPS):
            np.testing.assert_array_equal(truth.of_group(group, n_rows), np.flatnonzero(codes == code))
        np.testing.assert_array_equal(truth.of_group("eval"), np.flatnonzero(Plan(30).layout()[1] == 2))


def test_second_run_changes_nothing(folder: Path, toy_request: Request, quiet: Progress) -> None:
    before = snapshot(folder)
    meta = make(toy_request, folder, quiet)
    assert snapshot(folder) == before
    assert meta == store.read_meta(folder)
    assert store.verify(folder) == []


def test_block_size_does_not_matter(folder: Path, tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    for size in (1, 7, 64):
        other = tmp_path / str(size)
        make(replace(toy_request, block_rows=size), other, quiet)
        np.testing.assert_array_equal(arrays(folder)[0], arrays(other)[0])
        np.testing.assert_allclose(arrays(folder)[1], arrays(other)[1], atol=1e-5)
        assert store.verify(other) == []


# Damage: found, named, mended; what is sound stays


def truncated(folder: Path) -> str:
    truncate(block(folder, 1))
    return f"{BLOCKS[1]}.npz is torn"


def emptied(folder: Path) -> str:
    block(folder, 1).write_bytes(b"")
    return f"{BLOCKS[1]}.npz is torn"


def an_array_instead(folder: Path) -> str:
    with block(folder, 1).open("wb") as file:
        np.save(file, np.zeros((8, 10), np.float32))
    return f"{BLOCKS[1]}.npz is torn"


def flipped_margin(folder: Path) -> str:
    """In the last margin: the zip's own checksum sees it."""
    at = block(folder, 1).read_bytes().index(b"margins.npy") + 500
    flip(block(folder, 1), at)
    return f"{BLOCKS[1]}.npz is torn"


def rewritten(folder: Path) -> str:
    """A well-formed file with the same header and other margins."""
    with np.load(block(folder, 1)) as old:
        header, margins = old["header"], old["margins"]
    np.savez(block(folder, 1), header=header, margins=margins + 1)
    return f"{BLOCKS[1]}.npz has another content than its checksum says"


def without_shape(folder: Path) -> str:
    with np.load(block(folder, 1)) as old:
        header = old["header"]
    np.savez(block(folder, 1), header=header, margins=np.float32(0))
    return f"{BLOCKS[1]}.npz does not hold the rows that its name says"


def foreign(folder: Path) -> str:
    with np.load(block(folder, 1)) as old:
        margins = old["margins"]
    blocks.write(folder / "blocks", "another key", 8, {"margins": margins}, 1.0)
    return f"{BLOCKS[1]}.npz was made by other data, model, recipe or code"


def wrongly_named(folder: Path) -> str:
    shutil.copy(block(folder, 2), block(folder, 1))
    return f"{BLOCKS[1]}.npz does not hold the rows that its name says"


def missing(folder: Path) -> str:
    block(folder, 1).unlink()
    return ""


@pytest.mark.parametrize(
    "damage",
    [truncated, emptied, an_array_instead, flipped_margin, rewritten, without_shape, foreign, wrongly_named, missing],
)
def test_bad_block_is_named_and_trained_anew(
    folder: Path, toy_request: Request, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], str]
) -> None:
    before, (masks, margins) = snapshot(folder), arrays(folder)
    named = damage(folder)
    bad = block(folder, 1)

    assert cli.main(["verify", str(folder)]) == 1
    told = capsys.readouterr()
    assert BLOCKS[1] in told.out
    assert "1 fault;" in told.err

    assert make(toy_request, folder, Progress()) is not None
    told = capsys.readouterr()
    assert named in told.err
    assert "30/30 models" in told.err
    after = snapshot(folder)
    assert all(after[f"blocks/{n}.npz"] == before[f"blocks/{n}.npz"] for n in BLOCKS if n not in bad.name)
    np.testing.assert_array_equal(arrays(folder)[0], masks)
    np.testing.assert_allclose(arrays(folder)[1], margins, atol=1e-5)
    assert cli.main(["verify", str(folder)]) == 0
    assert "is sound" in capsys.readouterr().out
    make(toy_request, folder, Progress())
    assert capsys.readouterr().err == ""


def test_stray_block_is_named_and_harmless(folder: Path, toy_request: Request, quiet: Progress) -> None:
    before = snapshot(folder)
    stray = folder / "blocks" / "rows-000000008-000000012.npz"
    shutil.copy(block(folder, 1), stray)
    for odd in ("rows-x.npz", "rows-²-³.npz", "rows-000000000-000000008-1.npz"):
        shutil.copy(block(folder, 0), folder / "blocks" / odd)
    make(toy_request, folder, quiet)
    assert quiet.log is not None
    assert f"{stray.name} does not hold the rows that its name says; it is not needed" in quiet.log.read_text()
    assert {n: v for n, v in snapshot(folder).items() if n in before} == before


def test_overlapping_blocks_are_used_once(folder: Path, toy_request: Request, quiet: Progress) -> None:
    make(replace(toy_request, plan=Plan(24), block_rows=6), folder, quiet)
    with np.load(block(folder, 1)) as old:
        margins = old["margins"]
    blocks.write(folder / "blocks", launch.identity(toy_request).key, 10, {"margins": margins[2:]}, 1.0)
    expected = arrays(folder)
    make(toy_request, folder, quiet)
    np.testing.assert_array_equal(arrays(folder)[1][:24], expected[1])
    assert store.verify(folder) == []


def test_no_flipped_bit_of_a_block_goes_unseen(tmp_path: Path) -> None:
    """One bit of every byte: it is found, or what is read is what was written."""
    margins = np.arange(6, dtype=np.float32).reshape(2, 3)
    blocks.write(tmp_path, "key", 4, {"margins": margins}, 1.0)
    path = tmp_path / blocks.name(4, 6)
    sound = path.read_bytes()
    found = 0
    for at in range(len(sound)):
        flip(path, at, at % 8)
        try:
            header, read = blocks.read(path, "key")
        except blocks.BlockError as error:
            assert path.name in str(error)  # noqa: PT017
            found += 1
        else:
            np.testing.assert_array_equal(read["margins"], margins)
            assert (header.start, header.stop) == (4, 6)
        path.write_bytes(sound)
    assert found > 0.5 * len(sound)


def test_no_torn_block_goes_unseen(tmp_path: Path) -> None:
    blocks.write(tmp_path, "key", 0, {"margins": np.ones((2, 3), np.float32)}, 1.0)
    path = tmp_path / blocks.name(0, 2)
    sound = path.read_bytes()
    for keep in range(0, len(sound), 3):
        path.write_bytes(sound[:keep])
        with pytest.raises(blocks.BlockError, match="torn"):
            blocks.read(path, "key")


@pytest.mark.parametrize("name", ["masks.npy", "margins.npy", "_completed.npy", "spec.json", "meta.json"])
@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing", "emptied"])
def test_bad_gathered_file_is_gathered_anew(
    folder: Path, toy_request: Request, capsys: pytest.CaptureFixture[str], name: str, fault: str
) -> None:
    before, path = snapshot(folder), folder / name
    match fault:
        case "truncated":
            truncate(path)
        case "emptied":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "flipped" if name == "meta.json":
            edit(path, lambda meta: meta["group_of_row"].__setitem__(3, 2))
        case "flipped":
            flip(path, path.stat().st_size - 5)
    assert cli.main(["verify", str(folder)]) == 1
    told = capsys.readouterr()
    assert name in told.out
    assert "Traceback" not in told.err

    make(toy_request, folder, Progress())
    assert "training" not in capsys.readouterr().err
    after = snapshot(folder)
    assert {n: content for n, (_, content) in after.items()} == {n: content for n, (_, content) in before.items()}
    assert all(after[n] == before[n] for n in before if n.startswith("blocks/"))
    assert cli.main(["verify", str(folder)]) == 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda meta: meta["subset_of_row"].__setitem__(1, 1), "its rows are not"),
        (lambda meta: meta["seed_of_row"].__setitem__(1, 0), "its rows are not"),
        (lambda meta: meta["group_of_row"].__setitem__(0, 0), "its rows are not"),
        (lambda meta: meta["identity"].__setitem__("recipe", "0"), "its key is not that"),
        (lambda meta: meta["identity"]["plan"].__setitem__("repeats", 3), "its key is not that"),
        (lambda meta: meta["identity"].__setitem__("seed", 1), "its key is not that"),
        (lambda meta: meta["blocks"].pop(2), "no block for rows 16 to 23"),
        (lambda meta: meta["checksums"].clear(), "masks.npy has another content"),
        (lambda meta: meta["subset_of_row"].pop(), "meta.json is of arrays of other shapes"),
        (lambda meta: meta.__setitem__("n_targets", 9), "meta.json is of arrays of other shapes"),
        (lambda meta: meta.__setitem__("format", 0), "format 0"),
        (lambda meta: meta.pop("key"), "meta.json cannot be read"),
    ],
)
def test_altered_meta_is_found_and_mended(
    folder: Path, toy_request: Request, quiet: Progress, change: Callable[[Any], None], fault: str
) -> None:
    before = contents(folder)
    edit(folder / "meta.json", change)
    assert any(fault in sentence for sentence in store.verify(folder))
    make(toy_request, folder, quiet)
    assert contents(folder) == before


def test_verify_compares_masks_and_margins_with_their_source(folder: Path) -> None:
    """Even where the checksums were made to fit."""
    for name, row in (("masks", 4), ("margins", 9)):
        value = np.load(folder / f"{name}.npy")
        value[row] = value[row][::-1]
        np.save(folder / f"{name}.npy", value)
    np.save(folder / "_completed.npy", np.arange(30) % 7 != 5)
    edit(
        folder / "meta.json",
        lambda m: m.__setitem__("checksums", {n: hashing.file(folder / n) for n in m["checksums"]}),
    )
    assert store.verify(folder) == [
        "rows 5, 12, 19, 26 are not trained",
        "the mask of row 4 is not the one that its seed gives",
        f"margins.npy and the block {BLOCKS[1]}.npz differ",
    ]


def test_verify_finds_arrays_of_another_store(
    folder: Path, tmp_path: Path, toy_request: Request, quiet: Progress
) -> None:
    other = tmp_path / "other"
    make(replace(toy_request, plan=Plan(20)), other, quiet)
    for name in ("masks.npy", "margins.npy", "_completed.npy"):
        shutil.copy(other / name, folder / name)
    assert any("other shapes" in sentence for sentence in store.verify(folder))
    make(toy_request, folder, quiet)
    assert store.verify(folder) == []


def test_verify_of_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "has no identity.json" in capsys.readouterr().err


def test_stores_of_other_tools_open(tmp_path: Path) -> None:
    """Float16 margins and no meta.json, as MadryLab's tools write them; roles of rows are then refused."""
    np.save(tmp_path / "masks.npy", np.ones((4, 6), bool))
    np.save(tmp_path / "margins.npy", np.ones((4, 2), np.float16))
    np.save(tmp_path / "_completed.npy", np.ones(4, bool))
    truth = GroundTruth.open(tmp_path)
    assert truth.meta is None
    with pytest.raises(InputError, match=r"no meta\.json"):
        truth.of_group("fit")
    assert "nothing can be checked" in store.verify(tmp_path)[0]


@pytest.mark.parametrize("name", ["masks", "margins", "_completed"])
def test_any_torn_array_is_a_sentence(folder: Path, name: str) -> None:
    """A flipped bit anywhere in the head of a file, or a cut anywhere: it opens as an array or is an InputError."""
    path = folder / f"{name}.npy"
    sound = path.read_bytes()
    for at in range(128):
        flip(path, at, at % 8)
        try:
            GroundTruth.open(folder)
        except InputError as error:
            assert str(folder) in str(error)  # noqa: PT017
        path.write_bytes(sound)
    for keep in range(0, len(sound), 1 + len(sound) // 50):
        path.write_bytes(sound[:keep])
        with pytest.raises(InputError, match=name):
            GroundTruth.open(folder)


def test_arrays_of_the_wrong_kind_are_refused(folder: Path) -> None:
    np.save(folder / "masks.npy", np.ones((30, 40)))
    with pytest.raises(InputError, match=r"masks\.npy is float64 \[30, 40\]"):
        GroundTruth.open(folder)
    np.save(folder / "masks.npy", np.ones((29, 40), bool))
    with pytest.raises(InputError, match=r"29 rows, margins\.npy 30"):
        GroundTruth.open(folder)


# Growing and shrinking


@pytest.mark.parametrize("n_rows", [31, 32, 47])
def test_growth_keeps_every_row(folder: Path, toy_request: Request, quiet: Progress, n_rows: int) -> None:
    before, (masks, margins) = snapshot(folder), arrays(folder)
    make(replace(toy_request, plan=Plan(n_rows)), folder, quiet)
    more_masks, more_margins = arrays(folder)
    assert more_masks.shape == (n_rows, 40)
    np.testing.assert_array_equal(more_masks[:30], masks)
    np.testing.assert_array_equal(more_margins[:30], margins)
    after = snapshot(folder)
    new = sorted(n for n in after if n.startswith("blocks/") and n not in before)
    assert all(after[n] == before[n] for n in before if n.startswith("blocks/"))
    spans = [blocks.span(Path(n)) for n in new]
    assert [row for span in spans if span for row in range(*span)] == list(range(30, n_rows))
    assert store.verify(folder) == []


def test_grown_equals_made_at_once(folder: Path, tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    long = replace(toy_request, plan=Plan(47))
    make(long, folder, quiet)
    make(long, tmp_path / "once", quiet)
    np.testing.assert_array_equal(arrays(folder)[0], arrays(tmp_path / "once")[0])
    np.testing.assert_allclose(arrays(folder)[1], arrays(tmp_path / "once")[1], atol=1e-5)


@pytest.mark.parametrize("n_rows", [9, 16, 21, 23, 29])
def test_shrinking_uses_a_prefix(folder: Path, toy_request: Request, quiet: Progress, n_rows: int) -> None:
    before, (masks, margins) = snapshot(folder), arrays(folder)
    make(replace(toy_request, plan=Plan(n_rows)), folder, quiet)
    np.testing.assert_array_equal(arrays(folder)[0], masks[:n_rows])
    np.testing.assert_array_equal(arrays(folder)[1], margins[:n_rows])
    after = snapshot(folder)
    assert {n: v for n, v in after.items() if "blocks/" in n} == {n: v for n, v in before.items() if "blocks/" in n}
    assert store.verify(folder) == []
    truth = GroundTruth.open(folder)
    np.testing.assert_array_equal(truth.of_group("eval"), np.flatnonzero(Plan(n_rows).layout()[1] == 2))
    make(toy_request, folder, quiet)
    assert contents(folder) == {n: content for n, (_, content) in before.items()}


# Somebody else's


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": 0.3}, "alpha 0.5, not 0.3"),
        ({"seed": 4}, "seed 0, not 4"),
        ({"output": "max"}, "output 'logsumexp', not 'max'"),
        ({"plan": Plan(30, 3)}, "plan 2 repeats, 200 eval subsets, 100 tune rows, not 3 repeats"),
        ({"plan": Plan(30, 2, 5)}, "not 2 repeats, 5 eval subsets"),
        ({"plan": Plan(30, 2, 200, 0)}, "0 tune rows"),
    ],
)
def test_store_of_another_request_is_refused(
    folder: Path, toy_request: Request, quiet: Progress, change: dict[str, Any], told: str
) -> None:
    before = snapshot(folder)
    with pytest.raises(BenchError) as caught:
        make(replace(toy_request, **change), folder, quiet)
    assert told in str(caught.value)
    assert "--out" in str(caught.value)
    assert snapshot(folder.parent) == {f"store/{n}": v for n, v in before.items()}


def test_store_of_another_setting_is_refused(folder: Path, toy: Setting, toy_request: Request, quiet: Progress) -> None:
    before = snapshot(folder)
    mlp = replace(toy, model="mlp", recipe=type(toy.dataset).models["mlp"])
    with pytest.raises(BenchError, match="setting 'toy/logreg', not 'toy/mlp'"):
        make(replace(toy_request, setting=mlp), folder, quiet)
    assert snapshot(folder.parent) == {f"store/{n}": v for n, v in before.items()}


@pytest.mark.parametrize(("seed", "flag"), [(-1, "--seed is -1"), (-(2**40), "--seed is -")])
def test_refused_seed_names_the_flag(
    tmp_path: Path, toy_request: Request, quiet: Progress, seed: int, flag: str
) -> None:
    with pytest.raises(BenchError, match=flag):
        make(replace(toy_request, seed=seed), tmp_path / "s", quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["data", "labels", "recipe", "code"])
def test_changed_source_sets_the_old_store_aside(
    folder: Path,
    toy_request: Request,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    before, data = snapshot(folder), toy_request.data
    changed = toy_request
    if what == "data":
        x = data.train_x.copy()
        x[0, 0] = np.nextafter(x[0, 0], np.float32(9))
        changed = replace(toy_request, data=replace(data, train_x=x))
    elif what == "labels":
        changed = replace(toy_request, data=replace(data, test_y=(data.test_y + 1) % 3))
    elif what == "recipe":
        recipe = replace(toy_request.setting.recipe, momentum=0.8)
        changed = replace(toy_request, setting=replace(toy_request.setting, recipe=recipe))
    else:
        monkeypatch.setattr(hashing, "training_code", lambda: "other")
    assert make(changed, folder, Progress()) is not None
    (aside,) = [p for p in folder.parent.iterdir() if p != folder]
    assert snapshot(aside) == before
    told = capsys.readouterr().err
    assert f"made by other {'data' if what == 'labels' else what} than now; kept as {aside.name}" in told
    assert store.verify(folder) == []
    assert store.verify(aside) == []
    assert contents(folder) != contents(aside)

    # Back again: the one that was set aside is taken up as it is, and the other set aside in its turn.
    later = snapshot(folder)
    monkeypatch.undo()
    make(toy_request, folder, Progress())
    told = capsys.readouterr().err
    assert f"{aside.name} is taken up again" in told
    assert snapshot(folder) == before
    (other,) = [p for p in folder.parent.iterdir() if p != folder]
    assert snapshot(other) == later


def test_where_data_came_from_changes_nothing(folder: Path, toy_request: Request, quiet: Progress) -> None:
    before = snapshot(folder)
    data = replace(toy_request.data, origin={"made by": "somebody else"})
    make(replace(toy_request, data=data), folder, quiet)
    assert snapshot(folder) == before


def test_code_hash_follows_what_trains_and_not_how_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(hashing.__file__).parent
    (tmp_path / "kernels").mkdir()
    for name in hashing._TRAINING:
        shutil.copy(here / name, tmp_path / name)
    real = hashing.training_code()
    monkeypatch.setattr(hashing, "_HERE", tmp_path)
    assert hashing.training_code() == real
    recipes = tmp_path / "recipes.py"
    text = recipes.read_text()
    recipes.write_text("# a comment\n" + text.replace('"""Learning rate of', '"""The learning rate of'))
    assert hashing.training_code() == real
    recipes.write_text(text.replace("1 - step / steps", "1 - step / (steps + 1)"))
    assert hashing.training_code() != real


@pytest.mark.parametrize("name", ["masks.npy", "margins.npy"])
def test_arrays_of_somebody_else_are_refused(tmp_path: Path, toy_request: Request, quiet: Progress, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(BenchError, match=r"was not made here.*--out"):
        make(toy_request, tmp_path, quiet)
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_identity_is_known_from_meta_too(folder: Path, toy_request: Request, quiet: Progress, how: str) -> None:
    before = snapshot(folder)
    if how == "torn":
        truncate(folder / "identity.json")
    else:
        (folder / "identity.json").unlink()
    with pytest.raises(BenchError, match=r"alpha 0\.5, not 0\.3"):
        make(replace(toy_request, alpha=0.3), folder, quiet)
    make(toy_request, folder, quiet)
    after = snapshot(folder)
    assert {name: value for name, value in after.items() if name != "identity.json"} == {
        name: value for name, value in before.items() if name != "identity.json"
    }
    assert set(after) == set(before)


def test_torn_identity_without_meta_is_refused(folder: Path, toy_request: Request, quiet: Progress) -> None:
    truncate(folder / "identity.json")
    (folder / "meta.json").unlink()
    before = snapshot(folder)
    with pytest.raises(BenchError, match=r"identity\.json cannot be read.*--out"):
        make(toy_request, folder, quiet)
    assert snapshot(folder) == before


def test_folder_of_no_name_can_be_set_aside(
    folder: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(hashing, "training_code", lambda: "other")
    make(toy_request, Path(), quiet)
    (aside,) = [p for p in folder.parent.iterdir() if p != folder]
    assert snapshot(aside) == before
    assert store.verify(folder) == []


def test_identity_is_one_hash_of_all_its_parts(toy_request: Request) -> None:
    base = launch.identity(toy_request)
    keys = {base.key}
    for name in base.__struct_fields__:
        value: Any = getattr(base, name)
        others: dict[str, Any] = {"plan": store.PlanMeta(9, 9, 9), "keep": ("logits",)}
        other = others.get(name, value + (1 if isinstance(value, int | float) else "x") if name not in others else None)
        changed = msgspec.structs.replace(base, **{name: other})
        keys.add(changed.key)
        assert (changed.clash(base) is not None) != (changed.changed(base) == [name])
    assert len(keys) == 1 + len(base.__struct_fields__)


@pytest.mark.parametrize("name", ["masks", "margins"])
def test_neighbours_are_a_map_of_themselves_alone(folder: Path, name: str) -> None:
    whole = getattr(GroundTruth.open(folder), name)
    part = store._part(whole, slice(3, 7))
    np.testing.assert_array_equal(part, whole[3:7])
    assert not part.flags.writeable
    base: Any = part
    while isinstance(base, np.ndarray):
        assert base.shape == part.shape
        base = base.base
    assert len(base) <= whole.offset + whole[:7].nbytes  # the map ends with the last row
    np.testing.assert_array_equal(store._part(whole, np.array([5, 1])), whole[[5, 1]])
    np.testing.assert_array_equal(store._part(np.asfortranarray(whole), slice(3, 7)), whole[3:7])


def test_rows_as_stored_are_read_when_asked_for(folder: Path) -> None:
    truth = GroundTruth.open(folder)
    index = np.array([1, 4, 5, 9])
    stored, copies = truth.rows(index, as_stored=True), truth.rows(index)
    assert type(stored.masks).__name__ == "RowView"
    assert stored.masks.shape == copies.masks.shape
    assert stored.masks.dtype == bool
    assert len(stored) == len(stored.margins) == 4
    np.testing.assert_array_equal(stored.masks[1:3], copies.masks[1:3])
    np.testing.assert_array_equal(stored.margins[np.array([3, 0])], copies.margins[[3, 0]])
