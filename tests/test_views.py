"""What was chosen on tune rows, what an LDS costs, and probable sign errors, in every form that a run is shown in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench import results, runner
from bench.results import Cost, Leaderboard, Row, SearchRow
from bench.tables import efficiency, frames, tuning

Main = Callable[..., tuple[int, str, str]]
HEAD = "import numpy as np\nfrom bench.methods import Method, Needs\n"
TUNED = f"""{HEAD}
class M(Method):
    variants = ({{}}, {{"power": "tune"}})
    def __init__(self, power: "float | str" = 0.01, other: int = 3): self.power = power
    def attribute(self, task):
        same = np.equal.outer(task.data.train_y, task.data.test_y) * 2 - 1
        x, t = task.data.train_x, task.data.test_x
        def scores(power): return same * np.abs(x @ t.T) ** power * (np.nan if power == 9 else 1)
        if self.power != "tune": return scores(self.power)
        return task.choose(((p, scores(p)) for p in (0.01, 1.0, 9.0, 2.0)), "power")[1]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_source: str) -> Path:
    """A method with its default and its tuned row, one of the wrong sign, and one that guesses."""
    folder = tmp_path_factory.mktemp("views")
    (folder / "toy.py").write_text(toy_source)
    (folder / "mine.py").write_text(TUNED)
    wrong = "return -1.0 * np.equal.outer(task.data.train_y, task.data.test_y)"
    (folder / "wrong.py").write_text(f"{HEAD}class M(Method):\n    def attribute(self, task):\n        {wrong}\n")
    specs = [f"{folder}/mine.py", f"{folder}/mine.py:power=tune", f"{folder}/wrong.py", "random", "heldout"]
    common: dict[str, Any] = {"setting": f"{folder}/toy.py/logreg", "models": 150, "device": "cpu", "quiet": True}
    runner.run(methods=specs, out=str(folder / "out"), **common)
    again = runner.run(methods=specs, out=str(folder / "out"), **common)  # from the files of the first
    assert again == results.read(folder / "out")
    return folder / "out"


def named(folder: Path) -> dict[str, Row]:
    return {row.name: row for row in results.read(folder).methods}


def test_what_was_tried_is_in_the_result(run: Path, main: Main) -> None:
    row = named(run)["mine:power=tune"]
    (search,) = row.searches
    assert (search.what, list(search.tried), search.tried["9"]) == ("power", ["0.01", "1", "9", "2"], None)
    known = {value: found for value, found in search.tried.items() if found is not None}
    assert search.chosen == max(known, key=lambda value: known[value])
    meta = json.loads((run / "ground-truth/meta.json").read_text())
    tune = np.array(meta["group_of_row"]) == meta["groups"].index("tune")
    masks, margins = (np.load(run / "ground-truth" / f"{name}.npy")[tune] for name in ("masks", "margins"))
    assert known[search.chosen] == pytest.approx(bench.lds(np.load(run / str(row.scores)), masks, margins).mean)
    said = f"power {search.chosen} was best on the tune rows, of 0.01, 1, 9, 2"
    for text in (main("table", str(run))[1], (run / "leaderboard.md").read_text("utf-8")):
        assert said in text
        assert "default → tuned: mine 0." in text
    assert r"default $\to$ tuned: " in (run / "leaderboard.tex").read_text("utf-8")
    frame = results.read(run).to_frame().set_index("method")
    assert frame.loc["mine:power=tune", "tuned"] == f"power={search.chosen}"
    assert frame["tuned"].notna().sum() == 1


def test_default_and_tuned_side_by_side(run: Path, main: Main) -> None:
    rows, board = named(run), results.read(run)
    (line,) = tuning.of(board).to_dict("records")
    assert (line["method"], line["tuned"]) == ("mine", "mine:power=tune")
    assert (line["default_lds"], line["tuned_lds"]) == (rows["mine"].lds, rows["mine:power=tune"].lds)
    assert line["gain"] == pytest.approx(line["tuned_lds"] - line["default_lds"])
    assert line["gain_low"] <= line["gain"] <= line["gain_high"]
    assert "9: –" in line["tried"]
    for kind in ("text", "markdown", "latex", "csv", "json"):
        code, text, error = main("table", str(run), "--what", "tuning", "--format", kind)
        assert (code, error) == (0, "")
        assert "mine" in text
    page = (run / "report.html").read_text("utf-8")
    part = page[page.index('id="tuning-table"') :]
    assert f"power {line['chosen']}" in part[: part.index("</table>")]


def test_the_default_of_a_tuned_row_differs_in_nothing_else() -> None:
    search = [SearchRow("damping", "1", {"0.1": 0.2, "1": 0.3, "10": 0.1})]

    def row(name: str, lds: float, searches: list[SearchRow] | None = None, **params: Any) -> Row:
        return Row(name=name, params=params, status="ok", lds=lds, searches=searches or [])

    rows = [
        row("m:damping=tune,k=2", 0.6, search, damping="tune", k=2),
        row("m:damping=tune", 0.5, search, damping="tune", k=1),
        row("m:damping=0.5", 0.4, damping=0.5, k=1),
        row("m", 0.3, damping=0.0, k=1),
        row("n", 0.2, damping=0.0, k=1),
    ]
    made = board(*rows)
    found = {pair.row.name: pair.default and pair.default.name for pair in tuning.pairs(made)}
    assert found == {"m:damping=tune,k=2": None, "m:damping=tune": "m"}
    assert tuning.sentence(made) == "default → tuned: m 0.300 → 0.500 (damping 1)"
    assert tuning.of(made)["default_lds"].isna().tolist() == [True, False]


