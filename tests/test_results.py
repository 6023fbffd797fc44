"""The leaderboard's files: nothing is lost on the way to JSON, CSV, Markdown and HTML."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from bench import results, tables
from bench.errors import InputError
from bench.results import CeilingRow, Cost, Counts, Leaderboard, Row

Floats = NDArray[np.float64]


def row(name: str, lds: float | None = None, **others: Any) -> Row:
    cost = Cost(1.5, 3, 2_000_000, 4.25, 100)
    ci = None if lds is None else (lds - 0.1, lds + 0.1)
    return Row(**{"name": name, "params": {}, "status": "ok", "lds": lds, "ci": ci, "cost": cost, **others})


def board(*rows: Row, **others: Any) -> Leaderboard:
    values: dict[str, Any] = {
        "setting": "toy/mlp",
        "alpha": 0.5,
        "output": "logsumexp",
        "seed": 0,
        "rows": Counts(42, 4, 18, 2),
        "n_train": 40,
        "n_targets": 5,
        "ceiling": CeilingRow(0.9, (0.85, 0.95)),
        "methods": results.ranked(list(rows)),
        "ground_truth": {"path": "ground-truth", "key": "k"},
        "versions": {"python": "3"},
        "hardware": {"cores": "2"},
    }
    return Leaderboard(**(values | others))


MIXED = (
    row("low", 0.1),
    row("gone", status="failed", reason="it | broke", cost=Cost(0.0, 0, 0)),
    row("high", 0.7, n_excluded=1, n_tied=2, notes=["damping 1 was\nbest"]),
    row("none", None, reason="no target has a correlation (predictions constant: 5)"),
    row("later", status="skipped", reason="needs 20 fit rows, and there are 5", cost=Cost(0.0, 0, 0)),
    row("below", -0.3, params={"damping": "tune", "checkpoints": 5}),
)


def per_target(*names: str) -> dict[str, Floats]:
    return {name: np.linspace(-0.2, 0.9, 5) + 0.01 * i for i, name in enumerate(names)}


def test_ranked() -> None:
    found = results.ranked(list(MIXED))
    assert [(r.name, r.rank) for r in found] == [
        ("high", 1),
        ("low", 2),
        ("below", 3),
        ("gone", None),
        ("none", None),
        ("later", None),
    ]


def test_equal_methods_share_a_rank_in_the_order_given() -> None:
    found = results.ranked([row("a", 0.2), row("b", 0.5), row("c", 0.5), row("d", 0.1), row("e", 0.2)])
    assert [(r.name, r.rank) for r in found] == [("b", 1), ("c", 1), ("a", 3), ("e", 3), ("d", 5)]


def test_zero_is_an_lds_and_a_failed_method_has_no_rank() -> None:
    found = results.ranked([row("negative", -0.1), row("zero", 0.0), row("failed", 0.9, status="failed")])
    assert [(r.name, r.rank) for r in found] == [("zero", 1), ("negative", 2), ("failed", None)]
    assert results.ranked([]) == []


def test_files_read_back(tmp_path: Path) -> None:
    made = board(*MIXED)
    values = per_target("low", "high", "below")
    values["high"][2] = np.nan
    results.write(tmp_path, made, values, np.array([3, 1, 4, 1, 5]), np.linspace(1, 2, 5))
    back = results.read(tmp_path)
    assert back.methods[0].notes == ["damping 1 was\nbest"]
    assert back == made
    assert results.read(tmp_path / "leaderboard.json") == made
    found = results.read_per_target(tmp_path)
    assert list(found) == ["low", "high", "below"]
    assert all(np.array_equal(found[name], values[name], equal_nan=True) for name in values)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("leaderboard.json", "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "per_target.csv", "report.html")
    }


def test_json_keeps_every_digit_and_no_nan(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    results.write(tmp_path, board(row("a", value)), per_target("a"), np.arange(5), np.linspace(1, 2, 5))
    found = json.loads((tmp_path / "leaderboard.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert found["methods"][0]["lds"] == value
    assert found["schema"] == 1


def test_csv_parses_back(tmp_path: Path) -> None:
    results.write(
        tmp_path, board(*MIXED, row('x:a="1,2"', 0.65)), per_target("low"), np.arange(5), np.linspace(1, 2, 5)
    )
    with (tmp_path / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["high", 'x:a="1,2"', "low", "below", "gone", "none", "later"]
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4", "", "", ""]
    assert float(lines[0]["lds"]) == 0.7
    assert (float(lines[0]["ci_low"]), float(lines[0]["ci_high"])) == (0.7 - 0.1, 0.7 + 0.1)
    assert lines[4] | {"status": "failed", "reason": "it | broke", "lds": "", "ci_low": ""} == lines[4]
    assert (lines[0]["models"], lines[0]["seconds"], lines[0]["peak_bytes"]) == ("3", "1.5", "2000000")


def test_markdown_parses_back() -> None:
    text = tables.markdown(board(*MIXED, row("pipe:x=a|b", 0.3)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert {len(line) for line in cells} == {len(tables.grid(board(*MIXED)).header)} == {8}
    assert tuple(cells[0]) == tables.grid(board(*MIXED)).header
    assert set("".join(cells[1])) == {"-", ":"}
    assert [line[:3] for line in cells[2:]] == [
        ["1", "high", "0.700"],
        ["2", "pipe:x=a\\|b", "0.300"],
        ["3", "low", "0.100"],
        ["4", "below", "−0.300"],
        ["", "gone", "failed"],
        ["", "none", "–"],
        ["", "later", "skipped"],
    ]
    assert cells[2][3] == "[0.600, 0.800]"
    assert "- gone: failed: it | broke" in text
    assert "- high: damping 1 was best\n" in text
    assert "- below: strongly negative: are its scores of the opposite sign?" in text
    assert "- high: 1 of 5 targets is excluded" in text
    assert "9 held-out subsets × 2 seeds" in text
    assert "Noise ceiling: 0.900 [0.850, 0.950]." in text


def test_plain_text_is_aligned() -> None:
    lines = tables.plain(board(row("a", 0.1), row("a" * 30, 0.2), ceiling=None)).splitlines()
    header = next(line for line in lines if line.startswith("rank"))
    at = lines.index(header)
    ends = {line.index("0." if i else "LDS") + (5 if i else 3) for i, line in enumerate(lines[at : at + 3])}
    assert len(ends) == 1
    assert not any("ceiling" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_a_remark_on_every_method_is_said_once() -> None:
    both = tables.footnotes(board(row("a", 0.1, n_tied=2), row("b", 0.2, n_tied=2)))
    assert both == ["2 of 5 targets have ties (average ranks)"]
    two = tables.footnotes(board(row("a", 0.1, n_tied=2), row("b", 0.2, n_tied=2), row("c", 0.3)))
    assert two == ["0–2 of 5 targets have ties (average ranks)"]
    assert tables.footnotes(board(row("c", 0.3))) == []
    excluded = tables.footnotes(board(row("a", 0.1, n_excluded=2), row("b", 0.2, n_excluded=2), row("c", 0.3)))
    assert excluded == ["b, a: 2 of 5 targets are excluded (no correlation)"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as a leaderboard"),
        (b"{", "cannot be read as a leaderboard"),
        (b"[]", "cannot be read as a leaderboard"),
        (b'{"schema": 1}', "cannot be read as a leaderboard \\(.*setting"),
        (b"\xff\xfe", "cannot be read as a leaderboard"),
    ],
)
def test_a_torn_leaderboard(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "leaderboard.json").write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        results.read(tmp_path)
    assert str(tmp_path / "leaderboard.json") in str(caught.value)


def test_a_leaderboard_of_another_schema(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_bytes(msgspec.json.encode(board(schema=2)))
    with pytest.raises(InputError, match="has schema 2, and this version reads schema 1"):
        results.read(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"leaderboard.json does not exist: name a folder that `bench run` wrote"):
        results.read(tmp_path)
    with pytest.raises(InputError, match=r"per_target.csv cannot be read"):
        results.read_per_target(tmp_path)


def test_to_frame_has_one_row_per_method() -> None:
    frame = board(*MIXED).to_frame()
    assert len(frame) == len(MIXED)
    buffer = io.StringIO(frame.to_csv(index=False))
    assert buffer.readline().startswith("rank,method,lds,")


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0, "0.000"), (-0.25, "−0.250"), (1.0, "1.000")])
def test_numbers_in_tables(value: float | None, text: str) -> None:
    assert tables.lds(value) == text
