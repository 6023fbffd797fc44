"""A whole run on a toy setting: its files, what is used again, and what a bad method can (not) do to the others."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import cli, methods, results, runner
from bench.errors import BenchError, InputError, MethodError
from bench.results import Cost, Leaderboard, Row

HEAD = "import numpy as np\nfrom bench.methods import Method, Needs\n"
ROW_KEYS = {"name", "params", "status", "reason", "lds", "ci", "rank", "n_excluded", "cost", "scores"}

Run = Callable[..., Leaderboard]
Write = Callable[[str, str], str]


@pytest.fixture
def setting(tmp_path: Path, toy_source: str) -> str:
    (tmp_path / "toy.py").write_text(toy_source)
    return f"{tmp_path / 'toy.py'}/logreg"


@pytest.fixture
def run(tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def go(*methods: str, **others: Any) -> Leaderboard:
        values: dict[str, Any] = {"setting": setting, "models": 30, "out": "out", "device": "cpu", "quiet": True}
        return runner.run(methods=methods, **(values | others))

    return go


@pytest.fixture
def method(tmp_path: Path) -> Write:
    """Write a method's file: the body of `attribute(self, task)`."""

    def put(name: str, body: str) -> str:
        path = tmp_path / f"{name}.py"
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        path.write_text(f"{HEAD}class M(Method):\n    def attribute(self, task):\n{lines}\n")
        return str(path)

    return put


def named(board: Leaderboard) -> dict[str, Row]:
    return {row.name: row for row in board.methods}


def cost(row: Row) -> Cost:
    assert row.cost is not None
    return row.cost


def log(folder: Path = Path("out")) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


def stamps(folder: Path) -> dict[str, int]:
    kept = ("*.npy", "*.npz", "scores/*.json")
    return {str(p): p.stat().st_mtime_ns for pattern in kept for p in folder.rglob(pattern)}


def test_every_file_of_the_contract(run: Run) -> None:
    made = run("random", "heldout", "graddot:checkpoints=1")
    out = Path("out")
    found = json.loads((out / "leaderboard.json").read_text())
    assert found == json.loads(msgspec.json.encode(made))
    assert (found["schema"], found["setting"], found["alpha"], found["output"]) == (1, "toy/logreg", 0.5, "logsumexp")
    assert found["rows"] == {"fit": 20, "tune": 2, "eval": 8, "repeats": 2, "diverged": 0}
    assert (found["seed"], found["n_train"], found["n_targets"]) == (0, 40, 10)
    assert found["ceiling"]["ci"][0] <= found["ceiling"]["lds"] <= found["ceiling"]["ci"][1]
    assert [m["rank"] for m in found["methods"]] == [1, 2, 3]
    for one in found["methods"]:
        assert set(one) >= ROW_KEYS
        assert one["status"] == "ok"
        assert one["ci"][0] <= one["lds"] <= one["ci"][1]
        assert set(one["cost"]) >= {"seconds", "models", "peak_bytes"}
        assert np.load(out / one["scores"]).shape == (40, 10)
    assert {p.name for p in out.iterdir()} == {
        *("leaderboard.json", "leaderboard.csv", "leaderboard.md", "per_target.csv", "report.html", "log.txt"),
        *("leaderboard.tex", "baseline.json", "scores", "ground-truth", "checkpoints"),
    }
    models = {name: cost(row).models for name, row in named(made).items()}
    assert models == {"random": 0, "heldout": 20, "graddot:checkpoints=1": 1}
    per_target = results.read_per_target(out)
    for name, row in named(made).items():
        assert row.lds == pytest.approx(np.nanmean(per_target[name]))