def board(*rows: Row) -> Leaderboard:
    values: dict[str, Any] = {
        **{"setting": "toy/mlp", "alpha": 0.5, "output": "logsumexp", "seed": 0, "n_train": 9, "n_targets": 5},
        **{"rows": results.Counts(1, 1, 2, 1), "ceiling": None, "ground_truth": {}, "versions": {}, "hardware": {}},
    }
    return Leaderboard(**values, methods=results.ranked(list(rows)))


@pytest.mark.parametrize(
    ("tried", "chosen", "said"),
    [
        (["1", "2", "3"], "2", "d 2 was best on the tune rows, of 1, 2, 3"),
        (["1", "2", "3", "own"], "own", "d own was best on the tune rows, of 1, 2, 3, own"),
        (
            ["1", "2", "3"],
            "3",
            "d 3 was best on the tune rows, of 1, 2, 3; it is at the end of them, so a better one may lie beyond",
        ),
        (["1", "2"], "1", "d 1 was best on the tune rows, of 1, 2"),
        (["0", "1", "2"], "0", "d 0 was best on the tune rows, of 0, 1, 2"),
        ([str(i) for i in range(9)], "4", "d 4 was best on the tune rows, of 0, 1, …, 8 (9)"),
    ],
)
def test_a_choice_in_words(tried: list[str], chosen: str, said: str) -> None:
    assert tuning.said(SearchRow("d", chosen, dict.fromkeys(tried, 0.1))) == said


def test_a_probable_sign_error_is_flagged_and_not_hidden(run: Path, main: Main) -> None:
    rows = named(run)
    assert {name for name, row in rows.items() if row.probable_sign_error} == {"wrong"}
    assert rows["wrong"].lds is not None
    assert rows["wrong"].lds < -0.2
    assert rows["wrong"].rank == len(rows)
    text = json.loads((run / "leaderboard.json").read_text())
    assert [one["probable_sign_error"] for one in text["methods"] if one["name"] == "wrong"] == [True]
    frame = frames.read_csv(run / "leaderboard.csv", frames.METHODS)
    assert frame["method"][frame["probable_sign_error"].fillna(False)].tolist() == ["wrong"]
    said = "probable sign error: below chance; are its scores of the opposite sign?"
    for table in (main("table", str(run))[1], (run / "leaderboard.md").read_text("utf-8")):
        assert f"wrong: {said}" in table
    assert said in (run / "report.html").read_text("utf-8")


def test_lds_per_model(run: Path, main: Main) -> None:
    frame = efficiency.of(results.read(run)).set_index("method")
    for name, row in named(run).items():
        assert row.cost is not None
        assert row.lds is not None
        wanted = row.lds / row.cost.models if row.cost.models else np.nan
        np.testing.assert_equal(frame.loc[name, "lds_per_model"], wanted)
    assert frame["lds_per_model"].dropna().is_monotonic_decreasing
    assert not frame.loc["wrong", "front_models"]
    code, text, _ = main("table", str(run), "--what", "efficiency", "--sort", "lds")
    assert code == 0
    assert text.splitlines()[1].startswith(results.read(run).methods[0].name)
    assert set(text.split()) >= {"yes", "no", "–"}


@pytest.mark.parametrize("column", ["models", "train_seconds", "seconds", "peak_bytes", "disk_bytes"])
def test_any_cost_sorts_and_unknown_ones_come_last(run: Path, main: Main, tmp_path: Path, column: str) -> None:
    made = results.read(run)
    rows = [msgspec.structs.replace(row, cost=None) if row.name == "heldout" else row for row in made.methods]
    (tmp_path / "leaderboard.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(made, methods=rows)))
    code, text, _ = main("table", str(tmp_path), "--sort", column, "--format", "csv")
    assert code == 0
    lines = [line.split(",") for line in text.splitlines()]
    values = [line[lines[0].index(column)] for line in lines[1:]]
    assert values[-1] == ""
    known = [float(value) for value in values[:-1]]
    assert known == sorted(known)  # the cheapest first


@given(st.lists(st.tuples(st.integers(0, 4) | st.none(), st.integers(-3, 5)), max_size=7))
def test_the_front_has_all_that_nothing_beats(drawn: list[tuple[int | None, int]]) -> None:
    rows = [
        Row(name=str(i), params={}, status="ok", lds=lds / 10, cost=None if models is None else Cost(1.0, models, 0))
        for i, (models, lds) in enumerate(drawn)
    ]
    found = {(row.cost.models, row.lds) for row in efficiency.front(rows, efficiency.models) if row.cost is not None}
    points = {(models, lds / 10) for models, lds in drawn if models is not None and lds > 0}
    wanted = {(a, b) for a, b in points if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in points)}
    assert found == wanted
