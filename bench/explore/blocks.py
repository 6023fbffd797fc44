"""What a page of `bench explore`, or a section of the report, is put together from."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import markup, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Lead:
    """A paragraph of plain text that says what is seen, for newcomers."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A heading between blocks."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column heads its row.

    Attributes:
        caption: what it is of.
        header: names of the columns; rows: one text for each.
        right: columns that end at one place, as numbers do.
        note: a sentence below it.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure of matplotlib, drawn in the colours of `bench.report.svg` when the page is made.

    Attributes:
        name: short, of letters and dashes; also of the file `VERB-NAME.svg`.
        title: what it is, in a few words.
        description: what it shows, for those who do not see it.
        caption: what a newcomer must know to read it.
        draw: makes it.
    """

    name: str
    title: str
    description: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Picture:
    """A PNG that the verb has written beside its document.

    Attributes:
        file: its name, `VERB-NAME.png`.
        alt: what it shows, for those who do not see it.
        caption: what to look for.
        density: pixels of the file for one of the page.
    """

    file: str
    alt: str
    caption: str
    density: int = 1


Block = Lead | Heading | Table | Plot | Picture


def html(blocks: Sequence[Block], folder: Path, prefix: str, level: int = 4) -> str:
    """All of them as HTML.

    Args:
        blocks: in their order.
        folder: where pictures lie; they become part of the text.
        prefix: what ids of plots start with; a page's own.
        level: of headings, 4 for `<h4>`.
    """
    return "\n".join(_html(block, folder, prefix, level) for block in blocks)


def _html(block: Block, folder: Path, prefix: str, level: int) -> str:
    match block:
        case Lead():
            return f"<p>{markup.text(block.text)}</p>"
        case Heading():
            return f"<h{level}>{markup.text(block.text)}</h{level}>"
        case Table():
            return _table(block)
        case Plot():
            with svg.style():
                drawn = svg.inline(block.draw(), f"{prefix}-{block.name}", block.title, block.description)
            return markup.figure(markup.scroller(drawn, block.title), markup.text(block.caption))
        case Picture():
            return _picture(block, folder)


def _table(block: Table) -> str:
    side = [' class="r"' if name in block.right else "" for name in block.header]
    head = "".join(
        f'<th{where} scope="col">{markup.text(name)}</th>' for where, name in zip(side, block.header, strict=True)
    )
    body = ""
    for first, *others in block.rows:
        cells = "".join(f"<td{where}>{markup.text(cell)}</td>" for where, cell in zip(side[1:], others, strict=True))
        body += f'<tr><th class="name" scope="row">{markup.breakable(first)}</th>{cells}</tr>'
    made = (
        f"<table><caption>{markup.text(block.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
    return markup.scroller(made, block.caption) + (
        f'<p class="soft">{markup.text(block.note)}</p>' if block.note else ""
    )


def _picture(block: Picture, folder: Path) -> str:
    try:
        content = (folder / block.file).read_bytes()
    except OSError:
        return f'<p class="absent">{markup.text(block.file)} is missing: run the same command again.</p>'
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    width = int.from_bytes(content[16:20], "big") // block.density  # where each PNG says its own
    picture = f'<img class="grid" src="{url}" width="{width}" alt="{markup.text(block.alt)}">'
    return markup.figure(markup.scroller(picture, block.alt), markup.text(block.caption))
