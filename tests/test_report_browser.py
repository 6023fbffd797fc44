"""report.html in a headless Chromium: what a reader sees, clicks, types and hears (tox -e browser).

It needs playwright, and a Chromium: that of PATH, else one that playwright has; BENCH_INSTALL_CHROMIUM=1, as tox sets
it, has playwright download one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import datasets, report, results, runner
from bench.progress import Progress
from bench.report import learning

pytestmark = pytest.mark.browser

SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
METHODS = ("datamodels", "heldout", "random")
CHECKS = (Path(__file__).parent / "report_checks.js").read_text("utf-8")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.environ.get("BENCH_INSTALL_CHROMIUM"):
        subprocess.run([sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"], check=False)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=list(SWITCHES))
        except sync_api.Error as error:
            pytest.skip(f"there is no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three methods that have an LDS, one that was skipped, one that failed, and a learning curve."""
    place = tmp_path_factory.mktemp("browser")
    bad = place / "bad.py"
    bad.write_text(
        '"""Fails."""\nfrom bench import Method\n\n\nclass Bad(Method):\n'
        '    def attribute(self, task):\n        raise ValueError("<b>no</b> luck")\n'
    )
    greedy = place / "greedy.py"
    greedy.write_text(
        '"""Is skipped."""\nfrom bench import Method\nfrom bench.methods import Needs\n\n\nclass Greedy(Method):\n'
        "    @property\n    def needs(self):\n        return Needs(fit_rows=10**6)\n\n"
        "    def attribute(self, task):\n        raise AssertionError\n"
    )
    names = (*METHODS, str(greedy), str(bad))
    options = runner.Options("digits/logreg", names, models=150, out=str(place / "run"), quiet=True)
    board = runner.run(options)
    assert {row.status for row in board.methods} == {"ok", "skipped", "failed"}
    data = runner.load(datasets.setting("digits/logreg"), None, False)
    run = place / "run"
    curve = learning.made(run, board, Progress(quiet=True))
    report.write(run, board, results.read_per_target(run), data, curve)
    return run


@pytest.fixture
def open_page(chromium: Any, folder: Path) -> Iterator[Open]:
    """Open the report; at the end there must have been no error, no warning and no request."""
    contexts, wrong = [], []

    def opened(width: int = 1200, path: Path | None = None, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        address = (path or folder / "report.html").as_uri()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("data:", address)) else wrong.append(request.url),
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def _names(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "#ranking-table tbody tr:not([hidden])", "rows => rows.map((row) => row.dataset.method)"
    )
    return found


def _board(folder: Path) -> Any:
    return json.loads((folder / "leaderboard.json").read_text())


def test_it_renders(open_page: Open, folder: Path) -> None:
    page = open_page()
    assert page.title() == "digits/logreg: attribution methods by LDS"
    assert page.locator("h1").inner_text() == "digits/logreg"
    for plot in page.locator("svg.plot").all():
        box = plot.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 50
    told = page.evaluate("JSON.parse(document.getElementById('gallery-data').textContent)")
    assert len(told["targets"]) == 360
    assert [one["name"] for one in told["methods"]] == [
        m["name"] for m in _board(folder)["methods"] if m["lds"] is not None
    ]
    size = page.evaluate(
        """async () => { const image = new Image(); image.src = JSON.parse(
        document.getElementById('gallery-data').textContent).trainSheet.url; await image.decode();
        return [image.naturalWidth, image.naturalHeight]; }"""
    )
    sheet = told["trainSheet"]
    assert size == [8 * sheet["columns"], 8 * sheet["rows"]]


def test_nothing_that_is_injected_runs(chromium: Any, folder: Path) -> None:
    changed = folder / "injected.html"
    text = (folder / "report.html").read_text()
    changed.write_text(text.replace("</main>", "<script>document.title = 'hacked'</script><img src='x.png'></main>"))
    context = chromium.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(changed.as_uri())
    assert page.title() == "digits/logreg: attribution methods by LDS"
    assert {word for text in said for word in ("script-src", "img-src") if word in text} == {"script-src", "img-src"}
    context.close()


