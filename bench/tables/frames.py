"""The leaderboard, its pairs and its targets as pandas frames, and as CSV that reads back exactly.

Columns, their order and their dtypes are fixed by METHODS, PAIRS and PER_TARGET. What there is not is NaN in a float
column and NA in the others; in CSV it is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError, InputError
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.results import Leaderboard

METHODS = {
    "rank": "Int64",
    "method": "string",
    "lds": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "stderr": "float64",
    "rank_low": "Int64",
    "rank_high": "Int64",
    "group": "string",
    "of_ceiling": "float64",
    "of_ceiling_low": "float64",
    "of_ceiling_high": "float64",
    "one_seed_lds": "float64",
    "one_seed_low": "float64",
    "one_seed_high": "float64",
    "counterfactual": "float64",
    "counterfactual_low": "float64",
    "counterfactual_high": "float64",
    "p_value": "float64",
    "null_stderr": "float64",
    "q05": "float64",
    "q25": "float64",
    "q50": "float64",
    "q75": "float64",
    "q95": "float64",
    "negative_share": "float64",
    "probable_sign_error": "boolean",
    "status": "string",
    "reason": "string",
    "n_excluded": "int64",
    "n_tied": "int64",
    "tuned": "string",
    "models": "Int64",
    "train_seconds": "float64",
    "seconds": "float64",
    "peak_bytes": "Int64",
    "disk_bytes": "Int64",
}
"""Of `Leaderboard.to_frame` and leaderboard.csv: one row per method (`bench.results.Row` says what each is)."""
PAIRS = {
    "better": "string",
    "worse": "string",
    "difference": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "p_value": "float64",
    "p_holm": "float64",
}
"""Of `Leaderboard.pairs_frame`: one row per two methods (`bench.results.Pair`)."""
PER_TARGET = {
    "method": "string",
    "target": "int64",
    "label": "int64",
    "margin_variance": "float64",
    "lds": "float64",
}
"""Of `bench.results.read_per_target_frame`: one row per method and target; `label` is the target's class."""
_COSTS = ("models", "train_seconds", "seconds", "peak_bytes", "disk_bytes")
_QUANTILES = {"q05": "0.05", "q25": "0.25", "q50": "0.5", "q75": "0.75", "q95": "0.95"}


def of_methods(board: Leaderboard) -> pd.DataFrame:
    """One row per method, in the leaderboard's order; columns METHODS."""
    lines = []
    for row in board.methods:
        share, spread, cost = row.of_ceiling, row.spread, row.cost
        low, high = row.ci or (None, None)
        first, last = row.rank_ci or (None, None)
        share_low, share_high = share.ci if share else (None, None)
        removed = row.counterfactual
        removed_low, removed_high = removed.ci if removed and removed.ci else (None, None)
        lines.append(
            {
                "rank": row.rank,
                "method": row.name,
                "lds": row.lds,
                "ci_low": low,
                "ci_high": high,
                "stderr": row.stderr,
                "rank_low": first,
                "rank_high": last,
                "group": row.group,
                "of_ceiling": share and share.value,
                "of_ceiling_low": share_low,
                "of_ceiling_high": share_high,
                "one_seed_lds": row.one_seed and row.one_seed.lds,
                "one_seed_low": row.one_seed and row.one_seed.ci and row.one_seed.ci[0],
                "one_seed_high": row.one_seed and row.one_seed.ci and row.one_seed.ci[1],
                "counterfactual": removed and removed.spearman,
                "counterfactual_low": removed_low,
                "counterfactual_high": removed_high,
                "p_value": row.p_value,
                "null_stderr": row.null_stderr,
                **{name: spread and spread.quantiles.get(level) for name, level in _QUANTILES.items()},
                "negative_share": spread and spread.negative,
                "probable_sign_error": None if row.lds is None else row.probable_sign_error,
                "status": row.status,
                "reason": row.reason or None,
                "n_excluded": row.n_excluded,
                "n_tied": row.n_tied,
                "tuned": ",".join(f"{one.what}={one.chosen}" for one in row.searches) or None,
                **{name: getattr(cost, name, None) for name in _COSTS},
            }
        )
    return frame({name: [line[name] for line in lines] for name in METHODS}, METHODS)


def of_pairs(board: Leaderboard) -> pd.DataFrame:
    """One row per two methods compared; columns PAIRS."""
    columns = zip(*((p.better, p.worse, p.difference, *p.ci, p.p_value, p.p_holm) for p in board.pairs), strict=True)
    return frame(dict(zip(PAIRS, columns, strict=True)) if board.pairs else dict.fromkeys(PAIRS, ()), PAIRS)


