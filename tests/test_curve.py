"""The learning curve of datamodels: its numbers against scipy and scikit-learn, what it reads, what it uses again."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import curve, curve_tables, hashing
from bench.curve import Curve, Point, datamodels_curve
from bench.errors import BenchError, EvalRowError, InputError
from bench.lasso import fit_datamodels
from bench.launch import Request, make
from bench.progress import Progress
from bench.ridge import fit_least_squares, fit_ridge
from bench.store import GroundTruth
from bench.subsets import Plan

Array = NDArray[Any]
Change = Callable[..., Path]


@pytest.fixture
def store(toy_request: Request, quiet: Progress, tmp_path: Path) -> Path:
    """135 rows of the toy setting: 90 fit, 9 tune, 18 eval subsets × 2."""
    make(replace(toy_request, plan=Plan(135, 2), block_rows=200), tmp_path / "store", quiet)
    return tmp_path / "store"


@pytest.fixture
def changed(store: Path) -> Change:
    """A copy of the store with other masks or margins."""

    def change(masks: Callable[[Array], object] = id, margins: Callable[[Array], object] = id) -> Path:
        folder = store.with_name("changed")
        shutil.copytree(store, folder)
        for name, alter in (("masks", masks), ("margins", margins)):
            array = np.load(folder / f"{name}.npy")
            alter(array)
            np.save(folder / f"{name}.npy", array)
        return folder

    return change


def values(made: Curve) -> list[dict[str, Any]]:
    """The points, but for seconds and keys."""
    return [msgspec.to_builtins(point) | {"seconds": 0, "key": ""} for point in made.points]


def spearman(weight: Array, masks: Array, margins: Array) -> float:
    """Mean over targets; one that the weights say nothing on counts as 0."""
    from scipy.stats import spearmanr

    columns = zip(weight.T.astype(float), margins.T, strict=True)
    return float(np.mean([spearmanr(masks @ w, y)[0] if w.any() else 0 for w, y in columns]))


def test_lasso_is_judged_as_scipy_and_sklearn_judge_it(store: Path) -> None:
    from sklearn.linear_model import Lasso
    from sklearn.metrics import r2_score

    truth = GroundTruth.open(store)
    fit, tune = (truth.rows(truth.of_group(group)) for group in ("fit", "tune"))
    made = datamodels_curve(store, [40, 90], ["lasso"], seed=3, lasso={"tol": 1e-6})
    assert [(point.estimator, point.rows) for point in made.points] == [("lasso", 40), ("lasso", 90)]
    for point in made.points:
        masks, margins = fit.masks[: point.rows], fit.margins[: point.rows]
        fitted = fit_datamodels(masks, margins, seed=3, tol=1e-6)
        theirs = [
            Lasso(alpha=lam, tol=1e-10, max_iter=100_000).fit(masks.astype(float), y.astype(float))
            for lam, y in zip(fitted.lam, margins.T, strict=True)
        ]
        weight = np.stack([model.coef_ for model in theirs], axis=1)
        weight[np.abs(weight) < 1e-6 * np.abs(weight).max()] = 0  # rounding of a zero would have ranks
        predicted = np.stack([model.predict(tune.masks.astype(float)) for model in theirs], axis=1)
        r2 = r2_score(tune.margins.astype(float), predicted, multioutput="raw_values")
        assert point.lds == pytest.approx(spearman(weight, tune.masks, tune.margins), abs=0.01)  # ranks may swap
        assert point.lds == pytest.approx(spearman(fitted.weight, tune.masks, tune.margins), abs=1e-9)
        assert (point.r2_mean, point.r2_median) == pytest.approx((r2.mean(), np.median(r2)), abs=2e-3)
        assert point.ci is not None
        assert point.lds is not None
        assert point.ci[0] < point.lds < point.ci[1]
        count = (fitted.weight != 0).sum(0)
        assert point.nonzero == pytest.approx(np.quantile(count, (0.25, 0.5, 0.75)))
        assert point.ratio == pytest.approx(np.quantile(fitted.lam / fitted.lam_max, (0.25, 0.5, 0.75)))
        assert point.gap_max == fitted.gap.max() <= 1e-6
        assert (point.not_converged, point.constant, point.no_r2) == (0, 0, 0)
        assert point.seconds > 0
    assert made.points[0].lds != made.points[1].lds
    assert (made.fit_rows, made.tune_rows, made.tune_subsets, made.repeats) == (90, 9, 9, 2)


def test_ridge_and_differences_in_means(store: Path) -> None:
    from sklearn.metrics import r2_score

    truth = GroundTruth.open(store)
    fit, tune = (truth.rows(truth.of_group(group)) for group in ("fit", "tune"))
    ridge, heldout = datamodels_curve(truth, [60], ["ridge", "heldout"], seed=1).points
    masks, margins = fit.masks[:60], fit.margins[:60].astype(float)
    fitted = fit_ridge(masks, margins, seed=1)
    r2 = r2_score(tune.margins, tune.masks @ fitted.weight + fitted.bias, multioutput="raw_values")
    assert ridge.lds == pytest.approx(spearman(fitted.weight, tune.masks, tune.margins), abs=1e-9)
    assert (ridge.r2_mean, ridge.r2_median) == pytest.approx((r2.mean(), np.median(r2)), abs=1e-5)
    assert (ridge.nonzero, ridge.ratio, ridge.at_last) == (None, None, None)
    assert ridge.not_converged == 0
    difference = np.stack([margins[kept].mean(0) - margins[~kept].mean(0) for kept in masks.T])
    assert heldout.lds == pytest.approx(spearman(difference, tune.masks, tune.margins), abs=1e-9)
    assert (heldout.r2_mean, heldout.r2_median, heldout.gap_max, heldout.not_converged) == (None,) * 4


def test_least_squares(store: Path) -> None:
    truth = GroundTruth.open(store)
    fit, tune = (truth.rows(truth.of_group(group)) for group in ("fit", "tune"))
    (point,) = datamodels_curve(truth, [60], ["least-squares"]).points
    fitted = fit_least_squares(fit.masks[:60], fit.margins[:60])
    assert point.lds == pytest.approx(spearman(fitted.weight, tune.masks, tune.margins), abs=1e-9)
    assert point.not_converged == 0


def test_of_an_imported_store(store: Path, tmp_path: Path) -> None:
    """The same models, back from the release's layout: the same curve, up to float16."""
    from bench.cli import main

    assert main(["export", "datamodels-data", str(store), str(tmp_path / "release"), "--dataset", "cifar"]) == 0
    options = ["--eval-rows", "last:36", "--tune-rows", "9", "--margins-are", "logsumexp"]
    assert main(["import", "datamodels-data", str(tmp_path / "release"), str(tmp_path / "back"), *options]) == 0
    mine, back = (datamodels_curve(where, [60], ["lasso", "heldout"]) for where in (store, tmp_path / "back"))
    assert (back.setting, back.repeats, back.tune_rows) == ("cifar, test targets", 1, 9)
    for one, other in zip(mine.points, back.points, strict=True):
        assert one.lds == pytest.approx(other.lds, abs=0.05)


