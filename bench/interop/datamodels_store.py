"""Stores of MadryLab's `datamodels` tools: the rows that their workers have completed, and what they read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.errors import BenchError, InputError
from bench.wording import counted, either

NAME = "datamodels-store"
ABOUT = """A folder (the logdir of its workers), to a folder DEST:
  masks.npy       bool  [M, n_train]
  margins.npy     float [M, n_targets]; another array with --outputs NAME
  _completed.npy  bool  [M]; rows that are not completed hold what memmaps begin with, and are left out and named
  spec.json       {"num_models": M, "schema": {key: {"shape": […], "dtype": "float16"}}}, in it or by --spec FILE;
                  where it is there, the arrays must be what it says
The tools fix rows and columns. Margins are margins; of other arrays --output-is says whether they are losses.
Exported: masks.npy, margins.npy (float32), _completed.npy and spec.json."""

_DONE, _MASKS, _MARGINS, _SPEC = "_completed", "masks", "margins", "spec.json"
_NAMED = 10  # rows that a note names
_KINDS = {_DONE: (1, "b", "bool [M]"), _MASKS: (2, "b", "bool [M, n_train]")}


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    from bench.interop import options

    if verb == "export":
        options.ends(made, "a store", "folder to make")
        return
    options.ends(made, "folder of masks.npy, margins.npy and _completed.npy", "folder of the store to make")
    made.add_argument("--outputs", default=_MARGINS, metavar="NAME", help="the array that is judged (margins)")
    made.add_argument("--spec", metavar="FILE", help="the spec that the folder was made by (spec.json in it, if there)")
    options.output_is(made)
    options.rows(made)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store; gives what to print."""
    import numpy as np

    from bench.interop import reading, store_import

    store_import.target(given.dest)
    source = reading.folder(Path(given.source), "the folder of masks.npy, margins.npy and _completed.npy")
    said: Any = {_MARGINS: "margin", "losses": "loss"}.get(given.outputs)
    if said is not None and given.output_is not in (None, said):
        raise BenchError(f"--output-is is {given.output_is}, and the array is called {given.outputs}: leave this out")
    measure = said or given.output_is
    if measure is None:
        raise BenchError(f"{given.outputs!r} does not say what it holds: add --output-is margin or --output-is loss")
    paths = {name: source / f"{name}.npy" for name in (_MASKS, given.outputs, _DONE)}
    found = {name: _array(name, path) for name, path in paths.items()}
    done = found[_DONE]
    for name, array in found.items():
        if len(array) != len(done):
            raise InputError(
                f"{paths[name]} has {counted(len(array), 'row')} and {paths[_DONE]} {len(done)}, and all have one per "
                "model"
            )
    spec = Path(given.spec) if given.spec is not None else source / _SPEC
    if given.spec is not None or spec.exists() or spec.is_symlink():
        _fits(reading.present(spec), paths, found)
    rows, left_out = np.flatnonzero(done), np.flatnonzero(~done)
    if not len(rows):
        raise InputError(f"{paths[_DONE]} says that no model of {len(done)} is completed")
    notes = []
    if len(left_out):
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        named = ", ".join(map(str, left_out[:_NAMED]))
        notes.append(
            f"{len(left_out)} of {len(done)} models {either(len(left_out), 'is', 'are')} not completed and left out: "
            f"{named}{more}"
        )
    truth = store_import.Truth(
        found[_MASKS][rows],
        found[given.outputs][rows],
        [paths[_MASKS], paths[given.outputs], paths[_DONE]],
        measure,
        notes,
    )
    return store_import.import_(given, NAME, truth)


def _array(name: str, path: Path) -> Any:
    from bench.interop import reading

    array = reading.npy(reading.present(path))
    rank, kind, wanted = _KINDS.get(name, (2, "f", "float [M, n_targets]"))
    if array.ndim != rank or array.dtype.kind != kind:
        raise InputError(f"{path} is {array.dtype} {list(array.shape)}, where {wanted} is needed")
    if array.dtype.kind == "b" and array.size:
        import numpy as np

        odd = array.view(np.uint8).max()
        if odd > 1:
            raise InputError(f"{path} holds a byte {odd}, which is neither 0 nor 1: it is damaged")
    return array


def _fits(spec: Path, paths: dict[str, Path], found: dict[str, Any]) -> None:
    """Make sure that the arrays are what the spec says.

    Raises:
        BenchError: they are not, or it is no spec.
    """
    from bench import schema

    told = schema.read_spec(spec)
    for name, array in found.items():
        if name != _DONE and name not in told.schema:
            raise InputError(f"{spec} has no {name!r}: it declares {', '.join(told.schema)}")
        shape, dtype, _ = told.schema[name] if name != _DONE else schema.Array((), array.dtype, "")
        if array.shape != (told.n_rows, *shape) or array.dtype != dtype:
            raise InputError(
                f"{paths[name]} is {array.dtype} {list(array.shape)}, where {spec} says {dtype} {[told.n_rows, *shape]}"
            )


def export(given: argparse.Namespace) -> list[str]:
    """Write a store's masks and margins as such a folder; gives what to print."""
    import numpy as np

    from bench import atomic
    from bench.interop import exporting, release_import, store_import

    masks, margins, measure = exporting.truth(Path(given.source))
    dest = store_import.target(given.dest)
    arrays = {_MASKS: masks, _MARGINS: margins, _DONE: np.ones(len(masks), np.bool_)}
    with atomic.folder(dest) as folder, atomic.writing(dest):
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        schema: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (arrays[name].dtype.name, arrays[name].shape[1:]) for name in (_MASKS, _MARGINS)
        }
        release_import.write_spec(folder, len(masks), schema)
    minus = " (minus losses, as margins are)" if measure == "loss" else ""
    return [
        f"{dest / 'masks.npy'}: bool {list(masks.shape)}",
        f"{dest / 'margins.npy'}: float32 {list(margins.shape)}{minus}",
        f"{dest / _SPEC}: {len(masks)} models, all completed",
    ]
