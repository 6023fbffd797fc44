"""Import MadryLab's released datamodels data: check the files, and link them into a store."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import bench
from bench import atomic, hashing
from bench.errors import BenchError, InputError, nearest
from bench.imported import KIND, Imported, Origin, Roles
from bench.interop import arrays, layout, release_order, s3
from bench.meta import FORMAT
from bench.progress import Progress
from bench.recipes import Output
from bench.subsets import GROUPS
from bench.wording import counted, either

_SOURCE = "datamodels-data"
_KEEP = ("logits", "datamodels")
_MOST_TUNE = 1000
_FLOATS = ("float16", "float32")
_UNSAID = (
    "the release does not say which rows are its evaluation models; taking the {} {} is a convention of this import"
)
_TRAIN = "the targets are the training examples themselves: each is in a part of the subsets"
_JUDGE_ONLY = "only the rows that judge were read and checked: no other is used"
_MADE = "the margins were made of the release's float16 logits"

Mapped = np.memmap[Any, Any]


def run(given: argparse.Namespace) -> list[str]:
    """Make a store as `bench import datamodels-data` is told to; gives what to print.

    Raises:
        BenchError: bad usage, files that are missing, do not fit together or hold what they must not, or a place
            that cannot be written. No store is left then; what was downloaded is.
    """
    store = target(Path(given.store))
    kept, kinds = _asked(given)
    progress = Progress(quiet=given.quiet)

    def choose(files: list[layout.File]) -> layout.Wanted:
        return layout.choose(given.source, files, given.dataset, given.alpha, given.split, kinds)

    if not given.source.startswith("s3://"):
        there = layout.files_of(Path(given.source))
        wanted = choose(there)
        paths = {kind: Path(file.path) for kind, file in wanted.files.items()}
        also = {kind: path for kind in release_order.KINDS if (path := layout.beside(wanted, there, kind)) is not None}
        return _Import(store, wanted, paths, given, progress, also).make(kept)
    bucket = s3.Bucket.of(given.source)
    objects = bucket.listing()
    wanted = choose([file for key in objects if (file := layout.File.of(key)) is not None])
    download = store.absolute().with_name(f"{store.name}.download")
    bucket.fetch(
        [objects[file.path] for file in wanted.files.values()], download, progress, rate=given.rate, yes=given.yes
    )
    paths = {kind: download / file.name for kind, file in wanted.files.items()}
    try:
        lines = _Import(store, wanted, paths, given, progress, {}, symbolic=False).make(kept)
    except BenchError as error:
        raise BenchError(f"{error}; what was downloaded is in {download}") from error
    s3.remove(download)
    return lines


def target(store: Path) -> Path:
    """The folder of the store to make.

    Raises:
        BenchError: something is there already, be it a link that leads nowhere.
    """
    if store.is_symlink() or (store.exists() and not (store.is_dir() and not any(store.iterdir()))):
        raise BenchError(f"{store} is there already: name another folder for the store, or remove it")
    return store


def _asked(given: argparse.Namespace) -> tuple[tuple[str, ...], list[layout.Kind]]:
    """What to keep besides margins, and the files that are needed besides masks; refuses bad usage."""
    if given.alpha is not None and not 0 < given.alpha < 1:
        raise BenchError(f"--alpha is {given.alpha}: it must be between 0 and 1")
    kept = tuple(word for word in given.keep.split(",") if word)
    for word in kept:
        if word not in _KEEP:
            raise BenchError(
                f"--keep has {word!r}{nearest(word, list(_KEEP))}: there are {', '.join(_KEEP)}, in a list"
            )
    from_logits = given.labels is not None or given.output not in (None, given.margins_are)
    if given.labels is not None and given.output is None:
        raise BenchError("--labels makes margins of the logits, of two kinds: add --output max or --output logsumexp")
    if from_logits and given.labels is None:
        raise BenchError(
            f"--output {given.output} makes margins of the logits, and needs the targets' classes: add --labels"
        )
    parse_eval_rows(given.eval_rows)
    if given.judge_only and from_logits:
        raise BenchError("--judge-only links margins as they are, and --output makes others: leave one out")
    if given.judge_only and given.tune_rows:
        raise BenchError(
            f"--tune-rows is {given.tune_rows}, and --judge-only uses the rows that judge alone: leave it out"
        )
    kinds: list[layout.Kind] = ["logits" if from_logits else "margins"]
    if "logits" in kept:
        kinds.append("logits")
    if "datamodels" in kept:
        kinds.append("datamodels")
    return kept, kinds


def parse_eval_rows(text: str) -> tuple[str, int]:
    """`last:10000` → `("last", 10000)`.

    Raises:
        BenchError: it is not so written, or fewer than two rows.
    """
    found = re.fullmatch(r"(last|first):(\d+)", text)
    if found is None or int(found[2]) < 2:
        raise BenchError(f"--eval-rows is {text!r}: write last:K or first:K, with at least 2 rows to rank")
    return found[1], int(found[2])


def roles(n_rows: int, eval_rows: str, tune_rows: int | None) -> Roles:
    """Which rows fit, tune and judge; tune rows are next to those that judge.

    Args:
        n_rows: models in all.
        eval_rows: `last:K` or `first:K`.
        tune_rows: how many; by default a tenth of the rows that do not judge, at most 1,000.

    Raises:
        BenchError: no fit row is left, or a number is out of range.
    """
    where, judging = parse_eval_rows(eval_rows)
    others = n_rows - judging
    if others < 1:
        some = max(2, n_rows // 5)
        raise BenchError(
            f"--eval-rows {eval_rows} leaves no row to fit on, of {n_rows} in all: ask for fewer, as --eval-rows "
            f"{where}:{some}"
        )
    tune = min(_MOST_TUNE, others // 10) if tune_rows is None else tune_rows
    if not 0 <= tune < others:
        raise BenchError(f"--tune-rows is {tune}: it must leave fit rows, of the {others} that do not judge")
    if where == "last":
        return Roles(fit=(0, others - tune), tune=(others - tune, others), eval=(others, n_rows))
    return Roles(fit=(judging + tune, n_rows), tune=(judging, judging + tune), eval=(0, judging))


def judges(n_rows: int, eval_rows: str) -> Roles:
    """Roles of rows that judge, and of no others: none of them is used.

    Raises:
        BenchError: there are fewer rows than are to judge.
    """
    where, judging = parse_eval_rows(eval_rows)
    if judging > n_rows:
        raise BenchError(
            f"--eval-rows is {eval_rows}, and there {either(n_rows, 'is', 'are')} {counted(n_rows, 'row')} in all: "
            "ask for fewer"
        )
    return Roles((0, 0), (0, 0), (n_rows - judging, n_rows) if where == "last" else (0, judging))


def refuse_mixed(masks: Path, first_of: Mapping[int, int], parts: Roles) -> None:
    """Make sure that no two rows of different roles have the same mask.

    Raises:
        InputError: there are such rows, in the file `masks`.
    """
    spans = {group: range(*parts.of(group)) for group in GROUPS}
    group_of = {row: next(g for g, span in spans.items() if row in span) for pair in first_of.items() for row in pair}
    mixed = [(row, first) for row, first in first_of.items() if group_of[row] != group_of[first]]
    if mixed:
        row, first = mixed[0]
        more = f" (and {counted(len(mixed) - 1, 'more such row')})" if len(mixed) > 1 else ""
        raise InputError(
            f"{masks}: {group_of[row]} row {row} has the same mask as {group_of[first]} row {first}"
            f"{more}; fit, tune and eval rows must not mix, so choose others with --eval-rows and --tune-rows"
        )


class _Files(NamedTuple):
    """The release's arrays, opened: margins and logits are None where they are not asked for."""

    masks: Mapped
    margins: Mapped | None
    logits: Mapped | None

    @classmethod
    def open(cls, paths: Mapping[layout.Kind, Path], split: str) -> _Files:
        """Open them.

        Raises:
            InputError: one is no such array, or they are of different numbers of models, targets or examples.
        """
        masks = arrays.opened(paths["masks"], "[models, n_train]", 2, ("bool",))
        found: dict[layout.Kind, Mapped] = {}
        if "margins" in paths:
            found["margins"] = arrays.opened(paths["margins"], "[models, n_targets]", 2, _FLOATS)
        if "logits" in paths:
            found["logits"] = arrays.opened(paths["logits"], "[models, n_targets, n_classes]", 3, _FLOATS)
        for kind, array in found.items():
            if len(array) != len(masks):
                raise InputError(
                    f"{paths['masks']} has {counted(len(masks), 'row')} and {paths[kind]} has {len(array)}, and both "
                    "must have one per model: one of them is cut off, or of another alpha"
                )
            if split == "train" and array.shape[1] != masks.shape[1]:
                raise InputError(
                    f"{paths[kind]} has {counted(array.shape[1], 'target')} and {paths['masks']} {masks.shape[1]} "
                    "training examples, which with --split train are the same"
                )
        made = cls(masks, found.get("margins"), found.get("logits"))
        if made.margins is not None and made.logits is not None and made.margins.shape != made.logits.shape[:2]:
            raise InputError(
                f"{paths['margins']} has {counted(made.margins.shape[1], 'target')} and {paths['logits']} "
                f"{made.logits.shape[1]}: one of them is of another split"
            )
        return made

    @property
    def n_targets(self) -> int:
        """Targets."""
        judged = self.margins if self.margins is not None else self.logits
        return int(judged.shape[1]) if judged is not None else 0


