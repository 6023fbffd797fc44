"""`bench compare`: what differs between two runs, who may be compared, and how it is printed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

import bench
from bench import baselines
from bench.baselines import Baseline
from bench.comparing import tables
from bench.errors import InputError

Main = Callable[..., tuple[int, str, str]]
World = Callable[..., Any]


def refused(found: tuple[int, str, str], *words: str) -> None:
    code, out, err = found
    assert (code, out) == (2, "")
    assert re.fullmatch(r"bench: [^\n]+\n", err)
    for word in words:
        assert word in err


def judged(made: Baseline, **changes: Any) -> Baseline:
    """The same, judged by something else."""
    return msgspec.structs.replace(made, judged=msgspec.structs.replace(made.judged, **changes)).sealed()


@pytest.fixture
def pair(world: World) -> tuple[Baseline, Baseline]:
    """Four methods of which one got worse, one better, one is drawn anew and one is the same."""
    w = world(1)
    same, drawn, poor, good = (w.scores(q) for q in (0.8, 0.6, 0.5, 0.9))
    first = {"same": same, "drawn": drawn, "up": poor, "down": good, "gone": poor, "broke": poor}
    second = {
        **{"down": w.worse(good), "up": w.scores(0.8), "drawn": w.scores(0.6), "same": same},
        **{"broke": ("failed", "ValueError: it\nbroke"), "new": poor},
    }
    return w.run(first), w.run(second)


def test_verdicts(pair: tuple[Baseline, Baseline]) -> None:
    found = bench.compare(*pair)
    verdicts = {one.name: one.verdict for one in found.methods}
    assert verdicts == {"same": "identical", "drawn": "not distinguishable", "up": "better", "down": "worse"}
    assert found.worse == ["down"]
    assert {(one.name, one.first, one.second) for one in found.uncompared} == {
        ("gone", "ok", "absent"),
        ("new", "absent", "ok"),
        ("broke", "ok", "failed: ValueError: it broke"),
    }
    back = {one.name: one.verdict for one in bench.compare(*reversed(pair)).methods}
    assert back == verdicts | {"up": "worse", "down": "better"}


def test_differences_and_holm_by_hand(pair: tuple[Baseline, Baseline]) -> None:
    """The difference is one of means; p adjusted is the largest of (n − k + 1)·p over those no larger."""
    found = bench.compare(*pair)
    entries = [{entry.name: entry for entry in made.methods} for made in pair]
    for one in found.methods:
        a, b = (np.array(side[one.name].per_target, float) for side in entries)
        assert one.difference == pytest.approx((b - a).mean(), abs=1e-12)
        assert one.lds == (entries[0][one.name].lds, entries[1][one.name].lds)
        assert one.ci[0] <= one.difference <= one.ci[1]
        assert one.n_targets == 120
    p = sorted(one.p_value for one in found.methods)
    steps = [min(1, max((len(p) - i) * p[i] for i in range(k + 1))) for k in range(len(p))]
    assert sorted(one.p_holm for one in found.methods) == pytest.approx(steps)


def test_verdicts_allow_for_the_number_of_methods(world: World) -> None:
    """Of many methods that were only drawn anew some have p below .05, and none is called better or worse."""
    w = world(8)
    first, second = (w.run({f"m{i}": w.scores(0.5) for i in range(30)}) for _ in range(2))
    found = bench.compare(first, second).methods
    alone = [one.name for one in found if one.p_value < 0.05]
    assert alone
    assert all(one.verdict == "not distinguishable" for one in found)
    verdicts = [bench.compare(first, second, methods=[name]).methods[0].verdict for name in alone]
    assert set(verdicts) <= {"better", "worse"}


def test_one_method_is_compared_without_correction(pair: tuple[Baseline, Baseline]) -> None:
    (one,) = bench.compare(*pair, methods=["drawn"]).methods
    assert one.p_holm == one.p_value
    half = (one.ci[1] - one.ci[0]) / 2
    t = stats.t(119)  # min(120 targets, 120 subsets) − 1
    assert one.p_value == pytest.approx(2 * t.sf(abs(one.difference) / (half / t.ppf(0.975))), rel=1e-9)
    (narrow,) = bench.compare(*pair, methods=["drawn"], level=0.5).methods
    assert (narrow.ci[1] - narrow.ci[0]) / 2 == pytest.approx(half * t.ppf(0.75) / t.ppf(0.975))


def test_excluded_targets_are_left_out_of_both(world: World) -> None:
    w = world(2)
    first = w.run({"a": w.scores()})
    w.margins[:, :7] = 1  # constant: excluded
    second = w.run({"a": w.scores()})
    (one,) = (found := bench.compare(first, second, allow_different=True)).methods
    a, b = (np.array(made.methods[0].per_target, float)[7:] for made in (first, second))
    assert one.n_targets == 113
    assert one.difference == pytest.approx((b - a).mean(), abs=1e-12)
    assert one.difference != pytest.approx(one.lds[1] - one.lds[0], abs=1e-4)
    assert "only 113 of 120 targets have an LDS in both" in tables.compared(found, markdown=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"setting": "toy/logreg"}, "setting (toy/mlp, toy/logreg)"),
        ({"protocol": "single-model"}, "protocol (expectation, single-model)"),
        ({"alpha": 0.25}, "alpha (0.5, 0.25)"),
        ({"output": "max"}, "output (logsumexp, max)"),
        ({"seed": 3}, "seed (0, 3)"),
        ({"repeats": 1}, "repeats (2, 1)"),
        ({"data": "x"}, ": data;"),
        ({"recipe": "x"}, ": recipe;"),
        ({"masks": "x"}, ": masks;"),
        ({"targets": "x"}, ": targets;"),
        ({"seed": 3, "masks": "x"}, "seed (0, 3), masks;"),
    ],
)
def test_what_was_judged_differently_is_refused_and_named(
    pair: tuple[Baseline, Baseline], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    baselines.write(tmp_path / "a.json", pair[0])
    baselines.write(tmp_path / "b.json", judged(pair[1], **changes))
    with pytest.raises(InputError) as caught:
        bench.compare(tmp_path / "a.json", str(tmp_path / "b.json"))
    said = str(caught.value)
    assert words in said
    assert f"{tmp_path / 'a.json'} and {tmp_path / 'b.json'} were judged differently" in said
    assert "--allow-different" in said
    found = bench.compare(tmp_path / "a.json", tmp_path / "b.json", allow_different=True)
    assert found.differs == words.strip(":; ").split(", ") if "(" not in words else found.differs[0] in words
    for markdown in (False, True):
        text = tables.compared(found, markdown=markdown)
        assert text.lstrip("*").startswith(f"NOT JUDGED ALIKE: {', '.join(found.differs)}.")


def test_other_margins_are_named_with_their_agreement(world: World) -> None:
    w = world(3)
    scores = w.scores()
    first = w.run({"a": scores})
    w.margins = w.margins + 1e-5 * w.rng.standard_normal(w.margins.shape).astype(np.float32)
    assert bench.compare(first, w.run({"a": scores})).differs == []  # the same models, elsewhere
    w.margins = w.retrained()
    with pytest.raises(InputError, match=r"differently: margins \(agreement 0\.[5-9]\d\);"):
        bench.compare(first, w.run({"a": scores}))


def test_pairing_is_over_what_is_the_same(world: World) -> None:
    """Where subsets or targets are others, what they share in noise is unknown: intervals are wider."""
    w = world(4)
    scores = w.scores()
    first, second = w.run({"a": scores}), w.run({"a": scores + 0.3 * w.rng.standard_normal(scores.shape)})
    widths, words = {}, {}
    for name, changes in {
        "all": {},
        "models": {"recipe": "x"},
        "subsets": {"masks": "x"},
        "targets": {"targets": "x"},
        "nothing": {"masks": "x", "targets": "x"},
    }.items():
        found = bench.compare(first, judged(second, **changes), allow_different=True)
        (one,) = found.methods
        widths[name], words[name] = one.ci[1] - one.ci[0], found.paired_over
        assert one.difference == pytest.approx(one.lds[1] - one.lds[0], abs=1e-5)
    assert words == {
        "all": "the same targets and subsets",
        "models": "the same targets and subsets",
        "subsets": "the same targets and different subsets",
        "targets": "different targets and the same subsets",
        "nothing": "different targets and subsets",
    }
    assert widths["models"] == widths["all"]  # a subset with both of its models is one draw
    assert widths["all"] < min(widths["subsets"], widths["targets"])
    assert max(widths["subsets"], widths["targets"]) < widths["nothing"]


def test_runs_of_other_sizes(world: World) -> None:
    one, other = world(5), world(5, n_targets=90, n_subsets=70)
    first, second = one.run({"a": one.scores()}), other.run({"a": other.scores(0.3)})
    with pytest.raises(InputError, match=r"n_targets \(120, 90\), n_subsets \(120, 70\), masks, targets"):
        bench.compare(first, second)
    # Other targets among as many, of which the hash alone tells.
    (found,) = bench.compare(first, second, allow_different=True).methods
    assert (found.verdict, found.n_targets) == ("worse", 90)


def test_the_same_numbers_from_other_models_are_not_identical(pair: tuple[Baseline, Baseline]) -> None:
    found = bench.compare(pair[0], judged(pair[0], masks="x"), allow_different=True)
    assert {one.verdict for one in found.methods} == {"not distinguishable"}


def test_changed_parameters_and_versions_are_listed(world: World) -> None:
    w = world(6)
    scores = w.scores()
    first, second = w.run({"a": scores}), w.run({"a": scores}, versions={"torch": "2.7"})
    entry = msgspec.structs.replace(second.methods[0], params={"size": 4, "damping": None, "fresh": True})
    found = bench.compare(first, msgspec.structs.replace(second, methods=[entry]).sealed())
    assert [(one.name, one.first, one.second) for one in found.methods[0].params] == [
        ("size", 3, 4),
        ("fresh", None, True),
    ]
    text = tables.compared(found, markdown=True)
    assert "- a: size is 3 in A, 4 in B; fresh is not set in A, True in B\n" in text
    assert "- made otherwise: torch is 2.6 in A, 2.7 in B\n" in text


def test_nothing_to_compare(world: World, pair: tuple[Baseline, Baseline]) -> None:
    w = world(1)
    other = w.run({"b": w.scores(), "gone": ("skipped", "needs a GPU")})
    with pytest.raises(InputError, match=r"no method has an LDS in both .* gone: ok and skipped: needs a GPU"):
        bench.compare(pair[0], other, allow_different=True)
    with pytest.raises(InputError, match=r"no method 'dwn'; did you mean 'down'\? \(there are: .*new.*gone\)"):
        bench.compare(*pair, methods=["dwn"])
    with pytest.raises(InputError, match="level is 95: it is between 0 and 1"):
        bench.compare(*pair, level=95)


def test_command_line(main: Main, pair: tuple[Baseline, Baseline], tmp_path: Path) -> None:
    for name, made in zip("ab", pair, strict=True):
        baselines.write(tmp_path / name / "baseline.json", made)  # as a run leaves it
    code, out, err = main("compare", "a", "b")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == "A is a, B is b: toy/mlp, 120 held-out subsets × 120 targets."
    header = next(line for line in lines if line.startswith("method"))
    assert re.split(r"\s{2,}", header) == [
        *("method", "LDS in A", "LDS in B", "B − A", "95% interval", "p (Holm)", "verdict")
    ]
    row = re.split(r"\s{2,}", next(line for line in lines if line.startswith("down ")))
    assert row[-2:] == ["<0.001", "worse"]
    assert re.fullmatch(r"−0\.\d{3}", row[3])
    assert re.fullmatch(r"\[−0\.\d{3}, −0\.\d{3}\]", row[4])
    assert "broke: in A ok, in B failed: ValueError: it broke" in lines
    assert main("compare", "b", "a", "--method", "down", "--method", "drawn")[0] == 0  # both no worse
    assert main("compare", "a", "a/baseline.json")[0] == 0

    code, out, _ = main("compare", "a", "b", "--format", "markdown")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert code == 1
    assert {len(line) for line in cells} == {7}
    assert {line[0]: line[-1] for line in cells[2:]}["same"] == "identical"
    assert "- gone: in A ok, in B absent\n" in out

    code, out, _ = main("compare", "a", "b", "--json")
    assert (code, out) == (1, main("compare", "a", "b", "--format", "json")[1])
    found = json.loads(out, parse_constant=lambda c: pytest.fail(c))
    assert found["schema"] == 1
    assert msgspec.convert(found, type(bench.compare("a", "b"))) == bench.compare("a", "b")


def test_bad_usage(main: Main, pair: tuple[Baseline, Baseline], tmp_path: Path) -> None:
    baselines.write(tmp_path / "a.json", pair[0])
    baselines.write(tmp_path / "b.json", judged(pair[1], seed=2))
    refused(main("compare", "a.json", "b.json"), "a.json and b.json", "seed (0, 2)", "--allow-different")
    assert main("compare", "a.json", "b.json", "--allow-different")[0] == 1
    refused(main("compare", "a.json", "nothing"), "nothing does not exist", "bench run")
    refused(main("compare", "a.json", "b.json", "--json", "--format", "table"), "--json and --format table")
    refused(main("compare", "a.json", "a.json", "--level", "0"), "level is 0", "between 0 and 1")
    refused(main("compare", "a.json", "a.json", "--method", "x"), "no method 'x'", "down")
    assert main("compare", "a.json")[0] == 2


def test_runs_of_other_sizes_are_named_each(pair: tuple[Baseline, Baseline]) -> None:
    other = judged(pair[1], setting="toy/logreg")
    text = tables.compared(bench.compare(pair[0], other, allow_different=True), markdown=False)
    assert (
        "A is the first run: toy/mlp, 120 held-out subsets × 120 targets. B is the second run: toy/logreg, 120" in text
    )
    same = tables.compared(bench.compare(*pair), markdown=False)
    assert "A is the first run, B is the second run: toy/mlp, 120 held-out subsets × 120 targets." in same
