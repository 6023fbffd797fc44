"""Names of the files of MadryLab's datamodels release, and which of them are wanted.

    {dataset}/data/train_masks_{P}pct.npy
    {dataset}/data/{train|test}_{margins|logits}_{P}pct.npy
    {dataset}/datamodels/{train|test}_{P}pct.pt

P is 100·alpha. The bucket is `madrylab-datamodels`; the names are those of the release's README.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import InputError

Kind = Literal["masks", "margins", "logits", "datamodels"]
Split = Literal["train", "test"]

_NUMBER = r"(?P<percent>\d+(?:\.\d+)?)pct"
_ARRAY = re.compile(rf"(?P<split>train|test)_(?P<kind>masks|margins|logits)_{_NUMBER}\.npy")
_WEIGHTS = re.compile(rf"(?P<split>train|test)_{_NUMBER}\.pt")


@dataclass(frozen=True)
class File:
    """One file of the release.

    Attributes:
        path: where it is; an S3 key, or a path.
        dataset: the folder that `data` or `datamodels` is in; empty where the file is in no such folder.
        kind: what it holds; split: of which examples; percent: 100·alpha, as text.
    """

    path: str
    dataset: str
    kind: Kind
    split: Split
    percent: str

    @property
    def name(self) -> str:
        """The name without folders."""
        return self.path.rpartition("/")[2]

    @classmethod
    def of(cls, path: str) -> File | None:
        """What a path is by its name, None where it is no file of the release."""
        *folders, name = path.split("/")
        folder = folders[-1] if folders else ""
        found, kind = _ARRAY.fullmatch(name), "data"
        if found is None:
            found, kind = _WEIGHTS.fullmatch(name), "datamodels"
        if found is None or (found.groupdict().get("kind") == "masks" and found["split"] == "test"):
            return None
        dataset = folders[-2] if folder == kind and len(folders) > 1 else ""
        return cls(path, dataset, found.groupdict().get("kind", kind), found["split"], found["percent"])  # type: ignore[arg-type]


def percent(alpha: float) -> str:
    """The release's name of an alpha: 0.5 is `50`."""
    return f"{100 * alpha:.10g}"


def file_name(kind: Kind, split: Split, alpha: float) -> str:
    """The file's path below the dataset's folder."""
    if kind == "datamodels":
        return f"datamodels/{split}_{percent(alpha)}pct.pt"
    return f"data/{'train' if kind == 'masks' else split}_{kind}_{percent(alpha)}pct.npy"


def files_of(folder: Path) -> list[File]:
    """The release's files in a folder: those of its tree, of one dataset's part of it, or of the folder itself.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one that holds the release's files, or s3://bucket/prefix")
    found = {}
    for below in ("", "data/", "datamodels/", "*/data/", "*/datamodels/"):
        for path in sorted(folder.absolute().glob(f"{below}*")):
            one = File.of(path.as_posix())
            if one is not None and path.is_file():
                found[one.path] = one
    return list(found.values())


def beside(wanted: Wanted, files: Iterable[File], kind: Kind) -> Path | None:
    """Another file of the same models and targets, where it is there."""
    some = next(iter(wanted.files.values()))
    for file in files:
        if (file.dataset, file.percent, file.split, file.kind) == (some.dataset, some.percent, wanted.split, kind):
            return Path(file.path)
    return None


@dataclass(frozen=True)
class Wanted:
    """What a store is made of, by kind.

    Attributes:
        dataset: as the release calls it, or as the user does; percent: 100·alpha; split: of the targets.
        files: by kind, masks first.
    """

    dataset: str
    percent: str
    split: Split
    files: dict[Kind, File]

    @property
    def alpha(self) -> float:
        """The kept fraction."""
        return float(self.percent) / 100


def choose(
    source: str, files: Iterable[File], dataset: str | None, alpha: float | None, split: Split, kinds: Iterable[Kind]
) -> Wanted:
    """The files of one dataset, alpha and split.

    Args:
        source: how the user calls where they are.
        files: all that are there.
        dataset: by name; None where there is only one.
        alpha: kept fraction; None where there is only one.
        split: of the targets.
        kinds: what is needed besides masks.

    Raises:
        InputError: there is none, or more than one, or a file of it is missing.
    """
    files = list(files)
    groups = sorted({(file.dataset, file.percent) for file in files if file.kind != "datamodels"})
    if not groups:
        raise InputError(f"{source} holds no file of the release, such as {file_name('masks', 'train', 0.5)}")
    there = ", ".join(f"{name or 'a dataset'} at alpha {float(p) / 100:g}" for name, p in groups)
    named = [
        g for g in groups if dataset in (None, g[0]) or not g[0]
    ]  # files without a folder are what they are called
    if alpha is not None:
        named = [g for g in named if abs(float(g[1]) / 100 - alpha) < 1e-9]
    if not named:
        asked = " ".join(f"--{n} {v}" for n, v in (("dataset", dataset), ("alpha", alpha)) if v is not None)
        raise InputError(f"{source} has nothing for {asked}: there is {there}")
    if len(named) > 1:
        raise InputError(f"{source} holds several: {there}; name one with --dataset and --alpha")
    mine = {(f.kind, f.split): f for f in files if (f.dataset, f.percent) == named[0]}
    chosen: dict[Kind, File] = {}
    for kind in dict.fromkeys(("masks", *kinds)):
        one = mine.get((kind, "train" if kind == "masks" else split))
        if one is None:
            other = mine.get((kind, "train" if split == "test" else "test"))
            name = file_name(kind, split, float(named[0][1]) / 100).rpartition("/")[2]
            hint = f"; {other.name} is there, add --split {other.split}" if other and kind != "masks" else ""
            raise InputError(f"{source} has no {name}{hint or f' beside its other files: there is {there}'}")
        chosen[kind] = one
    return Wanted(dataset or named[0][0], named[0][1], split, chosen)