def test_lds_is_scipys_on_the_eval_rows(run: Run) -> None:
    from scipy.stats import spearmanr

    made = run("heldout", "random", repeats=1, models=60)
    masks, margins = (np.load(f"out/ground-truth/{name}.npy") for name in ("masks", "margins"))
    meta = json.loads(Path("out/ground-truth/meta.json").read_text())
    judged = np.array(meta["group_of_row"]) == meta["groups"].index("eval")
    for row in made.methods:
        assert row.scores is not None
        predicted = masks[judged] @ np.load(Path("out") / row.scores).astype(float)
        expected = np.mean([spearmanr(p, y)[0] for p, y in zip(predicted.T, margins[judged].T, strict=True)])
        assert row.lds == pytest.approx(expected, abs=1e-9)
    assert made.ceiling is None


def test_a_second_run_uses_everything_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("heldout", "graddot:checkpoints=1")
    before = stamps(Path("out"))
    assert len(before) > 6
    capsys.readouterr()
    assert run("heldout", "graddot:checkpoints=1", quiet=False) == first
    assert stamps(Path("out")) == before
    said = capsys.readouterr().err
    assert "heldout: reused" in said
    assert "graddot:checkpoints=1: reused" in said
    assert "training" not in said


@pytest.mark.parametrize("spoil", ["bytes", "short", "empty", "json torn", "json gone", "array gone", "json foreign"])
def test_a_spoilt_score_is_made_again_and_no_other(run: Run, spoil: str) -> None:
    first = run("heldout", "random")
    scores, vouched = Path("out/scores/heldout.npy"), Path("out/scores/heldout.json")
    good = scores.read_bytes()
    other = Path("out/scores/random.npy").stat().st_mtime_ns
    if spoil == "bytes":
        scores.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif spoil == "short":
        scores.write_bytes(good[:200])
    elif spoil == "empty":
        scores.write_bytes(b"")
    elif spoil == "json torn":
        vouched.write_bytes(vouched.read_bytes()[:40])
    elif spoil == "json foreign":
        vouched.write_bytes(b'{"key": 1}')
    else:
        (vouched if spoil == "json gone" else scores).unlink()
    second = run("heldout", "random")
    assert scores.read_bytes() == good
    assert Path("out/scores/random.npy").stat().st_mtime_ns == other
    assert named(second)["heldout"].lds == named(first)["heldout"].lds
    assert log().count("heldout: reused") == 0
    assert log().count("random: reused") == 1


def test_a_changed_method_is_run_again(run: Run, method: Write) -> None:
    body = "return np.ones((40, 10)) * np.arange(40)[:, None]"
    first = named(run(method("mine", body), "random"))
    second = named(run(method("mine", body.replace("ones", "ones") + " * -1"), "random"))
    assert first["mine"].lds == pytest.approx(-(second["mine"].lds or 0))
    assert log().count("mine: reused") == 0
    assert log().count("random: reused") == 1


