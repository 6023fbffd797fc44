"""How many of what, in a sentence: 1 run is, 2 runs are; and what an exception says."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None, *, form: str = "d") -> str:
    """A number and what it counts.

    Args:
        number: how many.
        one: what 1 is called, as `run`.
        many: what any other number of them is called, where that is more than an s.
        form: how the number is written, as `,`.
    """
    return f"{number:{form}} {either(number, one, one + 's' if many is None else many)}"


def either(number: int, one: str, many: str) -> str:
    """The words that fit 1, or any other number: `is` and `are`."""
    return one if number == 1 else many


def raised(error: BaseException) -> str:
    """What was raised, in one line that a terminal can print: its type, unless it is an error of ours, and its text.

    Args:
        error: whatever a plug-in raised; one whose text cannot be had is named alone.
    """
    from bench.errors import BenchError

    try:
        text = "".join(c if c.isprintable() else "�" for c in " ".join(str(error).split()))
    except Exception:  # of a plug-in's own making
        text = ""
    return text if text and isinstance(error, BenchError) else ": ".join(filter(None, (type(error).__name__, text)))
