"""Pieces of HTML. Every text that comes from elsewhere, names of methods above all, goes through here."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import Any

import msgspec


def text(value: object) -> str:
    """Any value as text between tags or in an attribute; what cannot be printed, such as control characters, as �."""
    return escape(printable(str(value)))


def printable(value: str) -> str:
    """The same with � for what neither HTML nor SVG can hold, and one space for any white space."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(value.split()))


def breakable(name: str) -> str:
    """A method's name as text, which may go on in the next line after `:` and `,`."""
    return re.sub("([:,])", r"\1<wbr>", text(name))


def json(value: Any) -> str:
    """JSON that can stand in a <script>: no `</` or `<!--` ends it early."""
    made = msgspec.json.encode(value).decode()
    return made.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def source_hash(content: str) -> str:
    """What allows exactly this <style> or <script> in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def scroller(content: str, label: str) -> str:
    """Something wider than a phone: it scrolls in itself, by keyboard too, and the page does not."""
    return f'<div class="scroller" role="region" aria-label="{text(label)}" tabindex="0">{content}</div>'


def figure(content: str, caption: str) -> str:
    """A picture with its caption, both HTML."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def section(name: str, title: str, content: str) -> str:
    """A section of the page with its heading; `name` is its anchor."""
    head = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}\n{content}\n</section>\n'


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals and a proper minus; no negative zero."""
    return f"{value:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"