def test_a_bad_method_fails_and_the_others_finish(run: Run, method: Write, setting: str) -> None:
    bad = method("bad", "raise ValueError('the matrix\\nis singular')")
    found = named(run(bad, "random"))
    assert (found["bad"].status, found["bad"].reason) == ("failed", "ValueError: the matrix is singular")
    assert (found["bad"].lds, found["bad"].rank, found["bad"].scores) == (None, None, None)
    assert found["random"].status == "ok"
    assert "Traceback" in log()
    assert 'raise ValueError("the matrix' in log().replace("'", '"')
    assert "failed: ValueError: the matrix is singular" in Path("out/leaderboard.md").read_text(encoding="utf-8")
    common = ("--models", "30", "--out", "out", "--device", "cpu", "--quiet")
    assert cli.main(["run", setting, "--method", bad, "--method", "random", *common]) == 1
    assert cli.main(["run", setting, "--method", "random", *common]) == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return np.zeros((40, 9))", r"shape \[40, 9\] instead of \[40, 10\]"),
        ("return np.zeros((10, 40))", "it looks transposed"),
        ("return np.zeros(40)", r"shape \[40\] instead of"),
        ("return None", "it returned nothing"),
        ("pass", "it returned nothing"),
        ("return np.full((40, 10), np.nan)", "NaN or infinite for every target"),
        ("return np.full((40, 10), np.inf)", "NaN or infinite for every target"),
        ("return np.full((40, 10), 'a')", "are of type <U1, which are not real numbers"),
        ("return np.zeros((40, 10), complex)", "are of type complex128"),
        ("return np.full((40, 10), None)", "are of type object"),
        ("return [[1], [2, 3]]", "its scores are not an array"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("exit()", "SystemExit"),
        ("raise GeneratorExit", "^GeneratorExit$"),
        ("raise type('Mute', (ValueError,), {'__str__': lambda self: 1 / 0})", "^Mute$"),
        ("raise ValueError('two lines\\n\\x1b[31m')", r"^ValueError: two lines �\[31m$"),
        ("return np.ma.masked_less(np.ones((40, 10)), 2)", "its scores are a masked array: fill what is masked"),
        ("raise MemoryError('too much')", "MemoryError: too much"),
        ("task.fit.margins[0] = 1", "read-only"),
        ("task.data.train_x[0] = 1", "read-only"),
        ("task.checkpoints(0)", "it takes at least 1"),
        ("return task.nothing", "AttributeError: 'Task' object has no attribute 'nothing'"),
    ],
)
def test_what_a_method_returns_is_checked(run: Run, method: Write, body: str, reason: str) -> None:
    path = method("bad", body)
    found = named(run(path, "random"))
    assert found["random"].status == "ok"
    assert found["bad"].status == "failed"
    assert found["bad"].reason is not None
    assert re.search(reason, found["bad"].reason), found["bad"].reason


def test_ctrl_c_stops_the_run_and_keeps_what_is_finished(
    run: Run, method: Write, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("random")
    path = method("stop", "raise KeyboardInterrupt")
    arguments = ["run", setting, "--models", "30", "--out", "out", "--device", "cpu", "--method", path]
    assert cli.main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    run("random")
    assert "random: reused" in log()


@pytest.mark.parametrize(
    "returned",
    [
        "np.ones((40, 10), bool) & (np.arange(40)[:, None] > 5)",
        "np.arange(400).reshape(40, 10)",
        "np.arange(400.0, dtype=np.float16).reshape(40, 10)",
        "np.arange(400.0).reshape(40, 10).tolist()",
        "__import__('torch').arange(400.0, requires_grad=True).reshape(40, 10)",
        "np.where(np.arange(10) == 3, np.nan, np.arange(400.0).reshape(40, 10))",
    ],
    ids=["bool", "int", "float16", "list", "tensor", "one target NaN"],
)
def test_other_kinds_of_numbers_are_scores(run: Run, method: Write, returned: str) -> None:
    (row,) = run(method("mine", f"return {returned}")).methods
    assert row.status == "ok"
    assert row.lds is not None
    assert row.notes == (["1 of 10 targets counts as 0 (scores not finite)"] if "nan" in returned else [])
    assert row.n_excluded == 0


def test_saying_nothing_on_hard_targets_gains_nothing(run: Run, method: Write) -> None:
    full = named(run(method("full", "return (task.data.train_x @ task.data.test_x.T)")))["full"]
    picky = method("picky", "s = task.data.train_x @ task.data.test_x.T; s[:, 3:] = 0; return s")
    found = named(run(picky))["picky"]
    assert found.notes == ["7 of 10 targets count as 0 (predictions constant)"]
    values = results.read_per_target(Path("out"))["picky"]
    assert not values[3:].any()
    assert found.lds == pytest.approx(values[:3].sum() / 10)
    assert full.notes == []


def test_constant_scores_have_no_lds_and_say_why(run: Run, method: Write) -> None:
    found = run(method("flat", "return np.zeros((40, 10))"), "random")
    row = named(found)["flat"]
    assert (row.status, row.lds, row.ci, row.rank) == ("ok", None, None, None)
    assert row.reason == "no target has a correlation (predictions constant: 10)"
    assert results.read(Path("out")) == found


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ("fit_rows=21", "needs 21 fit rows, and there are 20"),
        ("tune_rows=3", "needs 3 tune rows, and there are 2"),
        ("max_parameters=17", "needs a model of at most 17 parameters, and this one has 18"),
        (
            "packages=('no_such_thing',)",
            "needs the package no_such_thing, which is not installed: pip install 'no_such_thing'",
        ),
        (
            "packages=('no_such_thing>=2',), extra='things'",
            "needs the package no_such_thing, which is not installed: pip install 'ldsbench[things]'",
        ),
        (
            "packages=('numpy>=99',)",
            f"needs numpy>=99, and numpy {np.__version__} is installed: pip install 'numpy>=99'",
        ),
    ],
)
def test_what_is_missing_is_skipped(run: Run, tmp_path: Path, needs: str, reason: str, setting: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}class M(Method):\n    needs = Needs({needs})\n    def attribute(self, task): 1/0\n")
    found = named(run(str(path), "random"))
    assert (found["mine"].status, found["mine"].reason) == ("skipped", reason)
    assert cost(found["mine"]).models == 0
    arguments = ["run", setting, "--models", "30", "--out", "out", "--device", "cpu", "--quiet"]
    assert cli.main([*arguments, "--method", str(path)]) == 0


