"""Explanations that quanda has cached, batch by batch."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bench.errors import InputError
from bench.wording import counted

NAME = "quanda"
ABOUT = """A folder of explanations, as a quanda benchmark's `explain` writes it:
  0.pt, 1.pt, …              float [batch, n_train], rows are test examples
  explanations_config.yaml   n_batches and batch_size, of which the files must be
Rows are test examples; the sign is the explainer's, so --sign says which it is."""

_CONFIG = "explanations_config.yaml"


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, f"folder of 0.pt, 1.pt, … and {_CONFIG}", "FILE.npy for the scores")
    options.scores(made, orientation="test,train", sign=None)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a score matrix; gives what to print."""
    from bench.interop import options, reading, score_matrix

    score_matrix.target(given.dest)
    options.sense(given, NAME)
    source = reading.folder(Path(given.source), f"the folder of 0.pt, 1.pt, … and {_CONFIG}")
    count, size = _config(source / _CONFIG)
    there = {path.stem: path for path in source.glob("*.pt")}
    numbers = sorted(int(stem) for stem in there if stem.isascii() and stem.isdigit())
    odd = sorted(stem for stem in there if not (stem.isascii() and stem.isdigit() and str(int(stem)) == stem))
    if odd:
        raise InputError(f"{there[odd[0]]} is no batch, which are called 0.pt, 1.pt, …: move it elsewhere")
    if not numbers:
        raise InputError(f"{source} has no 0.pt: name the folder that quanda's explain wrote")
    for number in range(count):
        if str(number) not in there:
            raise InputError(f"{source} lacks {number}.pt, one of {count} batches: get it again")
    if len(numbers) > count:
        raise InputError(
            f"{source / f'{numbers[count]}.pt'} is beyond the {count} batches that {_CONFIG} says there are"
        )
    paths = [there[str(number)] for number in range(count)]
    parts = [reading.read(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.ndim != 2 or 0 in part.shape:
            raise InputError(f"{path} has shape {list(part.shape)}, where [batch, n_train] is needed")
        if part.shape[1] != parts[0].shape[1]:
            raise InputError(
                f"{path} is of {counted(part.shape[1], 'training example')} and {paths[0].name} of {parts[0].shape[1]}"
            )
        last = path == paths[-1]
        if len(part) > size or (len(part) < size and not last):
            raise InputError(f"{path} has {counted(len(part), 'row')}, and {_CONFIG} says that a batch has {size}")
    read = score_matrix.Read(score_matrix.Stacked(parts), [*paths, source / _CONFIG])
    return score_matrix.import_(given, NAME, read)


def _config(path: Path) -> tuple[int, int]:
    """`n_batches` and `batch_size`: two whole numbers at the top level of a YAML that PyYAML's safe_dump wrote."""
    from bench.interop import reading

    text = reading.present(path).read_text("utf-8", "replace")
    found = {
        key: int(value) for key, value in re.findall(r"^(n_batches|batch_size): (\d{1,9})\s*$", text, re.MULTILINE)
    }
    for key in ("n_batches", "batch_size"):
        if key not in found:
            raise InputError(f"{path} does not say {key}: it is torn, or not of a quanda benchmark's explain")
    return found["n_batches"], found["batch_size"]