def of_targets(about: Mapping[str, Sequence[Any]], per_target: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One row per method and target, method after method; columns PER_TARGET.

    Args:
        about: `target`, `label` and `margin_variance`, `[n_targets]` each.
        per_target: LDS `[n_targets]` by method, NaN where excluded.
    """
    n, k = len(about["target"]), len(per_target)
    columns: dict[str, Any] = {"method": [name for name in per_target for _ in range(n)]}
    columns |= {name: np.tile(np.asarray(about[name]), k) for name in ("target", "label", "margin_variance")}
    columns["lds"] = np.concatenate([*per_target.values(), np.empty(0)])
    return frame(columns, PER_TARGET)


def frame(columns: Mapping[str, Any], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """A frame of lists by column, in the order and of the types of `dtypes`; None is NaN, or NA."""
    import pandas as pd

    def column(values: Any, dtype: str) -> Any:
        if dtype == "float64":
            return np.array([np.nan if value is None else value for value in values], np.float64)
        return np.asarray(values, np.int64) if dtype == "int64" else pd.Series(list(values), dtype=dtype).array

    return pd.DataFrame({name: column(columns[name], dtype) for name, dtype in dtypes.items()})


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV, every float with all its digits; `read_csv` gives the same frame."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def read_csv(path: Path, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Read a CSV file of METHODS, PAIRS or PER_TARGET.

    Raises:
        InputError: it cannot be read, its columns are others, or a value is not of its column's type.
    """
    header, columns = _columns(path)
    if header != list(dtypes):
        missing = [name for name in dtypes if name not in header]
        what = f"it has no column {missing[0]}" if missing else f"its columns are {', '.join(header)}"
        raise InputError(f"{path} cannot be read: {what}; write it anew with `bench table RUN --out {path.name}`")
    return frame({name: _parsed(path, name, values, dtypes[name]) for name, values in columns}, dtypes)


def wide_csv_text(about: Mapping[str, Iterable[Any]], per_target: Mapping[str, NDArray[np.float64]]) -> str:
    """The columns of per_target.csv: what is known of targets, then the LDS of every method; NaN is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*about, *per_target])
    lists = [np.asarray(column).tolist() for column in (*about.values(), *per_target.values())]
    writer.writerows(["" if value != value else value for value in line] for line in zip(*lists, strict=True))
    return stream.getvalue()


def read_wide_csv(path: Path, n_about: int) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Read per_target.csv, whose first `n_about` columns are about targets: those, and the LDS by method.

    Raises:
        InputError: it cannot be read, or a value is no number.
    """
    header, columns = _columns(path)
    expected = list(PER_TARGET)[1 : 1 + n_about]
    if header[:n_about] != expected:
        raise InputError(
            f"{path} cannot be read: its first columns are {', '.join(header[:n_about])} instead of "
            f"{', '.join(expected)}; run the same command again"
        )
    about = {name: _parsed(path, name, values, PER_TARGET[name]) for name, values in columns[:n_about]}
    found = {name: np.array(_parsed(path, name, values, "float64")) for name, values in columns[n_about:]}
    return about, found


def _columns(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): run the same command again") from error
    header = lines.pop(0) if lines else []
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise InputError(
                f"{path} cannot be read: row {number} has {counted(len(line), 'value')} and the header {len(header)}; "
                "run the same command again"
            )
    return header, [(name, [line[i] for line in lines]) for i, name in enumerate(header)]


def _parsed(path: Path, name: str, values: list[str], dtype: str) -> list[Any]:
    """Of texts; Python's own parsing, since that of pandas loses the last digit of some floats."""
    parsers: dict[str, Callable[[str], Any]] = {"float64": float, "string": str, "boolean": _truth}
    parse = parsers.get(dtype, int)
    empty: Any = float("nan") if dtype == "float64" else None
    try:
        return [parse(value) if value or dtype == "int64" else empty for value in values]
    except ValueError as error:
        kind = "neither True nor False" if dtype == "boolean" else "no number"
        raise InputError(f"{path} cannot be read: {name} has a value that is {kind} ({error})") from error


def _truth(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(repr(text))
    return text == "True"


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as a parquet file.

    Raises:
        BenchError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BenchError("parquet needs pyarrow, which is not installed: pip install 'ldsbench[parquet]'") from error
    made = io.BytesIO()
    frame.to_parquet(made, engine="pyarrow", index=False)
    return made.getvalue()
