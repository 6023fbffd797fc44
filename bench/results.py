"""What a run found, as files: leaderboard.json, .csv, .md, the values per target, report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bench import atomic
from bench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.datasets import Data

SCHEMA = 1
ABOUT_TARGETS = ("target", "label", "margin_variance")
"""The first columns of per_target.csv; those of methods follow."""
Interval = tuple[float, float]


class Cost(msgspec.Struct, frozen=True):
    """What a method took.

    Attributes:
        seconds: wall clock of attributing alone.
        models: models trained for it: rows of the ground truth and full-set checkpoints.
        peak_bytes: most memory above what the process held before.
        train_seconds: worker-seconds that training those models took.
        disk_bytes: what it left or kept on disk: the score matrix and its cache at the end.
    """

    seconds: float
    models: int
    peak_bytes: int
    train_seconds: float = 0.0
    disk_bytes: int = 0


class ShareRow(msgspec.Struct, frozen=True):
    """An LDS as a share of the noise ceiling (`bench.stats.share_of_ceiling`)."""

    value: float
    ci: Interval


class SpreadRow(msgspec.Struct, frozen=True):
    """One method's LDS over targets (`bench.stats.Spread`).

    Attributes:
        quantiles: by level, as text: "0.05" … "0.95".
        negative: share of targets below zero.
        by_class: mean by class, as text; by_variance: by fifth of the targets' margin variance, least first.
    """

    quantiles: dict[str, float]
    negative: float
    by_class: dict[str, float | None]
    by_variance: list[float | None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One method of the table.

    Attributes:
        name, params, status, reason: which method, and whether it ran.
        lds, ci, stderr: the score, its 95% interval, and the standard error behind it.
        rank, rank_ci, group: place in the table, the places that it may have (simultaneously at 95%), and letters:
            methods that share one cannot be told apart (`bench.stats.ranking`).
        of_ceiling: share of the noise ceiling, None without one.
        p_value, null_stderr: two-sided, of an LDS by chance, and the standard deviation of such
            (`bench.stats.permutation_null`).
        spread: over targets.
        n_excluded, n_tied, notes: what a reader must know.
        cost: what it took.
        scores, extra: paths of the score matrix and of arrays beside it, relative to the leaderboard's folder.
    """

    name: str
    params: dict[str, Any]
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    lds: float | None = None
    ci: Interval | None = None
    stderr: float | None = None
    rank: int | None = None
    rank_ci: tuple[int, int] | None = None
    group: str | None = None
    of_ceiling: ShareRow | None = None
    p_value: float | None = None
    null_stderr: float | None = None
    spread: SpreadRow | None = None
    n_excluded: int = 0
    n_tied: int = 0
    notes: list[str] = []
    cost: Cost = Cost(0.0, 0, 0)
    scores: str | None = None
    extra: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """Rows by role; `eval` counts rows, `eval / repeats` subsets; `diverged` ones are in none of them."""

    fit: int
    tune: int
    eval: int
    repeats: int
    diverged: int = 0


class CeilingRow(msgspec.Struct, frozen=True):
    """The best LDS that could be had (`bench.stats.noise_ceiling`)."""

    lds: float
    ci: Interval


class Chance(msgspec.Struct, frozen=True):
    """Independent normal scores on this ground truth: what a method is that knows nothing.

    Attributes:
        lds: of one draw of such scores.
        p_value: its place in its own permutation distribution, two-sided.
        ci: the middle 95% of that distribution.
        stderr: its standard deviation.
        permutations: how many were drawn; the fit rows have no part in them.
    """

    lds: float
    p_value: float
    ci: Interval
    stderr: float
    permutations: int


