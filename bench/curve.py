"""The learning curve of datamodels: how well they predict models of other subsets, against the rows they are fitted on.

For growing numbers of fit rows, each the first rows of a store's fit group, a datamodel is fitted for every target and
judged on the store's tune rows: by LDS, by R², and by what says whether the fit itself is sound (Ilyas et al. 2022,
"Datamodels: predicting predictions from training data", show these against the number of models trained). The rows
that judge methods are never read.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import atomic, hashing, launch
from bench.access import Access
from bench.errors import InputError, nearest
from bench.lasso import Datamodels, fit_datamodels
from bench.memorization import influence
from bench.progress import Progress
from bench.ridge import fit_least_squares, fit_ridge
from bench.scorer import MarginRanks, lds
from bench.store import GroundTruth, Rows
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.imported import Imported
    from bench.meta import Identity

ESTIMATORS = ("lasso", "ridge", "heldout", "least-squares")
DEFAULT = ESTIMATORS[:3]
SCHEMA = 1
FEWEST_ROWS = 10
_FEWEST_SUBSETS = 3
_N_POINTS = 6
_NOT_OPTIONS = ("seed", "groups", "lam")
_CHUNK_BYTES = 1 << 26  # of masks as floats
Quartiles = tuple[float, float, float]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One estimator fitted on one number of rows, judged on the tune rows. Quartiles are over targets.

    Attributes:
        estimator: `lasso`, `ridge`, `heldout` (difference in means), or `least-squares`.
        rows: fit rows.
        lds, ci: `bench.lds` and its interval; None where no target has a correlation.
        r2_mean, r2_median: over targets, of 1 − Σ(y − ŷ)²/Σ(y − ȳ)², ȳ the mean of the tune rows; None for
            differences in means, which predict no margin.
        nonzero: non-zero weights per target, quartiles; lasso only, as are the next two.
        ratio: λ chosen / λ_max, quartiles over targets that are not constant.
        at_last: share of these whose λ is the last of the path, so that it may be too short.
        gap_max: greatest relative duality gap (`bench.lasso.Datamodels.gap`).
        not_converged: targets whose gap is above the tolerance.
        constant: targets that are constant over the fit rows.
        excluded: why targets have no LDS, and how many; zeroed: those that count as 0.
        no_r2: targets without R², because their margins on the tune rows are constant or not finite.
        seconds: wall clock of the fit alone.
        key: hash of what it was made from.
    """

    estimator: str
    rows: int
    lds: float | None
    ci: tuple[float, float] | None
    r2_mean: float | None = None
    r2_median: float | None = None
    nonzero: Quartiles | None = None
    ratio: Quartiles | None = None
    at_last: float | None = None
    gap_max: float | None = None
    not_converged: int | None = None
    constant: int = 0
    excluded: dict[str, int] = {}
    zeroed: dict[str, int] = {}
    no_r2: int = 0
    seconds: float
    key: str


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """curve.json.

    Attributes:
        schema: version of this format.
        setting, alpha, output: what the store's models are; store: its folder as it was given.
        n_train, n_targets: the size of a score matrix.
        fit_rows, tune_rows: how many the store has; tune_subsets: distinct ones of the latter.
        repeats: seeds per eval subset, whose mean judges methods; a tune row is one seed.
        seed: of the splits that choose λ; lasso: arguments of `bench.fit_datamodels`, defaults included.
        points: by estimator, then by rows.
        others: finished points of earlier calls that this one did not ask for.
        context: hash of what every point depends on.
        versions, hardware: what it ran on.
    """

    schema: int = SCHEMA
    setting: str
    alpha: float
    output: str
    store: str
    n_train: int
    n_targets: int
    fit_rows: int
    tune_rows: int
    tune_subsets: int
    repeats: int
    seed: int
    lasso: dict[str, Any]
    points: list[Point]
    others: list[Point] = []
    context: str
    versions: dict[str, str]
    hardware: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """One row per point; quartiles and interval ends as columns, what an estimator does not have as NaN."""
        import pandas as pd

        return pd.DataFrame([_flat(point) for point in self.points])