@pytest.mark.parametrize("needs", ["fit_rows=20", "tune_rows=2", "max_parameters=18", "packages=('numpy',)"])
def test_what_is_just_there_is_not_skipped(run: Run, tmp_path: Path, needs: str) -> None:
    path = tmp_path / "mine.py"
    body = "def attribute(self, task): return task.rng.random((40, 10))"
    path.write_text(f"{HEAD}class M(Method):\n    needs = Needs({needs})\n    {body}\n")
    assert run(str(path)).methods[0].status == "ok"


def test_needs_that_raise_fail_that_method_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}class M(Method):\n    @property\n    def needs(self): return 1 / 0\n"
        "    def attribute(self, task): ...\n"
    )
    found = named(run(str(path), "random"))
    assert found["mine"].reason == "its needs cannot be read: ZeroDivisionError: division by zero"
    assert found["random"].status == "ok"


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize(
    "look",
    [
        "np.load('out/ground-truth/margins.npy')",
        "np.load('out/ground-truth/margins.npy', mmap_mode='r')",
        "open('out/ground-truth/meta.json').read()",
        "task.rows([0])",
    ],
)
def test_a_method_that_looks_at_what_judges_it_is_refused(run: Run, method: Write, look: str, swallow: bool) -> None:
    body = f"try:\n    {look}\nexcept Exception:\n    pass\n" if swallow else f"{look}\n"
    found = named(run(method("peek", body + "return task.rng.random((40, 10))"), "random"))
    assert found["peek"].status == "failed"
    assert (found["peek"].reason or "").startswith("refused: it ")
    assert "task.fit and task.tune" in (found["peek"].reason or "")
    assert str(Path.cwd()) not in (found["peek"].reason or "")
    assert found["random"].status == "ok"
    assert not Path("out/scores/peek.npy").exists()


def test_a_method_cannot_spoil_the_examples_of_the_next(run: Run, method: Write) -> None:
    vandal = method("vandal", "task.inputs('train')[0].zero_()\nreturn task.rng.random((40, 10))")
    alone = named(run("graddot:checkpoints=1", out="alone"))["graddot:checkpoints=1"].lds
    after = named(run(vandal, "graddot:checkpoints=1", out="after"))["graddot:checkpoints=1"].lds
    assert alone == after


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_method_that_changes_the_examples_fails_and_nothing_of_it_is_kept(run: Run, method: Write) -> None:
    body = "import torch\ntorch.from_numpy(task.data.train_x).zero_()\nreturn task.rng.random((40, 10))"
    alone = named(run("graddot:checkpoints=1", "label-match", out="alone"))
    found = named(run(method("vandal", body), "graddot:checkpoints=1", "label-match", out="after"))
    assert (found["vandal"].status, found["vandal"].lds) == ("failed", None)
    assert found["vandal"].reason == (
        "it changed task.data.train_x, which a method must leave as it is: work on a copy"
    )
    assert not Path("after/scores/vandal.npy").exists()
    for name, row in alone.items():
        assert found[name].lds == row.lds


