"""report.html: whole, escaped, the same for the same run, and true to the numbers that it is made from."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bench import hashing, report, results
from bench.datasets import Data
from bench.errors import InputError
from bench.report import gallery, images, labels, markup, plots, svg, table
from bench.results import (
    CeilingRow,
    Chance,
    Cost,
    Counts,
    Leaderboard,
    Pair,
    Row,
    ShareRow,
    SpreadRow,
)
from bench.tables import efficiency

Floats = NDArray[np.float64]
NASTY = "<script>alert('x')</script>|a & \"b\" $x_1$ </style>"
RECORDS = Path(__file__).parent.parent / "results/records"
LEVELS = ("0.05", "0.25", "0.5", "0.75", "0.95")


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


def full(name: str, lds: float) -> Row:
    """A row with everything that a row can have."""
    return row(
        name,
        lds,
        rank_ci=(1, 2),
        group="ab",
        of_ceiling=ShareRow(lds / 0.9, (lds / 0.9 - 0.1, lds / 0.9 + 0.1)),
        p_value=0.0001 if lds > 0.3 else 0.4,
        spread=SpreadRow(
            dict(zip(LEVELS, (lds + step for step in (-0.2, -0.1, 0, 0.1, 0.2)), strict=True)),
            0.2,
            {"0": lds, "1": None, "2": -lds},
            [lds, None, 0.0, lds, lds],
        ),
    )


MIXED = (
    full("low", 0.1),
    row("gone", status="failed", reason="it | broke", cost=Cost(0.0, 0, 0)),
    full("high", 0.7),
    row("none", None, reason="no target has a correlation (predictions constant: 5)"),
    row("later", status="skipped", reason="needs 20 fit rows, and there are 5", cost=Cost(0.0, 0, 0)),
    row("below", -0.3, params={"damping": "tune", "checkpoints": 5}),
)


def per_target(*names: str) -> dict[str, Floats]:
    return {name: np.linspace(-0.2, 0.9, 5) + 0.01 * i for i, name in enumerate(names)}


class Page(HTMLParser):
    """Checks that tags nest, and collects texts and attributes."""

    VOID = ("meta", "input", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def tags(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag in names]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# ---- the page ----


def test_one_well_formed_page_that_needs_no_network() -> None:
    made = board(
        *MIXED,
        chance=Chance(0.001, 0.6, (-0.02, 0.02), 0.01, 9999),
        pairs=[Pair("high", "low", 0.6, (0.5, 0.7), 0.0001, 0.0002)],
        command="python -m bench run toy/mlp",
        hashes={"data": "d4"},
    )
    text = report.html(made, per_target("low", "high", "below"))
    page = Page(text)
    assert not page.tags("link", "img", "iframe", "object", "base", "form")
    addresses = [a[key] or "" for _, a in page.seen for key in ("src", "href", "srcset", "action") if key in a]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", text)
    assert not any(key.startswith("on") or key == "style" for _, a in page.seen for key in a)
    body = text[text.index("<body>") : text.index("<script>")]
    assert not re.search(r"\bnan\b|\bNone\b|>−0\.000?<|#0000\d\d", body)
    for wanted in ("high", "0.700", "[0.600, 0.800]", "failed", "toy/mlp", "it | broke", "< 0.001", "78%", "d4"):
        assert wanted in page.texts or f" {wanted}" in page.texts or wanted in page.text, wanted
    assert "random scores that know nothing reach an LDS of 0.001 here (p = 0.600)" in page.text
    assert "1 of 1 pair can be told apart" in page.text


def test_headings_labels_and_descriptions() -> None:
    page = Page(report.html(board(*MIXED), per_target("low", "high")))
    levels = [int(tag[1]) for tag, _ in page.seen if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in page.seen if "id" in a]
    assert len(set(ids)) == len(ids)
    pointed = {
        word
        for _, a in page.seen
        for key in ("aria-labelledby", "aria-describedby")
        for word in (a.get(key) or "").split()
    }
    pointed |= {(a["href"] or "")[1:] for _, a in page.seen if "href" in a} | {
        str(a["for"]) for a in page.tags("label")
    }
    assert pointed <= set(ids)
    assert all({"scope"} <= set(a) for a in page.tags("th"))
    drawn = [a for a in page.tags("svg") if a.get("aria-hidden") != "true"]
    assert len(drawn) == 1 + 2 + 2
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in drawn)
    assert len(page.tags("title")) == 1 + len(drawn)
    assert len(page.tags("desc")) == len(drawn)


def test_the_policy_allows_exactly_what_is_in_the_page() -> None:
    text = report.html(board(*MIXED), {})
    policy = next(str(a["content"]) for a in Page(text).tags("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert markup.source_hash(content) in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_what_others_named_is_escaped() -> None:
    made = board(
        row(NASTY, 0.2, notes=[NASTY], params={NASTY: NASTY}, group=NASTY, spread=full("", 0.5).spread),
        row("b", status="failed", reason=NASTY),
        row("b\x00\x1b[31m\ud800", 0.1),
        setting=NASTY,
        versions={NASTY: NASTY},
        hardware={NASTY: NASTY},
        hashes={NASTY: NASTY},
        data={NASTY: f"{NASTY} not the published"},
        modified_data=True,
        command=NASTY,
        why_no_ceiling=NASTY,
        ceiling=None,
        pairs=[Pair(NASTY, NASTY, 0.1, (0.0, 0.2), 0.5, 0.5)],
    )
    text = report.html(made, {NASTY: np.linspace(0, 1, 5)}, NASTY, NASTY)
    page = Page(text)
    assert len(page.tags("script")) == 1
    assert page.text.count("alert('x')") > 20
    assert "alert('x')</script>" not in text
    assert text.encode()
    assert "\x00" not in text
    assert "\x1b" not in text


def test_the_same_run_makes_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    made, values = board(*MIXED), per_target("low", "high")
    first = report.html(made, values)
    monkeypatch.setitem(mpl.rcParams, "font.size", 33.0)  # a matplotlibrc of the user's
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")
    before = dict(mpl.rcParams)
    assert report.html(made, values) == first
    assert dict(mpl.rcParams) == before
    assert '"red"' not in first


@pytest.mark.parametrize("rows", [(), (row("a", status="failed", reason="x"),), (row("a", None),)])
def test_without_any_score(rows: tuple[Row, ...]) -> None:
    page = Page(report.html(board(*rows, ceiling=None), {}))
    assert not [a for a in page.tags("svg") if a.get("aria-hidden") != "true"]
    assert "There are no examples here: none were asked for." in page.text


def test_one_method_excluded_targets_and_a_very_negative_one() -> None:
    values = {"a": np.array([np.nan, -0.9, -0.95, -0.8, np.nan])}
    page = Page(report.html(board(row("a", -0.9), ceiling=None, why_no_ceiling="one seed"), values))
    assert "100% below 0" in page.text
    assert "There is no noise ceiling: one seed." in page.text
    assert "Histogram of the LDS of 3 targets, a" in page.text
    Page(report.html(board(row("a", 0.4, ci=None)), {"a": np.full(5, np.nan)}))


@pytest.mark.parametrize("folder", sorted(p.parent for p in RECORDS.glob("*/leaderboard.json")), ids=lambda p: p.name)
def test_leaderboards_of_before(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "leaderboard.json", tmp_path)
    made = results.read(tmp_path)
    report.write(tmp_path, made, {}, "they are not at hand")
    page = Page((tmp_path / "report.html").read_text())
    for method in made.methods:
        assert method.name.replace(":", ": ").replace(",", ", ") in page.text or method.name in page.text
    assert "There are no examples here: they are not at hand." in page.text


# ---- the table ----


def test_rows_carry_what_they_are_sorted_by() -> None:
    page = Page(table.ranked(board(*MIXED)))
    lines = [a for a in page.tags("tr") if "data-method" in a]
    assert [a["data-method"] for a in lines] == ["high", "low", "below", "gone", "none", "later"]
    assert [a.get("data-lds") for a in lines] == ["0.7", "0.1", "-0.3", None, None, None]
    assert [a.get("data-rank") for a in lines] == ["1", "2", "3", None, None, None]
    assert [a.get("data-p") for a in lines][:3] == ["0.0001", "0.4", None]
    keys = [a["data-key"] for a in page.tags("button")]
    assert keys == [
        "rank",
        "method",
        "lds",
        "group",
        "share",
        "p",
        "models",
        "ratio",
        "training",
        "attributing",
        "memory",
        "disk",
    ]
    assert {f"data-{key}" for key in keys} <= set(lines[0])
    assert [a.get("aria-sort") for a in page.tags("th") if a.get("scope") == "col"] == ["ascending"] + [None] * 11


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 0.3)), min_size=1, max_size=6), st.floats(0.01, 1))
def test_bars_are_to_scale(values: list[tuple[float, float]], ceiling: float) -> None:
    rows = [row(f"m{i}", lds, ci=(lds - half, lds + half)) for i, (lds, half) in enumerate(values)]
    made = board(*rows, ceiling=CeilingRow(ceiling, (ceiling, ceiling)))
    page = Page(table.ranked(made))
    zero = {float(a["x1"] or "") for a in page.tags("line") if a["class"] == "zero"}
    (ceiling_at,) = {float(a["x1"] or "") for a in page.tags("line") if a["class"] == "ceiling"}
    assert len(zero) == 1
    per_unit = (ceiling_at - zero.pop()) / ceiling
    bars = [(float(a["x"] or ""), float(a["width"] or "")) for a in page.tags("rect")]
    for one, (start, width) in zip(made.methods, bars, strict=True):
        assert one.lds is not None
        assert width == pytest.approx(abs(one.lds) * per_unit, abs=0.2 + 0.1 / ceiling)
        assert 0 <= start <= start + width <= table._WIDTH


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (1234.5, "1,234 s")],
)
def test_seconds(value: float, text: str) -> None:
    assert table.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(240_000, "240 kB"), (2e6, "2 MB"), (1.26e9, "1.3 GB")])
def test_sizes(value: float, text: str) -> None:
    assert table.size(value) == text


# ---- plots ----


def test_the_front_is_what_nothing_beats_in_both() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.integers(1, 6, 8).astype(float), rng.integers(-3, 6, 8) / 10
        rows = [row(str(i), float(value)) for i, value in enumerate(y)]
        rows = [msgspec.structs.replace(one, cost=Cost(0.0, int(cost), 0)) for one, cost in zip(rows, x, strict=True)]
        front = [int(one.name) for one in efficiency.front(rows, efficiency.models)]
        beaten = [
            any((x[j] <= x[i] and y[j] >= y[i]) and (x[j] < x[i] or y[j] > y[i]) for j in range(8)) for i in range(8)
        ]
        wanted = {(x[i], y[i]) for i in range(8) if y[i] > 0 and not beaten[i]}
        assert {(x[i], y[i]) for i in front} == wanted
        assert len(front) == len(wanted)


def test_a_method_no_better_than_chance_is_not_on_the_front() -> None:
    rows = [row("a", 0.1, p_value=0.3), row("b", 0.2, p_value=0.001), row("c", 0.9, p_value=0.001)]
    price = {"a": 1.0, "b": 2.0, "c": None}
    assert efficiency.front(rows, lambda one: price[one.name]) == [rows[1]]


def test_plots_hold_text_and_the_page_colours() -> None:
    with svg.style():
        made = plots.standings(board(*MIXED), per_target("low", "high")) + plots.costs(board(*MIXED))
    page = Page(made)
    assert page.texts.count("high") == 3
    assert "0.6" in page.texts
    colours = {a[key] for _, a in page.seen for key in ("fill", "stroke") if a.get(key)}
    assert colours <= {"none", *(f"var(--{name})" for name in ("ink", "soft", "line", "mark", "band", "paper"))}
    assert "var(--mark)" in colours


def test_histograms_count_every_target() -> None:
    values = {"a": np.array([0.1, 0.1, 0.5, np.nan, 0.9]), "b": np.array([-0.35, 0.2, 0.2, 0.2, 0.2])}
    with svg.style():
        page = Page(plots.histograms(board(row("a", 0.4), row("b", 0.1), row("c", 0.2)), values))
    assert len(page.tags("svg")) == 2
    assert "median 0.30, middle half 0.10 to 0.60, 0% below 0" in page.text
    assert "median 0.20, middle half 0.20 to 0.20, 20% below 0" in page.text


def test_names_lie_on_nothing_where_there_is_room() -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(5, 4)).add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    x, y = [1.0, 1.1, 5.0, 5.0, 9.9], [5.0, 5.1, 5.0, 5.4, 5.0]
    spots = labels.placed(axes, x, y, ["name"] * 5)
    assert [spot.at for spot in spots] == list(zip(x, y, strict=True))
    boxes = []
    for spot in spots:
        a, b = spot.at[0] * 28.8 + 36 + spot.offset[0], spot.at[1] * 23.04 + 28.8 + spot.offset[1]
        start = a - {"left": 0, "center": 9, "right": 18}[spot.align]
        boxes.append((start, b - 5, start + 18, b + 5))
    assert all(labels._overlap(p, q) == 0 for i, p in enumerate(boxes) for q in boxes[:i])


# ---- examples of single targets ----


def dataset(n_train: int = 60, n_targets: int = 9, shape: tuple[int, ...] = (16,), **others: Any) -> Data:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((n_train + n_targets, *shape)).astype(np.float32)
    y = rng.integers(0, 3, n_train + n_targets)
    return Data(x[:n_train], y[:n_train], x[n_train:], y[n_train:], 3, **others)


def run_of(data: Data, folder: Path, *names: str) -> tuple[Leaderboard, dict[str, Floats], dict[str, Floats]]:
    """A leaderboard, its LDS per target, and its score matrices, which lie in the folder."""
    rng = np.random.default_rng(4)
    scores = {name: rng.standard_normal((data.n_train, data.n_targets)).round(1) for name in names}
    (folder / "scores").mkdir()
    rows = []
    for i, (name, matrix) in enumerate(scores.items()):
        np.save(folder / f"scores/{i}.npy", matrix.astype(np.float32))
        rows.append(row(name, 0.5 - 0.1 * i, scores=f"scores/{i}.npy"))
    made = board(*rows, n_train=data.n_train, n_targets=data.n_targets, hashes={"data": hashing.data(data)})
    lds = {name: rng.uniform(-1, 1, data.n_targets) for name in names}
    return made, lds, scores


def test_the_examples_are_those_of_a_full_sort(tmp_path: Path) -> None:
    data = dataset()
    made, lds, scores = run_of(data, tmp_path, "a", "b")
    scores["b"] = np.where(np.abs(scores["b"]) < 1.8, 0, scores["b"])  # few are not zero, as with LASSO
    np.save(tmp_path / "scores/1.npy", scores["b"].astype(np.float32))
    found = gallery.gather(made, lds, data, tmp_path)
    assert isinstance(found, gallery.Gallery)
    told = json.loads(markup.json(found.as_json()))
    assert told["targets"] == list(range(9))
    assert told["labels"] == data.test_y.tolist()
    assert [data.train_y[at] for at in told["train"]] == told["trainLabels"]
    for one, matrix in zip(told["methods"], scores.values(), strict=True):
        np.testing.assert_allclose(one["lds"], lds[one["name"]], atol=5e-4)
        at = np.array(one["at"]).reshape(9, 2, told["each"])
        score = np.array(one["score"], float).reshape(9, 2, told["each"])
        for target in range(9):
            for side, order in (
                (0, np.argsort(-matrix[:, target], kind="stable")),
                (1, np.argsort(matrix[:, target], kind="stable")),
            ):
                wanted = [
                    i for i in order[: told["each"]] if (matrix[i, target] > 0) == (side == 0) and matrix[i, target]
                ]
                shown = [told["train"][place] for place in at[target, side] if place >= 0]
                assert shown == wanted
                np.testing.assert_allclose(score[target, side, : len(wanted)], matrix[wanted, target], rtol=5e-3)
                assert np.isnan(score[target, side, len(wanted) :]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.integers(1, 6))
def test_top_is_a_stable_sort(line: list[int], k: int) -> None:
    at, score = gallery.top(np.array([line], float), k)
    for side, sign in enumerate((1, -1)):
        wanted = [i for i in sorted(range(len(line)), key=lambda i: -sign * line[i]) if sign * line[i] > 0][:k]
        assert [i for i in at[0, side] if i >= 0] == wanted
        assert score[0, side, : len(wanted)].tolist() == [line[i] for i in wanted]


def test_few_targets_are_spread_evenly_with_the_extremes() -> None:
    values = {"a": np.sin(np.arange(1000.0)), "b": np.cos(np.arange(1000.0))}
    values["a"][:7] = np.nan
    shown = gallery.choose(1000, values)
    assert 200 <= len(shown) <= 220
    assert {int(np.nanargmax(v)) for v in values.values()} | {int(np.nanargmin(v)) for v in values.values()} <= set(
        shown
    )
    assert np.diff(shown).max() <= 6
    assert len(gallery.choose(400, values)) == 400
    assert len(gallery.choose(1000, {}, 7)) == 7
    assert gallery.choose(3, {}, 99).tolist() == [0, 1, 2]


def _decoded(sheet: images.Sheet) -> NDArray[np.uint8]:
    kind, _, content = sheet.url.partition(",")
    assert re.fullmatch(r"data:image/(png|jpeg);base64", kind)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_pictures_are_the_pixels() -> None:
    data = dataset(image=(1, 2, 8))
    pixels = images.Pixels.of(data)
    assert pixels is not None
    sheet = pixels.sheet(data.train_x[10:17])
    whole = _decoded(sheet)
    assert whole.shape == (2 * sheet.rows, 8 * sheet.columns)
    assert sheet.aspect == 4
    low, high = data.train_x.min(), data.train_x.max()
    for at in range(7):
        y, x = at // sheet.columns * 2, at % sheet.columns * 8
        wanted = np.rint(255 * (data.train_x[10 + at].reshape(2, 8) - low) / (high - low))
        np.testing.assert_array_equal(whole[y : y + 2, x : x + 8], wanted)
    bright = pixels.bytes_of(np.full(16, 1e9, np.float32))
    assert (bright == 255).all()


def test_colour_pictures_and_large_ones() -> None:
    data = dataset(shape=(3, 96, 48))
    pixels = images.Pixels.of(data)
    assert pixels is not None
    whole = _decoded(pixels.sheet(np.full((5, 3, 96, 48), 0, np.float32)))
    assert whole.ndim == 3
    assert whole.shape[0] % 64 == 0
    assert whole.shape[1] % 32 == 0
    assert np.ptp(whole[:32, :16].reshape(-1, 3), axis=0).max() <= 2
    wanted = 255 * (0 - data.train_x.min((0, 2, 3))) / np.ptp(data.train_x, (0, 2, 3))
    np.testing.assert_allclose(whole[8, 8], wanted, atol=3)


@pytest.mark.parametrize(
    ("shape", "image", "wanted"),
    [
        ((64,), (), None),
        ((64,), (1, 8, 8), (1, 8, 8)),
        ((3, 4, 5), (), (3, 4, 5)),
        ((5, 4, 3), (), None),
        ((60,), (3, 4, 5), (3, 4, 5)),
        ((60,), (5, 4, 3), None),
    ],
)
def test_what_is_an_image(shape: tuple[int, ...], image: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    assert images.shape_of(dataset(shape=shape, image=image)) == wanted


@pytest.mark.parametrize("image", [(8, 8), (1, 8, 9)])
def test_an_image_that_is_none_is_refused(image: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"image of a dataset must be \(channels, height, width\) of 16 numbers"):
        dataset(image=image)
    with pytest.raises(InputError, match="class_names of a dataset has 2 names for 3 classes"):
        dataset(class_names=("a", "b"))


def test_a_page_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(400, 60, (3, 16, 16))
    made, lds, _ = run_of(data, tmp_path, "a", "b", "c")
    for most in (300_000, 80_000, 20_000):
        monkeypatch.setattr(gallery, "_MOST_BYTES", most)
        found = gallery.gather(made, lds, data, tmp_path)
        assert isinstance(found, gallery.Gallery)
        assert len(markup.json(found.as_json())) < 1.15 * most
        assert len(found.targets) >= 1
        if most == 20_000:
            assert len(found.targets) < 60
            assert len(found.train) < 400


def test_only_pictures_that_are_shown_are_in_the_page(tmp_path: Path) -> None:
    data = dataset(2000, 3, (4,), image=(1, 2, 2))
    made, lds, _ = run_of(data, tmp_path, "a")
    found = gallery.gather(made, lds, data, tmp_path)
    assert isinstance(found, gallery.Gallery)
    assert len(found.train) <= 3 * 2 * 8
    assert found.train_sheet is not None
    assert found.train_sheet.columns * found.train_sheet.rows < 100
    report.write(tmp_path, made, lds, data)
    page = Page((tmp_path / "report.html").read_text())
    assert "the training images that a method says" in page.text
    assert len(page.tags("script")) == 2


def test_examples_that_are_no_images(tmp_path: Path) -> None:
    data = dataset(shape=(2,), class_names=("x", "</script><b>y", "z"))
    made, lds, _ = run_of(data, tmp_path, NASTY)
    found = gallery.gather(made, lds, data, tmp_path)
    assert isinstance(found, gallery.Gallery)
    told = found.as_json()
    assert (told["targetSheet"], told["trainSheet"]) == (None, None)
    assert told["targetFeatures"][2] == ", ".join(f"{v:.2f}".replace("-", "−") for v in data.test_x[2])
    many = dataset(shape=(50,))
    (tmp_path / "many").mkdir()
    made, lds, _ = run_of(many, tmp_path / "many", NASTY)
    found = gallery.gather(made, lds, many, tmp_path / "many")
    assert isinstance(found, gallery.Gallery)
    assert found.train_features is None
    text = report.html(made, lds, found)
    assert len(Page(text).tags("script")) == 2
    (held,) = re.findall('id="gallery-data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(held)["methods"][0]["name"] == NASTY


def test_why_there_are_no_examples(tmp_path: Path) -> None:
    data = dataset()
    made, lds, _ = run_of(data, tmp_path, "a", "b")
    other = dataset(shape=(2,))
    assert "their hashes differ" in str(gallery.gather(made, lds, other, tmp_path))
    assert "the run is of 60 training examples × 9 targets" in str(gallery.gather(made, lds, dataset(61), tmp_path))
    assert "--targets 0" in str(gallery.gather(made, lds, data, tmp_path, 0))
    old = msgspec.structs.replace(made, hashes={})
    assert "does not say by a hash" in str(gallery.gather(old, lds, data, tmp_path))
    (tmp_path / "scores/0.npy").write_bytes(b"torn")
    found = gallery.gather(made, lds, data, tmp_path)
    assert isinstance(found, gallery.Gallery)
    assert found.missing == {"a": "scores/0.npy is missing or torn"}
    assert "a: scores/0.npy is missing or torn" in Page(report.html(made, lds, found)).text
    np.save(tmp_path / "scores/1.npy", np.zeros((3, 3), np.float32))
    assert "scores/1.npy is no matrix of 60 × 9 scores" in str(gallery.gather(made, lds, data, tmp_path))


# ---- the command ----


@pytest.fixture
def toy_run(main: Any, tmp_path: Path, toy_source: str) -> Path:
    (tmp_path / "toy.py").write_text(toy_source)
    words = ("run", "toy.py/logreg", "--models", "60", "--method", "random", "--method", "heldout", "--out", "run")
    assert main(*words, "--device", "cpu", "--quiet")[0] == 0
    return tmp_path / "run"


def test_a_run_writes_a_report_with_examples(toy_run: Path) -> None:
    page = Page((toy_run / "report.html").read_text())
    assert "the training examples that a method says" in page.text
    assert "it has not been drawn yet: python -m bench report run adds it." in page.text


def test_report_loads_the_data_and_fits_the_curve(main: Any, toy_run: Path) -> None:
    code, _, err = main("report", "run", "--setting", "toy.py/logreg")
    assert code == 0
    assert "lasso, 40 rows" in err
    first = (toy_run / "report.html").read_bytes()
    page = Page(first.decode())
    assert "LDS of datamodels against the number of fit rows" in page.text
    assert "the training examples that a method says" in page.text
    assert str(toy_run.parent) not in first.decode()
    code, _, err = main("report", "run", "--setting", "toy.py/logreg")
    assert (code, err) == (0, "written to run/report.html\n")  # the curve is used again
    assert (toy_run / "report.html").read_bytes() == first
    words = ("run", "toy.py/logreg", "--models", "60", "--method", "random", "--method", "heldout", "--out", "run")
    assert main(*words, "--device", "cpu", "--quiet")[0] == 0
    assert (toy_run / "report.html").read_bytes() == first  # by a run as well
    kept = json.loads((toy_run / "curve/curve.json").read_text())
    (toy_run / "curve/curve.json").write_text(json.dumps(kept | {"context": "another code's"}))
    assert main(*words, "--device", "cpu", "--quiet")[0] == 0
    assert "the one that is there is not of this run and this code" in (toy_run / "report.html").read_text()


def test_what_is_left_out_is_said(main: Any, toy_run: Path) -> None:
    code, _, err = main("report", "run", "--no-curve")
    assert code == 0
    assert (
        "without examples: toy/logreg is no setting of this installation; name it, with its file, by --setting" in err
    )
    assert "without learning curve: none was asked for (--no-curve)" in err
    assert not (toy_run / "curve").exists()
    shutil.rmtree(toy_run / "ground-truth")
    (toy_run / "per_target.csv").unlink()
    code, _, err = main("report", "run", "--targets", "0")
    assert code == 0
    assert "without learning curve: it is fitted on the models of the ground truth" in err
    page = Page((toy_run / "report.html").read_text())
    assert "per_target.csv is not beside the leaderboard" in page.text
    assert "no examples were asked for (--targets 0)" in page.text


def test_few_targets_by_the_command(main: Any, toy_run: Path) -> None:
    assert main("report", "run", "--setting", "toy.py/logreg", "--no-curve", "--targets", "1", "--quiet")[2] == ""
    assert "targets are in this file" not in (toy_run / "report.html").read_text()  # ten, all of them extremes
    code, _, err = main("report", "run", "--targets", "-1")
    assert (code, err) == (2, "bench: --targets is -1: it takes a number of targets, or 0 for none\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--setting", "nothing/mlp"), "there is no setting 'nothing/mlp'"),
        (("--data-dir", "nowhere"), "--data-dir is 'nowhere'"),
    ],
)
def test_arguments_that_are_not_right(main: Any, toy_run: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = main("report", str(toy_run), *words)
    assert code == 2
    assert said in err
