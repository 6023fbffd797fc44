"""What a user sees while models train."""

import re
import sys

import pytest

from bench import progress
from bench.progress import Progress


def test_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal: rate, accuracy and the time that is left, now and then."""
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.0)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    with Progress().task("training x", 400, "models", 100) as advance:
        advance(100, 0.5)
        advance(50, 0.8)
    first, second, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"training x: 200/400 models, .* models/s, accuracy 50.0%, 0:00:\d\d left", first)
    assert "training x: 250/400 models" in second
    assert "accuracy 60.0%" in second  # weighted by how many
    assert "left" not in last


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress().task("training x", 400, "models") as advance:
        advance(100, 0.75)
    told = capsys.readouterr().err
    assert "100/400" in told
    assert "models/s, accuracy 75.0%" in told


@pytest.mark.parametrize(("seconds", "shown"), [(59, "0:00:59"), (3600 * 25 + 61, "25:01:01")])
def test_time_that_is_left(seconds: int, shown: str) -> None:
    counted = progress._Counted(0, 2, "models")
    counted.add(1, None)
    assert counted.left(seconds) == shown
