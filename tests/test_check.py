"""`bench check`: it catches what got worse, keeps quiet otherwise, and names what cannot be checked."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

import bench
from bench import baselines
from bench.baselines import Baseline
from bench.cli import parser
from bench.comparing import tables
from bench.comparing.check import Tolerance
from bench.comparing.update import update
from bench.errors import InputError

Main = Callable[..., tuple[int, str, str]]
World = Callable[..., Any]
ROOT = Path(__file__).resolve().parent.parent


def refused(found: tuple[int, str, str], *words: str) -> None:
    code, out, err = found
    assert (code, out) == (2, "")
    assert re.fullmatch(r"bench: [^\n]+\n", err)
    for word in words:
        assert word in err


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)  # this may run in a GitHub job


def replaced(made: Baseline, name: str, **changes: Any) -> Baseline:
    """The same with another entry of a method, as if a run had left it."""
    entries = [msgspec.structs.replace(e, **changes) if e.name == name else e for e in made.methods]
    return msgspec.structs.replace(made, methods=entries).sealed()


def lost(made: Baseline, name: str, status: str, reason: str | None) -> Baseline:
    none: dict[str, Any] = {"lds": None, "ci": None, "per_target": [], "influence": [], "sketch": []}
    return replaced(made, name, status=status, reason=reason, **none)


def test_a_tenth_less_is_caught_and_no_change_is_not(world: World) -> None:
    """Of 20 ground truths of .3 to .7: alarms on a planted loss in 19 or more, on the unchanged in at most one.

    Unchanged: the method drawn anew (other projections, say, of the same quality), and models trained again elsewhere,
    with rounding noise in margins and scores.
    """
    alarms = {"a tenth less": 0, "drawn anew": 0, "trained elsewhere": 0}
    levels = []
    for seed in range(20):
        w = world(seed, n_targets=100 + 13 * seed, n_subsets=200 - 5 * seed)
        quality = 0.25 + 0.05 * seed
        scores = w.scores(quality)
        levels.append(w.lds(scores))
        baseline = w.run({"m": scores})
        runs = {"a tenth less": w.run({"m": w.worse(scores, 0.1)}), "drawn anew": w.run({"m": w.scores(quality)})}
        w.margins = w.margins + 1e-5 * w.rng.standard_normal(w.margins.shape).astype(np.float32)
        runs["trained elsewhere"] = w.run({"m": scores + 1e-5 * w.rng.standard_normal(scores.shape)})
        for what, run in runs.items():
            alarms[what] += not bench.check(run, baseline).passed
    assert min(levels) < 0.35
    assert max(levels) > 0.65
    assert alarms["a tenth less"] >= 19
    assert alarms["drawn anew"] <= 1
    assert alarms["trained elsewhere"] <= 1


@pytest.fixture
def kept(world: World) -> tuple[Any, dict[str, Any], Baseline]:
    """A world, three methods' scores, and the baseline of them."""
    w = world(7)
    scores = {"good": w.scores(0.9), "fair": w.scores(0.5), "poor": w.scores(0.2)}
    return w, scores, w.run(scores)


