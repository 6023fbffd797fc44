"""Prints each benchmark beside its peer, as a ratio of medians from the same run."""

from collections.abc import Callable
from typing import Any

import pytest

Beside = Callable[[str, float], None]

_RATES: dict[str, dict[str, float]] = {}


@pytest.fixture
def beside(benchmark: Any) -> Beside:
    """`beside(way, n)`: this benchmark did `n` things a round in this way; its group's first way is the peer.

    A way named `floor` is the least time that there can be: the others are printed as shares of its rate.
    """

    def note(way: str, things: float) -> None:
        rate = things / benchmark.stats.stats.median
        benchmark.extra_info["per second"] = round(rate, 3)
        _RATES.setdefault(benchmark.group, {})[way] = rate

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The ratios, after pytest-benchmark's own table."""
    if _RATES:
        terminalreporter.section("beside the first of each group (per second, medians)")
    for group, rates in _RATES.items():
        terminalreporter.line(group)
        peer = next(iter(rates.values()))
        for way, rate in rates.items():
            share = f"{rate / rates['floor']:>9.1%} of the floor's rate" if "floor" in rates else ""
            terminalreporter.line(f"  {way:<44}{rate:>12.4g}/s{rate / peer:>9.3g}×{share}")