@pytest.mark.parametrize("least", [0.9, 1e-4])
def test_targets_at_the_end_of_the_path(store: Path, least: float) -> None:
    truth = GroundTruth.open(store)
    fit = truth.rows(truth.of_group("fit"))
    (point,) = datamodels_curve(store, [90], ["lasso"], lasso={"min_ratio": least, "n_lambdas": 8}).points
    fitted = fit_datamodels(fit.masks, fit.margins, min_ratio=least, n_lambdas=8)
    at_last = np.isclose(fitted.lam, fitted.lam_max * least, rtol=1e-3)
    assert point.at_last == at_last.mean()
    assert at_last.any() == (least == 0.9)


def test_rows_are_nested_and_eval_rows_are_not_read(store: Path, changed: Change) -> None:
    truth = GroundTruth.open(store)
    fit, tune, judged = (truth.of_group(group) for group in ("fit", "tune", "eval"))
    plain = values(datamodels_curve(store, [20, 40]))

    def spoil(array: Array) -> None:
        array[judged] = np.nan
        array[fit[40:]] = np.inf

    def turn(array: Array) -> None:
        array[judged] = array[tune[0]]

    folder = changed(masks=turn, margins=spoil)
    assert values(datamodels_curve(folder, [20, 40])) == plain
    assert values(datamodels_curve(folder, [40])) == [plain[1], plain[3], plain[5]]
    with pytest.raises(InputError, match=r"finite"):
        datamodels_curve(folder, [41], ["lasso"])
    spoilt = np.load(folder / "margins.npy")
    spoilt[tune[0]] = spoilt[tune[1]]
    np.save(folder / "margins.npy", spoilt)
    assert values(datamodels_curve(folder, [20, 40])) != plain  # the poison works where rows are read


