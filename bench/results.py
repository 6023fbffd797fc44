"""What a run found, as files: leaderboard.json, .csv, .md, .tex, the values per target, report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from bench import atomic
from bench.documents import DocumentError, decoded
from bench.errors import InputError
from bench.subsets import Protocol
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.datasets import Data

SCHEMA: Literal[1] = 1
_SLACK = 1e-6  # of sums in another order
ABOUT_TARGETS = ("target", "label", "margin_variance")
"""The first columns of per_target.csv; those of methods follow."""
Interval = tuple[float, float]
Correlation = Annotated[float, Meta(ge=-1, le=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Place = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]


class Cost(msgspec.Struct, frozen=True):
    """What a method took.

    Attributes:
        seconds: wall clock of attributing alone.
        models: models trained for it: rows of the ground truth and checkpoints.
        peak_bytes: most memory above what the process held before.
        train_seconds: worker-seconds that training those models took.
        disk_bytes: what it left or kept on disk: the score matrix and its cache at the end.
    """

    seconds: Seconds
    models: Count
    peak_bytes: Count
    train_seconds: Seconds = 0.0
    disk_bytes: Count = 0


class ShareRow(msgspec.Struct, frozen=True):
    """An LDS as a share of the noise ceiling (`bench.stats.share_of_ceiling`).

    Attributes:
        value: LDS over ceiling; above 1 where both are near and noise has it so.
        ci: its 95% interval.
    """

    value: float
    ci: Interval


class OneSeedRow(msgspec.Struct, frozen=True):
    """An LDS against a single model per subset, as most published figures are: noisier, and so lower.

    Attributes:
        lds: the score; ci: its 95% interval.
    """

    lds: Correlation
    ci: Interval | None


class CounterfactualRow(msgspec.Struct, frozen=True):
    """How well a method predicts what happens without groups of examples (`bench explore counterfactual`).

    Attributes:
        spearman: of predicted with actual changes over groups of one size, mean over sizes and targets; ci: its 95%
            interval.
        removals: groups that models were trained without; seeds: models each.
    """

    spearman: Correlation
    ci: Interval | None
    removals: Count
    seeds: Count


class SpreadRow(msgspec.Struct, frozen=True):
    """One method's LDS over targets (`bench.stats.Spread`).

    Attributes:
        quantiles: by level, as text: "0.05" … "0.95".
        negative: share of targets below zero.
        by_class: mean by class, as text.
        by_variance: mean by fifth of the targets' margin variance, least first.
    """

    quantiles: dict[str, Correlation]
    negative: Probability
    by_class: dict[str, Correlation | None]
    by_variance: list[Correlation | None]


class SearchRow(msgspec.Struct, frozen=True):
    """A choice that a method made on the tune rows (`Task.choose`).

    Attributes:
        what: the parameter that was chosen, such as `damping`.
        chosen: its value, as text.
        tried: LDS on the tune rows by value, in the order tried; None where the scores were not finite.
    """

    what: str
    chosen: str
    tried: dict[str, Correlation | None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One method of the table.

    Attributes:
        name: the method as it was asked for, with its parameters.
        params: all its parameters.
        status: whether it ran.
        reason: why it did not, or why it has no LDS.
        lds: the score, None where it has none.
        ci: its 95% interval.
        stderr: the standard error behind that.
        rank: place in the table.
        rank_ci: first and last of the places that it may have, simultaneously at 95% (`bench.stats.rank_intervals`).
        group: letters; methods that share one cannot be told apart (`bench.stats.letters`).
        of_ceiling: share of the noise ceiling, None without one.
        one_seed: the LDS against the first seed of each subset alone; None where subsets have one seed.
        counterfactual: its counterfactual score, None where `bench explore counterfactual` has not made one of these
            scores.
        p_value: two-sided, of an LDS by chance (`bench.stats.permutation_null`).
        null_stderr: standard deviation of what this method would have by chance.
        spread: its LDS over targets.
        n_excluded: targets without a correlation, which the mean leaves out.
        n_tied: targets with ties in margins or predictions.
        probable_sign_error: whether its LDS is further below 0 than chance takes it: its scores probably have the
            opposite sign.
        notes: what else a reader must know.
        searches: what it chose on the tune rows, and among what.
        cost: what it took; None where that is not known, as of scores from a file.
        scores: path of the score matrix, relative to the leaderboard's folder.
        extra: path of arrays that the method kept beside its scores.
    """

    name: str
    params: dict[str, Any]
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    lds: Correlation | None = None
    ci: Interval | None = None
    stderr: Annotated[float, Meta(ge=0)] | None = None
    rank: Place | None = None
    rank_ci: tuple[Place, Place] | None = None
    group: str | None = None
    of_ceiling: ShareRow | None = None
    one_seed: OneSeedRow | None = None
    counterfactual: CounterfactualRow | None = None
    p_value: Probability | None = None
    null_stderr: Annotated[float, Meta(ge=0)] | None = None
    spread: SpreadRow | None = None
    n_excluded: Count = 0
    n_tied: Count = 0
    probable_sign_error: bool = False
    notes: list[str] = []
    searches: list[SearchRow] = []
    cost: Cost | None = Cost(0.0, 0, 0)
    scores: str | None = None
    extra: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """Rows of the ground truth by role.

    Attributes:
        fit: rows that methods may fit on.
        tune: rows that choose hyper-parameters.
        eval: rows that judge; `eval / repeats` subsets.
        repeats: seeds per eval subset.
        diverged: rows whose model diverged, which are in none of these.
    """

    fit: Count
    tune: Count
    eval: Count
    repeats: Annotated[int, Meta(ge=1)]
    diverged: Count = 0


