"""The verbs of `bench explore`, a module each: `HELP`, `DESCRIPTION`, `add` its arguments, `make` what it finds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

ORDER = ("similar", "leakage", "brittleness", "counterfactual", "subpopulations", "embedding", "mislabel")


def names() -> list[str]:
    """All verbs."""
    there = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return [name for name in ORDER if name in there]


def load(name: str) -> Any:
    """The module of a verb; it imports nothing heavy before `make` is called."""
    return import_module(f"bench.explore.verbs.{name}")
