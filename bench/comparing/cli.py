"""The verbs `compare` and `check`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_ABOUT_COMPARE = """Compare two runs, or baselines, method by method: LDS in A and in B, the difference B − A with its
interval, paired over subsets and targets, and a verdict that allows for the number of methods (Holm). Needs no score
matrix and no ground truth: each run leaves a baseline.json. Exit code 1 where a method is worse in B, 2 for bad input,
such as runs that were judged by different models."""
_ABOUT_CHECK = """Check a run against a baseline, in CI. A regression is a drop in LDS whose paired interval excludes
zero and that is larger than --tolerance. Prints a Markdown summary, and appends it to $GITHUB_STEP_SUMMARY where that
is set. Exit code 1 for a regression or a method that failed, 2 for bad input, such as a run that lacks a method."""


def add_compare(verbs: Any) -> argparse.ArgumentParser:
    """The verb `compare`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "compare", help="what one run does better or worse than another", description=_ABOUT_COMPARE
    )
    made.add_argument("first", metavar="RUN_A", help="folder that bench run wrote, or a baseline")
    made.add_argument("second", metavar="RUN_B", help="the same")
    made.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="only this one, as the table names it; repeatable"
    )
    made.add_argument(
        "--allow-different",
        action="store_true",
        help="compare runs that were judged differently, over what is still the same; the table says what is not",
    )
    _level(made)
    made.add_argument("--format", choices=("table", "markdown", "json"), help="of what is printed (table)")
    made.add_argument("--json", action="store_true", help="the same as --format json")
    return made


def add_check(verbs: Any) -> argparse.ArgumentParser:
    """The verb `check`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "check", help="fail where a run fell below a baseline, for CI; or make the baseline", description=_ABOUT_CHECK
    )
    made.add_argument("run", metavar="RUN", help="folder that bench run wrote")
    made.add_argument("--baseline", required=True, metavar="FILE", help="what it is checked against; kept in git")
    made.add_argument(
        "--tolerance",
        metavar="X",
        help="the drop in LDS that is no regression: .005, or 5%% of the baseline's LDS, or the greater of both, "
        "written .005,5%% (the default)",
    )
    _level(made)
    made.add_argument(
        "--update",
        action="store_true",
        help="check nothing: write the run's baseline to FILE, with date, commit, versions and hardware",
    )
    made.add_argument("--json", action="store_true", help="print one JSON document instead of Markdown")
    return made


def _level(made: argparse.ArgumentParser) -> None:
    made.add_argument("--level", type=float, default=0.95, metavar="P", help="of the intervals (.95)")


def compare(given: argparse.Namespace) -> int:
    """Two runs beside each other."""
    if given.json and given.format not in (None, "json"):
        raise BenchError(f"--json and --format {given.format} are both given: leave one out")
    from bench.comparing import tables
    from bench.comparing.compare import compare as compare_

    found = compare_(
        given.first,
        given.second,
        methods=given.method,
        allow_different=given.allow_different,
        level=given.level,
    )
    if given.json or given.format == "json":
        _print_json(found)
    else:
        sys.stdout.write(tables.compared(found, markdown=given.format == "markdown"))
    return 1 if found.worse else 0


def check(given: argparse.Namespace) -> int:
    """A run against a baseline, or into one."""
    from bench.comparing import tables

    try:
        found, text, code = _update(given) if given.update else _check(given)
    except BenchError as error:
        _summarise(tables.not_checked(str(error)))
        raise
    if given.json:
        _print_json(found)
    else:
        sys.stdout.write(text)
    _summarise(text)
    return code


def _check(given: argparse.Namespace) -> tuple[Any, str, int]:
    from bench.comparing import tables
    from bench.comparing.check import TOLERANCE
    from bench.comparing.check import check as check_

    tolerance = TOLERANCE if given.tolerance is None else given.tolerance
    found = check_(given.run, given.baseline, tolerance=tolerance, level=given.level)
    return found, tables.checked(found), 0 if found.passed else 1


def _update(given: argparse.Namespace) -> tuple[Any, str, int]:
    from bench.comparing import tables
    from bench.comparing.update import update

    if given.tolerance is not None:
        raise BenchError("--update and --tolerance are both given: --update checks nothing, so leave one out")
    found = update(given.run, given.baseline)
    return found, tables.updated(found), 0


def _summarise(text: str) -> None:
    """Append to the summary of a GitHub job; a verdict must not be lost where that cannot be done."""
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        return
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        print(f"bench: $GITHUB_STEP_SUMMARY cannot be written ({place}): {error.strerror or error}", file=sys.stderr)


def _print_json(value: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
