"""`bench run --scores`: score matrices from files as rows of the table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import hashing, precomputed, results
from bench.methods import Chosen

Main = Callable[..., tuple[int, str, str]]
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def matrix(tmp_path: Path) -> Array:
    """Scores of the toy setting [40, 10] that are neither symmetric nor of one sign, in a.npy as they are."""
    made = np.random.default_rng(3).standard_normal((40, 10)).astype(np.float32)
    np.save(tmp_path / "a.npy", made)
    return made


@pytest.fixture
def run(main: Main, tmp_path: Path, toy_source: str) -> Main:
    (tmp_path / "toy.py").write_text(toy_source)
    common = ("run", "toy.py/logreg", "--models", "30", "--out", "out", "--device", "cpu", "--quiet")
    return lambda *words: main(*common, *words)


def test_every_orientation_and_sign_is_the_same_row(run: Main, matrix: Array) -> None:
    np.save("b.npy", -matrix.T.astype(np.float64))
    np.save("c.npy", -matrix)
    words = ["--method", "random"]
    for spec, orientation, sign in (
        ("a.npy", "train,test", "+"),
        ("b.npy", "test,train", "-"),
        ("x=c.npy", "train,test", "-"),
    ):
        words += ["--scores", spec, "--orientation", orientation, "--sign", sign]
    code, table, error = run(*words)
    assert (code, error) == (0, "")
    board = results.read(Path("out"))
    rows = {row.name: row for row in board.methods}
    assert set(rows) == {"random", "a", "b", "x"}
    assert rows["a"].lds == rows["x"].lds == pytest.approx(rows["b"].lds)
    for name in ("a", "b", "x"):
        assert rows[name].cost is None
        np.testing.assert_array_equal(np.load(Path("out") / str(rows[name].scores)), matrix)
    assert rows["b"].params == {
        "path": "b.npy",
        "sha256": hashing.file(Path("b.npy")),
        "orientation": "test,train",
        "sign": "-",
    }
    assert rows["b"].notes[0] == (
        "scores of b.npy, read as test,train with sign -; whether they were made from rows that judge is not known"
    )
    line = next(line for line in table.splitlines() if " b  " in line)
    assert line.split()[-4:] == ["–"] * 4
    frame = board.to_frame().set_index("method")
    assert frame.loc["b", ["models", "seconds", "peak_bytes"]].isna().all()
    assert frame.loc["random", ["models", "seconds", "peak_bytes"]].notna().all()
    assert "--scores=x=c.npy" in board.command
    assert json.loads(Path("out/leaderboard.json").read_text())["methods"][0]["cost"] != 0
    report = Path("out/report.html").read_text("utf-8")
    assert "By models trained: " in report


def test_what_was_imported_says_by_itself_how_it_is_read(run: Main, main: Main, matrix: Array) -> None:
    torch.save(torch.from_numpy(-matrix), "raw.pt")
    assert main("import", "dattri", "raw.pt", "theirs.npy", "--sign", "-")[0] == 0
    code, _, error = run("--method", "random", "--scores", "theirs.npy")
    assert (code, error) == (0, "")
    (row,) = [row for row in results.read(Path("out")).methods if row.name == "theirs"]
    np.testing.assert_array_equal(np.load(Path("out") / str(row.scores)), matrix)
    origin = row.params["origin"]
    assert (origin["orientation"], origin["sign"], list(origin["files"])) == ("train,test", "-", ["raw.pt"])
    assert "imported from dattri (train,test, sign -)" in row.notes[0]
    code, _, error = run("--scores", "theirs.npy", "--sign", "-")
    assert (code, "leave --sign out" in error) == (2, True)
    np.save("theirs.npy", matrix + 1)
    code, _, error = run("--scores", "theirs.npy")
    assert (code, "theirs.origin.json does not vouch for theirs.npy" in error) == (2, True)


@pytest.mark.usefixtures("matrix")
def test_one_flag_for_all_and_one_for_each(tmp_path: Path) -> None:
    def made(*flags: list[str]) -> list[Chosen]:
        return precomputed.chosen([f"{tmp_path}/a.npy", f"b={tmp_path}/a.npy"], *flags)

    for one in made(["test,train"], ["+"]):
        assert one.parameters["orientation"] == "test,train"
    first, second = made(["test,train", "train,test"], ["+", "-"])
    assert (first.parameters["sign"], second.parameters["sign"]) == ("+", "-")
    assert (first.name, second.name) == ("a", "b")


@pytest.mark.usefixtures("matrix")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scores", "a.npy"), "add --orientation train,test or --orientation test,train"),
        (("--scores", "a.npy", "--orientation", "train,test"), "add --sign + if a larger score means"),
        (("--scores", "a.npy", "--orientation", "rows", "--sign", "+"), "--orientation is 'rows'"),
        (("--scores", "a.npy", "--orientation", "train,test", "--sign", "plus"), "--sign is 'plus': it is + or -"),
        (("--sign", "+"), "--sign is given without --scores"),
        (("--scores", "a.npy", *("--sign", "+") * 2), "--sign is given 2 times for 1 file "),
        (("--scores", "no.npy"), "cannot read no.npy"),
        (("--scores", "toy.py"), "bench import FORMAT SOURCE NAME.npy"),
        (("--scores", "torn.npy"), "torn.npy is not a whole .npy array"),
        (("--scores", "objects.npy"), "objects.npy is not a whole .npy array of numbers"),
        (("--scores", "a="), "write FILE.npy, or NAME=FILE.npy"),
        (
            ("--scores", "a.npy", "--orientation", "test,train", "--sign", "+"),
            "a.npy has shape [40, 10], read as test,train, and the setting has 40 examples and 10 targets: it looks "
            "transposed, so say --orientation train,test",
        ),
        (
            ("--scores", "small.npy", "--orientation", "train,test", "--sign", "+"),
            "small.npy has shape [3, 4], read as train,test, and the setting has 40 examples and 10 targets: are these",
        ),
        (("--scores", "flat.npy", "--orientation", "train,test", "--sign", "+"), "flat.npy has shape [4]"),
        (
            ("--scores", "random=a.npy", "--orientation", "train,test", "--sign", "+", "--method", "random"),
            "two methods are called 'random'",
        ),
        (
            ("--scores", "complex.npy", "--orientation", "train,test", "--sign", "+"),
            "complex.npy cannot be scored, since its scores are of type complex128, which are not real numbers",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(run: Main, words: tuple[str, ...], said: str) -> None:
    Path("torn.npy").write_bytes(Path("a.npy").read_bytes()[:300])
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.save("small.npy", np.zeros((3, 4)))
    np.save("flat.npy", np.zeros(4))
    np.save("complex.npy", np.zeros((40, 10), complex))
    code, text, error = run(*words)
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert not Path("out/ground-truth").exists()


def test_what_is_no_number_fails_its_own_row_alone(run: Main, matrix: Array) -> None:
    np.save("nan.npy", np.full((40, 10), np.nan))
    np.save("bool.npy", matrix > 0)
    part = matrix.copy()
    part[2, 3] = np.nan
    np.save("part.npy", part)
    words = [word for name in ("nan", "bool", "part") for word in ("--scores", f"{name}.npy")]
    code, _, _ = run("--method", "random", *words, "--orientation", "train,test", "--sign", "-")
    assert code == 1
    rows = {row.name: row for row in results.read(Path("out")).methods}
    assert rows["nan"].reason == "its scores are NaN or infinite for every target"
    assert "1 of 10 targets counts as 0 (scores not finite)" in rows["part"].notes
    np.testing.assert_array_equal(np.load("out/scores/bool.npy"), -(matrix > 0).astype(float))
