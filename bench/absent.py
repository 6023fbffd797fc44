"""Stands for the examples and the models of a store that has none: what a method asks them for is one sentence."""

from __future__ import annotations

from typing import Any, NoReturn

from bench.errors import UnmetError


class Absent:
    """Has the attributes it was given; every other is refused.

    Args:
        why: the sentence's end: what is missing, and why.
        there: attributes that there are all the same.
    """

    def __init__(self, why: str, **there: Any) -> None:
        self.__dict__.update(there, _why=why)

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse.

        Raises:
            UnmetError: always; AttributeError for what Python itself asks objects for.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnmetError(self._why)
