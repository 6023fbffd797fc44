"""meta.json: what a ground truth was made from, and by."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from bench import blocks, hashing
from bench.errors import InputError
from bench.recipes import Output
from bench.recorded import Dtype, Extra, Recorded
from bench.subsets import Protocol, Sampling
from bench.wording import counted

FORMAT = 1
ASKED = "asked.json"


class PlanMeta(msgspec.Struct, frozen=True):
    """`bench.subsets.Plan`, as stored."""

    repeats: int
    eval_subsets: int
    tune_rows: int
    judge_only: bool = False


class Identity(msgspec.Struct, frozen=True):
    """What the rows come from. The first part a user names, the hashes follow from files and code.

    Attributes:
        setting: `dataset/model` with its parameters.
        alpha: kept fraction; seed: the root seed; output: the model output; plan: the roles of rows.
        device: `cpu` or `cuda`: the same seed gives the same floats, to rounding, on one kind of device only.
        data, recipe, code: content hashes (`bench.hashing`).
        compiled: whether networks were, on a GPU (elsewhere it says nothing).
        sampling: `exact` or `bernoulli` subsets; dtype, keep: of `bench.recorded.Recorded`.
        protocol: `expectation`, every row has a seed of its own, as in stores that do not say; or `single-model`, all
            rows have the same (see `bench.train.Trainer`).
    """

    setting: str
    alpha: float
    seed: int
    output: Output
    plan: PlanMeta
    device: str
    data: str
    recipe: str
    code: str
    compiled: bool = True
    sampling: Sampling = "exact"
    dtype: Dtype = "float32"
    keep: tuple[Extra, ...] = ()
    protocol: Protocol = "expectation"

    @property
    def recorded(self) -> Recorded:
        """What is kept of each model."""
        return Recorded(self.output, self.dtype, self.keep)

    @property
    def key(self) -> str:
        """Hash of all of it."""
        named = msgspec.to_builtins(self)
        if self.protocol == "expectation":
            del named["protocol"]  # older stores, which are of this protocol, have their keys without it
        return hashing.digest(named)

    def seeds(self, n_rows: int) -> list[int]:
        """`Meta.seed_of_row`."""
        return list(range(n_rows)) if self.protocol == "expectation" else [0] * n_rows

    @property
    def about(self) -> str:
        """Setting, alpha and seed in words, and the protocol where it is not the usual one."""
        protocol = "" if self.protocol == "expectation" else f", protocol {self.protocol}"
        return f"{self.setting}, alpha {self.alpha:g}, seed {self.seed}{protocol}"

    def clash(self, other: Identity) -> str | None:
        """The first thing that a user named and that differs, as text; None where only hashes may differ."""
        for name in ("setting", "protocol", "alpha", "seed", "output", "plan", "sampling", "dtype", "keep"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {_show(theirs)}, not {_show(mine)}"
        return None

    def changed(self, other: Identity) -> list[str]:
        """Names of the content hashes (and of device and compilation) that differ."""
        return [
            name
            for name in ("data", "recipe", "code", "device", "compiled")
            if getattr(self, name) != getattr(other, name)
        ]


def _show(value: object) -> str:
    if isinstance(value, PlanMeta):
        only = ", for judging only" if value.judge_only else ""
        sizes = {"repeat": value.repeats, "eval subset": value.eval_subsets, "tune row": value.tune_rows}
        return ", ".join(counted(size, what) for what, size in sizes.items()) + only
    return repr(value)


class Header(msgspec.Struct):
    """What every version's meta.json says: its format, and whether the store was trained here or imported."""

    format: int
    kind: str = "trained"


class Meta(msgspec.Struct, frozen=True):
    """meta.json: what made a ground truth, row by row.

    Row i's mask comes from `SeedSequence([seed, 0, subset_of_row[i]])`, its initialisation and batch order from
    `SeedSequence([seed, 1, seed_of_row[i]])`, by the protocol `single-model` from `SeedSequence([seed, 2, 0])`, where
    every `seed_of_row` is 0; `group_of_row[i]` indexes `groups`. The margins of `diverged` rows were
    not finite, twice: no row of theirs is completed. Those of `retried` rows were so once.
    """

    format: int
    key: str
    identity: Identity
    n_train: int
    n_targets: int
    n_classes: int
    groups: tuple[str, ...]
    subset_of_row: list[int]
    seed_of_row: list[int]
    group_of_row: list[int]
    origin: dict[str, str]
    versions: dict[str, str]
    hardware: dict[str, str]
    blocks: list[blocks.Header]
    checksums: dict[str, str]
    diverged: list[int] = []
    retried: list[int] = []

    @property
    def accuracy(self) -> float:
        """Mean share of targets that the models get right."""
        counts = [b.stop - b.start - len(b.diverged) for b in self.blocks]
        return float(np.average([b.accuracy for b in self.blocks], weights=counts)) if any(counts) else float("nan")

    @property
    def schema(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of one row, and dtype, of each array that has one row per model, masks first."""
        recorded = self.identity.recorded.schema(self.n_train, self.n_targets, self.n_classes)
        return {"masks": ((self.n_train,), "bool"), **recorded}

    @property
    def files(self) -> list[str]:
        """What is gathered, besides meta.json."""
        return [*(f"{name}.npy" for name in self.schema), "_completed.npy", "spec.json"]


def read_meta(folder: Path) -> Meta | None:
    """meta.json of a store, None where there is none.

    Raises:
        InputError: it is torn, of a format that this version does not know, or an imported store's.
    """
    path = folder / "meta.json"
    header = read_header(folder)
    if header is None:
        return None
    if header.kind != "trained":
        raise InputError(
            f"{folder} was {header.kind}, and no model of it was trained here: name a store of bench train"
        )
    if header.format != FORMAT:
        raise InputError(f"{path} is of format {header.format}, and this version reads {FORMAT}: train it again")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Meta)
    except msgspec.DecodeError as error:
        raise _unreadable(path, error) from error


def read_header(folder: Path) -> Header | None:
    """What meta.json says of itself, None where there is none.

    Raises:
        InputError: it is torn, or of a later format.
    """
    path = folder / "meta.json"
    if not path.is_file():
        return None
    refuse_newer(folder)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Header)
    except msgspec.DecodeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({error}): it is torn or of another version; run the same command again")


def refuse_newer(folder: Path) -> None:
    """Leave a store alone that a later version made.

    Raises:
        InputError: its meta.json is of a later format.
    """
    path = folder / "meta.json"
    with suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode(path.read_bytes(), type=Header).format
        if found > FORMAT:
            raise InputError(f"{path} is of format {found}, and this version knows up to {FORMAT}: update ldsbench")


class Asked(msgspec.Struct):
    """asked.json: how many models the last command asked for; only `status` reads it."""

    models: int
