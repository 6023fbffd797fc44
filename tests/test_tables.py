"""Tables in every form: what is written reads back, and the published schemas are what is written."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import bench
from bench import results
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
    by = {name: main("table", str(run), "--format", "csv", "--sort", name)[1] for name in ("models", "method", "lds")}
    first = {name: pd.read_csv(io.StringIO(text))["method"][0] for name, text in by.items()}
    assert first == {"models": "heldout", "method": "heldout", "lds": "heldout"}
    code, _, error = main("table", str(run), "--sort", "second")
    assert (code, "did you mean 'seconds'" in error) == (2, True)


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


def test_what_the_table_says(run: Path) -> None:
    board = results.read(run)
    text = plain(board)
    assert "of ceiling" in text
    assert "group: methods that share a letter are not distinguishable" in text
    assert "chance: 95% of independent random scores" in text
    old = results.read(ROOT / "results" / "records" / "mnist-logreg-repeats1")
    for column in ("of ceiling", "group"):
        assert column not in markdown(old).splitlines()[2] or old.methods[0].group


def test_latex_escapes() -> None:
    assert latex.escape(r"a_b & 50% $x$ \ {~}") == (r"a\_b \& 50\% \$x\$ \textbackslash{} \{\textasciitilde{}\}")
