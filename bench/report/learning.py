"""The learning curve that belongs to a run: kept in RUN/curve, made where it is missing and quick to make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.errors import InputError

if TYPE_CHECKING:
    from bench.curve import Curve
    from bench.progress import Progress
    from bench.results import Leaderboard
    from bench.store import GroundTruth

FOLDER = "curve"
ESTIMATORS = ("lasso", "heldout")
_FEWEST_FIT, _FEWEST_TUNE = 10, 3  # as in bench.curve, which is slow to import
_MOST_WORK = 5e9  # fit rows × training examples × targets: up to about half a minute of LASSO on two cores


def kept(folder: Path, board: Leaderboard) -> Curve | str:
    """The curve in RUN/curve, if it is of the run's ground truth and of this code; else why there is none."""
    if few := _too_few(board):
        return few
    if not (folder / FOLDER / "curve.json").is_file():
        return _advice("it has not been drawn yet", folder)
    try:
        found = _read(folder, _store(folder, board))
    except InputError as error:
        return _sentence(error, folder)
    if found is None or not found.points:
        return _advice("the one that is there is not of this run and this code", folder)
    return found


def made(folder: Path, board: Leaderboard, progress: Progress) -> Curve | str:
    """The same, fitted now where it is missing; points that are finished and still right are used again."""
    from bench.curve import datamodels_curve

    if few := _too_few(board):
        return few
    try:
        truth = _store(folder, board)
        found = _read(folder, truth)
        if found is not None and _complete(found, truth):
            return found
        work = float(len(truth.of_group("fit"))) * board.n_train * board.n_targets
        if work > _MOST_WORK:
            return _advice("to fit it takes minutes or more for a store of this size", folder, verb="datamodels-curve")
        names = (
            ESTIMATORS if found is None else tuple(dict.fromkeys([*ESTIMATORS, *(p.estimator for p in found.points)]))
        )
        return datamodels_curve(truth, None, names, out=folder / FOLDER, progress=progress)
    except InputError as error:
        return _sentence(error, folder)


def _too_few(board: Leaderboard) -> str | None:
    fit, tune = board.rows.fit, board.rows.tune
    if fit >= _FEWEST_FIT and tune >= _FEWEST_TUNE:
        return None
    return f"it takes {_FEWEST_FIT} fit and {_FEWEST_TUNE} tune rows at least, and the run has {fit} and {tune}"


def _sentence(error: InputError, folder: Path) -> str:
    """Without the run's own folder: a report is sent to others."""
    return str(error).replace(f"{folder}/", "")


def _advice(why: str, folder: Path, verb: str = "report") -> str:
    if verb == "report":
        return f"{why}: python -m bench report {folder.name} adds it"
    store = f"{folder.name}/ground-truth"
    return f"{why}: python -m bench datamodels-curve {store} --out {folder.name}/{FOLDER}, and then the report again"


def _store(folder: Path, board: Leaderboard) -> GroundTruth:
    from bench.store import GroundTruth

    where = board.ground_truth.get("path", "ground-truth")
    if not (folder / where).is_dir():
        raise InputError(f"it is fitted on the models of the ground truth, and {where}/ is not beside the leaderboard")
    truth = GroundTruth.open(folder / where)
    who = truth.imported or truth.meta
    if who is None or who.key != board.ground_truth.get("key"):
        raise InputError(f"{where}/ is not the ground truth that the leaderboard is of: run the same command again")
    return truth


def _read(folder: Path, truth: GroundTruth) -> Curve | None:
    """What an earlier call left, None where this code would not make the same of these models."""
    from bench import curve

    who = truth.imported or truth.meta
    try:
        found = msgspec.json.decode((folder / FOLDER / "curve.json").read_bytes(), type=curve.Curve)
    except (OSError, msgspec.DecodeError):
        return None
    current = who is not None and (found.schema, found.context) == (
        curve.SCHEMA,
        curve.context(who.key, truth.of_group("tune")),
    )
    return found if current else None


def _complete(found: Curve, truth: GroundTruth) -> bool:
    """Whether the last points, on all fit rows, are there: a call that was interrupted lacks them."""
    n_fit = len(truth.of_group("fit"))
    return {point.estimator for point in found.points if point.rows == n_fit} >= set(ESTIMATORS)
