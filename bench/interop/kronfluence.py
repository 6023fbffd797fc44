"""Kronfluence's files: the ground truths in its repository, and the scores that its Analyzer writes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InputError

if TYPE_CHECKING:
    from bench.interop.store_import import Truth

NAME = "kronfluence"
ABOUT = """A ground truth, to a folder DEST:
  masks.pt                 int8    [M, n_train], 1 = kept
  margins.pt or losses.pt  float32 [M, n_targets]
numpy arrays that torch.save has pickled: they are read by an unpickler that knows arrays alone. The sign of losses
is turned; the file's name says which they are, else --output-is does.
Scores, to DEST.npy (with the extra safetensors):
  pairwise_scores.safetensors, key all_modules, [n_query, n_train]
Scores are of whatever was measured: --sign says whether a larger one raises the margin.
Scores per module are other keys: --key NAME.
Exported: masks.pt and margins.pt (losses.pt, where losses were imported), or pairwise_scores.safetensors."""

KEY = "all_modules"
_SCORES = "pairwise_scores.safetensors"
_OUTPUTS = ("margins", "losses")


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    from bench.interop import options

    if verb == "export":
        options.ends(
            made, "a store, or FILE.npy of scores", "folder that gets masks.pt and margins.pt, or FILE.safetensors"
        )
        return
    options.ends(
        made,
        "folder of masks.pt and margins.pt or losses.pt; or pairwise_scores.safetensors",
        "folder of the store to make; or FILE.npy for scores",
    )
    options.output_is(made)
    options.rows(made)
    options.scores(made, orientation="test,train", sign=None)
    made.add_argument("--key", metavar="NAME", help=f"of the scores ({KEY})")


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store, or a score matrix; gives what to print."""
    from bench.interop import options, reading, score_matrix, store_import

    source = Path(given.source)
    if given.dest.endswith(".npy"):
        path = source / _SCORES if source.is_dir() else source
        score_matrix.target(given.dest)
        options.unused(given, options.STORES, "scores")
        return score_matrix.import_(given, NAME, score_matrix.Read(reading.read(path, given.key or KEY), [path]))
    store_import.target(given.dest)
    options.unused(given, options.SCORES, "a store, whose sign follows from the files' names or --output-is")
    reading.folder(source, "the folder of masks.pt and margins.pt or losses.pt")
    return store_import.import_(given, NAME, truth(source, _OUTPUTS, (".pt",), given.output_is))


def truth(source: Path, outputs: tuple[str, ...], endings: tuple[str, ...], output_is: str | None) -> Truth:
    """Masks and outputs of a folder, by their names.

    Raises:
        InputError: a file is missing, or there are two of a kind; see `bench.interop.reading.read`.
        BenchError: it is not said what the outputs are.
    """
    from bench.interop import reading, store_import

    masks_path = _only(source, ("masks",), endings)
    path = _only(source, outputs, endings)
    said = {"margins": "margin", "losses": "loss"}.get(path.stem)
    if said is not None and output_is not in (None, said):
        raise BenchError(
            f"--output-is is {output_is}, and the file is called {path.name}: rename it, or leave this out"
        )
    found: Any = said or output_is
    if found is None:
        raise BenchError(f"{path} does not say what it holds: add --output-is margin or --output-is loss")
    masks = store_import.as_masks(masks_path, reading.read(masks_path))
    return store_import.Truth(masks, reading.read(path), [masks_path, path], found)


def _only(source: Path, names: tuple[str, ...], endings: tuple[str, ...]) -> Path:
    paths = [source / f"{name}{ending}" for name in names for ending in endings]
    there = [path for path in paths if path.exists() or path.is_symlink()]
    wanted = " or ".join(path.name for path in paths)
    if not there:
        raise InputError(f"{source} has no {wanted}: name the folder that has")
    if len(there) > 1:
        raise InputError(
            f"{source} has {' and '.join(path.name for path in there)}, and one is needed: move the others"
        )
    return there[0]


def export(given: argparse.Namespace) -> list[str]:
    """Write a store, or scores, as Kronfluence's files; gives what to print."""
    from bench.interop import exporting

    source, dest = Path(given.source), Path(given.dest)
    if source.suffix == ".npy":
        scores = exporting.scores(source)
        if dest.suffix != ".safetensors":
            raise InputError(f"DEST is {str(dest)!r}: scores are written as .safetensors, so name a file that ends so")
        try:
            from safetensors.numpy import save
        except ImportError as error:
            raise BenchError(
                f"{dest} needs the package safetensors, which is not installed: pip install 'ldsbench[safetensors]'"
            ) from error
        import numpy as np

        turned = np.ascontiguousarray(scores.T, np.float32)
        exporting.write([(dest, lambda file: file.write(save({KEY: turned})))])
        return [f"{dest}: {KEY} float32 {list(turned.shape)}, rows are targets"]
    import numpy as np
    import torch

    kept, margins, measure = exporting.truth(source)
    name, values = ("losses.pt", -margins) if measure == "loss" else ("margins.pt", margins)
    masks = kept.astype(np.int8)
    files = [
        (dest / "masks.pt", lambda file: torch.save(masks, file)),
        (dest / name, lambda file: torch.save(values, file)),
    ]
    exporting.write(files)
    return [f"{dest / 'masks.pt'}: int8 {list(masks.shape)}", f"{dest / name}: float32 {list(values.shape)}"]