def test_a_tune_subset_among_the_fitted_is_refused(store: Path, changed: Change) -> None:
    truth = GroundTruth.open(store)
    fit, tune = truth.of_group("fit"), truth.of_group("tune")

    def turn(array: Array) -> None:
        array[tune[0]] = array[fit[3]]

    with pytest.raises(EvalRowError, match=f"fit row {fit[3]} has the same subset as tune row {tune[0]}"):
        datamodels_curve(changed(masks=turn), [20])


def test_constant_targets_are_counted(store: Path, changed: Change) -> None:
    fit = GroundTruth.open(store).of_group("fit")

    def flatten(array: Array) -> None:
        array[:, 4] = 1.5
        array[fit, 6] = -2

    where = changed(margins=flatten)
    made = datamodels_curve(where, [50], ["lasso", "heldout"])
    lasso, heldout = made.points
    assert (lasso.constant, lasso.no_r2) == (2, 1)
    rows = GroundTruth.open(where).rows(fit[:50])
    empty = fit_datamodels(rows.masks, rows.margins).nonzero == 0  # by choice of λ, too
    assert empty[[4, 6]].all()
    for point, zeroed in ((lasso, empty.sum() - 1), (heldout, 1)):
        assert point.excluded == {"margins constant": 1}
        assert point.zeroed == {"predictions constant": zeroed}
    assert all(np.isfinite(value) for value in (lasso.r2_mean, lasso.at_last, lasso.lds, *(lasso.ratio or ())) if value)
    notes = curve_tables.footnotes(made)
    assert "lasso, 50 rows: 2 of 10 targets are constant over the fit rows: zero datamodels" in notes
    assert "lasso, 50 rows: 1 of 10 targets has no R²: constant or not finite on the tune rows" in notes
    assert "heldout, 50 rows: 1 of 10 targets counts as 0 (predictions constant)" in notes


def test_without_any_correlation(changed: Change, tmp_path: Path) -> None:
    def flatten(array: Array) -> None:
        array[:] = 3

    made = datamodels_curve(changed(margins=flatten), [20], out=tmp_path / "out")
    assert {(point.lds, point.ci, point.r2_mean, point.ratio) for point in made.points} == {(None,) * 4}
    assert "nan" not in (tmp_path / "out/curve.json").read_text() + curve_tables.plain(made)
    assert (tmp_path / "out/curve.png").is_file()


def test_a_fit_that_did_not_converge_says_so(store: Path) -> None:
    made = datamodels_curve(store, [50], ["lasso"], lasso={"tol": 1e-15})
    short = made.points[0].not_converged
    assert short
    text = curve_tables.plain(made)
    assert f"lasso, 50 rows: {short} of 10 targets did not converge (relative duality gap 1e-15)" in text


@given(st.integers(10, 400_000))
def test_rows_by_default(n: int) -> None:
    counts = curve._counts(None, n, Path("store"))
    assert counts == sorted(set(counts))
    assert counts[-1] == n
    assert counts[0] >= min(20, n)
    assert len(counts) <= 6
    if n >= 640:
        assert len(counts) == 6
        steps = [b / a for a, b in pairwise(counts)]
        assert all(1.8 < step < 2.2 for step in steps)


