"""Refusals of parameters out of range, in one sentence each: a method's constructor makes them before anything runs."""

from __future__ import annotations

import math

from bench.errors import InputError


def at_least(least: float, /, **values: float | str) -> None:
    """Refuse numbers below `least`, or not finite; words, such as `tune`, are the method's own.

        at_least(1, checkpoints=checkpoints, states=states)

    Raises:
        InputError: one of `values` is; the sentence names it.
    """
    for name, value in values.items():
        if not isinstance(value, str) and not least <= value < math.inf:
            raise InputError(f"{name} is {value}: it is a number of at least {least:g}")


def above(bound: float, /, **values: float | str) -> None:
    """Refuse numbers that are not above `bound`, or not finite; words are the method's own.

    Raises:
        InputError: one of `values` is; the sentence names it.
    """
    for name, value in values.items():
        if not isinstance(value, str) and not bound < value < math.inf:
            raise InputError(f"{name} is {value}: it is a number above {bound:g}")


def at_most(most: float, /, **values: float | str) -> None:
    """Refuse numbers above `most`; words are the method's own.

    Raises:
        InputError: one of `values` is; the sentence names it.
    """
    for name, value in values.items():
        if not isinstance(value, str) and not value <= most:
            raise InputError(f"{name} is {value}: it is a number of at most {most:g}")
