"""The verb `report` on the command line."""

from __future__ import annotations

import argparse
from typing import Any


def add_report(verbs: Any) -> argparse.ArgumentParser:
    """The verb `report`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "report",
        help="print a run's table and write its report.html",
        description="Print a run's table, and write RUN/report.html: the table, plots, a learning curve, and the "
        "training examples that each method names for single targets, in one file that needs no network.",
    )
    made.add_argument("run", metavar="RUN", help="folder that bench run wrote")
    made.add_argument(
        "--targets",
        type=int,
        metavar="N",
        help="how many targets to show examples of, besides the best and worst ones (all up to 400, else 200; 0: none)",
    )
    made.add_argument(
        "--no-curve",
        action="store_true",
        help="no learning curve (it is fitted on the run's ground truth, in seconds, and kept in RUN/curve)",
    )
    made.add_argument("--setting", help="what the run is of (the setting that it names); the path of a dataset's file")
    made.add_argument(
        "--data-dir", metavar="DIR", help="where the datasets' files are (else $BENCH_DATA, else download)"
    )
    made.add_argument(
        "--allow-modified-data",
        action="store_true",
        help="take files that are not the published ones, for a run of such",
    )
    made.add_argument("--json", action="store_true", help="print the leaderboard as JSON instead of the table")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made