def test_r_squared_is_sklearns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    masks, weight = rng.random((50, 30)) < 0.5, rng.standard_normal((30, 4))
    bias, margins = rng.standard_normal(4), masks @ weight + 3 * rng.standard_normal((50, 4))
    expected = r2_score(margins, masks @ weight + bias, multioutput="raw_values")
    margins = np.hstack([margins, np.full((50, 1), 2.0), np.full((50, 1), np.nan)])
    weight, bias = np.hstack([weight, weight[:, :2]]), np.append(bias, bias[:2])
    found = curve.r_squared(weight, bias, masks, margins)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-12)
    assert np.isnan(found[4:]).all()
    monkeypatch.setattr(curve, "_CHUNK_BYTES", 8 * 30 * 7)
    np.testing.assert_allclose(curve.r_squared(weight, bias, masks, margins), found, rtol=1e-12)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is fitted from now on."""
    done: list[tuple[str, int]] = []
    real = curve._point

    def count(estimator: str, rows: Any, *others: Any) -> Point:
        done.append((estimator, len(rows)))
        return real(estimator, rows, *others)

    monkeypatch.setattr(curve, "_point", count)
    return done


def test_finished_points_are_used_again(
    store: Path, fits: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def again(rows: list[int], *estimators: str, **others: Any) -> tuple[Curve, list[tuple[str, int]]]:
        fits.clear()
        made = datamodels_curve(store, rows, estimators, out=out, **others)
        stored = msgspec.json.decode((out / "curve.json").read_bytes(), type=Curve)
        assert stored == made
        return made, list(fits)

    first, done = again([20, 40], "lasso")
    assert done == [("lasso", 20), ("lasso", 40)]
    assert again([20, 40], "lasso") == (first, [])
    assert again([20, 30], "lasso", "heldout")[1] == [("lasso", 30), ("heldout", 20), ("heldout", 30)]
    last, done = again([40, 20, 40], "lasso")
    assert (last.points, done) == (first.points, [])
    assert len(last.others) == 3
    assert again([20], "lasso", "heldout", seed=1)[1] == [("lasso", 20)]  # heldout has no seed
    assert again([20], "lasso", lasso={"tol": 1e-3})[1] == [("lasso", 20)]
    (out / "curve.json").write_bytes((out / "curve.json").read_bytes()[:200])
    assert again([20], "lasso")[1] == [("lasso", 20)]
    monkeypatch.setattr(hashing, "harness_code", lambda: "other")
    made, done = again([20], "lasso")
    assert (made.others, done) == ([], [("lasso", 20)])


def test_what_was_finished_before_an_interruption_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = curve._point

    def stop(estimator: str, rows: Any, *others: Any) -> Point:
        if len(rows) == 40:
            raise KeyboardInterrupt
        return real(estimator, rows, *others)

    monkeypatch.setattr(curve, "_point", stop)
    with pytest.raises(KeyboardInterrupt):
        datamodels_curve(store, [20, 40], ["heldout"], out=tmp_path / "out")
    log = tmp_path / "log"
    monkeypatch.setattr(curve, "_point", real)
    datamodels_curve(store, [20, 40], ["heldout"], out=tmp_path / "out", progress=Progress(quiet=True, log=log))
    said = [line[20:] for line in log.read_text().splitlines()]
    assert said[0].startswith("heldout, 20 rows: LDS 0.")
    assert said[0].endswith(", reused")
    assert said[1].endswith(" s")


def test_every_file(store: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    out = tmp_path / "deep/out"
    made = datamodels_curve(store, [20, 40, 90], out=out)
    assert {p.name for p in out.iterdir()} == {f"curve.{kind}" for kind in ("json", "csv", "md", "png", "svg")}
    lines = list(csv.DictReader(io.StringIO((out / "curve.csv").read_text())))
    assert [(line["estimator"], int(line["rows"])) for line in lines] == [(p.estimator, p.rows) for p in made.points]
    assert [float(line["lds"]) for line in lines] == [p.lds for p in made.points]
    assert [line["r2_mean"] == "" for line in lines] == [False] * 6 + [True] * 3
    assert made.points[2].nonzero is not None
    assert float(lines[2]["nonzero_median"]) == made.points[2].nonzero[1]
    rows = [line for line in (out / "curve.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 9
    assert {row.count("|") for row in rows} == {len(curve_tables.HEADER) + 1}
    assert f"| lasso | 20 | {made.points[0].lds:.3f} |".replace("-", "−") in rows[2]
    picture = imread(out / "curve.png")
    assert picture.shape == (740, 1660, 4)
    for colour in ("#0072B2", "#D55E00", "#5F5F5F"):  # one line each
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (np.abs(picture[..., :3] - rgb).max(-1) < 0.01).sum() > 200
    texts = (out / "curve.svg").read_text()
    assert ElementTree.fromstring(texts).tag.endswith("svg")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    datamodels_curve(store, [20, 40, 90], out=out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize("estimators", [["lasso"], ["heldout"], ["ridge", "heldout"]])
@pytest.mark.parametrize("rows", [[20], [20, 21, 22, 90]])
def test_plots_of_less(store: Path, tmp_path: Path, estimators: list[str], rows: list[int]) -> None:
    from bench import curve_plot

    made = curve_plot.figure(datamodels_curve(store, rows, estimators))
    assert len(made.axes) == (3 if "lasso" in estimators else 1)
    legend = made.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [curve_plot._STYLES[name][0] for name in curve_plot._STYLES if name in estimators]
    np.testing.assert_array_equal(made.axes[0].lines[0].get_xdata(), rows)
    assert all(axes.get_ylabel() for axes in made.axes)
    assert "tune subsets" in made.axes[0].get_ylabel()
    made.savefig(tmp_path / "x.png")


Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(main: Main) -> Main:
    """Call `bench datamodels-curve` beside the store; gives the exit code, stdout and stderr."""
    return lambda *arguments: main("datamodels-curve", *arguments)


def test_command_line(store: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = main("store", "--rows", "20,60", "--out", "out")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("toy/logreg: datamodels against fit rows, judged on 9 tune subsets × one seed (α = 0.5,")
    assert lines[2].startswith("estimator")
    assert [line.split()[:2] for line in lines[3:9]] == [[e, n] for e in curve.DEFAULT for n in ("20", "60")]
    assert "LDS is lower here than in bench run's table" in out
    assert [line.split(":")[0] for line in err.splitlines()[:2]] == ["lasso, 20 rows", "lasso, 60 rows"]
    assert err.splitlines()[-1] == "written to out"
    code, out, err = main("store", "--rows", "20,60", "--out", "out", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(Path("out/curve.json").read_text())
    assert sorted(Path().iterdir()) == [Path("out"), Path("store")]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    words = ("store", "--rows", "20,60", "--out", "out", "--estimator", "heldout,lasso", "--quiet")
    few = ("estimator", "fit rows", "LDS", "95% interval", "R² mean", "non-zeros", "λ/λ_max")
    for width, shown in ((170, curve_tables.HEADER), (80, few), (10, ())):
        monkeypatch.setenv("COLUMNS", str(width))
        out = re.sub(r"\x1b\[[0-9;]*m", "", main(*words)[1])
        assert all(len(line) <= width for line in out.splitlines())
        assert ("no room for" in " ".join(out.split())) == (width < 170)
        if width > 10:
            table = [line for line in out.splitlines() if line.startswith(("estimator ", "heldout ", "lasso "))]
            assert [line.split()[0] for line in table] == ["estimator", "heldout", "heldout", "lasso", "lasso"]
            assert re.split(" {2,}", table[0].strip()) == [name for name in curve_tables.HEADER if name in shown]
            assert "─" * 40 in out
    assert len(datamodels_curve(store, [20, 60]).to_frame()) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), ("nothing is not a ground-truth store",)),
        (("store", "--rows", "20,many"), ("--rows has 'many'", "such as 100,200,500")),
        (("store", "--rows", "20,1e3"), ("--rows has '1e3'",)),
        (("store", "--rows", "9"), ("--rows has 9", "at least 10")),
        (("store", "--rows", "-5"), ("--rows has -5", "at least 10")),
        (("store", "--rows", "20,91"), ("--rows has 91, and store has 90 fit rows",)),
        (("store", "--rows", ","), ("--rows names no number",)),
        (("store", "--estimator", "laso"), ("--estimator has 'laso'", "did you mean 'lasso'?", "heldout")),
        (("store", "--estimator", ""), ("--estimator names none", "lasso, ridge, heldout")),
        (("store", "--out", "store/meta.json"), ("store/meta.json", "it is a file", "--out")),
    ],
)
def test_bad_usage(store: Path, main: Main, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert store.is_dir()
    code, out, err = main(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan(30, 2, judge_only=True), "store has 0 fit rows, and datamodels need at least 10: train more models"),
        (Plan(9, 2), "store has 5 fit rows"),
        (Plan(30, 2, tune_rows=0), "store has no tune rows, .*: train it with --tune-rows"),
        (Plan(30, 2), "store has 2 distinct tune subsets, .* at least 3: train more models"),
    ],
)
def test_stores_without_enough(toy_request: Request, quiet: Progress, tmp_path: Path, plan: Plan, reason: str) -> None:
    make(replace(toy_request, plan=plan), tmp_path / "store", quiet)
    with pytest.raises(InputError, match=reason):
        datamodels_curve(tmp_path / "store")


def test_a_store_without_roles(store: Path) -> None:
    (store / "meta.json").unlink()
    with pytest.raises(InputError, match=r"store has no meta\.json, which says which rows fit"):
        datamodels_curve(store)


@pytest.mark.parametrize("name", ["seed", "groups", "lam", "tolerance"])
def test_options_that_there_are_not(store: Path, name: str) -> None:
    with pytest.raises(BenchError, match=f"lasso has {name!r}, which is no option here"):
        datamodels_curve(store, lasso={name: 1})