class _Import(NamedTuple):
    """One import."""

    store: Path
    wanted: layout.Wanted
    paths: dict[layout.Kind, Path]
    given: argparse.Namespace
    progress: Progress
    also: dict[layout.Kind, Path]
    symbolic: bool = True

    def make(self, kept: tuple[str, ...]) -> list[str]:
        """Check and link; gives what to print."""
        files = _Files.open(self.paths, self.wanted.split)
        n_rows, n_train = files.masks.shape
        if self.given.judge_only:
            parts = judges(n_rows, self.given.eval_rows)
        else:
            parts = roles(n_rows, self.given.eval_rows, self.given.tune_rows)
        span = parts.eval if self.given.judge_only else (0, n_rows)
        if "datamodels" in self.paths:
            self._check_weights((n_train, files.n_targets))
        order = self._order(files, span)
        with atomic.folder(self.store) as folder:
            hashes, first_of = self._checked(files, parts, folder, None if span == (0, n_rows) else span)
            placed = self._place(folder, kept)
            completed = np.zeros(n_rows, np.bool_)
            completed[slice(*span)] = True
            np.save(folder / "_completed.npy", completed, allow_pickle=False)
            schema = self._schema(files, kept)
            write_spec(folder, n_rows, schema)
            checksums = {_stored(kind): hashes[kind] for kind in placed}
            for name in ("margins.npy", "_completed.npy", "spec.json"):
                if name not in checksums:
                    checksums[name] = hashing.file(folder / name)
            meta = Imported(
                format=FORMAT,
                kind=KIND,
                key="",
                source=_SOURCE,
                origin={path.name: Origin(hashes[kind], path.stat().st_size) for kind, path in self.paths.items()},
                dataset=self.wanted.dataset,
                split=self.wanted.split,
                alpha=self.wanted.alpha,
                output=self.given.output or self.given.margins_are,
                n_rows=n_rows,
                n_train=n_train,
                n_targets=files.n_targets,
                roles=parts,
                first_of=first_of,
                schema=schema,
                checksums=checksums,
                notes=self._notes(),
                order=order,
                versions={"ldsbench": bench.__version__, "numpy": np.__version__},
            ).keyed()
            atomic.write_text(folder / "meta.json", meta.text())
        how = {
            _stored(kind): f"{how} {'of' if how == 'copy' else 'to'} {self.paths[kind]}" for kind, how in placed.items()
        }
        how.setdefault("margins.npy", f"made of {self.paths.get('logits')}")
        return [
            f"{self.store}: {counted(n_rows, 'row')} × {counted(meta.n_targets, 'target')} of {meta.title}, alpha "
            f"{meta.alpha:g}, {meta.output} margins",
            f"  rows: {meta.spans}",
            *(f"  {name}: {text}" for name, text in how.items()),
            *(f"  {line}" for line in meta.order),
            *(f"  note: {note}" for note in meta.notes),
        ]

    def _order(self, files: _Files, span: tuple[int, int]) -> list[str]:
        """What is known of the examples and their order; refuses another one."""
        labels = None
        if files.margins is None and files.logits is not None:
            labels = _labels(self.given.labels, files.logits)
        shape = (len(files.masks), files.masks.shape[1], files.n_targets)
        return release_order.checked(self.given, self.wanted, {**self.also, **self.paths}, shape, span, labels)

    def _check_weights(self, shape: tuple[int, int]) -> None:
        from bench.interop import datamodels_pt

        path = self.paths["datamodels"]
        found = datamodels_pt.read(path).weight.shape
        if found != shape:
            raise InputError(f"{path}: weight has shape {list(found)}, where masks and margins say {list(shape)}")

    def _checked(
        self, files: _Files, parts: Roles, folder: Path, rows: tuple[int, int] | None
    ) -> tuple[dict[layout.Kind, str], dict[int, int]]:
        """Read every file once; gives their hashes and which rows share a mask. Writes margins that are made here.

        Args:
            files: opened.
            parts: the roles of the rows.
            folder: gets margins that are made.
            rows: that are read; None for all.
        """
        size = sum(path.stat().st_size for path in self.paths.values())
        if rows is not None:
            opened = [array for array in files if array is not None]
            size -= sum(array.nbytes - (rows[1] - rows[0]) * array[0].nbytes for array in opened)
        hashes: dict[layout.Kind, str] = {}
        with self.progress.task("checking", size // 10**6, "MB") as advance, ExitStack() as stack:
            done = 0

            def count(more: int) -> None:
                nonlocal done
                before, done = done, done + more
                advance(done // 10**6 - before // 10**6)

            masks = arrays.Masks(self.paths["masks"], files.masks.shape, self.wanted.alpha, rows)
            hashes["masks"] = arrays.stream(self.paths["masks"], files.masks, masks, count, rows)
            masks.check()
            first_of = masks.first_of()
            refuse_mixed(self.paths["masks"], first_of, parts)
            if files.margins is not None:
                finite = arrays.Finite(self.paths["margins"])
                hashes["margins"] = arrays.stream(self.paths["margins"], files.margins, finite, count, rows)
                finite.check()
            if files.logits is not None:
                finite = arrays.Finite(self.paths["logits"])
                visit: arrays.Visit = finite
                if files.margins is None:
                    labels = _labels(self.given.labels, files.logits)
                    file = stack.enter_context((folder / "margins.npy").open("wb"))
                    visit = _MarginsOf(file, files.logits, labels, finite, self.given.output)
                hashes["logits"] = arrays.stream(self.paths["logits"], files.logits, visit, count, rows)
                finite.check()
            if "datamodels" in self.paths:
                hashes["datamodels"] = hashing.file(self.paths["datamodels"])
            count(size - done)
        return hashes, first_of

    def _place(self, folder: Path, kept: tuple[str, ...]) -> dict[layout.Kind, str]:
        """Links or copies, by kind, and which each is."""
        placed: dict[layout.Kind, str] = {}
        for kind, path in self.paths.items():
            if kind == "logits" and "logits" not in kept:
                continue  # margins were made of them, and nobody asked for more
            placed[kind] = arrays.place(path, folder / _stored(kind), copy=self.given.copy, symbolic=self.symbolic)
        return placed

    def _schema(self, files: _Files, kept: tuple[str, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        dtype = files.margins.dtype.name if files.margins is not None else "float32"
        schema: dict[str, tuple[str, tuple[int, ...]]] = {"masks": ("bool", files.masks.shape[1:])}
        schema["margins"] = (dtype, (files.n_targets,))
        if "logits" in kept and files.logits is not None:
            schema["logits"] = (files.logits.dtype.name, files.logits.shape[1:])
        return schema

    def _notes(self) -> list[str]:
        where, count = parse_eval_rows(self.given.eval_rows)
        notes = [_UNSAID.format(where, f"{count:,}")]
        notes += [_JUDGE_ONLY] if self.given.judge_only else []
        notes += [_TRAIN] if self.wanted.split == "train" else []
        return [*notes, _MADE] if "margins" not in self.paths else notes


def _stored(kind: layout.Kind) -> str:
    """What a file is called in the store."""
    return "datamodels.pt" if kind == "datamodels" else f"{kind}.npy"


def _labels(path: str, logits: Mapped) -> NDArray[np.int64]:
    labels = arrays.opened(Path(path), "[n_targets]", 1, ("int8", "uint8", "int16", "uint16", "int32", "int64"))
    n_targets, n_classes = logits.shape[1:]
    if n_classes < 2:
        raise InputError(f"--labels: there are logits of {n_classes} class, and a margin takes two")
    if len(labels) != n_targets:
        raise InputError(f"--labels: {path} has {len(labels)} classes, and there are {n_targets} targets")
    odd = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(odd):
        raise InputError(
            f"--labels: {path}: target {odd[0]} is of class {labels[odd[0]]}, and the logits have classes 0 to "
            f"{n_classes - 1}"
        )
    return np.array(labels, np.int64)


class _MarginsOf:
    """A visit that writes margins of logits, float32, into a .npy file, and looks for what is not finite."""

    def __init__(
        self, file: BinaryIO, logits: Mapped, labels: NDArray[np.int64], finite: arrays.Finite, kind: Output
    ) -> None:
        import torch

        self.file, self.finite, self.labels, self.kind = file, finite, torch.from_numpy(labels), kind
        header = {"descr": "<f4", "fortran_order": False, "shape": logits.shape[:2]}
        np.lib.format.write_array_header_1_0(file, header)

    def __call__(self, start: int, chunk: NDArray[Any]) -> None:
        """Write a chunk's."""
        import torch

        from bench.outputs import margins

        self.finite(start, chunk)
        made = margins(torch.from_numpy(chunk.astype(np.float32)), self.labels, self.kind)
        self.file.write(made.numpy().astype("<f4").tobytes())


def write_spec(folder: Path, n_rows: int, schema: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a store's spec.json."""
    told = {
        name: {"shape": list(shape), "dtype": "bool_" if dtype == "bool" else dtype}
        for name, (dtype, shape) in schema.items()
    }
    spec = msgspec.json.format(msgspec.json.encode({"num_models": n_rows, "schema": told}))
    atomic.write_text(folder / "spec.json", spec.decode() + "\n")
