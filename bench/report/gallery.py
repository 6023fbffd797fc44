"""Which training examples each method names for a target: the most helpful and the most harmful, with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import hashing
from bench.report.images import Pixels, Sheet
from bench.report.markup import printable
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.results import Leaderboard, Row

ALL_TARGETS = 400  # up to so many, a gallery holds them all
SAMPLE = 200
_EXTREMES = 5  # of each method, at either end
_EACH = (8, 5, 3)  # examples at either end of the scores: fewer where the page would grow too large
_MOST_BYTES = 7_000_000
_ENTRY_BYTES = 13  # an index and a score in JSON
_MEASURED = 200  # pictures that say how large others will be
_MOST_FEATURES = 12
_SLAB_BYTES = 1 << 27


@dataclass(frozen=True)
class Ranked:
    """One method's examples.

    Attributes:
        name: the method.
        at: int64 `[n_targets_shown, 2, k]`, training examples: those of the highest scores above 0, then those of the
            lowest below 0, the farthest from 0 first; −1 where there are no more.
        score: float64, their scores; NaN likewise.
        lds: float64 `[n_targets_shown]`, NaN where it has none.
    """

    name: str
    at: NDArray[np.int64]
    score: NDArray[np.float64]
    lds: NDArray[np.float64]


@dataclass(frozen=True)
class Gallery:
    """What the page shows of single targets.

    Attributes:
        n_targets: how many there are in all.
        targets: int64 `[n_targets_shown]`, ascending; labels: their classes.
        methods: in the order of the table.
        train: int64, training examples that any of them names, ascending; train_labels: their classes.
        class_names: empty where classes are numbers.
        target_sheet, train_sheet: pictures of `targets` and `train`; None for what are no images.
        target_features, train_features: what examples hold where they are no images; None where that is too much.
        missing: why a method is not among them, by name.
    """

    n_targets: int
    targets: NDArray[np.int64]
    labels: NDArray[np.int64]
    methods: list[Ranked]
    train: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    target_sheet: Sheet | None
    train_sheet: Sheet | None
    target_features: list[str] | None
    train_features: list[str] | None
    missing: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """What report.js reads: examples by their position in `train`, scores of three digits."""
        place = np.full(int(self.train.max(initial=0)) + 2, -1)  # the last: of −1
        place[self.train] = np.arange(len(self.train))
        return {
            "nTargets": self.n_targets,
            "classNames": [printable(name) for name in self.class_names],
            "targets": self.targets.tolist(),
            "labels": self.labels.tolist(),
            "train": self.train.tolist(),
            "trainLabels": self.train_labels.tolist(),
            "each": self.methods[0].at.shape[2] if self.methods else 0,
            "methods": [
                {
                    "name": printable(one.name),
                    "lds": [_json(value, "{:.3f}") for value in one.lds.tolist()],
                    "at": place[one.at].reshape(-1).tolist(),
                    "score": [_json(value, "{:.3g}") for value in one.score.reshape(-1).tolist()],
                }
                for one in self.methods
            ],
            "targetSheet": _sheet(self.target_sheet),
            "trainSheet": _sheet(self.train_sheet),
            "targetFeatures": self.target_features,
            "trainFeatures": self.train_features,
        }


def _json(value: float, digits: str) -> float | None:
    return None if value != value else float(digits.format(value))


def _sheet(sheet: Sheet | None) -> dict[str, Any] | None:
    if sheet is None:
        return None
    return {"url": sheet.url, "columns": sheet.columns, "rows": sheet.rows, "aspect": sheet.aspect}


def gather(
    board: Leaderboard,
    per_target: Mapping[str, NDArray[np.float64]],
    data: Data,
    folder: Path,
    targets: int | None = None,
) -> Gallery | str:
    """Read the score matrices and pick what to show.

    Args:
        board: the run's leaderboard.
        per_target: LDS of every target `[n_targets]` by method name.
        data: the setting's examples.
        folder: what the leaderboard's paths are relative to.
        targets: how many to show, evenly over all, besides those of extreme LDS; by default all, or 200 where they
            are more than 400.

    Returns:
        The gallery; else a sentence that says why there is none.
    """
    if targets == 0:
        return "no examples were asked for (--targets 0)"
    if (data.n_train, data.n_targets) != (board.n_train, board.n_targets):
        there = f"these are {data.n_train} × {data.n_targets}"
        return f"the run is of {board.n_train} training examples × {counted(board.n_targets, 'target')}, and {there}"
    if "data" not in board.hashes:
        return "the leaderboard does not say by a hash which examples it is of"
    if board.hashes["data"] != hashing.data(data):
        return "the examples that were read are not those of the run (their hashes differ)"
    shown = choose(board.n_targets, per_target, targets)
    methods, missing = [], {}
    for row in board.methods:
        if row.lds is None:
            continue
        found = _ranked(row, board, per_target, folder, shown)
        if isinstance(found, str):
            missing[row.name] = found
        else:
            methods.append(found)
    if not methods:
        why = "; ".join(sorted(set(missing.values())))
        return f"no method's scores can be read ({why})" if why else "no method has an LDS"
    return _fitted(board, data, shown, methods, missing)


def choose(
    n_targets: int, per_target: Mapping[str, NDArray[np.float64]], targets: int | None = None
) -> NDArray[np.int64]:
    """Targets to show, ascending: all, or an even sample with the best and the worst of each method."""
    count = (n_targets if n_targets <= ALL_TARGETS else SAMPLE) if targets is None else targets
    if count >= n_targets:
        return np.arange(n_targets)
    picked = [np.linspace(0, n_targets - 1, count).round().astype(np.int64)]
    for values in per_target.values():
        known = np.flatnonzero(np.isfinite(values))
        order = known[np.argsort(values[known], kind="stable")]
        picked += [order[:_EXTREMES], order[-_EXTREMES:]]
    return np.unique(np.concatenate(picked))


def _ranked(
    row: Row,
    board: Leaderboard,
    per_target: Mapping[str, NDArray[np.float64]],
    folder: Path,
    shown: NDArray[np.int64],
) -> Ranked | str:
    if row.scores is None:
        return "the leaderboard names no score matrix"
    try:
        scores = np.load(folder / row.scores, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return f"{row.scores} is missing or torn"
    if scores.shape != (board.n_train, board.n_targets) or scores.dtype.kind != "f":
        return f"{row.scores} is no matrix of {board.n_train} × {board.n_targets} scores"
    columns = np.empty((len(shown), board.n_train), np.float64)
    step = max(1, _SLAB_BYTES // (scores.itemsize * board.n_targets))
    for start in range(0, board.n_train, step):
        columns[:, start : start + step] = np.asarray(scores[start : start + step])[:, shown].T
    at, score = top(columns, _EACH[0])
    values = per_target.get(row.name)
    lds = np.full(len(shown), np.nan) if values is None or len(values) != board.n_targets else values[shown]
    return Ranked(row.name, at, score, lds)


def top(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k highest above 0 and the k lowest below 0 of each row, equals in their order.

    Args:
        scores: `[rows, n]`.
        k: how many.

    Returns:
        Positions int64 `[rows, 2, k]`, −1 where there are no more, and the scores, NaN likewise.
    """
    at = np.full((len(scores), 2, k), -1, np.int64)
    found = np.full((len(scores), 2, k), np.nan)
    for i, line in enumerate(scores):
        for side, sign in enumerate((1.0, -1.0)):
            signed = sign * line
            there = np.flatnonzero(signed > 0)
            if len(there) > k:  # a full sort of all examples for all targets would take seconds
                least = np.partition(signed[there], len(there) - k)[-k]
                there = there[signed[there] >= least]
            best = there[np.argsort(-signed[there], kind="stable")[:k]]
            at[i, side, : len(best)] = best
            found[i, side, : len(best)] = line[best]
    return at, found


