"""What `bench report` does: read the run, load its examples again, fit its learning curve, write the page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench import datasets, report, results, runner
from bench.errors import BenchError
from bench.files import data_folders
from bench.progress import Progress
from bench.report import learning

if TYPE_CHECKING:
    from bench.datasets import Data
    from bench.results import Leaderboard


def make(given: argparse.Namespace) -> Leaderboard:
    """Write the report of the run that the arguments name; what cannot be had is left out, with the reason.

    Raises:
        BenchError: there is no such run, a file of it is torn, or an argument is not right.
    """
    if given.targets is not None and given.targets < 0:
        raise BenchError(f"--targets is {given.targets}: it takes a number of targets, or 0 for none")
    data_folders(given.data_dir)
    folder = Path(given.run)
    folder = folder.parent if folder.name == "leaderboard.json" else folder
    board = results.read(folder)
    per_target = results.read_per_target(folder) if (folder / "per_target.csv").exists() else {}
    if per_target:
        results.check_targets(folder, board, per_target)
    progress = Progress(quiet=given.quiet)
    data = "no examples were asked for (--targets 0)" if given.targets == 0 else _data(given, board)
    curve = "none was asked for (--no-curve)" if given.no_curve else learning.made(folder, board, progress)
    for what, found in (("examples", data), ("learning curve", curve)):
        if isinstance(found, str):
            progress.say(f"without {what}: {found}")
    report.write(folder, board, per_target, data, curve, given.targets)
    progress.say(f"written to {folder / report.FILE}")
    return board


def _data(given: argparse.Namespace, board: Leaderboard) -> Data | str:
    if given.setting is None:
        try:
            datasets.check(board.setting)
        except BenchError:
            return f"{board.setting} is no setting of this installation; name it, with its file, by --setting"
    else:
        datasets.check(given.setting)
    try:
        return runner.load(datasets.setting(given.setting or board.setting), given.data_dir, given.allow_modified_data)
    except BenchError as error:
        return str(error)
