"""A run becomes the baseline that later runs are checked against."""

from __future__ import annotations

from contextlib import suppress
from os import PathLike
from pathlib import Path

import msgspec

from bench import baselines, provenance
from bench.comparing.sources import Source, judges, source, state
from bench.documents import DocumentError, decoded
from bench.errors import BenchError, InputError

SCHEMA = 1


class Updated(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline that was written.

    Attributes:
        schema: version of this format.
        run, baseline: names of the run and of the file.
        setting, n_targets, n_subsets: what judged.
        n_methods: methods that it guards.
        changes: against the old file, in sentences.
        made: what the file says of how it was made.
    """

    schema: int = SCHEMA
    run: str
    baseline: str
    setting: str
    n_targets: int
    n_subsets: int
    n_methods: int
    changes: list[str]
    made: dict[str, str]


def update(run: str | PathLike[str], file: str | PathLike[str]) -> Updated:
    """Write a run's baseline to a file, with the run's provenance and the date, whole or not at all.

    Args:
        run: a run's folder, or its baseline.json.
        file: the baseline; it need not exist, nor its folder.

    Raises:
        InputError: a run in which a method failed, or that lacks one of the old baseline's.
        BenchError: the file cannot be written; an older one then stays.
    """
    new, place = source(run, "the run"), Path(file)
    if place.is_dir():
        raise InputError(f"--baseline {file} is a folder: name a file in it, such as {place / 'digits-mlp.json'}")
    old, said = _old(place)
    _refuse(new, old)
    made = {**new.baseline.made, "updated": provenance.now()}  # date and commit stay those of the run
    try:
        baselines.write(place, msgspec.structs.replace(new.baseline, made=made).sealed())
    except BenchError as error:
        if isinstance(error.__cause__, OSError):
            why = error.__cause__.strerror or error.__cause__
            raise BenchError(f"cannot write {file}: {why}; name another file with --baseline") from error
        raise
    judged = new.baseline.judged
    return Updated(
        run=new.name,
        baseline=str(file),
        setting=judged.setting,
        n_targets=judged.n_targets,
        n_subsets=judged.n_subsets,
        n_methods=sum(entry.lds is not None for entry in new.baseline.methods),
        changes=said or _changes(new, old),
        made=made,
    )


def _old(place: Path) -> tuple[Source | None, list[str]]:
    """The baseline that is replaced, if it can be read, else a sentence on what is replaced.

    Raises:
        InputError: the file was never a baseline.
    """
    if not place.exists():
        return None, ["a new baseline"]
    try:
        return Source(str(place), baselines.read(place)), []
    except InputError as error:
        with suppress(OSError, DocumentError):
            if baselines.resembles(decoded(place.read_bytes())):
                return None, [f"in place of one that could not be used ({str(error).rpartition(': ')[0]})"]
        raise InputError(
            f"{place} is not a baseline, and is not overwritten: name another file with --baseline, or delete it"
        ) from error


def _refuse(new: Source, old: Source | None) -> None:
    """A baseline must not guard less without anybody's noticing."""
    for name, entry in new.methods.items():
        if entry.status == "failed":
            raise InputError(
                f"{new.name}: {name} {state(entry)}: a baseline is made of a run in which nothing failed, so mend the "
                "method, or run without it"
            )
    if not any(entry.lds is not None for entry in new.methods.values()):
        raise InputError(f"{new.name}: no entry of methods has an LDS, so there is nothing to guard")
    if old is None:
        return
    gone = [name for name, entry in old.methods.items() if entry.lds is not None and not _has_lds(new, name)]
    if gone:
        raise InputError(
            f"{old.name} has an LDS of {', '.join(gone)}, and {new.name} has none ({state(new.methods.get(gone[0]))}): "
            "run all of its methods, or delete the file first if they are to go"
        )


def _has_lds(run: Source, name: str) -> bool:
    return name in run.methods and run.methods[name].lds is not None


def _changes(new: Source, old: Source | None) -> list[str]:
    from bench import tables

    if old is None:
        return []
    both = judges(old.baseline.judged, new.baseline.judged)
    said = [f"another ground truth: {', '.join(both.differences)}"] if both.differences else []
    for name, entry in new.methods.items():
        before = old.methods.get(name)
        if entry.lds is None:
            continue
        if before is None or before.lds is None:
            said.append(f"{name}: new, LDS {tables.lds(entry.lds)}")
        elif (before.per_target, before.influence) != (entry.per_target, entry.influence):
            said.append(f"{name}: LDS was {tables.lds(before.lds)}, is {tables.lds(entry.lds)}")
    return said or ["no LDS changes"]
