"""JSON files that a person may have edited: decoded, or refused with the field that is at fault."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec


class DocumentError(Exception):
    """What is wrong with a document, as a part of a sentence."""


def decoded(text: bytes) -> Any:
    """A document as plain values.

    Raises:
        DocumentError: it is no JSON, holds a number that is not finite, or nests without end.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise DocumentError(_not_finite(text) or said) from error


def _not_finite(text: bytes) -> str | None:
    """The first field that is NaN or infinite, which Python's own parser takes and JSON has no word for."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    todo: list[tuple[str, Any]] = [("", whole)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{place or 'the document'} is {value}, which is no number"
        if isinstance(value, dict):
            todo += [(f"{place}.{key}" if place else str(key), part) for key, part in reversed(value.items())]
        elif isinstance(value, list):
            todo += [(f"{place}[{at}]", part) for at, part in reversed(list(enumerate(value)))]
    return None
