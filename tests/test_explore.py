"""bench explore: what all verbs share, from the arguments to the page and the report's section."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import bench
from bench import cli, results
from bench.errors import BenchError, InputError
from bench.explore import asked, blocks, files, page, verbs
from bench.explore.document import finite
from bench.explore.subject import Scored, Subject
from bench.store import GroundTruth

Main = Callable[..., tuple[int, str, str]]
N, T = 40, 12
OURS = ("similar", "embedding")
NASTY = "<script>alert('x')</script>|a & \"b\" $x_1$ </style>"

PLUGIN = '''
"""Noisy images of four by four pixels, of three classes; or the same as features."""
import numpy as np
from bench.datasets import Architecture, Data, Dataset, Recipe

class Spots(Dataset):
    models = {"logreg": Recipe(Architecture("logreg"), epochs=3, batch_size=8, lr=0.2)}

    def __init__(self, images: bool = True, seed: int = 7) -> None:
        self.images, self.seed = images, seed

    def load(self, files):
        rng = np.random.default_rng(self.seed)
        y = np.arange(52) % 3
        x = (rng.standard_normal((3, 16))[y] + rng.standard_normal((52, 16))).astype("float32")
        image = (1, 4, 4) if self.images else ()
        return Data(x[:40], y[:40], x[40:], y[40:], 3, image=image, class_names=("<i>ant</i>", "bee", "cat"))
'''
METHODS = ("--method", "datamodels", "--method", "label-match", "--method", "random")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in and two finished runs, of images and of features."""
    folder = tmp_path_factory.mktemp("explored")
    (folder / "plugins").mkdir()
    (folder / "plugins/spots.py").write_text(PLUGIN)
    sizes = ("--models", "40", "--eval-subsets", "6", "--tune-rows", "6", "--device", "cpu", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATASETS", str(folder / "plugins"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, setting in (("images", "spots/logreg"), ("features", "spots/logreg:images=False")):
            assert cli.main(["run", setting, *METHODS, *sizes, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def run(made: Path, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001 (goes there)
    """A copy of the run of images, named by a short path."""
    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))
    shutil.copytree(made / "images", tmp_path / "R")
    return Path("R")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all verbs those that are quick."""
    monkeypatch.setattr(verbs, "ORDER", OURS)


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with these words in it."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("bench")
    for word in words:
        assert word in err


def explore(main: Main, *words: str) -> tuple[int, str, str]:
    return main("explore", *words, "--quiet")


@pytest.mark.usefixtures("two")
def test_all_verbs_of_a_run(main: Main, run: Path) -> None:
    """Pages, documents and tables in RUN/explore, and a section of the report."""
    code, out, err = explore(main, "all", str(run))
    assert (code, err) == (0, "")
    assert "most helpful (class)" in out
    assert "nearest (class) cosine" in out
    there = {path.name for path in (run / "explore").iterdir()}
    assert {f"{verb}.{kind}" for verb in OURS for kind in ("json", "csv", "html")} <= there
    assert {"similar-targets.png", "similar-agreement.svg", "embedding-pca.npy", "embedding-matrix.npy"} <= there
    report = re.sub(r"\s+", " ", section_of(main, run))
    assert report.index('id="explore-similar"') < report.index('id="explore-embedding"')
    assert "Do methods name the same examples?" in report
    assert "data:image/png;base64," in report
    assert '<a href="#explore">What the scores are for</a>' in (run / "report.html").read_text()


def section_of(main: Main, run: Path) -> str:
    """The report's section, made anew."""
    assert main("report", str(run), "--no-curve", "--quiet")[0] == 0
    found = re.search(r'<section id="explore".*?</section>', (run / "report.html").read_text(), re.DOTALL)
    return found[0] if found else ""


def test_nothing_explored_no_section(main: Main, run: Path) -> None:
    assert section_of(main, run) == ""


@pytest.mark.usefixtures("two")
def test_json(main: Main, run: Path) -> None:
    one = json.loads(explore(main, "similar", str(run), "--json")[1])
    assert one["verb"] == "similar"
    assert one == json.loads((run / "explore/similar.json").read_text())
    every = json.loads(explore(main, "all", str(run), "--json")[1])
    assert list(every) == list(OURS)
    assert every["embedding"]["about"]["methods"] == {one["lists"][0]["method"]: one["about"]["methods"]["datamodels"]}


def test_a_store_prints_and_writes_nothing(main: Main, run: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = explore(main, "similar", "R/ground-truth", "--method", "datamodels", "--method", "label-match")
    assert (code, err) == (0, "")
    assert "label-match" in out
    assert sorted(tmp_path.rglob("*")) == before
    assert run.is_dir()
    assert explore(main, "similar", "R/ground-truth", "--method", "random", "--out", "E")[0] == 0
    assert Path("E/similar.html").is_file()
    refused(
        explore(main, "similar", "R/ground-truth"), "R/ground-truth has none", "--scores FILE.npy, or --method NAME"
    )
    code, out, err = explore(main, "all", "R/ground-truth")  # wrong labels are found without a method's scores too
    assert code == 1
    assert out.startswith("spots/")
    assert "R/ground-truth has none" in err


def test_scores_from_files(main: Main, run: Path) -> None:
    """Turned and negated, the same lists; on a run they come beside its methods, and are the ones embedded."""
    scores = np.load(run / "scores/datamodels.npy")
    np.save("turned.npy", -scores.T)
    words = ("--scores", "mine=turned.npy", "--orientation", "test,train", "--sign=-")
    code, out, _ = explore(main, "similar", "R", *words, "--targets", "3", "--json")
    assert code == 0
    lists = {one["method"]: one for one in json.loads(out)["lists"]}
    assert set(lists) == {"datamodels", "label-match", "random", "mine"}
    assert lists["mine"]["helpful"] == lists["datamodels"]["helpful"]
    assert lists["mine"]["harmful"] == lists["datamodels"]["harmful"]
    found = json.loads(explore(main, "embedding", "R", *words, "--json")[1])
    assert [one["method"] for one in found["methods"]] == ["mine"]
    assert any("read as test,train with sign -" in note for note in found["notes"])
    on_store = json.loads(explore(main, "similar", "R/ground-truth", *words, "--targets", "3", "--json")[1])
    assert on_store["lists"][0]["helpful"] == lists["mine"]["helpful"]
    refused(explore(main, "similar", "R", "--scores", "turned.npy"), "--orientation")
    twice = ("--scores", "datamodels=turned.npy", *words[2:])
    refused(explore(main, "similar", "R", *twice), "two score matrices are called 'datamodels'", "--scores NAME=FILE")
    for name, factor in (("big", 1e300), ("tiny", 1e-300)):
        np.save(f"{name}.npy", -scores.T * np.float64(factor))
        refused(explore(main, "leakage", "R", "--scores", f"{name}.npy", *words[2:]), f"{name}.npy has scores of up to")
    np.save("fair.npy", -scores.T * np.float64(1e20))
    scaled = json.loads(explore(main, "embedding", "R", "--scores", "mine=fair.npy", *words[2:], "--json")[1])
    assert scaled["methods"][0]["queries"] == found["methods"][0]["queries"]
    np.save("small.npy", np.zeros((3, 4)))
    refused(
        explore(main, "similar", "R", "--scores", "small.npy", "--orientation", "train,test", "--sign", "+"), "small"
    )


def test_methods_of_a_run(main: Main, run: Path) -> None:
    named = json.loads(explore(main, "similar", str(run), "--method", "random", "--json")[1])
    assert [one["method"] for one in named["lists"]] == ["random"]
    every = json.loads(explore(main, "embedding", str(run), "--method", "all", "--json")[1])
    assert sorted(one["method"] for one in every["methods"]) == ["datamodels", "label-match", "random"]
    told = explore(main, "similar", str(run), "--method", "datamodel")
    refused(told, "R has no scores of a method 'datamodel'; did you mean 'datamodels'?", "bench run spots/logreg")
    refused(explore(main, "similar", str(run), "--method", "trak"), "no scores of a method 'trak'")
    refused(explore(main, "simlar", str(run)), "no verb 'simlar'; did you mean 'similar'?", "embedding")


def test_parameters_in_any_order(run: Path) -> None:
    """A variant is found as its spec is written."""
    path = run / "leaderboard.json"
    path.write_text(path.read_text().replace('"random"', '"trak:checkpoints=3,damping=tune"'))
    found = bench.explore.open_subject(run, methods=["trak:damping=tune,checkpoints=3"])
    assert [one.name for one in found.methods] == ["trak:checkpoints=3,damping=tune"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("similar", "R", "--k", "41"), "--k is 41: it takes 1 to 40, the number of training examples"),
        (("similar", "R", "--targets", "3,12"), "--targets has 12, and there are 12 targets, numbered 0 … 11"),
        (("similar", "R", "--targets", "-1"), "--targets"),
        (("similar", "R", "--targets", "five"), "--targets is 'five': write numbers and spans"),
        (("embedding", "R", "--query", "12"), "--query has 12, and there are 12 targets"),
        (("embedding", "R", "--of", "train", "--query", "40"), "--query has 40, and there are 40 training examples"),
        (("embedding", "R", "--k", "12"), "--k is 12: it takes 1 to 11"),
        (("embedding", "R", "--components", "13"), "--components is 13: it takes 1 to 12"),
        (("embedding", "R", "--seed", "-1"), "--seed is -1"),
        (("embedding", "R", "--project", "tsne"), "--project"),
        (("similar", "nowhere"), "nowhere is neither a run (no leaderboard.json) nor a ground-truth store"),
        (("similar", "R", "--setting", "toys/none"), "toys"),
        (("similar", "R", "--setting", "spots/logreg:seed=8"), "was trained on other data than spots/logreg:seed=8"),
        (("similar", "R", "--out", "R/leaderboard.json"), "it is a file, not a folder"),
    ],
)
def test_bad_input(main: Main, run: Path, words: tuple[str, ...], said: str) -> None:
    assert run.is_dir()
    refused(explore(main, *words), said)


def test_pictures_of_what_is_no_image(main: Main, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))
    shutil.copytree(made / "features", "F")
    code, out, _ = explore(main, "similar", "F", "--pictures")
    assert code == 0
    assert "no pictures: the examples of spots/logreg:images=False are not known to be images" in out
    assert not Path("F/explore/similar-targets.png").exists()
    assert "what it holds" in Path("F/explore/similar.html").read_text()