def _flat(point: Point) -> dict[str, Any]:
    low, high = point.ci or (None, None)
    line: dict[str, Any] = {"estimator": point.estimator, "rows": point.rows, "lds": point.lds}
    line |= {"ci_low": low, "ci_high": high, "r2_mean": point.r2_mean, "r2_median": point.r2_median}
    for name in ("nonzero", "ratio"):
        quartiles = getattr(point, name) or (None, None, None)
        line |= dict(zip((f"{name}_q1", f"{name}_median", f"{name}_q3"), quartiles, strict=True))
    rest = ("at_last", "gap_max", "not_converged", "constant", "no_r2", "seconds")
    line |= {name: getattr(point, name) for name in rest}
    number = {name: float("nan") if value is None else value for name, value in line.items()}
    return number | {"n_excluded": sum(point.excluded.values()), "n_zeroed": sum(point.zeroed.values())}


def datamodels_curve(
    store: str | Path | GroundTruth,
    rows: Sequence[int] | None = None,
    estimators: Sequence[str] = DEFAULT,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    lasso: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Curve:
    """Fit datamodels on growing numbers of a store's fit rows, and judge them on its tune rows.

    Args:
        store: a ground truth whose rows have roles, or its folder.
        rows: numbers of fit rows; by default six, each about twice the one before, up to all of them.
        estimators: of `lasso`, `ridge`, `heldout`, `least-squares`.
        out: folder for curve.json, curve.csv, curve.md and the plot; points that are finished there and still right
            are used again.
        seed: of the splits that choose λ.
        lasso: arguments of `bench.fit_datamodels`, other than the seed, `groups` and `lam`.
        progress: where to say what is done; nowhere by default.

    Raises:
        BenchError: no such store or one without roles, tune rows or enough subsets; rows that it does not have; an
            estimator that there is not; a folder that cannot be written; margins that are not finite.
    """
    progress = progress or Progress(quiet=True)
    truth = store if isinstance(store, GroundTruth) else GroundTruth.open(store)
    fit, tune = truth.of_group("fit"), truth.of_group("tune")
    estimators = _estimators(estimators)
    counts = _counts(rows, len(fit), truth.path)
    options = _lasso_options(lasso, seed)
    dense = {"seed": seed}
    parameters = {"lasso": options, "ridge": dense, "least-squares": dense, "heldout": {}}
    judge = _Judge.of(truth.path, truth.rows(tune))
    Access(truth, fit, tune, np.empty(0, np.int64))  # no mask is both fitted and judged on
    curve = _empty(truth, judge, len(fit), options)
    if out is not None:
        atomic.writable_folder(Path(out))
    kept = _finished(out, curve.context)
    for estimator, count in ((e, c) for e in estimators for c in counts):
        key = hashing.digest([curve.context, estimator, parameters[estimator], hashing.array(fit[:count])])
        old = kept.pop(key, None)
        point = old or _point(estimator, truth.rows(fit[:count], as_stored=True), parameters[estimator], judge, key)
        curve = msgspec.structs.replace(curve, points=[*curve.points, point], others=list(kept.values()))
        if out is not None and old is None:
            _write_json(Path(out), curve)
        value = "no LDS" if point.lds is None else f"LDS {point.lds:.3f}"
        progress.say(f"{estimator}, {count:,} rows: {value}, {'reused' if old else f'{point.seconds:.1f} s'}")
    if out is not None:
        _write_all(Path(out), curve, progress)
    return curve


def _estimators(names: Sequence[str]) -> list[str]:
    if not names:
        raise InputError(f"--estimator names none: choose from {', '.join(ESTIMATORS)}")
    for name in names:
        if name not in ESTIMATORS:
            known = f"{nearest(name, list(ESTIMATORS))} (there are: {', '.join(ESTIMATORS)})"
            raise InputError(f"--estimator has {name!r}, which there is not{known}")
    return list(dict.fromkeys(names))


def _counts(rows: Sequence[int] | None, n_fit: int, path: Path) -> list[int]:
    """The numbers of fit rows, ascending, each once."""
    if n_fit < FEWEST_ROWS:
        raise InputError(
            f"{path} has {counted(n_fit, 'fit row')}, and datamodels need at least {FEWEST_ROWS}: train more models"
        )
    if rows is None:
        spread = np.geomspace(max(min(2 * FEWEST_ROWS, n_fit), n_fit / 2 ** (_N_POINTS - 1)), n_fit, _N_POINTS)
        return sorted({*(int(float(f"{value:.2g}")) for value in spread[:-1] if value < n_fit), n_fit})
    if not len(rows):
        raise InputError("--rows names no number of fit rows: write some, such as 100,200,500")
    for count in rows:
        if not isinstance(count, int | np.integer) or count < FEWEST_ROWS:
            raise InputError(f"--rows has {count!r}: datamodels need whole numbers of fit rows, at least {FEWEST_ROWS}")
        if count > n_fit:
            raise InputError(
                f"--rows has {count}, and {path} has {counted(n_fit, 'fit row')}: ask for fewer or train more models"
            )
    return sorted({int(count) for count in rows})


def _lasso_options(given: Mapping[str, Any] | None, seed: int) -> dict[str, Any]:
    """Keyword arguments of `fit_datamodels`, its defaults filled in."""
    parameters = inspect.signature(fit_datamodels).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS}
    for name in given or {}:
        if name not in known:
            raise InputError(f"lasso has {name!r}, which is no option here{nearest(name, list(known))}")
    return known | dict(given or {}) | {"seed": seed}


