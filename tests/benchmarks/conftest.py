"""Prints each benchmark beside its peer, as a ratio of medians from the same run."""

from collections.abc import Callable
from typing import Any

import pytest

Beside = Callable[..., None]

_RATES: dict[str, dict[str, float]] = {}
_PEERS: dict[str, list[str]] = {}


@pytest.fixture
def beside(benchmark: Any) -> Beside:
    """`beside(way, n, peer=False)`: this benchmark did `n` things a round in this way.

    A group's peers are the ways said to be such, or else its first. A way named `floor` is the least time that there
    can be: the others are printed as shares of its rate.
    """

    def note(way: str, things: float, peer: bool = False) -> None:
        rate = things / benchmark.stats.stats.median
        benchmark.extra_info["per second"] = round(rate, 3)
        _RATES.setdefault(benchmark.group, {})[way] = rate
        if peer:
            _PEERS.setdefault(benchmark.group, []).append(way)

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The ratios, after pytest-benchmark's own table."""
    if _RATES:
        terminalreporter.section("beside the peers of each group (per second, medians)")
    for group, rates in _RATES.items():
        peers = _PEERS.get(group, [next(iter(rates))])
        terminalreporter.line(f"{group}; beside {', '.join(peers)}")
        for way, rate in rates.items():
            ratios = "".join(f"{rate / rates[peer]:>9.3g}×" for peer in peers)
            share = f"{rate / rates['floor']:>9.1%} of the floor's rate" if "floor" in rates else ""
            terminalreporter.line(f"  {way:<44}{rate:>12.4g}/s{ratios}{share}")