def test_verdicts(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    w, scores, baseline = kept
    run = w.run(
        {"good": w.worse(scores["good"], 0.2), "fair": scores["fair"], "poor": w.scores(0.4), "new": w.scores()}
    )
    found = bench.check(run, baseline)
    assert {one.name: one.verdict for one in found.methods} == {
        "good": "regression",
        "fair": "identical",
        "poor": "better",
    }
    assert (found.passed, found.of("regression"), found.agreement) == (False, ["good"], 1.0)
    good = found.methods[0]
    a, b = (np.array(next(e for e in made.methods if e.name == "good").per_target, float) for made in (baseline, run))
    assert good.drop == pytest.approx((a - b).mean(), abs=1e-12)
    assert good.allowed == pytest.approx(0.05 * good.baseline)
    text = tables.checked(found)
    assert text.startswith("### bench check: 1 regression\n\n`the run` against `the baseline`: toy/mlp, 120 held-out")
    assert "| **regression** |" in text
    assert "- poor: better, and --update would raise the bar\n" in text
    assert "- new: not in the baseline, and --update adds it\n" in text


def test_a_regression_needs_both_the_interval_and_the_tolerance(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    w, scores, baseline = kept
    run = w.run(scores | {"good": w.worse(scores["good"], 0.1)})
    good = bench.check(run, baseline, tolerance=0).methods[0]
    assert good.drop is not None
    assert good.ci is not None
    verdicts: dict[str | float, str] = {
        good.drop - 1e-6: "regression",
        good.drop + 1e-6: "within tolerance",
        "9.5%": "regression",
        "10.5%": "within tolerance",
        ".001,10.5%": "within tolerance",
        f"{good.drop + 1e-6},1%": "within tolerance",
    }
    for tolerance, verdict in verdicts.items():
        found = bench.check(run, baseline, tolerance=tolerance)
        assert found.methods[0].verdict == verdict, tolerance
        assert found.passed == (verdict == "within tolerance")
    slight = w.run(scores | {"poor": scores["poor"] + 0.5 * w.rng.standard_normal(scores["poor"].shape)})
    one = bench.check(slight, baseline, tolerance=0).methods[2]
    assert one.ci is not None
    assert one.ci[0] < 0 < one.ci[1]
    assert one.verdict == "not distinguishable"  # whatever the drop, where the interval holds zero


def test_level_widens_the_interval(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    w, scores, baseline = kept
    run = w.run(scores | {"fair": w.worse(scores["fair"], 0.03)})
    assert bench.check(run, baseline, tolerance=0).of("regression") == ["fair"]
    assert bench.check(run, baseline, tolerance=0, level=1 - 1e-9).passed


@pytest.mark.parametrize(
    ("text", "absolute", "share"), [(".005", 0.005, 0), ("5%", 0, 0.05), (".01, 2.5%", 0.01, 0.025), (0, 0, 0)]
)
def test_tolerance(text: str | float, absolute: float, share: float) -> None:
    found = Tolerance.of(text)
    assert (found.absolute, found.share) == pytest.approx((absolute, share))
    assert found.allowed(-0.4) == pytest.approx(max(absolute, 0.4 * share))


@pytest.mark.parametrize("text", ["", "x", "-1", "-5%", "nan", "inf", "1", "5", "101%", "%", "5%%", ".1,", "1e999"])
def test_bad_tolerance(text: str, kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    with pytest.raises(InputError, match=re.escape(f"tolerance is {text!r}: ")):
        bench.check(kept[2], kept[2], tolerance=text)


def test_a_method_that_failed_is_a_regression(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    found = bench.check(lost(kept[2], "fair", "failed", "ValueError:\n no"), kept[2])
    assert (found.passed, found.of("failed")) == (False, ["fair"])
    text = tables.checked(found)
    assert text.startswith("### bench check: 1 method failed\n")
    assert "| –" in text
    assert "**failed**: ValueError: no |" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: msgspec.structs.replace(b, methods=b.methods[:1]).sealed(), ("methods lacks fair, poor", "each")),
        (lambda b: lost(b, "fair", "skipped", "needs a GPU"), ("fair has no LDS", "skipped: needs a GPU")),
        (lambda b: lost(b, "fair", "ok", "no target has a correlation"), ("fair", "its lds is null (no target has")),
        (
            lambda b: msgspec.structs.replace(b, judged=msgspec.structs.replace(b.judged, seed=1, masks="x")).sealed(),
            ("another ground truth", "seed (0, 1), masks", "python -m bench run toy/mlp"),
        ),
    ],
)
def test_what_cannot_be_checked(
    main: Main,
    kept: tuple[Any, dict[str, Any], Baseline],
    tmp_path: Path,
    change: Callable[[Baseline], Baseline],
    words: tuple[str, ...],
) -> None:
    baselines.write(tmp_path / "base.json", kept[2])
    baselines.write(tmp_path / "run" / "baseline.json", change(kept[2]))
    refused(main("check", "run", "--baseline", "base.json"), "run", "base.json", *words)


def test_no_common_target(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    baseline = kept[2]
    values = baseline.methods[0].per_target
    halves = [[*values[:60], *[None] * 60], [*[None] * 60, *values[60:]]]
    means = [float(np.mean([v for v in half if v is not None])) for half in halves]
    one, other = (
        replaced(baseline, "good", per_target=half, lds=mean, ci=None) for half, mean in zip(halves, means, strict=True)
    )
    with pytest.raises(InputError, match="per_target of good shares no target"):
        bench.check(one, other)


def test_a_baseline_without_an_lds(kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    baseline = lost(kept[2], "fair", "skipped", "needs a GPU")
    found = bench.check(kept[2], baseline)
    assert [(one.name, one.baseline, one.run) for one in found.unchecked] == [("fair", "skipped: needs a GPU", "ok")]
    for name in ("good", "poor"):
        baseline = lost(baseline, name, "skipped", "needs more")
    with pytest.raises(InputError, match="no entry of methods has an LDS"):
        bench.check(kept[2], baseline)


def file_of(tmp_path: Path, kept: tuple[Any, dict[str, Any], Baseline]) -> Path:
    path = tmp_path / "base.json"
    baselines.write(path, kept[2])
    return path


def edited(path: Path, change: Callable[[Any], object]) -> None:
    whole = json.loads(path.read_text("utf-8"))
    change(whole)
    path.write_text(json.dumps(whole), "utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.update(schema=2), ("schema is 2", "reads 1", "--update")),
        (lambda w: w.pop("schema"), ("schema is missing",)),
        (lambda w: w.pop("judged"), ("is not a baseline", "judged or methods is missing")),
        (lambda w: w["judged"].pop("masks"), ("masks",)),
        (lambda w: w["judged"].update(n_subsets="120"), ("Expected `int`", "$.judged.n_subsets")),
        (lambda w: w["judged"].update(n_targets=-5), ("judged.n_targets is -5",)),
        (lambda w: w["judged"].update(n_train=0), ("judged.n_train is 0",)),
        (lambda w: w["judged"].update(alpha=1.5), ("judged.alpha is 1.5",)),
        (lambda w: w["judged"].update(margins=[1.0]), ("judged.margins has 1 number instead of 256",)),
        (lambda w: w["judged"].update(seed=9), ("digest does not fit", "by hand")),
        (lambda w: w["methods"].append(w["methods"][0]), ("methods has 'good' twice",)),
        (lambda w: w["methods"][1].update(lds=0.9), ("methods[1] (fair).lds is 0.9", "has the mean 0.")),
        (lambda w: w["methods"][1].update(lds=None), ("methods[1] (fair).lds is None",)),
        (lambda w: w["methods"][1].update(ci=[0.9, 0.95]), ("methods[1] (fair).ci is [0.9, 0.95]", "does not hold")),
        (lambda w: w["methods"][1].update(ci=[-3, 3]), ("methods[1] (fair).ci is [-3.0, 3.0]",)),
        (lambda w: w["methods"][1].update(ci=[-0.99, 0.99]), ("digest does not fit",)),
        (lambda w: w["methods"][1].update(status="fine"), ("status",)),
        (
            lambda w: w["methods"][2]["per_target"].pop(),
            ("methods[2] (poor).per_target has 119 numbers instead of 120",),
        ),
        (lambda w: w["methods"][2]["per_target"].__setitem__(0, 2.5), ("methods[2] (poor).per_target has a value",)),
        (lambda w: w["methods"][2].update(influence=[]), ("methods[2] (poor).influence has 0 numbers",)),
        (lambda w: w["methods"][2].update(sketch=[0.0]), ("methods[2] (poor).sketch has 1 number instead of 1024",)),
        (lambda w: w["methods"][0]["params"].update(size=4), ("digest does not fit",)),
        (lambda w: w.update(foo=1), ("unknown field `foo`",)),
        (lambda w: w["methods"][0].update(ldss=1), ("unknown field `ldss`", "$.methods[0]")),
        (lambda w: w.update(schema="1"), ("schema is '1'", "reads 1")),
        (lambda w: w["methods"][1].update(lds=float("nan")), ("methods[1].lds is nan",)),
        (lambda w: w["methods"][1]["sketch"].__setitem__(7, float("inf")), ("methods[1].sketch[7] is inf",)),
    ],
)
def test_edited_baselines(
    main: Main,
    kept: tuple[Any, dict[str, Any], Baseline],
    tmp_path: Path,
    change: Callable[[Any], object],
    words: tuple[str, ...],
) -> None:
    path = file_of(tmp_path, kept)
    baselines.write(tmp_path / "run" / "baseline.json", kept[2])
    edited(path, change)
    refused(main("check", "run", "--baseline", "base.json"), "base.json", *words)
    refused(main("compare", "base.json", "run"), "base.json", *words)


def test_a_single_eval_subset(kept: tuple[Any, dict[str, Any], Baseline], main: Main, tmp_path: Path) -> None:
    entries = [msgspec.structs.replace(entry, influence=entry.influence[:1]) for entry in kept[2].methods]
    judged = msgspec.structs.replace(kept[2].judged, n_subsets=1)
    baselines.write(tmp_path / "one.json", msgspec.structs.replace(kept[2], judged=judged, methods=entries).sealed())
    refused(main("compare", "one.json", "one.json"), "one.json", "judged.n_subsets is 1", "at least two", "--models")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b'{"schema": 1, "x": "\xff"}',
        b"<<<<<<< HEAD\n{}",
        b"\x80\x04K\x01.",
    ],
)
def test_files_that_are_no_baseline(main: Main, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    refused(main("compare", "bad.json", "bad.json"), "bad.json is not a baseline", "--baseline bad.json --update")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path, number: str
) -> None:
    path = file_of(tmp_path, kept)
    text = path.read_text("utf-8")
    path.write_text(re.sub(r'"lds":[\d.]+', f'"lds":{number}', text, count=1), "utf-8")
    refused(main("compare", "base.json", "base.json"), "base.json")


def test_places_without_a_baseline(main: Main, tmp_path: Path, kept: tuple[Any, dict[str, Any], Baseline]) -> None:
    file_of(tmp_path, kept)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "leaderboard.json").write_text('{"schema": 1, "ground_truth": {}, "methods": []}')
    refused(main("check", "empty", "--baseline", "base.json"), "empty/baseline.json does not exist", "`bench run`")
    refused(main("check", "old", "--baseline", "base.json"), "old/baseline.json", "older version", "takes seconds")
    refused(main("compare", "base.json", "old/leaderboard.json"), "is a leaderboard", "name its folder old")
    refused(main("check", "base.json", "--baseline", "none.json"), "none.json does not exist", "--update")
    refused(main("check", "base.json", "--baseline", "base.json/x"), "base.json/x cannot be read")
    shown = main("check", "empty")
    assert shown[0] == 2
    assert "--baseline" in shown[2]