@dataclass(frozen=True)
class _Judge:
    """The tune rows, with the ranks of their margins, and how many distinct subsets they are."""

    rows: Rows
    ranks: MarginRanks
    subsets: int

    @classmethod
    def of(cls, path: Path, rows: Rows) -> _Judge:
        if not len(rows):
            raise InputError(f"{path} has no tune rows, on which the curve is judged: train it with --tune-rows")
        subsets = len(np.unique(rows.subset))
        if subsets < _FEWEST_SUBSETS:
            raise InputError(
                f"{path} has {counted(subsets, 'distinct tune subset')}, and judging the curve takes at least "
                f"{_FEWEST_SUBSETS}: train more models, or with more --tune-rows"
            )
        return cls(rows, MarginRanks.of(rows.margins), subsets)


def _empty(truth: GroundTruth, judge: _Judge, n_fit: int, options: dict[str, Any]) -> Curve:
    versions, repeats = launch.versions(), 1
    if truth.imported is not None:
        who: Imported | Identity = truth.imported
        setting, key = truth.imported.title, truth.imported.key
    else:
        assert truth.meta is not None  # or its groups would not be known
        who, repeats = truth.meta.identity, truth.meta.identity.plan.repeats
        setting, key = truth.meta.identity.setting, truth.meta.key
    return Curve(
        setting=setting,
        alpha=who.alpha,
        output=who.output,
        store=str(truth.path),
        n_train=truth.masks.shape[1],
        n_targets=truth.margins.shape[1],
        fit_rows=n_fit,
        tune_rows=len(judge.rows),
        tune_subsets=judge.subsets,
        repeats=repeats,
        seed=options["seed"],
        lasso=options,
        points=[],
        context=context(key, judge.rows.index),
        versions=versions,
        hardware=launch.hardware("cpu"),
    )


def context(key: str, tune: NDArray[np.int64]) -> str:
    """Hash of what every point depends on: the store's key, the rows that judge, the code and the libraries."""
    return hashing.digest([key, hashing.array(tune), hashing.harness_code(), launch.versions()])


_FITTERS: dict[str, Callable[..., Datamodels]] = {
    "lasso": fit_datamodels,
    "ridge": fit_ridge,
    "least-squares": fit_least_squares,
}


def _point(estimator: str, rows: Rows, parameters: Mapping[str, Any], judge: _Judge, key: str) -> Point:
    fitted: Datamodels | None = None
    began = time.perf_counter()
    if estimator == "heldout":
        weight: NDArray[Any] = np.nan_to_num(influence(rows.masks, rows.margins)[0])
    else:
        fitted = _FITTERS[estimator](rows.masks, rows.margins, **parameters)
        weight = fitted.weight
    seconds = time.perf_counter() - began
    # A target that an estimator says nothing on counts as 0, as in every leaderboard.
    found = lds(weight, judge.rows.masks, judge.rows.margins, ranks=judge.ranks, undefined="zero")
    defined = bool(np.isfinite(found.mean))
    point = Point(
        estimator=estimator,
        rows=len(rows),
        lds=found.mean if defined else None,
        ci=found.ci if defined else None,
        excluded=found.excluded,
        zeroed=found.zeroed,
        seconds=round(seconds, 3),
        key=key,
    )
    if fitted is None:
        return point
    more = _fit_quality(fitted, judge.rows)
    if estimator == "lasso":
        more |= _sparsity(fitted, parameters["min_ratio"])
    return msgspec.structs.replace(point, **more)