def test_the_seed_is_of_the_run_and_the_method_alone(run: Run, method: Write, tmp_path: Path) -> None:
    body = "return np.full((40, 10), task.seed) + task.rng.random((40, 10))"
    mine = method("mine", body)
    (tmp_path / "else").mkdir()
    (tmp_path / "else/mine.py").write_text(Path(mine).read_text())

    def scores(board: Leaderboard, out: str, name: str = "mine") -> Any:
        return np.load(Path(out) / (named(board)[name].scores or ""))

    first = scores(run(mine, "random", out="a"), "a")
    assert np.array_equal(first, scores(run("random", "heldout", mine, out="b"), "b"))
    assert np.array_equal(first, scores(run("else/mine.py", out="c"), "c"))
    assert not np.array_equal(first, scores(run(mine, out="d", seed=1), "d"))
    assert not np.array_equal(first, scores(run(method("other", body), out="a"), "a", "other"))


def test_methods_given_twice_count_once_and_parameters_make_two(run: Run) -> None:
    found = run("random", "graddot:checkpoints=1", "random", "graddot:checkpoints=2", "graddot:checkpoints=1")
    assert sorted(named(found)) == ["graddot:checkpoints=1", "graddot:checkpoints=2", "random"]
    assert len(found.methods) == 3
    assert len({row.scores for row in found.methods}) == 3


def test_names_that_a_file_cannot_have_do_not_collide(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}class M(Method):\n    def __init__(self, how: str = ''): self.how = how\n"
        "    def attribute(self, task): return np.full((40, 10), len(self.how)) + task.rng.random((40, 10))\n"
    )
    found = run(*(f"{path}:how={how}" for how in ("a/b", "a b", "../x", "a-b", "x" * 300)))
    assert {row.status for row in found.methods} == {"ok"}
    assert len({row.scores for row in found.methods}) == 5
    assert len(list(Path("out/scores").glob("*.npy"))) == 5


def test_parameters_that_json_does_not_know(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}import pathlib\nclass M(Method):\n    def __init__(self, p=pathlib.PurePosixPath('x'), d=np.float32):\n"
        "        pass\n    def attribute(self, task): return task.rng.random((40, 10))\n"
    )
    found = run(str(path))
    assert found.methods[0].params["p"] == "x"
    assert results.read(Path("out")) == found
    run(str(path))
    assert "mine: reused" in log()


def test_what_a_method_uses_is_its_cost(run: Run, method: Write) -> None:
    body = "task.tune; task.rows(task.fit.index[:3]); task.checkpoints(2)\nreturn task.rng.random((40, 10))"
    few = "task.rows([4, 5])\nreturn task.rng.random((40, 10))"
    cache = "(task.cache / 'x').write_bytes(b'0' * 5000)\nreturn task.rng.random((40, 10))"
    found = named(run(method("much", body), method("few", few), method("cache", cache), method("slow", _SLOW)))
    assert [cost(found[name]).models for name in ("much", "few", "cache")] == [20 + 2 + 2, 2, 0]
    assert cost(found["cache"]).disk_bytes == 5000 + 40 * 10 * 8
    assert cost(found["slow"]).seconds >= 0.2
    assert cost(found["slow"]).peak_bytes > 50_000_000
    assert cost(found["few"]).peak_bytes < 50_000_000


_SLOW = "import time\nx = np.ones(10_000_000)\ntime.sleep(0.2)\nreturn task.rng.random((40, 10)) + 0 * x[:10]"


