"""What `bench explore` writes: VERB.json, .csv and .html, plots, pictures, arrays and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import atomic
from bench.explore import page
from bench.explore.blocks import Plot
from bench.report import svg

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from bench.explore.document import Document, Finding

_KINDS = {".npy", ".png", ".parquet", ".svg"}


def write(folder: str | Path, finding: Finding[Document]) -> None:
    """Write all that was found.

    Args:
        folder: where; it is made. What an earlier call of the same verb wrote there is replaced.
        finding: of one verb.

    Raises:
        BenchError: the folder cannot be written.
    """
    place, document = Path(folder), finding.document
    verb, shown = document.verb, page.view(document.verb)
    atomic.writable_folder(place)
    _clear(place, verb)
    for name, array in finding.arrays.items():
        atomic.write(place / f"{verb}-{name}.npy", _saving(array))
    for name, content in finding.pictures.items():
        atomic.write(place / f"{verb}-{name}.png", _writing(content))
    for name, table in finding.tables.items():
        atomic.write(place / f"{verb}-{name}.parquet", _parquet(table))
    for block in shown.blocks(document):
        if isinstance(block, Plot):
            atomic.write(place / f"{verb}-{block.name}.svg", _svg(block))
    atomic.write_text(place / f"{verb}.csv", shown.frame(document).to_csv(index=False, lineterminator="\n"))
    atomic.write_text(place / f"{verb}.html", page.html(document, place))
    atomic.write_text(place / f"{verb}.json", document.text())  # last: it vouches for the others


def _clear(place: Path, verb: str) -> None:
    """Remove what an earlier call wrote; without its document the files are someone else's, and stay."""
    document = place / f"{verb}.json"
    if not document.is_file():
        return
    with atomic.writing(document):
        for old in place.glob(f"{verb}-*"):
            if old.suffix in _KINDS and old.is_file():
                old.unlink()
        document.unlink()  # until all is written there is nothing to vouch for


def _saving(array: Any) -> Callable[[BinaryIO], object]:
    return lambda file: np.save(file, array, allow_pickle=False)


def _writing(content: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(content)


def _parquet(table: Any) -> Callable[[BinaryIO], object]:
    from bench.tables import frames

    content = frames.parquet_bytes(table)
    return lambda file: file.write(content)


def _svg(block: Plot) -> Callable[[BinaryIO], object]:
    def fill(file: BinaryIO) -> None:
        with svg.style():
            file.write(svg.standing(block.draw()))

    return fill
