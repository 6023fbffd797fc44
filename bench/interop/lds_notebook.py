"""The ground truth of the TRAK authors' LDS notebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.errors import InputError

NAME = "lds-notebook"
ABOUT = """One file, to a folder DEST:
  lds_outputs_per_subset.pt  float32 [20, 256]
Its subsets are in no file: the notebook draws them after np.random.seed(42), 20 times
np.random.choice(range(5000), 2500, replace=False), and this import draws the same. The outputs are logsumexp margins.
With 20 subsets chance alone gives an LDS of about ±.017 (one standard deviation)."""

N_SUBSETS, N_TRAIN, N_KEPT, SEED = 20, 5000, 2500, 42
_FILE = "lds_outputs_per_subset.pt"
_DRAWN = "the masks were drawn by the notebook's seed, and are in no file that could vouch for them"


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, f"{_FILE}, or its folder", "folder of the store to make")
    options.rows(made)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a store; gives what to print."""
    import numpy as np

    from bench.interop import reading, store_import

    store_import.target(given.dest)
    source = Path(given.source)
    path = source / _FILE if source.is_dir() else source
    outputs = reading.read(path)
    if outputs.ndim != 2 or len(outputs) != N_SUBSETS:
        turned = "; it looks transposed" if outputs.ndim == 2 and outputs.shape[1] == N_SUBSETS else ""
        raise InputError(
            f"{path} has shape {list(outputs.shape)}, where [{N_SUBSETS}, n_targets], a row for each of the notebook's "
            f"subsets, is needed{turned}"
        )
    legacy = np.random.RandomState(SEED)
    rows = [legacy.choice(np.arange(N_TRAIN), N_KEPT, replace=False) for _ in range(N_SUBSETS)]
    masks = store_import.masks_of_ids(path, rows, N_TRAIN)
    truth = store_import.Truth(masks, outputs, [path, path], "logsumexp", [_DRAWN])
    return store_import.import_(given, NAME, truth)