def test_notes_and_prints(run: Run, method: Write, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = method("loud", "print('LOUD')\ntask.note('a note')\nreturn task.rng.random((40, 10))")
    arguments = ["run", setting, "--models", "30", "--out", "out", "--device", "cpu", "--method", path, "--json"]
    assert cli.main(arguments) == 0
    caught = capsys.readouterr()
    assert json.loads(caught.out)["methods"][0]["notes"] == ["a note"]
    assert "LOUD" in caught.err
    assert named(run(path))["loud"].notes == ["a note"]  # kept with the scores


def test_attribute_gives_the_scores_of_run(run: Run, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("heldout", "graddot:checkpoints=1", "random")
    for name in ("heldout", "graddot:checkpoints=1", "random"):
        store = ("--store", "out/ground-truth", "--device", "cpu", "--quiet")
        assert cli.main(["attribute", setting, "--method", name, *store, "--out", "x/s.npy"]) == 0
        assert np.array_equal(np.load("x/s.npy"), np.load(f"out/scores/{name.replace(':', '-')}.npy"))
    assert capsys.readouterr().out.count("x/s.npy: ") == 3


KEEPS = "task.keep(gap=np.arange(10.0), converged=np.arange(10) > 3)\nreturn task.rng.random((40, 10))"


def kept(path: str = "out/scores/mine.extra.npz") -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: array.tolist() for name, array in stored.items()}


def test_what_a_method_keeps_lies_beside_its_scores(run: Run, method: Write) -> None:
    found = named(run(method("mine", KEEPS), "random"))
    assert (found["mine"].extra, found["random"].extra) == ("scores/mine.extra.npz", None)
    assert kept() == {"gap": list(range(10)), "converged": [False] * 4 + [True] * 6}
    assert [p.name for p in Path("out/scores").glob("*.npz")] == ["mine.extra.npz"]
    assert cost(found["mine"]).disk_bytes == 40 * 10 * 8 + 10 * 8 + 10
    before = stamps(Path("out"))
    assert named(run(method("mine", KEEPS), "random"))["mine"] == found["mine"]
    assert stamps(Path("out")) == before
    assert "mine: reused" in log()


@pytest.mark.parametrize("spoil", ["bytes", "short", "gone", "foreign"])
def test_spoilt_extras_are_made_again_with_their_scores_and_no_others(run: Run, method: Write, spoil: str) -> None:
    path = method("mine", KEEPS)
    run(path, "random")
    extra = Path("out/scores/mine.extra.npz")
    good = extra.read_bytes()
    if spoil == "bytes":
        extra.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif spoil == "short":
        extra.write_bytes(good[:100])
    elif spoil == "gone":
        extra.unlink()
    else:  # beside scores that nothing was kept with
        extra.rename("out/scores/random.extra.npz")
        run(path, "random")
        assert not Path("out/scores/random.extra.npz").exists()
    run(path, "random")
    assert kept()["gap"] == list(range(10))
    assert extra.read_bytes() == good
    assert log().count("mine: reused") == (1 if spoil == "foreign" else 0)
    assert log().count("random: reused") == 1


def test_a_method_that_keeps_nothing_any_more_leaves_nothing(run: Run, method: Write, setting: str) -> None:
    path = method("mine", KEEPS)
    words = ["attribute", setting, "--method", path, "--store", "out/ground-truth", "--out", "s.npy", "--device", "cpu"]
    run(path)
    assert cli.main(words) == 0
    assert kept("s.extra.npz") == kept()
    method("mine", "return task.rng.random((40, 10))")
    assert named(run(path))["mine"].extra is None
    assert cli.main(words) == 0
    assert list(Path().rglob("*.extra.npz")) == []
    assert cli.main([*words[:3], "random", *words[4:]]) == 0
    assert Path("s.npy").is_file()


def test_attribute_says_what_is_kept(run: Run, method: Write, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("random")
    path = method("mine", KEEPS)
    words = ["attribute", setting, "--store", "out/ground-truth", "--out", "a.b.npy", "--device", "cpu", "--quiet"]
    capsys.readouterr()
    assert cli.main([*words, "--method", path]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "a.b.extra.npz: gap, converged"
    assert kept("a.b.extra.npz")["gap"] == list(range(10))
    assert cli.main([*words, "--method", "random"]) == 0
    assert "extra" not in capsys.readouterr().out
    assert not Path("a.b.extra.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [("**{'a/b': 1}", "cannot name an array 'a/b'"), ("x='text'", "x of type <U4"), ("1", "positional argument")],
)
def test_what_cannot_be_kept_fails_that_method_alone(run: Run, method: Write, arguments: str, reason: str) -> None:
    path = method("mine", f"task.keep({arguments})\nreturn task.rng.random((40, 10))")
    found = named(run(path, "random"))
    assert found["mine"].status == "failed"
    assert reason in (found["mine"].reason or "")
    assert found["random"].status == "ok"


def test_attribute_refuses_a_store_of_other_data_or_recipe(run: Run, tmp_path: Path, toy_source: str) -> None:
    run("random")
    toy = tmp_path / "toy.py"
    for old, new, reason in (
        ("default_rng(7)", "default_rng(8)", "other data"),
        ("lr=0.2", "lr=0.1", "another recipe"),
    ):
        toy.write_text(toy_source.replace(old, new))
        with pytest.raises(InputError, match=f"{reason} than toy/logreg has now"):
            runner.attribute(f"{toy}/logreg", "random", Path("out/ground-truth"), Path("s.npy"), "cpu", None, True)


def test_attribute_says_what_a_method_lacks(run: Run, setting: str, tmp_path: Path) -> None:
    run("random")
    (tmp_path / "m.py").write_text(
        f"{HEAD}class M(Method):\n    needs = Needs(fit_rows=99)\n    def attribute(self, task): ...\n"
    )
    with pytest.raises(BenchError, match="m needs 99 fit rows, and there are 20"):
        runner.attribute(setting, str(tmp_path / "m.py"), Path("out/ground-truth"), Path("s.npy"), "cpu", None, True)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return Data(", "raise OSError('no disk') or Data(", "the dataset toy cannot be loaded: OSError: no disk"),
        ("return Data(", "return Dat(", "the dataset toy cannot be loaded: NameError"),
        (".astype(np.float32)", "", "toy: train_x of a dataset must be a float32 array, and it is float64"),
        ("y[40:], 3", "y[40:], 2", "toy: train_y must be in 0 … 1"),
    ],
)
def test_a_bad_dataset_is_one_sentence(
    run: Run, tmp_path: Path, toy_source: str, old: str, new: str, reason: str
) -> None:
    assert old in toy_source
    (tmp_path / "toy.py").write_text(toy_source.replace(old, new))
    with pytest.raises(BenchError, match=reason):
        run("random")


def test_methods_may_be_one_string(setting: str, tmp_path: Path) -> None:
    found = runner.run(setting=setting, methods="random", models=9, out=str(tmp_path / "o"), device="cpu", quiet=True)
    assert [row.name for row in found.methods] == ["random"]


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"no option 'model'; did you mean 'models'\?"):
        runner.run(model=3)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_the_smallest_plan_makes_a_leaderboard_that_reads_back(run: Run, repeats: int) -> None:
    smallest = 2 * repeats + 5
    found = run("random", "heldout", models=smallest, repeats=repeats, tune_rows=0)
    assert results.read(Path("out")) == found
    assert found.rows.eval == 2 * repeats
    with pytest.raises(BenchError, match=f"--models is {smallest - 1}: .* at least {smallest} rows"):
        run("random", models=smallest - 1, repeats=repeats)


def test_more_models_keep_the_rows_that_are_there(run: Run) -> None:
    run("random", models=30)
    before = np.load("out/ground-truth/margins.npy")
    run("random", models=45)
    assert np.array_equal(np.load("out/ground-truth/margins.npy")[:30], before)


def test_a_folder_of_another_setting_is_refused(run: Run) -> None:
    run("random")
    for changed in ({"seed": 1}, {"alpha": 0.4}, {"repeats": 3}, {"output": "max"}):
        with pytest.raises(BenchError, match=f"{'plan' if 'repeats' in changed else next(iter(changed))} .*, not"):
            run("random", **changed)


def test_nothing_is_imported_twice_under_one_name(run: Run, method: Write) -> None:
    run(method("mine", "return task.rng.random((40, 10))"))
    assert "bench_methods_mine" in sys.modules


@pytest.mark.slow
def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = runner.run(setting="digits/logreg", methods=["heldout", "random", "influence"], models=300, quiet=True)
    assert [p.name for p in Path("results").iterdir()] == ["digits-logreg-models300"]
    by_name = named(found)
    influence, heldout, chance = (by_name[name].lds or 0.0 for name in ("influence", "heldout", "random"))
    assert influence > heldout > chance
    assert abs(chance) < 0.05
    assert found.ceiling is not None
    assert found.ceiling.lds > influence


def test_a_plugin_that_opens_the_store_at_import_is_refused(run: Run, tmp_path: Path) -> None:
    run("random")
    path = tmp_path / "early.py"
    path.write_text(
        f"{HEAD}KEPT = np.load({str(tmp_path / 'out' / 'ground-truth' / 'margins.npy')!r})\n"
        "class M(Method):\n    def attribute(self, task): return np.ones((40, 10))\n"
    )
    with pytest.raises(BenchError, match=r"it opened margins\.npy of the ground truth"):
        run(str(path))


def test_attribute_says_in_one_sentence_that_a_method_failed(run: Run, setting: str, method: Write) -> None:
    run("random")
    spec = method("boom", "raise RuntimeError('no\\nluck')")
    with pytest.raises(MethodError, match="boom failed: RuntimeError: no luck"):
        runner.attribute(setting, spec, Path("out/ground-truth"), Path("s.npy"), "cpu", None, True)
    words = ["attribute", setting, "--method", spec, "--store", "out/ground-truth", "--out", "s.npy", "--device", "cpu"]
    assert cli.main(words) == 1
    assert not Path("s.npy").exists()


def test_what_a_method_does_to_the_process_does_not_outlast_it(run: Run, method: Write, tmp_path: Path) -> None:
    import torch

    before = Path.cwd(), torch.get_default_dtype(), torch.get_num_threads()
    wild = method(
        "wild",
        "import os, torch; os.chdir('/'); torch.set_default_dtype(torch.float64); torch.set_num_threads(3); "
        "return np.ones((40, 10)) * np.arange(40)[:, None]",
    )
    found = run(wild, "graddot")
    assert [row.status for row in found.methods] == ["ok", "ok"]
    assert (Path.cwd(), torch.get_default_dtype(), torch.get_num_threads()) == before
    assert (tmp_path / "out" / "leaderboard.json").is_file()


def test_all_and_one_more(method: Write) -> None:
    mine = method("mine", "return 0")
    picked = [one.name for one in methods.chosen(["all", mine, "random"])]
    assert picked[-1] == "mine"
    assert picked.count("random") == 1
    quick = [one.name for one in methods.chosen(None)]
    assert [name for name in picked if name in quick] == quick
    assert {name.partition(":")[0] for name in picked[:-1]} == set(methods.names())


@pytest.mark.parametrize(("name", "value"), [("models", "abc"), ("models", 60.5), ("alpha", "x"), ("output", "foo")])
def test_options_of_the_wrong_type(run: Run, name: str, value: object) -> None:
    with pytest.raises(BenchError, match=f"{name} is {value!r}"):
        run("random", **{name: value})