def test_command_line_and_job_summary(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, scores, baseline = kept
    baselines.write(tmp_path / "run" / "baseline.json", baseline)
    worse = w.run(scores | {"good": w.worse(scores["good"])}, versions={"torch": "2.7"})
    baselines.write(tmp_path / "worse" / "baseline.json", worse)
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    code, out, err = main("check", "run", "--baseline", "kept/base.json", "--update")
    assert (code, err) == (0, "")
    assert "### bench check: baseline written" in out
    assert summary.read_text("utf-8") == out + "\n"
    code, passed, _ = main("check", "run", "--baseline", "kept/base.json")
    assert code == 0
    assert passed.startswith("### bench check: passed\n\n`run` against `kept/base.json` (20")
    code, out, err = main("check", "worse", "--baseline", "kept/base.json")
    assert (code, err) == (1, "")
    assert out.startswith("### bench check: 1 regression\n")
    assert "- made otherwise: torch is 2.6 in the baseline, 2.7 in the run\n" in out
    assert summary.read_text("utf-8").endswith(f"{passed}\n{out}\n")  # appended
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert cells[0] == ["method", "baseline", "run", "drop", "95% interval", "tolerated", "verdict"]
    assert [line[-1] for line in cells[2:]] == ["**regression**", "identical", "identical"]

    assert main("check", "worse", "--baseline", "kept/base.json", "--tolerance", "50%")[0] == 0
    code, out, _ = main("check", "worse", "--baseline", "kept/base.json", "--json")
    found = json.loads(out, parse_constant=lambda c: pytest.fail(c))
    assert (code, found["passed"], found["methods"][0]["verdict"]) == (1, False, "regression")
    assert msgspec.convert(found, bench.comparing.check.Check) == bench.check("worse", "kept/base.json")
    assert summary.read_text("utf-8").count("### bench check: 1 regression") == 2  # Markdown there all the same

    refused(main("check", "run", "--baseline", "gone.json"), "gone.json")
    assert summary.read_text("utf-8").endswith(
        "### bench check: not checked\n\n"
        "gone.json does not exist: name a folder that `bench run` wrote, or make it with "
        "`bench check RUN --baseline gone.json --update`\n\n"
    )


def test_a_summary_that_cannot_be_written_does_not_hide_the_verdict(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, scores, _ = kept
    file_of(tmp_path, kept)
    baselines.write(tmp_path / "worse.json", w.run(scores | {"good": w.worse(scores["good"])}))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))  # a folder
    code, out, err = main("check", "worse.json", "--baseline", "base.json")
    assert code == 1
    assert "**regression**" in out
    assert re.fullmatch(r"bench: \$GITHUB_STEP_SUMMARY cannot be written \(.*\): Is a directory\n", err)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
    assert main("check", "base.json", "--baseline", "base.json")[::2] == (0, "")


