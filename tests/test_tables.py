"""Tables in every form: what is written reads back, and the published schemas are what is written."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pandas as pd
import pytest

import bench
from bench import results
from bench.judge import Judge
from bench.rows import Rows
from bench.tables import cli as table_cli
from bench.tables import frames, json_schema, latex, markdown, plain

Main = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    bench.run(setting="digits/logreg", models=90, methods=["heldout", "random"], out=str(folder), quiet=True)
    return folder


def test_published_schemas_are_current() -> None:
    for name, text in json_schema.made().items():
        there = (json_schema.FOLDER / f"{name}.json").read_text("utf-8")
        assert there == text, "run: python -m bench.tables.json_schema"


@pytest.mark.parametrize("name", ["leaderboard", "baseline"])
def test_files_of_a_run_fit_their_schema(run: Path, main: Main, name: str) -> None:
    code, text, _ = main("schema", name)
    assert code == 0
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads((run / f"{name}.json").read_text("utf-8"))
    jsonschema.validate(found, schema)
    for broken in ({**found, "methods": 3}, {k: v for k, v in found.items() if k != "methods"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
    if name == "leaderboard":
        found["methods"][0]["lds"] = 2.5
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found, schema)


def test_records_and_baselines_fit_their_schema() -> None:
    for path in [*ROOT.glob("results/records/*/leaderboard.json"), *ROOT.glob("results/baselines/*.json")]:
        name = "leaderboard" if path.name == "leaderboard.json" else "baseline"
        jsonschema.validate(json.loads(path.read_text("utf-8")), json.loads(json_schema.made()[name]))


def test_csv_reads_back_exactly(run: Path, main: Main) -> None:
    board = results.read(run)
    frame = board.to_frame()
    assert list(frame.columns) == list(frames.METHODS)
    assert (run / "leaderboard.csv").read_text("utf-8") == frames.csv_text(frame)
    pd.testing.assert_frame_equal(frames.read_csv(run / "leaderboard.csv", frames.METHODS), frame)
    assert frame["lds"].tolist() == [row.lds for row in board.methods]
    assert main("table", str(run), "--what", "pairs", "--out", "pairs.csv")[0] == 0
    pd.testing.assert_frame_equal(frames.read_csv(Path("pairs.csv"), frames.PAIRS), board.pairs_frame())


def test_parquet_and_json_hold_every_target(run: Path, main: Main) -> None:
    pytest.importorskip("pyarrow")
    wide = results.read_per_target(run)
    assert main("table", str(run), "--what", "per-target", "--out", "t.parquet")[0] == 0
    frame = pd.read_parquet("t.parquet")
    assert list(frame.columns) == list(frames.PER_TARGET)
    for name, values in wide.items():
        np.testing.assert_array_equal(frame["lds"][frame["method"] == name], values)
    code, text, _ = main("table", str(run), "--what", "per-target", "--format", "json")
    assert code == 0
    assert len(json.loads(text)) == len(frame)
    code, text, _ = main("table", str(run), "--what", "per-target", "--format", "csv")
    assert len(pd.read_csv(io.StringIO(text))) == len(frame)


@pytest.mark.parametrize("what", ["leaderboard", "pairs", "per-target"])
@pytest.mark.parametrize("kind", ["text", "markdown", "latex", "csv", "json"])
def test_every_form(run: Path, main: Main, what: str, kind: str) -> None:
    code, text, error = main("table", str(run), "--what", what, "--format", kind)
    assert (code, error) == (0, "")
    assert "heldout" in text
    if kind == "latex" and what == "leaderboard":
        assert r"of \texttt{digits/logreg} on 12 held-out subsets" in text
    if kind == "latex":
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()[1:]
        rows = [line for line in body if line.endswith(r"\\")]
        assert len({line.count("&") for line in rows}) == 1
    if kind == "json":
        json.loads(text)


def test_sorting(run: Path, main: Main) -> None:
    def first(*words: str) -> str:
        code, text, error = main("table", str(run), "--format", "csv", "--sort", *words)
        assert (code, error) == (0, "")
        return str(pd.read_csv(io.StringIO(text))["method"][0])

    by = {name: first(name) for name in ("models", "method", "lds", "rank")}
    assert by == {"models": "random", "method": "heldout", "lds": "heldout", "rank": "heldout"}  # random: no model
    assert first("models", "--descending") == "heldout"
    assert first("lds", "--ascending") == "random"
    headings = {"training": "train_seconds", "attributing": "seconds", "memory": "peak_bytes", "disk": "disk_bytes"}
    for heading, column in headings.items():
        assert first(heading) == first(column)
    code, _, error = main("table", str(run), "--sort", "second")
    assert (code, "did you mean 'seconds'" in error) == (2, True)
    for words, said in (
        (["--ascending"], "--ascending says nothing without --sort COLUMN"),
        (["--sort", "lds", "--ascending", "--descending"], "not allowed with"),
    ):
        code, text, error = main("table", str(run), *words)
        assert (code, text, said in error) == (2, "", True)


@pytest.mark.parametrize("upwards", [True, False])
def test_what_has_no_cost_is_last_either_way(run: Path, *, upwards: bool) -> None:
    board = results.read(run)
    failed = results.Row(name="broken", params={}, status="failed", reason="1 / 0")
    frame = msgspec.structs.replace(board, methods=[failed, *board.methods]).to_frame()
    made = table_cli._sorted(frame, table_cli.Sort("disk_bytes", upwards))["method"].tolist()
    ordered = sorted(board.methods, key=lambda row: row.cost.disk_bytes if row.cost else 0, reverse=not upwards)
    assert made == [*(row.name for row in ordered), "broken"]


@pytest.mark.parametrize("kind", ["text", "markdown", "latex"])
def test_a_table_shows_what_it_is_sorted_by(run: Path, main: Main, kind: str) -> None:
    made = {name: main("table", str(run), "--format", kind, "--sort", name) for name in ("disk_bytes", "models", "lds")}
    shown = {name: "disk" in text for name, (_, text, _) in made.items()}
    assert shown == {"disk_bytes": True, "models": False, "lds": False}
    for value in results.read(run).to_frame()["disk_bytes"]:
        assert str(value) in made["disk_bytes"][1]
    if kind == "latex":
        assert len({line.count("&") for line in made["disk_bytes"][1].splitlines() if line.endswith(r"\\")}) == 1


def test_bad_requests(run: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, said in (
        (["--format", "parquet"], "name a file with --out"),
        (["--out", "table.xlsx"], "whose ending names no format"),
    ):
        code, text, error = main("table", str(run), *words)
        assert (code, text) == (2, "")
        assert said in error
    code, _, error = main("table", "nowhere")
    assert (code, "does not exist" in error) == (2, True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, error = main("table", str(run), "--what", "per-target", "--out", "t.parquet")
    assert (code, "pip install 'ldsbench[parquet]'" in error) == (2, True)
    assert not Path("t.parquet").exists()


EDITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "lds": (lambda b: b["methods"][0].update(lds=0.9), "methods[0] (heldout).lds is 0.9, outside its ci"),
    "nan": (lambda b: b["methods"][0].update(lds=float("nan")), "methods[0].lds is nan"),
    "rank": (lambda b: b["methods"][0].update(rank=9), "methods[0] (heldout).rank is 9"),
    "rank interval": (lambda b: b["methods"][0].update(rank_ci=[2, 2]), "methods[0] (heldout).rank_ci is [2, 2]"),
    "twice": (lambda b: b["methods"].append(b["methods"][0]), "methods has 'heldout' twice"),
    "order": (lambda b: b["methods"].reverse(), "methods[0] (random)"),
    "pairs": (lambda b: b.update(pairs=[]), "pairs has 0 entries for 2 methods"),
    "difference": (lambda b: b["pairs"][0].update(difference=0.5), "pairs[0].difference is 0.5"),
    "schema": (lambda b: b.update(schema=2), "has schema 2"),
    "text": (lambda b: b.update(schema="1"), "$.schema"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("verb", ["table", "report"])
def test_an_edited_leaderboard_is_refused(run: Path, main: Main, tmp_path: Path, edit: str, verb: str) -> None:
    change, said = EDITS[edit]
    board = json.loads((run / "leaderboard.json").read_text("utf-8"))
    change(board)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "leaderboard.json").write_text(json.dumps(board), "utf-8")
    code, text, error = main(verb, "run")
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["leaderboard.json"]


def test_edited_targets_are_refused(run: Path, main: Main, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "per_target.csv"
    frame = pd.read_csv(path)
    frame["heldout"] = frame["heldout"].where(frame.index != 3, 0.99)
    frame.to_csv(path, index=False)
    for words in (["table", "run", "--what", "per-target"], ["report", "run", "--no-curve", "--targets", "0"]):
        code, text, error = main(*words)
        assert (code, text) == (2, "")
        assert "the column 'heldout' has the mean" in error


def test_schemas_refuse_another_version(run: Path) -> None:
    for name in ("leaderboard", "baseline"):
        found, schema = json.loads((run / f"{name}.json").read_text("utf-8")), json.loads(json_schema.made()[name])
        versions: list[dict[str, Any]] = [{**found, "schema": 2}, {k: v for k, v in found.items() if k != "schema"}]
        for other in versions:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(other, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "foo": 1}, schema)


def test_constant_margins_have_no_ceiling_and_read_back() -> None:
    """A ceiling that is not a number would be written as null."""
    rows = Rows(np.arange(12), np.eye(12, dtype=bool), np.ones((12, 3), np.float32), np.arange(12))
    judge = Judge.of(rows, 2)
    assert judge.ceiling is None
    assert judge.why_no_ceiling == "no target's margins vary over the subsets"


def test_what_the_table_says(run: Path) -> None:
    board = results.read(run)
    text = plain(board)
    assert "of ceiling" in text
    assert "group: methods that share a letter are not distinguishable" in text
    assert "chance: 95% of independent random scores" in text
    old = results.read(ROOT / "results" / "records" / "digits-mlp-variants")
    for column in ("of ceiling", "group"):
        assert column not in markdown(old).splitlines()[2] or old.methods[0].group


def test_latex_escapes() -> None:
    assert latex.escape(r"a_b & 50% $x$ \ {~}") == (r"a\_b \& 50\% \$x\$ \textbackslash{} \{\textasciitilde{}\}")
