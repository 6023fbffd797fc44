"""A figure of matplotlib as SVG that belongs to the page: its theme's colours, its fonts, real text, a description."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from bench.report import markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that no eye sees: each is replaced by a variable of report.css, which the theme sets.
INK, SOFT, LINE, MARK, BAND, PAPER, WARN = (f"#0000{i:02x}" for i in range(1, 8))
SERIES = tuple(f"#0000{i:02x}" for i in range(16, 20))
_VARIABLES = {
    **{INK: "ink", SOFT: "soft", LINE: "line", MARK: "mark", BAND: "band", PAPER: "paper", WARN: "warn"},
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES, 1)},
}
_LIGHT = {  # report.css's light theme, for files that stand alone
    **dict(
        zip(
            (INK, SOFT, LINE, MARK, BAND, PAPER, WARN),
            ("#1a1f26", "#56606c", "#d5dbe1", "#0b57a4", "#a6c8ea", "#ffffff", "#b3261e"),
            strict=True,
        )
    ),
    **dict(zip(SERIES, ("#0b57a4", "#b84e00", "#5c5c5c", "#00755a"), strict=True)),
}
FONT = 9.0  # points, which are 12 pixels
_RC: dict[Any, Any] = {
    "font.size": FONT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": FONT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "svg.fonttype": "none",
    "svg.hashsalt": "ldsbench",  # the same figure makes the same bytes
}
_DRAWING = threading.Lock()  # matplotlib's settings are the process's
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


@contextmanager
def style() -> Iterator[None]:
    """Make and draw figures by the page's settings; the user's own, of matplotlibrc, neither matter nor change."""
    import matplotlib as mpl

    with _DRAWING, mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's own font lacks: the page's may have them
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def inline(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element, to be called within `style`.

    Args:
        figure: drawn in the colours above.
        name: what its ids start with; no other figure of the page has it.
        title: what it is, in a few words.
        description: what it shows, for those who do not see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    _prune(root)
    _rename(root, name)
    for element in root.iter():
        _present(element)
    box = root.attrib["viewBox"]
    width = round(float(box.split()[2]) * 4 / 3)
    root.attrib = {"class": "plot", "viewBox": box, "width": str(width), "role": "img"}
    root.attrib["aria-labelledby"] = f"{name}-title {name}-description"
    for at, (tag, content) in enumerate((("title", title), ("desc", description))):
        made = ElementTree.Element(tag, {"id": f"{name}-{'description' if at else 'title'}"})
        made.text = markup.printable(content)
        root.insert(at, made)
    return ElementTree.tostring(root, encoding="unicode")


def standing(figure: Figure) -> bytes:
    """The figure as a file of its own, in the colours of the light theme; to be called within `style`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=_LIGHT[PAPER])
    made = buffer.getvalue()
    for stand_in, colour in _LIGHT.items():
        made = made.replace(stand_in, colour)
    return made.encode()


def _prune(root: ElementTree.Element) -> None:
    """Without metadata, sheets that would style the whole page, namespaces that HTML does not write."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if _HREF in element.attrib:
            element.attrib["href"] = element.attrib.pop(_HREF)
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None


def _rename(root: ElementTree.Element, name: str) -> None:
    """Ids of the figure's own, in order, and only where something refers to them."""
    used = {
        a or b for element in root.iter() for value in element.attrib.values() for a, b in _REFERENCE.findall(value)
    }
    ids: dict[str, str] = {}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old is not None and old in used:
            element.attrib["id"] = ids[old] = f"{name}-{len(ids) + 1}"

    def renamed(found: re.Match[str]) -> str:
        old = str(found[1] or found[2])
        return f"url(#{ids[old]})" if found[1] else f"#{ids[old]}"

    for element in root.iter():
        for key, value in element.attrib.items():
            element.attrib[key] = _REFERENCE.sub(renamed, value)


def _present(element: ElementTree.Element) -> None:
    """Styles as attributes, which a strict Content-Security-Policy allows; theme colours; two decimals."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = (word.strip() for word in part.partition(":"))
        if key == "font":  # the page's family; its size and weight stay
            size = re.search(r"([\d.]+)px", value)
            element.attrib["font-size"] = size[1] if size else str(FONT)
            if value.startswith(("bold", "700")):
                element.attrib["font-weight"] = "bold"
        elif key:
            element.attrib[key] = f"var(--{_VARIABLES[value]})" if value in _VARIABLES else value
    for key in ("d", "x", "y", "transform", "width", "height"):
        if key in element.attrib:
            value = _DECIMALS.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), element.attrib[key])
            element.attrib[key] = " ".join(value.split())