def test_update_says_how_it_was_made_and_what_changed(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path
) -> None:
    w, scores, baseline = kept
    baselines.write(tmp_path / "run" / "baseline.json", baseline)
    assert "- a new baseline\n" in main("check", "run", "--baseline", "b.json", "--update")[1]
    made = baselines.read(tmp_path / "b.json").made
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["updated"])
    assert made | {"command": "python -m bench run toy/mlp", "version of torch": "2.6", "cores": "2"} == made
    assert not {"date", "commit"} & set(made)  # of the run, which does not say
    assert baselines.read(tmp_path / "b.json").methods == baseline.methods
    assert "- no LDS changes\n" in main("check", "run", "--baseline", "b.json", "--update")[1]

    other = w.run(scores | {"good": w.worse(scores["good"], 0.3), "new": scores["poor"]}, seed=4)
    baselines.write(tmp_path / "other" / "baseline.json", other)
    code, out, _ = main("check", "other", "--baseline", "b.json", "--update", "--json")
    changes = json.loads(out)["changes"]
    assert (code, changes[0]) == (0, "another ground truth: seed (0, 4)")
    assert re.fullmatch(r"good: LDS was 0\.\d{3}, is 0\.\d{3}", changes[1])
    assert re.fullmatch(r"new: new, LDS 0\.\d{3}", changes[2])
    assert len(changes) == 3
    assert main("check", "other", "--baseline", "b.json")[0] == 0