def test_excluded_targets(main: Main, run: Path) -> None:
    scores = np.load(run / "scores/datamodels.npy").astype(np.float64)
    scores[3, 5] = np.nan
    np.save("holed.npy", scores)
    words = ("R", "--scores", "holed.npy", "--orientation", "train,test", "--sign", "+")
    code, out, _ = explore(main, "similar", *words)
    assert code == 0
    assert "holed: 1 of 12 targets is left out, whose scores are not all finite" in out
    refused(explore(main, "similar", *words, "--targets", "5"), "holed has scores of target 5 that are not finite")
    refused(explore(main, "embedding", *words, "--query", "5"), "holed has scores of target 5 that are not finite")
    np.save("holed.npy", np.full_like(scores, np.nan))
    refused(explore(main, "similar", *words), "holed.npy has no target whose scores are all finite")


def test_torn_and_changed_runs(main: Main, run: Path) -> None:
    path = run / "scores/random.npy"
    content = path.read_bytes()
    path.write_bytes(content[:200])
    refused(explore(main, "similar", "R"), "random.npy is missing or torn", "run the same bench run command again")
    path.unlink()
    refused(explore(main, "similar", "R"), "random.npy is missing or torn")
    np.save(path, np.zeros((N, T + 1)))
    refused(explore(main, "similar", "R"), "random.npy has float64 [40, 13]", "[40, 12]")
    path.write_bytes(content)
    board = json.loads((run / "leaderboard.json").read_text())
    board["ground_truth"]["key"] = "another"
    (run / "leaderboard.json").write_text(json.dumps(board))
    refused(explore(main, "similar", "R"), "is not the ground truth that R was judged by")


