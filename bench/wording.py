"""How many of what, in a sentence: 1 run is, 2 runs are."""

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