def _fitted(
    board: Leaderboard, data: Data, shown: NDArray[np.int64], methods: list[Ranked], missing: dict[str, str]
) -> Gallery:
    """With as many targets and examples each as the page has room for."""
    pixels = Pixels.of(data)
    each_bytes = 0.0
    if pixels is not None:
        some = np.unique(np.linspace(0, data.n_train - 1, _MEASURED).astype(np.int64))
        each_bytes = len(pixels.sheet(data.train_x[some]).url) / len(some)
    plans = [(k, len(shown)) for k in _EACH]
    while plans[-1][1] > 1:
        plans.append((_EACH[-1], plans[-1][1] // 2))
    for k, count in plans:
        kept = np.unique(np.linspace(0, len(shown) - 1, count).round().astype(np.int64))
        fewer = [Ranked(m.name, m.at[kept, :, :k], m.score[kept, :, :k], m.lds[kept]) for m in methods]
        train = np.unique(np.concatenate([one.at.reshape(-1) for one in fewer]))
        train = train[train >= 0]
        entries = sum(one.at.size for one in fewer)
        if each_bytes * (len(train) + len(kept)) + _ENTRY_BYTES * entries <= _MOST_BYTES:
            break
    targets = shown[kept]
    small = pixels is None and data.train_x[0].size <= _MOST_FEATURES
    return Gallery(
        n_targets=board.n_targets,
        targets=targets,
        labels=data.test_y[targets],
        methods=fewer,
        train=train,
        train_labels=data.train_y[train],
        class_names=data.class_names,
        target_sheet=None if pixels is None else pixels.sheet(data.test_x[targets]),
        train_sheet=None if pixels is None else pixels.sheet(data.train_x[train]),
        target_features=[_features(x) for x in data.test_x[targets]] if small else None,
        train_features=[_features(x) for x in data.train_x[train]] if small else None,
        missing=missing,
    )


def _features(example: NDArray[np.float32]) -> str:
    return ", ".join(f"{value:.2f}".replace("-", "−") for value in example.reshape(-1).tolist())