def test_stale_and_torn_documents_in_the_report(main: Main, run: Path) -> None:
    """Each is a sentence in its place; the others stay, and so does the report."""
    assert explore(main, "similar", "R")[0] == explore(main, "embedding", "R")[0] == 0
    path = run / "explore/similar.json"
    whole = path.read_text()
    path.write_text(whole.replace(json.loads(whole)["about"]["key"], "another"))
    report = section_of(main, run)
    assert "similar.json is of another ground truth: run bench explore similar again." in report
    assert "Do methods name" not in report
    assert "Nearest neighbours by datamodels" in report
    path.write_text(whole[:500])
    assert "similar.json is not a document of bench explore similar" in section_of(main, run)
    path.write_text(whole.replace('"schema": 1', '"schema": 2'))
    assert "has the format 2, and 1 is read here: make it again" in section_of(main, run)
    path.write_text(whole)
    (run / "explore/similar-targets.png").unlink()
    assert "similar-targets.png is missing: run the same command again." in section_of(main, run)
    with pytest.raises(InputError, match="No such file or directory; bench explore similar makes it"):
        page.read(run / "nowhere", "similar")


class Tags(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("verb", OURS)
def test_pages_hold_all_they_need_and_names_are_text(run: Path, verb: str) -> None:
    """No script, nothing from elsewhere, and no name that is read as HTML."""
    whole = bench.explore.open_subject(run)
    renamed = [Scored(f"{NASTY}{at}", one.scores, one.lds, asked=True) for at, one in enumerate(whole.methods)]
    subject = Subject(
        run, True, whole.truth, renamed, whole.board, whole.setting, whole.data, device="cpu", why=whole.why
    )
    found = getattr(bench.explore, verb)(subject)
    bench.explore.write("E", found)
    content = Path(f"E/{verb}.html").read_text()
    tags = Tags(content)
    names = {tag for tag, _ in tags.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form", "i"}
    assert "<script>alert('x')</script>|a & \"b\" $x_1$ </style>0" in " ".join(tags.text.split())
    for tag, attributes in tags.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    (policy,) = (a["content"] for tag, a in tags.tags if tag == "meta" and "content" in a and "default" in str(a))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    style = re.search(r"<style>(.*?)</style>", content, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in tags.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("alt") for tag, attributes in tags.tags if tag == "img")


@pytest.mark.usefixtures("two")
def test_imported_stores(main: Main, tmp_path: Path) -> None:
    """No examples: by number; what needs examples is refused, and left out of all."""
    rng = np.random.default_rng(0)
    masks = rng.random((60, N)).argsort(1) < N // 2
    weight = rng.standard_normal((N, T))
    folder = tmp_path / "D"
    folder.mkdir()
    np.save(folder / "train_masks_50pct.npy", masks)
    np.save(folder / "test_margins_50pct.npy", (masks @ weight).astype(np.float16))
    assert main("import", "datamodels-data", "D", "S", "--eval-rows", "last:20", "--tune-rows", "8")[0] == 0
    code, out, err = explore(main, "similar", "S", "--method", "datamodels", "--pictures", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["target_labels"] is None
    assert any(
        note.startswith("no pictures: S has no examples (it was imported without them)") for note in found["notes"]
    )
    assert {one[2] for one in found["lists"][0]["helpful"][0]} == {None}
    assert explore(main, "all", "S", "--method", "datamodels", "--out", "E")[0] == 0
    assert Path("E/similar.html").is_file()
    assert Path("E/embedding.html").is_file()
    refused(explore(main, "similar", "S", "--method", "graddot"), "graddot")
    refused(explore(main, "similar", "S", "--method", "datamodels", "--setting", "digits/mlp"), "leave --setting out")
    subject = bench.explore.open_subject("S")
    with pytest.raises(BenchError, match="explore x trains, and S has no examples: it was imported without them"):
        subject.trainer("explore x trains")


def test_verbs_that_cannot_be_asked_are_left_out_of_all(main: Main, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of examples that is no fault; for another reason it is; with nothing left it is the first reason."""
    monkeypatch.setattr(verbs, "ORDER", OURS)
    load = verbs.load
    reasons: dict[str, Exception] = {}

    def loaded(name: str) -> Any:
        verb = load(name)

        def made(*arguments: Any) -> Any:
            if name in reasons:
                raise reasons[name]
            return verb.make(*arguments)

        return SimpleNamespace(HELP=verb.HELP, DESCRIPTION=verb.DESCRIPTION, add=verb.add, make=made)

    monkeypatch.setattr(verbs, "load", loaded)
    bare = Subject(run, True, cast(GroundTruth, None), (), why="they are gone")
    with pytest.raises(BenchError) as lacking:
        bare.examples("explore similar shows pictures")
    reasons["similar"] = lacking.value
    code, out, err = explore(main, "all", "R")
    assert (code, err) == (
        0,
        "bench: without similar: explore similar shows pictures, and R has no examples: they are gone\n",
    )
    assert "points" in out
    reasons["similar"] = InputError("something is torn")
    code, out, err = explore(main, "all", "R")
    assert (code, err) == (1, "bench: without similar: something is torn\n")
    assert "points" in out
    reasons["embedding"] = InputError("and so is this")
    refused(explore(main, "all", "R"), "something is torn")
    refused(explore(main, "similar", "R"), "something is torn")


def test_several_stores_of_a_family(main: Main, run: Path) -> None:
    for name in ("alpha-0.5", "alpha-0.2"):
        shutil.copytree(run / "ground-truth", Path("G") / name)
    refused(explore(main, "similar", "G"), "G holds several stores (alpha-0.2, alpha-0.5): name one of them")
    assert explore(main, "similar", "G/alpha-0.5", "--method", "random")[0] == 0


def test_a_dataset_that_is_gone(main: Main, run: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number alone; its file by --setting brings the examples back."""
    monkeypatch.delenv("BENCH_DATASETS")
    found = json.loads(explore(main, "similar", str(run), "--json")[1])
    assert found["target_labels"] is None
    assert found["about"]["setting"] == "spots/logreg"
    said = "has no examples: spots/logreg is no setting of this installation; name it, with its file, by --setting"
    refused(explore(main, "mislabel", str(run)), said)
    again = explore(main, "similar", str(run), "--setting", f"{made / 'plugins/spots.py'}/logreg", "--json")
    assert json.loads(again[1])["target_labels"] is not None


def test_files_of_others_stay(run: Path) -> None:
    """Those of an earlier call go, once its document says that it was there."""
    subject = bench.explore.open_subject(run)
    folder = Path("E")
    folder.mkdir()
    for name in ("embedding-mine.npy", "embedding-notes.txt"):
        (folder / name).write_text("mine")
    bench.explore.write(folder, bench.explore.embedding(subject))
    assert (folder / "embedding-mine.npy").read_text() == "mine"
    assert (folder / "embedding-matrix.npy").is_file()
    bench.explore.write(folder, bench.explore.embedding(subject, matrix=False))
    assert not (folder / "embedding-matrix.npy").exists()
    assert (folder / "embedding-notes.txt").read_text() == "mine"


def test_a_write_that_fails_leaves_no_document(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half replaced is not vouched for."""
    found = bench.explore.similar(bench.explore.open_subject(run))
    bench.explore.write("E", found)
    monkeypatch.setattr(files, "_writing", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.explore.write("E", found)
    assert not Path("E/similar.json").exists()


def test_what_leads() -> None:
    """What was asked for always; besides, the best variant of each method."""

    def subject(*methods: Scored) -> Subject:
        return Subject(Path("R"), True, cast(GroundTruth, None), methods)

    nothing: NDArray[np.float64] = np.zeros((1, 1))
    names = ("a:x=1", "a", "b", "c")
    of_run = [Scored(name, nothing, 1.0 - at) for at, name in enumerate(names)]
    files_too = [Scored("mine", nothing, asked=True), Scored("a2", nothing, asked=True)]
    assert [one.name for one in subject(*of_run).leading(2)] == ["a:x=1", "b"]
    assert [one.name for one in subject(*of_run, *files_too).leading(3)] == ["a:x=1", "mine", "a2"]
    assert [one.name for one in subject(*of_run, *files_too).leading(1)] == ["mine", "a2"]
    every = [Scored(one.name, nothing, one.lds, asked=True) for one in of_run]
    assert [one.name for one in subject(*every).leading(2)] == list(names)
    assert [one.name for one in subject(*of_run).best()] == ["a:x=1"]
    assert [one.name for one in subject(*of_run, *files_too).best()] == ["mine", "a2"]
    assert subject().best() == []


def test_columns_and_known_targets() -> None:
    scores = np.random.default_rng(0).standard_normal((2500, 7)).astype(np.float32)
    scores[2100, 4] = np.nan
    one = Scored("a", scores)
    assert one.known().tolist() == [True] * 4 + [False] + [True] * 2
    np.testing.assert_array_equal(one.columns(np.array([6, 4])), scores[:, [6, 4]].T)


def test_numbers() -> None:
    assert asked.numbers("3,17, 4-6,5", "--targets", 18) == [3, 4, 5, 6, 17]
    assert asked.numbers("0-0", "--targets", 1) == [0]
    for text, words in (
        ("", "write numbers and spans of targets, such as 3,17,40-45"),
        ("1,,2", "write numbers"),
        ("-3", "write numbers"),
        ("3-", "write numbers"),
        ("1.5", "write numbers"),
        ("\u0663", "write numbers"),
        ("1-\u0663", "write numbers"),
        ("\u00b2", "write numbers"),
        ("6-4", "whose end is before its start: write 4-6"),
        ("0-18", "has 18, and there are 18 targets, numbered 0 … 17"),
    ):
        with pytest.raises(BenchError, match=words):
            asked.numbers(text, "--targets", 18)


def test_index_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([7, 3, 3]))
    np.save(tmp_path / "mask.npy", np.arange(9) % 4 == 0)
    (tmp_path / "a.json").write_text("[7, 3]")
    (tmp_path / "a.txt").write_text("7, 3\n3")
    (tmp_path / "marked.txt").write_text("7\r\n3", "utf-8-sig")
    for name in ("a.npy", "a.json", "a.txt", "marked.txt"):
        assert asked.index_file(tmp_path / name, 9).tolist() == [3, 7]
    assert asked.index_file(tmp_path / "mask.npy", 9).tolist() == [0, 4, 8]
    np.save(tmp_path / "real.npy", np.array([1.5]))
    np.save(tmp_path / "square.npy", np.zeros((2, 2), int))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("3 7")
    (tmp_path / "lists.json").write_text("[[1], [1, 2]]")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "words.txt").write_text("one")
    (tmp_path / "negative.txt").write_text("-1")
    (tmp_path / "ragged.json").write_text("[1, [2]]")
    (tmp_path / "object.json").write_text('{"a": 1}')
    (tmp_path / "null.json").write_text("null")
    (tmp_path / "hole.json").write_text("[1, null]")
    (tmp_path / "word.json").write_text('["1", "2"]')
    (tmp_path / "huge.json").write_text("[1, 12345678901234567890123]")
    (tmp_path / "huge.txt").write_text("1 -12345678901234567890123")
    (tmp_path / "large.json").write_text("[9223372036854775808]")
    (tmp_path / "arabic.txt").write_text("\u0663", "utf-8")
    (tmp_path / "torn.json").write_text("[1,")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name, words in (
        ("real.npy", "holds float64"),
        ("square.npy", r"holds int64 \[2, 2\]"),
        ("objects.npy", "is not a list of training examples' numbers: it holds Python objects, which are never loaded"),
        ("text.npy", "is not a list of training examples' numbers: it does not begin as a .npy file does"),
        ("lists.json", "is not a list of training examples' numbers: its lists differ in length"),
        ("empty.txt", "an empty group cannot be removed"),
        ("words.txt", "is not a list"),
        ("negative.txt", "names training example -1: they are numbered 0 … 8"),
        ("a.npy", "names training example 7: they are numbered 0 … 4"),
        ("ragged.json", "some of its entries are lists, and some are not"),
        ("object.json", r"object.json is not a list of training examples' numbers: write it as \[3, 17, 40\]"),
        ("null.json", "null.json is not a list of training examples' numbers"),
        ("hole.json", "hole.json is not a list of training examples' numbers"),
        ("word.json", "word.json is not a list of training examples' numbers"),
        ("huge.json", "names training example 12345678901234567890123: they are numbered 0 … 8"),
        ("huge.txt", "names training example -12345678901234567890123: they are numbered 0 … 8"),
        ("large.json", "names training example 9223372036854775808: they are numbered"),
        ("arabic.txt", "arabic.txt is not a list of training examples' numbers"),
        ("torn.json", "is not a list"),
        ("bytes.txt", "is not a list"),
        ("nowhere.npy", "No such file or directory; name a file"),
    ):
        with pytest.raises(InputError, match=words):
            asked.index_file(tmp_path / name, 5 if name == "a.npy" else 9)


def test_numbers_for_json() -> None:
    assert [finite(value) for value in (1.5, np.float32(2), None, np.nan, np.inf, -np.inf)] == [1.5, 2.0, *[None] * 4]


def test_blocks(tmp_path: Path) -> None:
    """Escaped, and tables as wide as their header."""
    some: list[blocks.Block] = [
        blocks.Lead(NASTY),
        blocks.Heading("a<b"),
        blocks.Table("c", ["x", "y"], [[NASTY, "1<2"]], {"y"}, note="n&m"),
        blocks.Picture("no.png", "a", "b"),
    ]
    made = blocks.html(some, tmp_path, "p")
    assert "<script" not in made
    assert "<h4>a&lt;b</h4>" in made
    assert '<td class="r">1&lt;2</td>' in made
    assert "no.png is missing" in made
    assert "<h2>" in blocks.html(some, tmp_path, "p", 2)
    with pytest.raises(ValueError, match="zip"):
        blocks.html([blocks.Table("c", ["x", "y"], [["1"]])], tmp_path, "p")


def test_every_verb_is_whole() -> None:
    """What the page, the files and the report need of it; and help without numpy."""
    assert set(OURS) <= set(verbs.names())
    for name in verbs.names():
        verb, view = verbs.load(name), page.view(name)
        assert verb.HELP[0].islower()
        assert not verb.HELP.endswith(".")
        assert verb.DESCRIPTION.endswith(".")
        assert view.TITLE
        assert issubclass(view.DOCUMENT, msgspec.Struct)
        for part in ("blocks", "frame", "grid"):
            assert callable(getattr(view, part))
    light = (
        "import sys; from bench import cli; from bench.explore import verbs; cli.parser(); "
        "print([n for n in ('numpy', 'torch', 'matplotlib', 'pandas', 'scipy') if n in sys.modules])"
    )
    there = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parent.parent)}
    assert subprocess.check_output([sys.executable, "-c", light], text=True, env=there).strip() == "[]"
    assert set(bench.explore.__all__) >= {"similar", "embedding", "open_subject", "write", "Subject"}


@pytest.mark.slow
def test_all_there_is(main: Main, run: Path) -> None:
    """Every verb with its defaults on a small run."""
    code, _, err = explore(main, "all", str(run))
    assert (code, err) == (0, "")
    board = results.read(run)
    for name in verbs.names():
        assert page.read(run / "explore", name).about.key == board.ground_truth["key"]