def test_a_run_names_its_commit_and_an_update_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    def run() -> dict[str, str]:
        bench.run(setting="digits/logreg", models=30, methods=["random"], out=str(tmp_path / "run"), quiet=True)
        return baselines.read(tmp_path / "run").made

    repository = tmp_path / "repository"
    (repository / "below").mkdir(parents=True)
    monkeypatch.chdir(repository)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git("init", "-q")
    assert "commit" not in run()  # there is none yet
    (repository / "mine.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    first = git("rev-parse", "HEAD")
    monkeypatch.chdir(repository / "below")
    assert run()["commit"] == first
    (repository / "mine.py").write_text("2")
    assert run()["commit"] == first + " + changes"
    made = run()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["date"])
    assert set(made) >= {"harness", "training code"}
    git("commit", "-qam", "second")  # a commit that the run knows nothing of
    found = update(tmp_path / "run", "b.json").made
    assert found == made | {"updated": found["updated"]}


def test_update_refuses_what_would_guard_less(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path
) -> None:
    before = file_of(tmp_path, kept).read_bytes()
    runs = {
        "failed": lost(kept[2], "fair", "failed", "it broke"),
        "skipped": lost(kept[2], "fair", "skipped", "needs a GPU"),
        "fewer": msgspec.structs.replace(kept[2], methods=kept[2].methods[1:]).sealed(),
    }
    for name, made in runs.items():
        baselines.write(tmp_path / f"{name}.json", made)
    call = ("--baseline", "base.json", "--update")
    refused(main("check", "failed.json", *call), "failed.json: fair failed: it broke", "mend the method")
    refused(main("check", "skipped.json", *call), "base.json has an LDS of fair", "skipped: needs a GPU", "delete")
    refused(main("check", "fewer.json", *call), "base.json has an LDS of good", "fewer.json has none (absent)")
    refused(main("check", "base.json", *call, "--tolerance", "1%"), "--update and --tolerance")
    refused(main("check", "failed.json", "--baseline", "fresh.json", "--update"), "fair failed")
    assert not (tmp_path / "fresh.json").exists()
    assert (tmp_path / "base.json").read_bytes() == before
    assert main("check", "skipped.json", "--baseline", "fresh.json", "--update")[0] == 0  # nothing is lost


