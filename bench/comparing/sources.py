"""What is compared: a run's folder or a baseline, and whether two of them were judged by the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import baselines
from bench.baselines import Baseline, Entry, Judged
from bench.errors import InputError
from bench.stats import paired_difference
from bench.wording import counted

if TYPE_CHECKING:
    from bench.stats import Difference

_ALIKE = 0.99  # cosine of two sketches of margins: the same models on another machine have 1 − 1e-6 or more
_WORDS = ("setting", "protocol", "alpha", "output", "seed", "repeats", "n_train", "n_targets", "n_subsets")
_HASHES = ("data", "recipe", "masks", "targets")
_WHEN = ("date", "commit", "updated", "command", "training code", "harness")


@dataclass(frozen=True)
class Source:
    """A baseline, and the name that sentences give it."""

    name: str
    baseline: Baseline

    @property
    def methods(self) -> dict[str, Entry]:
        """By name, in the order of the table."""
        return {entry.name: entry for entry in self.baseline.methods}


def source(given: str | PathLike[str] | Baseline, name: str) -> Source:
    """Read what was given: a run's folder, a file, or a baseline that is called `name`.

    Raises:
        InputError: see `bench.baselines.read`.
    """
    if isinstance(given, Baseline):
        return Source(name, given)
    return Source(str(given), baselines.read(Path(given)))


@dataclass(frozen=True)
class Judges:
    """How the judges of two runs relate.

    Attributes:
        differences: in words, `seed (0, 1)`; none where the same models judged.
        same_subsets: subset i has the same mask in both: their influences pair up, whatever the models' own noise is,
            since a subset with its models of both runs is one draw.
        same_targets: target j is the same example in both.
        agreement: cosine of the sketches of the margins; None where subsets or targets are others.
    """

    differences: list[str]
    same_subsets: bool
    same_targets: bool
    agreement: float | None

    def difference(self, first: Entry, second: Entry, level: float) -> Difference:
        """Second minus first, paired over what is the same."""
        return paired_difference(
            first.sample,
            second.sample,
            level=level,
            same_subsets=self.same_subsets,
            same_targets=self.same_targets,
        )

    @property
    def pairing(self) -> str:
        """What differences are paired over, in words."""
        if self.same_targets:
            return "the same targets and subsets" if self.same_subsets else "the same targets and different subsets"
        return "different targets and the same subsets" if self.same_subsets else "different targets and subsets"


def judges(first: Judged, second: Judged) -> Judges:
    """Compare what judged."""
    found = []
    for name in _WORDS:
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            found.append(f"{name} ({_word(one)}, {_word(other)})")
    found += [name for name in _HASHES if getattr(first, name) != getattr(second, name)]
    masks = first.masks == second.masks and (first.n_train, first.n_subsets) == (second.n_train, second.n_subsets)
    targets = first.targets == second.targets and first.n_targets == second.n_targets
    agreement = _cosine(first.margins, second.margins) if masks and targets else None
    if agreement is not None and agreement < _ALIKE:
        found.append(f"margins (agreement {agreement:.2f})")
    return Judges(found, masks, targets, agreement)


def in_words(judged: Judged) -> str:
    """Setting and sizes."""
    return f"{judged.setting}, {judged.n_subsets} held-out subsets × {counted(judged.n_targets, 'target')}"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cosine(one: list[float], other: list[float]) -> float:
    a, b = np.array(one), np.array(other)
    if np.array_equal(a, b):
        return 1.0
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0


def changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two sets of parameters, or of facts on how a run was made; None where one has none."""
    names = dict.fromkeys([*first, *second])
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def made_otherwise(first: Baseline, second: Baseline) -> dict[str, tuple[str | None, str | None]]:
    """Versions and hardware that differ."""
    found = changed(first.made, second.made)
    return {name.removeprefix("version of "): pair for name, pair in found.items() if name not in _WHEN}


def state(entry: Entry | None) -> str:
    """Whether a method ran, in words: `ok`, `absent`, `failed: …`, `skipped: …`, `no LDS: …`."""
    if entry is None:
        return "absent"
    word = entry.status if entry.status != "ok" else "ok" if entry.lds is not None else "no LDS"
    return f"{word}: {' '.join(entry.reason.split())}" if entry.reason and word != "ok" else word


def check_level(level: float) -> None:
    """Refuse what is no level.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level:g}: it is between 0 and 1, such as .95")


class Changed(msgspec.Struct, frozen=True):
    """A parameter, or a fact on how a run was made, that differs; None where one side has none of it."""

    name: str
    first: Any
    second: Any


def as_changes(found: Mapping[str, tuple[Any, Any]]) -> list[Changed]:
    """The same as a list, for JSON."""
    return [Changed(name, *pair) for name, pair in found.items()]
