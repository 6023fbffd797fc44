"""What the files of MadryLab's release tell of the examples that they are of, compared with the dataset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.interop import arrays, layout, logit_classes, order
from bench.interop.order import Side

KINDS: tuple[layout.Kind, ...] = ("margins", "logits")
"""Files that tell the targets' classes together."""

_DATASETS = {"cifar": "cifar10", "fmow": "fmow"}  # by the release's names
_FLOATS = ("float16", "float32")


def checked(
    given: argparse.Namespace,
    wanted: layout.Wanted,
    paths: Mapping[layout.Kind, Path],
    shape: tuple[int, int, int],
    rows: tuple[int, int],
    labels: NDArray[np.int64] | None,
) -> list[str]:
    """Compare examples and targets with the dataset.

    Args:
        given: the options.
        wanted: what is imported.
        paths: its files, and others of the same models that are there.
        shape: models, training examples and targets.
        rows: `[start, stop)`, models that may be looked at.
        labels: classes of the targets that were given, if any.

    Returns:
        Sentences, as `bench.interop.order.checked`.

    Raises:
        InputError: what is there contradicts itself or the dataset; BenchError: see `order.checked`.
    """
    path = paths["margins" if "margins" in paths else "logits"]
    found, why_not = _told(given, paths, (shape[0], shape[2]), rows)
    how = "logits and margins"
    if labels is not None and found is not None:
        (odd,) = np.nonzero((found >= 0) & (found != labels))
        if len(odd):
            raise InputError(
                f"--labels: {given.labels}: target {odd[0]} is of class {labels[odd[0]]}, and of class {found[odd[0]]} "
                f"by {paths['logits'].name} and {paths['margins'].name} ({len(odd):,} of {len(labels):,} differ)"
            )
    if labels is not None:
        found, how = labels, f"--labels ({Path(given.labels).name})"
    if wanted.split == "train":
        sides = [Side("training examples", "train", shape[1], found, how, why_not)]
    else:
        train_why = "no file tells their classes (logits with --split train would)"
        sides = [
            Side("training examples", "train", shape[1], why_not=train_why),
            Side("targets", "test", shape[2], found, how, why_not),
        ]
    return order.checked(given, path, sides, _DATASETS.get(wanted.dataset))


def _told(
    given: argparse.Namespace, paths: Mapping[layout.Kind, Path], shape: tuple[int, int], rows: tuple[int, int]
) -> tuple[NDArray[np.int64] | None, str]:
    """Classes by logits and margins; else None, and why."""
    lacking = [kind for kind in KINDS if kind not in paths]
    if lacking:
        return None, f"there is no file of {lacking[0]} beside that of {KINDS[1 - KINDS.index(lacking[0])]}"
    margins = arrays.opened(paths["margins"], "[models, n_targets]", 2, _FLOATS)
    logits = arrays.opened(paths["logits"], "[models, n_targets, n_classes]", 3, _FLOATS)
    if margins.shape != shape or logits.shape[:2] != shape:
        return None, f"{paths['logits'].name} is of other models or targets"
    found = logit_classes.told(margins, logits, given.margins_are, rows)
    if 2 * np.count_nonzero(found >= 0) < len(found):
        return None, f"the margins are not those of {paths['logits'].name}"
    return found, ""