def test_update_overwrites_baselines_alone(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path
) -> None:
    baselines.write(tmp_path / "run.json", kept[2])
    for name, text in {"notes.md": "# mine", "other.json": '{"schema": 1}', "torn.json": '{"schema"'}.items():
        (tmp_path / name).write_text(text)
        refused(main("check", "run.json", "--baseline", name, "--update"), f"{name} is not a baseline, and is not over")
        assert (tmp_path / name).read_text() == text
    path = file_of(tmp_path, kept)
    for change in (lambda w: w.update(schema=7), lambda w: w["methods"][0].update(lds=0.1)):
        edited(path, change)
        code, out, _ = main("check", "run.json", "--baseline", "base.json", "--update")
        assert code == 0
        assert "- in place of one that could not be used (base.json: " in out
        assert baselines.read(path).methods == kept[2].methods
    refused(main("check", "run.json", "--baseline", ".", "--update"), "--baseline . is a folder")
    refused(main("check", "run.json", "--baseline", "notes.md/b.json", "--update"), "notes.md/b.json", "--baseline")


_SCORES = '''"""Scores from a file."""
import numpy as np
from bench import Method

class Given(Method):
    def attribute(self, task):
        return np.load({path!r}){more}
'''


def test_real_runs(main: Main, tmp_path: Path) -> None:
    """Digits, influence scores: unchanged they pass; with a tenth of their LDS gone, or failing, they do not."""
    asked = ("run", "digits/logreg", "--models", "180", "--out", "run", "--quiet", "--method", "given.py")
    store = tmp_path / "run" / "ground-truth"
    assert main("train", "digits/logreg", "--models", "180", "--out", str(store), "--quiet")[0] == 0
    called = ("--method", "influence:checkpoints=1", "--store", str(store), "--out", "s.npy", "--quiet")
    assert main("attribute", "digits/logreg", *called)[0] == 0
    scores = np.load(tmp_path / "s.npy")
    plugin = tmp_path / "given.py"
    plugin.write_text(_SCORES.format(path=str(tmp_path / "s.npy"), more=""))
    assert main(*asked)[0] == 0
    assert main("check", "run", "--baseline", "b.json", "--update")[0] == 0
    before = baselines.read(tmp_path / "b.json").methods[0].lds
    assert before is not None
    assert before > 0.5
    rng = np.random.default_rng(0)

    plugin.write_text(_SCORES.format(path=str(tmp_path / "s.npy"), more=" * np.float32(1 + 1e-6)"))  # rounds otherwise
    assert main(*asked)[0] == 0
    assert main("check", "run", "--baseline", "b.json")[0] == 0

    noise = scores.std() * rng.standard_normal(scores.shape, np.float32)
    low, high, after = 0.0, 4.0, before
    while abs(after / before - 0.9) > 0.002:
        middle = (low + high) / 2
        np.save(tmp_path / "n.npy", scores + middle * noise)
        _, out, _ = main("lds", "--store", str(store), "--scores", "n.npy", "--json")
        after = json.loads(out)["lds"]
        low, high = (middle, high) if after > 0.9 * before else (low, middle)
    plugin.write_text(_SCORES.format(path=str(tmp_path / "n.npy"), more=""))
    assert main(*asked)[0] == 0
    code, out, _ = main("check", "run", "--baseline", "b.json")
    assert (code, "| **regression** |" in out) == (1, True)
    assert main("compare", "b.json", "run")[0] == 1

    plugin.write_text(_SCORES.format(path=str(tmp_path / "gone.npy"), more=""))
    assert main(*asked)[0] == 1
    code, out, _ = main("check", "run", "--baseline", "b.json")
    assert (code, "**failed**: FileNotFoundError" in out) == (1, True)