class CeilingRow(msgspec.Struct, frozen=True):
    """The best LDS that could be had (`bench.stats.noise_ceiling`).

    Attributes:
        lds: from the agreement between the seeds of a subset.
        ci: its 95% interval.
    """

    lds: Correlation
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

    lds: Correlation
    p_value: Probability
    ci: Interval
    stderr: Annotated[float, Meta(ge=0)]
    permutations: Count


class Pair(msgspec.Struct, frozen=True):
    """Two methods compared on the same subsets and targets (`bench.stats.paired_difference`).

    Attributes:
        better: name of the one with the higher LDS.
        worse: name of the other.
        difference: how much better, in LDS.
        ci: its 95% interval.
        p_value: of no difference, two-sided.
        p_holm: the same after Holm's correction for all pairs of the table.
    """

    better: str
    worse: str
    difference: float
    ci: Interval
    p_value: Probability
    p_holm: Probability


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench run` found, in leaderboard.json; NaN is written as null.

    Attributes:
        schema: version of this format.
        setting: dataset and model, with their parameters.
        alpha: kept fraction of the training set.
        output: the margin: `logsumexp` or `max` of the other classes' logits is taken off the true one's.
        seed: root seed of everything.
        protocol: `expectation`: every subset model has a seed of its own; `single-model`: all have the same.
        rows: how many rows fit, tune and judge.
        n_train: rows of a score matrix.
        n_targets: columns of a score matrix.
        ceiling: noise ceiling, None with one seed per subset.
        why_no_ceiling: the reason where there is no ceiling.
        chance: where chance stands, None where no target has a correlation.
        methods: best first, then those that were skipped or failed.
        pairs: every two methods that have an LDS.
        ground_truth: `path` of the store's folder, relative to the leaderboard's, and its `key`.
        versions: of Python and packages, by name.
        hardware: what it ran on.
        hashes: of the examples, the recipe, the code that trained, and the harness.
        command: what to type to get the same again.
        data: what the examples were read from: file names and their checksums.
        modified_data: whether any of it is not as published; tables then say so.
    """

    schema: Literal[1] = SCHEMA
    setting: str
    alpha: Annotated[float, Meta(gt=0, lt=1)]
    output: str
    seed: int
    protocol: Protocol = "expectation"
    rows: Counts
    n_train: Count
    n_targets: Count
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
        """One row per method, in order; columns, their order and dtypes are those of `bench.tables.frames.METHODS`."""
        from bench.tables import frames

        return frames.of_methods(self)

    def pairs_frame(self) -> pd.DataFrame:
        """One row per two methods compared; the columns are those of `bench.tables.frames.PAIRS`."""
        from bench.tables import frames

        return frames.of_pairs(self)


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
        board: its leaderboard; its rows are given the counterfactual scores that `bench explore counterfactual` left in
            the folder, where these are of the same ground truth and scores.
        per_target: LDS of every target `[n_targets]` by method name.
        labels: `[n_targets]`, the targets' classes.
        variance: `[n_targets]`, of their margins over eval subsets.
        data: the setting's examples, for the report; else why it shows none.

    Raises:
        BenchError: the folder cannot be written.
    """
    from bench import report, tables
    from bench.explore import column
    from bench.tables import frames, latex

    board.methods[:] = column.attached(folder, board)
    atomic.write_text(folder / "leaderboard.json", msgspec.json.format(msgspec.json.encode(board)).decode() + "\n")
    atomic.write_text(folder / "leaderboard.csv", frames.csv_text(board.to_frame()))
    atomic.write_text(folder / "leaderboard.md", tables.markdown(board))
    atomic.write_text(folder / "leaderboard.tex", latex.leaderboard(board))
    about = dict(zip(ABOUT_TARGETS, (np.arange(len(labels)), labels, variance), strict=True))
    atomic.write_text(folder / "per_target.csv", frames.wide_csv_text(about, per_target))
    report.write(folder, board, per_target, data)


def read(path: Path) -> Leaderboard:
    """Read and check leaderboard.json, given the file or its folder.

    Raises:
        InputError: it is not there, torn, of another schema, or was edited: the field is named.
    """
    file = path / "leaderboard.json" if path.is_dir() else path
    again = "run the same command again"
    try:
        whole = decoded(file.read_bytes())
        version = whole.get("schema") if isinstance(whole, dict) else None
        if type(version) is int and version != SCHEMA:
            raise InputError(f"{file} has schema {version}, and this version reads schema {SCHEMA}")
        board = msgspec.convert(whole, Leaderboard)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist: name a folder that `bench run` wrote") from error
    except (DocumentError, msgspec.ValidationError) as error:
        raise InputError(f"{file} cannot be read as a leaderboard ({error}): {again}") from error
    fault = _fault(board)
    if fault is not None:
        raise InputError(f"{file} was changed by hand: {fault}: {again}")
    return board


def _fault(board: Leaderboard) -> str | None:
    """What does not fit together, as `field …`."""
    names = [row.name for row in board.methods]
    if len(set(names)) < len(names):
        return f"methods has {next(n for n in names if names.count(n) > 1)!r} twice"
    for at, (row, right) in enumerate(zip(board.methods, ranked(board.methods), strict=True)):
        where = f"methods[{at}] ({row.name})"
        if row.lds is not None and row.ci is not None and not row.ci[0] - _SLACK <= row.lds <= row.ci[1] + _SLACK:
            return f"{where}.lds is {row.lds:g}, outside its ci {list(row.ci)}"
        if row.name != right.name:
            return f"{where} is not in the order of its lds"
        if row.rank != right.rank:
            return f"{where}.rank is {row.rank}, and by its lds it is {right.rank}"
        if row.rank is not None and row.rank_ci is not None and not row.rank_ci[0] <= row.rank <= row.rank_ci[1]:
            return f"{where}.rank_ci is {list(row.rank_ci)}, without its rank {row.rank}"
    return _fault_of_pairs(board)


def _fault_of_pairs(board: Leaderboard) -> str | None:
    told = [row.name for row in board.methods if row.group is not None]  # older files have neither groups nor pairs
    if len(board.pairs) != len(told) * (len(told) - 1) // 2:
        return f"pairs has {counted(len(board.pairs), 'entry', 'entries')} for {counted(len(told), 'method')}"
    values = {row.name: row.lds for row in board.methods}
    for at, pair in enumerate(board.pairs):
        one, other = values.get(pair.better), values.get(pair.worse)
        if one is None or other is None or abs(one - other - pair.difference) > _SLACK:
            return f"pairs[{at}].difference is {pair.difference:g}, and the lds of its methods are {one} and {other}"
    return None


def check_targets(folder: Path, board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> None:
    """Refuse values of single targets whose mean is not the method's LDS.

    Raises:
        InputError: a method's column is missing, or was edited.
    """
    for row in board.methods:
        if row.lds is None:
            continue
        values = per_target.get(row.name)
        mean = float("nan") if values is None or np.isnan(values).all() else float(np.nanmean(values))
        if not abs(mean - row.lds) <= _SLACK:
            raise InputError(
                f"{folder / 'per_target.csv'}: the column {row.name!r} has the mean {mean:.6f}, and leaderboard.json "
                f"the lds {row.lds:.6f}: run the same command again"
            )


def rewrite(folder: Path, data: Data | str = "") -> None:
    """Write the files of a finished run again, with what `bench explore` has found of it since.

    Args:
        folder: the run's.
        data: as of `write`.

    Raises:
        BenchError: a file of the run is missing or was edited, or cannot be written.
    """
    from bench.tables import frames

    board = read(folder)
    about, per_target = frames.read_wide_csv(folder / "per_target.csv", len(ABOUT_TARGETS))
    check_targets(folder, board, per_target)
    write(folder, board, per_target, np.array(about["label"]), np.array(about["margin_variance"], np.float64), data)


def read_per_target(folder: Path) -> dict[str, NDArray[np.float64]]:
    """The LDS of every target by method, NaN where excluded, from a run's per_target.csv.

    Raises:
        InputError: it is not there, or a value is no number.
    """
    from bench.tables import frames

    return frames.read_wide_csv(folder / "per_target.csv", len(ABOUT_TARGETS))[1]


def read_per_target_frame(folder: Path) -> pd.DataFrame:
    """The same in long form, one row per method and target: columns as in `bench.tables.frames.PER_TARGET`.

    Raises:
        InputError: as `read_per_target`.
    """
    from bench.tables import frames

    return frames.of_targets(*frames.read_wide_csv(folder / "per_target.csv", len(ABOUT_TARGETS)))