@pytest.mark.parametrize("key", ["rank", "method", "lds", "p", "models", "training", "attributing", "memory", "disk"])
def test_sorting_by_click_and_by_keyboard(open_page: Open, folder: Path, key: str) -> None:
    page = open_page()
    scored = [m for m in _board(folder)["methods"] if m["lds"] is not None]
    rest = [m["name"] for m in _board(folder)["methods"] if m["lds"] is None]
    value: Callable[[Any], Any] = {
        "p": lambda m: m["p_value"],
        "models": lambda m: m["cost"]["models"],
        "training": lambda m: m["cost"]["train_seconds"],
        "attributing": lambda m: m["cost"]["seconds"],
        "memory": lambda m: m["cost"]["peak_bytes"],
        "disk": lambda m: m["cost"]["disk_bytes"],
        "method": lambda m: m["name"],
    }.get(key, lambda m: m[key])
    button = page.locator(f"button[data-key={key}]")
    head = page.locator(f"th:has(button[data-key={key}])")
    for press in (button.click, lambda: button.press("Enter"), lambda: button.press("Space")):
        press()
        direction = head.get_attribute("aria-sort")
        names = _names(page)
        if key == "method":
            expected = sorted([m["name"] for m in scored] + rest, reverse=direction == "descending")
            assert names == expected
            continue
        expected = [m["name"] for m in sorted(scored, key=value, reverse=direction == "descending")]
        shown = {m["name"]: value(m) for m in scored}
        assert [shown[name] for name in names[: len(scored)]] == [shown[name] for name in expected]
        assert names[len(scored) :] == rest  # always last
    assert page.locator("th[aria-sort]").count() == 1
    assert "sorted by" in page.locator("#filter-count").inner_text()


def test_sorting_begins_with_the_best_and_turns(open_page: Open) -> None:
    page = open_page()
    head = page.locator("th:has(button[data-key=lds])")
    page.click("button[data-key=lds]")
    assert head.get_attribute("aria-sort") == "descending"
    page.click("button[data-key=lds]")
    assert head.get_attribute("aria-sort") == "ascending"
    page.click("button[data-key=rank]")
    assert head.get_attribute("aria-sort") is None


def test_filtering(open_page: Open, folder: Path) -> None:
    page = open_page()
    count = len(_board(folder)["methods"])
    page.get_by_label("Filter methods").fill("RAND")
    assert _names(page) == ["random"]
    assert page.locator("#filter-count").inner_text() == f"1 of {count} methods"
    page.get_by_label("Filter methods").fill("<b>no</b> luck")
    assert _names(page) == ["bad"]
    page.get_by_label("Filter methods").fill("nothing like it")
    assert _names(page) == []
    page.get_by_label("Filter methods").fill("")
    assert len(_names(page)) == count


