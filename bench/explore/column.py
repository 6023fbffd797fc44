"""The leaderboard's column of counterfactual scores, as `bench explore counterfactual` left them in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.errors import InputError

if TYPE_CHECKING:
    from bench.results import Leaderboard, Row


def attached(folder: Path, board: Leaderboard) -> list[Row]:
    """The rows, each with its score where RUN/explore has one of the same ground truth and of the same score file.

    Args:
        folder: the run's.
        board: its leaderboard.
    """
    from bench import hashing
    from bench.explore import page
    from bench.explore.removals_document import Counterfactual
    from bench.results import CounterfactualRow

    bare = [msgspec.structs.replace(row, counterfactual=None) for row in board.methods]
    place = folder / "explore"
    if not (place / "counterfactual.json").exists():
        return bare
    try:
        document = page.read(place, "counterfactual")
    except InputError:  # the report says so, where it would show the document
        return bare
    assert isinstance(document, Counterfactual)
    if document.about.key != board.ground_truth["key"]:
        return bare
    found = {one.name: one for one in document.methods}
    removals = sum(count for kind, count in document.groups.items() if kind != "file")
    made = []
    for row in bare:
        one = found.get(row.name)
        same = (
            one is not None
            and one.score.value is not None
            and one.checksum is not None
            and row.scores is not None
            and (folder / row.scores).is_file()
            and hashing.file(folder / row.scores) == one.checksum
        )
        if not same:
            made.append(row)
            continue
        assert one is not None
        assert one.score.value is not None
        own = CounterfactualRow(one.score.value, one.score.ci, removals, document.seeds)
        made.append(msgspec.structs.replace(row, counterfactual=own))
    return made