def test_this_projects_baseline() -> None:
    """It can be read, holds every method of the default run, and is what `bench run` is judged by."""
    from bench import methods

    found = baselines.read(ROOT / "results" / "baselines" / "digits-mlp.json")
    assert {entry.name for entry in found.methods} == {one.name for one in methods.chosen([])}
    assert all(entry.lds is not None for entry in found.methods)
    assert (found.judged.setting, found.judged.n_subsets, found.judged.repeats) == ("digits/mlp", 200, 2)
    assert set(found.made) >= {"date", "commit", "command", "version of torch", "processor"}
    assert "changes" not in found.made["commit"]


def test_what_nobody_foresaw_is_no_regression(
    main: Main, kept: tuple[Any, dict[str, Any], Baseline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, kept)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(main("check", str(path), "--baseline", "deep.json"), "deep.json", "it nests too deeply")
    refused(main("check", str(path), "--baseline", "deep.json", "--update"), "deep.json", "is not overwritten")
    monkeypatch.setattr("bench.comparing.check.judges", lambda *_: 1 / 0)
    refused(main("check", str(path), "--baseline", str(path)), "unexpected ZeroDivisionError", "--debug shows where")


@pytest.mark.parametrize("text", ["1%,2%", ".01,.02", ".01,1%,2%"])
def test_a_tolerance_is_said_once(kept: tuple[Any, dict[str, Any], Baseline], text: str) -> None:
    with pytest.raises(InputError, match="one of each"):
        bench.check(kept[2], kept[2], tolerance=text)


@pytest.mark.parametrize("path", ["tests/examples/github-actions.yml", ".github/workflows/ci.yml"])
def test_workflows(path: str) -> None:
    text = (ROOT / path).read_text("utf-8")
    found = yaml.safe_load(text)
    assert set(found) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads `on` as true
    for job in found["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


def test_commands_of_the_example_workflow() -> None:
    text = (ROOT / "tests" / "examples" / "github-actions.yml").read_text("utf-8")
    commands = re.findall(r"python -m bench ([^\n]+)", text.replace("\\\n", " "))
    verbs = [parser().parse_args(shlex.split(command)).verb for command in commands]
    assert sorted(verbs) == ["check", "check", "run"]
    steps = yaml.safe_load(text)["jobs"]["lds"]["steps"]
    cache = next(step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@"))
    run = next(command for command in commands if command.startswith("run"))
    out = parser().parse_args(shlex.split(run)).out
    assert f"{out}/ground-truth" in cache["path"].split()
    assert "hashFiles('.github/workflows/" in cache["key"]
    assert steps[-1]["uses"].startswith("actions/upload-artifact@")
    assert (steps[-1]["if"], steps[-1]["with"]["path"]) == ("always()", out)