def _fit_quality(fitted: Datamodels, rows: Rows) -> dict[str, Any]:
    r2 = r_squared(fitted.weight, fitted.bias, rows.masks, rows.margins)
    there = r2[np.isfinite(r2)]
    return {
        "r2_mean": float(there.mean()) if len(there) else None,
        "r2_median": float(np.median(there)) if len(there) else None,
        "no_r2": len(r2) - len(there),
        "gap_max": float(fitted.gap.max()),
        "not_converged": int((~fitted.converged).sum()),
        "constant": int(fitted.constant.sum()),
    }


def _sparsity(fitted: Datamodels, min_ratio: float) -> dict[str, Any]:
    moving = fitted.lam_max > 0
    ratio = fitted.lam[moving] / fitted.lam_max[moving]
    return {
        "nonzero": _quartiles(fitted.nonzero),
        "ratio": _quartiles(ratio) if len(ratio) else None,
        # λ_max is rounded on the way; the path's steps are far apart.
        "at_last": float((ratio <= min_ratio * (1 + 1e-4)).mean()) if len(ratio) else None,
    }


def _quartiles(values: NDArray[Any]) -> Quartiles:
    low, middle, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return low, middle, high


def r_squared(
    weight: NDArray[Any], bias: NDArray[Any], masks: NDArray[np.bool_], margins: NDArray[Any]
) -> NDArray[np.float64]:
    """Share of each target's variance over some rows that a datamodel explains.

    Args:
        weight: `[n_train, n_targets]`, in margin per kept example.
        bias: `[n_targets]`, the prediction for the empty mask.
        masks: bool `[m, n_train]`.
        margins: real `[m, n_targets]`.

    Returns:
        float64 `[n_targets]`, 1 − Σ(y − ŷ)²/Σ(y − ȳ)²: 1 at best, below 0 for what is worse than the rows' own mean;
        NaN where the margins are constant or not finite.
    """
    moving = np.isfinite(margins).all(0) & (margins.max(0) > margins.min(0))
    y = np.asarray(margins[:, moving], np.float64)
    spread = ((y - y.mean(0)) ** 2).sum(0)
    left = np.zeros_like(spread)
    weight = np.ascontiguousarray(weight[:, moving])
    step = max(1, _CHUNK_BYTES // (weight.itemsize * masks.shape[1]))
    for at in range(0, len(masks), step):
        predicted = masks[at : at + step].astype(weight.dtype) @ weight + bias[moving].astype(np.float64)
        left += ((y[at : at + step] - predicted) ** 2).sum(0)
    found = np.full(margins.shape[1], np.nan)
    found[moving] = 1 - left / spread
    return found


def _finished(out: str | Path | None, context: str) -> dict[str, Point]:
    """Points of an earlier call that were made from the same, by key; none where there are none or the file is torn."""
    if out is not None:
        with suppress(OSError, msgspec.DecodeError):
            curve = msgspec.json.decode((Path(out) / "curve.json").read_bytes(), type=Curve)
            if (curve.schema, curve.context) == (SCHEMA, context):
                return {point.key: point for point in [*curve.points, *curve.others]}
    return {}


def _write_json(folder: Path, curve: Curve) -> None:
    atomic.write_text(folder / "curve.json", msgspec.json.format(msgspec.json.encode(curve)).decode() + "\n")


def _write_all(folder: Path, curve: Curve, progress: Progress) -> None:
    from bench import curve_plot, curve_tables

    _write_json(folder, curve)
    atomic.write_text(folder / "curve.csv", curve.to_frame().to_csv(index=False, lineterminator="\n"))
    atomic.write_text(folder / "curve.md", curve_tables.markdown(curve))
    curve_plot.write(folder, curve)
    progress.say(f"written to {folder}")
