"""Dattri's files: the LDS ground truths of its benchmark, and scores of its attributors."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.errors import BenchError, InputError
from bench.wording import counted

NAME = "dattri"
ABOUT = """A ground truth, to a folder DEST:
  lds/target_values_lds.pt  float [M, n_targets]
  lds/indices_lds.pt        int   [M, k], the examples that each subset keeps
The files do not say how many training examples there are: --n-train N. dattri turns the sign of the target function,
so that its files hold minus losses where that is the loss: --sign + then, and --sign - where they hold losses.
Scores, to DEST.npy: a .pt of a tensor [n_train, n_targets], the shape that dattri's metrics take; --sign is asked for.
Exported: both files of a ground truth (subsets must be equally large), or a .pt of scores."""

_VALUES, _INDICES = "target_values_lds.pt", "indices_lds.pt"


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    from bench.interop import options

    if verb == "export":
        options.ends(made, "a store, or FILE.npy of scores", "folder that gets lds/…, or FILE.pt")
        return
    options.ends(
        made,
        "folder of lds/ (or of its two files); or FILE.pt of scores",
        "folder of the store to make; or FILE.npy for scores",
    )
    made.add_argument("--n-train", type=int, metavar="N", help="training examples in all, for a store")
    options.rows(made)
    options.scores(made, orientation="train,test", sign=None)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store, or a score matrix; gives what to print."""
    from bench.interop import options, reading, score_matrix, store_import

    source = Path(given.source)
    if given.dest.endswith(".npy"):
        score_matrix.target(given.dest)
        options.unused(given, options.STORES, "scores")
        return score_matrix.import_(given, NAME, score_matrix.Read(reading.read(source), [source]))
    store_import.target(given.dest)
    options.unused(given, ("store",), "a store")
    reading.folder(source, f"the folder of {_VALUES} and {_INDICES}")
    folder = source / "lds" if (source / "lds").is_dir() else source
    indices, values = folder / _INDICES, folder / _VALUES
    sign = options.signed(given, NAME, "target values")
    if given.n_train is None:
        raise BenchError(f"{indices} does not say how many training examples there are: add --n-train N")
    if given.n_train < 2:
        raise BenchError(f"--n-train is {given.n_train}: it takes at least 2")
    ids = reading.read(indices)
    if ids.ndim != 2:
        raise InputError(f"{indices} has shape {list(ids.shape)}, where [subsets, kept] is needed")
    masks = store_import.masks_of_ids(indices, list(ids), given.n_train)
    truth = store_import.Truth(masks, reading.read(values), [indices, values], "output" if sign == "+" else "loss")
    return store_import.import_(given, NAME, truth)


def export(given: argparse.Namespace) -> list[str]:
    """Write a store, or scores, as dattri's files; gives what to print."""
    import numpy as np
    import torch

    from bench.interop import exporting

    source, dest = Path(given.source), Path(given.dest)
    if source.suffix == ".npy":
        if dest.suffix != ".pt":
            raise InputError(f"DEST is {str(dest)!r}: scores are written as .pt, so name a file that ends so")
        tensor = torch.from_numpy(np.array(exporting.scores(source)))
        exporting.write([(dest, lambda file: torch.save(tensor, file))])
        return [f"{dest}: {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"]
    masks, margins, _ = exporting.truth(source)
    kept = masks.sum(1)
    if (kept != kept[0]).any():
        row = int(np.flatnonzero(kept != kept[0])[0])
        raise InputError(
            f"{source}: row {row} keeps {counted(kept[row], 'example')} and row 0 {kept[0]}, and dattri's {_INDICES} "
            "has a row of the same length for each: such a store cannot be written so"
        )
    ids = torch.from_numpy(np.nonzero(masks)[1].reshape(len(masks), -1))
    values = torch.from_numpy(margins)
    folder = dest / "lds"
    exporting.write(
        [
            (folder / _VALUES, lambda file: torch.save(values, file)),
            (folder / _INDICES, lambda file: torch.save(ids, file)),
        ]
    )
    again = f"bench import dattri {dest} STORE --n-train {masks.shape[1]} --sign +"
    return [
        f"{folder / _VALUES}: float32 {list(values.shape)}",
        f"{folder / _INDICES}: int64 {list(ids.shape)}, the examples that are kept",
        f"to read it again: {again}",
    ]