def _labels(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all("#shown .tiles [role=img]", "all => all.map((one) => one.ariaLabel)")
    return found


def _expected(folder: Path, name: str, target: int) -> list[str]:
    """Training examples of the highest and lowest scores, by a full sort."""
    row = next(m for m in _board(folder)["methods"] if m["name"] == name)
    scores = np.load(folder / row["scores"])[:, target]
    high, low = np.argsort(-scores, kind="stable")[:8], np.argsort(scores, kind="stable")[:8]
    return [f"Training image {i}," for i in [*(i for i in high if scores[i] > 0), *(i for i in low if scores[i] < 0)]]


def test_searching_targets_changes_the_images(open_page: Open, folder: Path) -> None:
    page = open_page()
    assert [label.split(" ")[2] for label in _labels(page)] == [
        e.split(" ")[2] for e in _expected(folder, "datamodels", 0)
    ]
    page.get_by_label("Find targets").fill("117")
    for name in METHODS:
        page.get_by_label("Method", exact=True).select_option(label=name)
        for label, expected in zip(_labels(page), _expected(folder, name, 117), strict=True):
            assert label.startswith(expected)
    assert page.locator("#gallery-status").inner_text().startswith("Target 117, class ")
    page.get_by_label("Method", exact=True).select_option(label="all methods")
    assert page.locator("#shown h4").all_inner_texts() == [
        m["name"] for m in _board(folder)["methods"] if m["lds"] is not None
    ]
    page.get_by_label("Find targets").fill("100000")
    assert page.locator("#gallery-status").inner_text() == "No target is found."
    assert _labels(page) == []
    assert page.get_by_role("button", name="Next").is_disabled()


def test_tiles_show_the_right_pixels(open_page: Open) -> None:
    """The pixels on the screen, of the first tile, are those of the data."""
    import io

    from PIL import Image

    data = runner.load(datasets.setting("digits/logreg"), None, False)
    page = open_page()
    page.get_by_label("Find targets").fill("200")
    for tile in page.locator("#shown .tiles [role=img]").all()[:4]:
        at = int(tile.get_attribute("aria-label").split(" ")[2].rstrip(","))
        shown = Image.open(io.BytesIO(tile.screenshot())).convert("L").resize((8, 8), Image.Resampling.BOX)
        wanted = 255 * data.train_x[at].reshape(8, 8)
        inner = np.s_[1:-1, 1:-1]  # the corners are round
        assert np.abs(np.asarray(shown, float)[inner] - wanted[inner]).mean() < 20
        assert np.corrcoef(np.asarray(shown, float)[inner].ravel(), wanted[inner].ravel())[0, 1] > 0.97


def test_classes_and_order(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Find targets").fill("class 3")
    told = page.evaluate("JSON.parse(document.getElementById('gallery-data').textContent)")
    of_class = [t for t, label in zip(told["targets"], told["labels"], strict=True) if label == 3]
    assert page.locator("#gallery-status").inner_text() == f"Target {of_class[0]}, class 3: 1 of {len(of_class)} found"
    lds = dict(zip(told["targets"], told["methods"][0]["lds"], strict=True))
    for word, best in (("worst", min), ("best", max)):
        page.get_by_label("Find targets").fill(word)
        shown = int(page.locator("#shown h3").inner_text().split()[1])
        assert lds[shown] == best(lds.values())
        assert page.get_by_label("Order").input_value() == word
    page.get_by_label("Find targets").fill("")
    page.get_by_label("Order").select_option("number")
    assert page.locator("#shown h3").inner_text() == "Target 0"


def test_the_strip_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("button", name="Next").click()
    assert page.locator("#shown h3").inner_text() == "Target 1"
    page.locator("#strip [aria-current]").focus()
    for key, target in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 359), ("Home", 0)):
        page.keyboard.press(key)
        assert page.locator("#shown h3").inner_text() == f"Target {target}"
        assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    assert page.locator("#strip button[tabindex='0']").count() == 1
    assert page.get_by_role("button", name="Previous").is_disabled()


def test_every_control_is_reached_by_tab(open_page: Open) -> None:
    page = open_page()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.key || ''"))
    assert {"filter", "rank", "disk", "method", "search", "order", "next", "copy"} <= reached


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=lambda o: o["color_scheme"]
)
def test_contrast_in_both_themes(open_page: Open, options: dict[str, Any]) -> None:
    page = open_page(**options)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(c) for c in back[4:-1].split(",")) < 200) == (options["color_scheme"] == "dark")
    seen, bad = page.evaluate(f"{CHECKS}; contrast()")
    assert seen > 300
    assert bad == []


def test_print_is_light(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()


@pytest.mark.parametrize("width", [320, 360, 768, 1600])
def test_the_page_does_not_scroll_sideways(open_page: Open, width: int) -> None:
    page = open_page(width)
    page.get_by_label("Method", exact=True).select_option(label="all methods")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroller, #strip, .hidden")
        && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    for box in page.locator(".scroller").all():
        assert box.get_attribute("tabindex") == "0"
        assert box.get_attribute("aria-label")


@pytest.mark.parametrize("width", [360, 1200])
def test_what_a_screen_reader_needs(open_page: Open, width: int) -> None:
    assert open_page(width).evaluate(f"{CHECKS}; basics()") == []


def test_the_command_is_copied_or_selected(open_page: Open, folder: Path) -> None:
    page = open_page()
    page.get_by_role("button", name="Copy").click()
    page.wait_for_function("document.getElementById('copied').textContent")
    assert page.locator("#command").inner_text() == _board(folder)["command"]


def test_without_scripts_it_can_be_read(open_page: Open, folder: Path) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("#ranking-table tbody tr").count() == len(_board(folder)["methods"])
    assert page.locator("svg.plot").first.is_visible()
    assert not page.locator("#filter").is_visible()
    assert page.get_by_text("this page needs JavaScript").is_visible()
