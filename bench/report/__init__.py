"""report.html: the table, its plots, what single targets say and where it all comes from, in one file.

Modules, from the outside in: `command` (the verb), `page` (the whole), `table`, `plots`, `breakdown`, `learning`,
`gallery` and `provenance` (its sections), `svg`, `labels`, `images` and `markup` (what they are made with).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.curve import Curve
    from bench.datasets import Data
    from bench.report.gallery import Gallery
    from bench.results import Leaderboard

FILE = "report.html"


def html(
    board: Leaderboard,
    per_target: dict[str, NDArray[np.float64]],
    gallery: Gallery | str = "",
    curve: Curve | str = "",
) -> str:
    """The page's text (`bench.report.page.html`)."""
    from bench.report import page

    return page.html(board, per_target, gallery, curve)


def write(
    folder: Path,
    board: Leaderboard,
    per_target: dict[str, NDArray[np.float64]],
    data: Data | str = "",
    curve: Curve | str | None = None,
    targets: int | None = None,
) -> None:
    """Write RUN/report.html.

    Args:
        folder: the run's, with the score matrices that the leaderboard names.
        board: its leaderboard.
        per_target: LDS of every target `[n_targets]` by method name.
        data: the setting's examples; else a sentence that says why they are not at hand.
        curve: the learning curve, or why there is none; None takes one that lies in RUN/curve.
        targets: how many targets the gallery shows (`bench.report.gallery.gather`).

    Raises:
        BenchError: the folder cannot be written.
    """
    from bench import atomic
    from bench.explore import page as explore
    from bench.report import gallery, learning, page

    shown = data if isinstance(data, str) else gallery.gather(board, per_target, data, folder, targets)
    drawn = learning.kept(folder, board) if curve is None else curve
    atomic.write_text(
        folder / FILE, page.html(board, per_target, shown, drawn, explore.section(folder / "explore", board))
    )
