"""What a verb of `bench explore` finds: a document for machines, arrays and pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.explore.subject import Subject

SCHEMA = 1


class About(msgspec.Struct, frozen=True, kw_only=True):
    """Where a document's numbers come from.

    Attributes:
        setting: or the store's name, where it was imported; key: hash of the ground truth.
        n_train, n_targets: training examples and targets.
        methods: LDS by name, as the leaderboard had it; None where it is not known.
        seconds: what it took; models: trained for it.
        versions, hardware: what it ran on.
    """

    setting: str
    key: str
    n_train: int
    n_targets: int
    methods: dict[str, float | None]
    seconds: float
    models: int = 0
    versions: dict[str, str]
    hardware: dict[str, str]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What all documents hold; each verb adds its own fields.

    Attributes:
        schema: version of the format; verb: whose document it is.
        about: where it comes from.
        notes: what a reader must know.
    """

    schema: int = SCHEMA
    verb: str
    about: About
    notes: list[str] = []

    def text(self) -> str:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self)).decode() + "\n"


D = TypeVar("D", bound=Document, covariant=True)


@dataclass(frozen=True)
class Finding(Generic[D]):
    """A document, and what is kept beside it.

    Attributes:
        document: the numbers.
        arrays: written as `VERB-NAME.npy`.
        pictures: PNG bytes, written as `VERB-NAME.png`.
        tables: data frames, written as `VERB-NAME.parquet`.
    """

    document: D
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)


def about(subject: Subject, names: Mapping[str, float | None], seconds: float, models: int = 0) -> About:
    """Where a document's numbers come from.

    Args:
        subject: what was explored.
        names: LDS of the methods that were looked at.
        seconds: what it took.
        models: trained for it.
    """
    from bench import launch

    return About(
        setting=subject.title,
        key=subject.key,
        n_train=subject.n_train,
        n_targets=subject.n_targets,
        methods=dict(names),
        seconds=round(seconds, 3),
        models=models,
        versions=launch.versions(),
        hardware=launch.hardware(launch.device_kind(subject.device)),
    )


def finite(value: float | np.floating | None) -> float | None:
    """A number that JSON can hold, else None."""
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else float(value)