class Pair(msgspec.Struct, frozen=True):
    """Two methods compared on the same subsets and targets (`bench.stats.paired_difference`).

    Attributes:
        better, worse: names, by LDS.
        difference: how much better, ci: its 95% interval, p_value: of no difference.
        p_holm: the same after Holm's correction for all pairs of the table.
    """

    better: str
    worse: str
    difference: float
    ci: Interval
    p_value: float
    p_holm: float


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """leaderboard.json.

    Attributes:
        schema: version of this format.
        setting, alpha, output, seed: what was asked (`bench.store.Identity`).
        protocol: `expectation`: every subset model has a seed of its own.
        rows: how many rows fit, tune and judge.
        n_train, n_targets: the size of a score matrix.
        ceiling: noise ceiling, None with one seed per subset; why_no_ceiling: then the reason.
        chance: where chance stands, None where no target has a correlation.
        methods: best first, then those that were skipped or failed.
        pairs: every two methods that have an LDS.
        ground_truth: the store's folder, relative to the leaderboard's, and its key.
        hashes: of the examples, the recipe, the code that trained, and the harness.
        command: what to type to get the same again.
        versions, hardware: what it ran on.
        data: what the examples were read from: file names and their checksums.
        modified_data: whether any of it is not as published; tables then say so.
    """

    schema: int = SCHEMA
    setting: str
    alpha: float
    output: str
    seed: int
    protocol: Literal["expectation"] = "expectation"
    rows: Counts
    n_train: int
    n_targets: int
    ceiling: CeilingRow | None
    why_no_ceiling: str | None = None
    chance: Chance | None = None
    methods: list[Row]
    pairs: list[Pair] = []
    ground_truth: dict[str, str]
    versions: dict[str, str]
    hardware: dict[str, str]
    hashes: dict[str, str] = {}
    command: str = ""
    data: dict[str, str] = {}
    modified_data: bool = False

    def to_frame(self) -> pd.DataFrame:
        """One row per method, in order; costs and interval ends as columns."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": pd.array([m.rank for m in self.methods], "Int64"),
                "method": [m.name for m in self.methods],
                "lds": [_number(m.lds) for m in self.methods],
                "ci_low": [_number(m.ci and m.ci[0]) for m in self.methods],
                "ci_high": [_number(m.ci and m.ci[1]) for m in self.methods],
                "status": [m.status for m in self.methods],
                "reason": [m.reason or "" for m in self.methods],
                "n_excluded": [m.n_excluded for m in self.methods],
                "n_tied": [m.n_tied for m in self.methods],
                "models": [m.cost.models for m in self.methods],
                "train_seconds": [m.cost.train_seconds for m in self.methods],
                "seconds": [m.cost.seconds for m in self.methods],
                "peak_bytes": [m.cost.peak_bytes for m in self.methods],
                "disk_bytes": [m.cost.disk_bytes for m in self.methods],
            }
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def ranked(rows: list[Row]) -> list[Row]:
    """The same rows with ranks, best first (equals share a rank); then those without an LDS, in the order given."""
    values = {id(r): r.lds for r in rows if r.status == "ok" and r.lds is not None}
    scored = sorted((r for r in rows if id(r) in values), key=lambda r: -values[id(r)])
    ranks = [1 + sum(value > values[id(r)] for value in values.values()) for r in scored]
    rest = [msgspec.structs.replace(r, rank=None) for r in rows if id(r) not in values]
    return [*(msgspec.structs.replace(r, rank=rank) for r, rank in zip(scored, ranks, strict=True)), *rest]


def write(
    folder: Path,
    board: Leaderboard,
    per_target: dict[str, NDArray[np.float64]],
    labels: NDArray[Any],
    variance: NDArray[np.float64],
    data: Data | str = "",
) -> None:
    """Write every file of a run but the score matrices, the baseline and the log.

    Args:
        folder: the run's.
        board: its leaderboard.
        per_target: LDS of every target `[n_targets]` by method name.
        labels: `[n_targets]`, the targets' classes.
        variance: `[n_targets]`, of their margins over eval subsets.
        data: the setting's examples, for the report; else why it shows none.

    Raises:
        BenchError: the folder cannot be written.
    """
    import pandas as pd

    from bench import report, tables

    atomic.write_text(folder / "leaderboard.json", msgspec.json.format(msgspec.json.encode(board)).decode() + "\n")
    atomic.write_text(folder / "leaderboard.csv", board.to_frame().to_csv(index=False, lineterminator="\n"))
    atomic.write_text(folder / "leaderboard.md", tables.markdown(board))
    columns = {"target": np.arange(len(labels)), "label": labels, "margin_variance": variance, **per_target}
    atomic.write_text(folder / "per_target.csv", pd.DataFrame(columns).to_csv(index=False, lineterminator="\n"))
    report.write(folder, board, per_target, data)


def read(path: Path) -> Leaderboard:
    """Read leaderboard.json, given the file or its folder.

    Raises:
        InputError: it is not there, torn, or of another schema.
    """
    file = path / "leaderboard.json" if path.is_dir() else path
    try:
        board = msgspec.json.decode(file.read_bytes(), type=Leaderboard)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist: name a folder that `bench run` wrote") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{file} cannot be read as a leaderboard ({error}): run the same command again") from error
    if board.schema != SCHEMA:
        raise InputError(f"{file} has schema {board.schema}, and this version reads schema {SCHEMA}")
    return board


def read_per_target(folder: Path) -> dict[str, NDArray[np.float64]]:
    """The LDS of every target by method, from a run's per_target.csv.

    Raises:
        InputError: it is not there.
    """
    import pandas as pd

    path = folder / "per_target.csv"
    try:
        frame = pd.read_csv(path, float_precision="round_trip")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): run the same command again") from error
    return {name: frame[name].to_numpy(np.float64) for name in frame.columns if name not in ABOUT_TARGETS}
