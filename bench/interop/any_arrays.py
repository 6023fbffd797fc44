"""A ground truth of any tool: masks and outputs as plain arrays, with what they do not say."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "arrays"
ABOUT = """A folder of two files, each .npy, .npz or .pt, to a folder DEST:
  masks                          0/1   [M, n_train], 1 = kept
  margins, losses, or outputs    float [M, n_targets]
The name says what the outputs are, else --output-is does. The sign of losses is turned."""

_OUTPUTS = ("margins", "losses", "outputs")
_ENDINGS = (".npy", ".npz", ".pt")


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, "folder of masks and of margins, losses or outputs", "folder of the store to make")
    options.output_is(made)
    options.rows(made)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store; gives what to print."""
    from bench.errors import InputError
    from bench.interop import kronfluence, reading, score_matrix, store_import

    store_import.target(given.dest)
    source = reading.folder(Path(given.source), "the folder of masks and outputs")
    if (source / "_completed.npy").exists():
        raise InputError(
            f"{source} has a _completed.npy, so some of its rows may be of no model: use bench import datamodels-store"
        )
    truth = kronfluence.truth(source, _OUTPUTS, _ENDINGS, given.output_is)
    made = score_matrix.read_origin(truth.files[0])
    if made is not None:  # masks that an import made: of what, the store says too
        of = ", ".join(f"{name} (sha256 {file.sha256})" for name, file in made.origin.items())
        truth = truth._replace(notes=[*truth.notes, f"{truth.files[0].name} was made of {made.source}'s {of}"])
    return store_import.import_(given, NAME, truth)
