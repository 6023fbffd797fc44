"""The verbs `table`, a run's numbers in any form, and `schema`, what its JSON files are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError

FORMATS = ("text", "markdown", "latex", "csv", "json", "parquet")
if TYPE_CHECKING:
    import pandas as pd

    from bench.results import Leaderboard

WHAT = ("leaderboard", "pairs", "per-target", "efficiency", "tuning")
SCHEMAS = ("leaderboard", "baseline")
_COSTS = {"models", "train_seconds", "seconds", "total_seconds", "peak_bytes", "disk_bytes"}
_SMALL_FIRST = _COSTS | {
    *("rank", "rank_low", "rank_high", "method", "group", "status", "reason", "tuned", "better", "worse"),
    *("p_value", "p_holm", "target", "label", "what", "chosen", "tried"),
}
_HEADINGS = {"training": "train_seconds", "attributing": "seconds", "memory": "peak_bytes", "disk": "disk_bytes"}
"""Of tables to read, and the columns they stand for."""
_ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "text"}


def add_table(verbs: Any) -> argparse.ArgumentParser:
    """The verb `table`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "table",
        help="a run's table, its pairs, costs or single targets, as text, Markdown, LaTeX, CSV, JSON or parquet",
        description="Print or write a run's numbers. The pairs are every two methods, compared on the same subsets and "
        "targets; per-target has the LDS of every method on every target; efficiency the LDS per model trained and per "
        "second, and whether another method is as good for as little (front: none is); tuning each method's default "
        "beside its tuned row, with all that was tried on the tune rows.",
    )
    made.add_argument("run", metavar="RUN", help="folder that bench run wrote, or its leaderboard.json")
    made.add_argument("--what", choices=WHAT, default="leaderboard", help="which numbers (leaderboard)")
    made.add_argument("--format", choices=FORMATS, help="how (what --out ends with, else text)")
    made.add_argument("--out", metavar="FILE", help="write it there instead of printing it")
    made.add_argument(
        "--sort",
        metavar="COLUMN",
        help="lds, models, training, attributing, memory, disk, or a column of the CSV: the best LDS first; of costs, "
        "ranks and p-values the smallest, of names the first of the alphabet; what has none, as a method that failed "
        "has no cost, comes last",
    )
    order = made.add_mutually_exclusive_group()
    order.add_argument("--ascending", action="store_true", help="with --sort: the smallest first")
    order.add_argument("--descending", action="store_true", help="with --sort: the largest first")
    return made


def add_schema(verbs: Any) -> argparse.ArgumentParser:
    """The verb `schema`."""
    made: argparse.ArgumentParser = verbs.add_parser("schema", help="the JSON Schema of a run's files")
    made.add_argument("file", choices=SCHEMAS, help="of leaderboard.json, or of baseline.json")
    return made


def schema(given: argparse.Namespace) -> int:
    """Print a schema."""
    from importlib.resources import files

    sys.stdout.write((files("bench.tables") / "schemas" / f"{given.file}.json").read_text("utf-8"))
    return 0


def table(given: argparse.Namespace) -> int:
    """Print or write a table."""
    from bench import atomic

    out = None if given.out is None else Path(given.out)
    kind = given.format or (_ENDINGS.get(out.suffix) if out is not None else "text")
    if kind is None:
        raise BenchError(f"--out is {given.out!r}, whose ending names no format: add --format ({', '.join(FORMATS)})")
    if kind == "parquet" and out is None:
        raise BenchError("--format parquet is no text: name a file with --out")
    if given.sort is None and (given.ascending or given.descending):
        flag = "ascending" if given.ascending else "descending"
        raise BenchError(f"--{flag} says nothing without --sort COLUMN: name the column to sort by")
    sort = None
    if given.sort is not None:
        column = _HEADINGS.get(given.sort, given.sort)
        upwards = column in _SMALL_FIRST if given.ascending == given.descending else given.ascending
        sort = Sort(column, upwards)
    content = _content(Path(given.run), given.what, kind, sort)
    if out is None:
        sys.stdout.write(content.decode("utf-8"))
        return 0
    atomic.writable_folder(out.parent)
    atomic.write(out, lambda file: file.write(content))
    print(out)
    return 0


@dataclass(frozen=True)
class Sort:
    """The column that rows are sorted by, and whether its smallest value comes first."""

    column: str
    upwards: bool


def _content(run: Path, what: str, kind: str, sort: Sort | None) -> bytes:
    import msgspec

    from bench import results, tables
    from bench.tables import efficiency, frames, latex, tuning

    board = results.read(run)
    folder = run if run.is_dir() else run.parent
    if sort is not None and what == "leaderboard":
        frame = _sorted(board.to_frame(), sort)
        place = {row.name: row for row in board.methods}
        board = msgspec.structs.replace(board, methods=[place[name] for name in frame["method"]])
    if what == "leaderboard":
        also = None if sort is None else (sort.column, _texts(board, sort.column))
        if kind in ("text", "markdown"):
            return (tables.plain(board, also) if kind == "text" else tables.markdown(board, also)).encode()
        if kind == "latex":
            return latex.leaderboard(board, also).encode()
        if kind == "json":
            return msgspec.json.format(msgspec.json.encode(board)) + b"\n"
        frame = board.to_frame()
    else:
        if what == "per-target":
            results.check_targets(folder, board, results.read_per_target(folder))
        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "pairs": board.pairs_frame,
            "per-target": lambda: results.read_per_target_frame(folder),
            "efficiency": lambda: efficiency.of(board),
            "tuning": lambda: tuning.of(board),
        }
        frame = makers[what]()
        frame = frame if sort is None else _sorted(frame, sort)
    if kind == "parquet":
        return frames.parquet_bytes(frame)
    if kind == "csv":
        return frames.csv_text(frame).encode()
    if kind == "json":
        text: str = frame.to_json(orient="records", double_precision=15)
        return msgspec.json.format(text.encode()) + b"\n"
    return _lines(frame, kind).encode()


def _texts(board: Leaderboard, column: str) -> list[str]:
    """A column of the CSV as texts; of costs, those of methods that ran."""
    rows = zip(board.to_frame()[column], board.methods, strict=True)
    return ["" if column in _COSTS and row.status != "ok" else _text(value) for value, row in rows]


def _sorted(frame: Any, sort: Sort) -> Any:
    column = sort.column
    if column not in frame.columns:
        from bench.errors import nearest

        raise BenchError(f"--sort is {column!r}{nearest(column, list(frame))}: there are {', '.join(frame.columns)}")
    values = frame[column]
    if column in _COSTS and "status" in frame.columns:  # 0 there, of what failed or was skipped, means nothing
        values = values.mask(frame["status"] != "ok")
    order = values.reset_index(drop=True).sort_values(ascending=sort.upwards, kind="stable", na_position="last").index
    return frame.iloc[order]


def _lines(frame: Any, kind: str) -> str:
    """A frame as text, Markdown or LaTeX."""
    from bench.tables import latex
    from bench.tables.text import aligned, piped

    numbers = {name for name in frame.columns if frame[name].dtype.kind in "fiu"}
    rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    header = list(frame.columns)
    if kind == "latex":
        return latex.tabular(header, rows, numbers)
    return "\n".join((aligned if kind == "text" else piped)([header, *rows], numbers)) + "\n"


def _text(value: Any) -> str:
    import numpy as np
    import pandas as pd

    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)
