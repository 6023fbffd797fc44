"""`python -m bench lds`: the score of arrays in files, and of a store's rows that judge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import atomic
from bench.errors import InputError
from bench.imported import LEAK
from bench.scorer import lds
from bench.store import GroundTruth
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Asked:
    """What is asked of a score matrix.

    Attributes:
        scores: its file: a .npy, or a .pt of released datamodels.
        precision: of the predictions, as `bench.lds` takes it.
        per_target: file that gets the LDS of every target, if any.
        targets: which of the ground truth's targets count, as `0-99,250`; None for all.
    """

    scores: str
    precision: Any = "auto"
    per_target: str | None = None
    targets: str | None = None


def lds_of_files(masks: str, margins: str, asked: Asked) -> dict[str, Any]:
    """LDS of files, as `bench lds --json` prints it.

    Raises:
        InputError: a file is missing or no such array, or the arrays do not fit (see `bench.lds`).
    """
    weights = _open_scores(asked.scores)
    truth = [_open_array(name, path) for name, path in (("masks", masks), ("margins", margins))]
    return _lds(weights, truth[0], truth[1], margins, asked)


def lds_of_store(store: str, asked: Asked, *, allow_leak: bool = False) -> dict[str, Any]:
    """The same on the rows of a store that judge.

    Args:
        store: its folder.
        asked: what is scored, and how.
        allow_leak: score, and stamp, what is known to be made from rows that judge.

    Raises:
        InputError: it is no store, does not say which rows judge, or see `lds_of_files`; the scores are known to be
            made from rows that judge, and it is not asked for.
    """
    from bench.interop import score_matrix

    weights = _open_scores(asked.scores)
    truth = GroundTruth.open(store)
    masks, margins = _judging(truth)
    stamps = list(truth.imported.stamps) if truth.imported is not None else []
    origin = score_matrix.read_origin(Path(asked.scores))
    if LEAK not in (*stamps, *(origin.stamps if origin is not None else ())):
        own = score_matrix.judged_by_own(origin, truth, truth.of_group("eval"))
        if len(own) and not allow_leak:
            raise InputError(
                f"{asked.scores} was made from {len(own)} of the rows that judge in {store}, as {own[0]}, so that its "
                "LDS says nothing: make scores from the rows that fit (bench attribute), or add --allow-leak, which "
                "stamps the result"
            )
        stamps += [LEAK] if len(own) else []
    found = _lds(weights, masks, margins, store, asked)
    return {**found, "stamps": list(dict.fromkeys([*stamps, *found["stamps"]]))}


def _lds(
    scores: NDArray[Any], masks: NDArray[Any], margins: NDArray[Any], truth_name: str, asked: Asked
) -> dict[str, Any]:
    if asked.targets is not None:
        scores, margins = _of_targets(asked, scores, margins)
    found = lds(scores, masks, margins, precision=asked.precision)
    if np.isnan(found.mean):
        raise InputError(
            f"{asked.scores} has no LDS against {truth_name}: every one of {found.n_targets} targets is excluded "
            f"({found.why_not})"
        )
    if asked.per_target is not None:
        path = Path(asked.per_target)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--per-target: cannot write {path}: name a file in a folder that exists")
        atomic.write(path, lambda file: np.save(file, found.per_target, allow_pickle=False))
    return {
        "lds": found.mean,
        "ci": list(found.ci),
        "n_subsets": found.n_subsets,
        "n_targets": found.n_targets,
        "n_excluded": found.n_excluded,
        "n_tied": found.n_tied,
        "stderr": found.stderr,
        "excluded": found.excluded,
        "stamps": _stamps(asked.scores),
    }


def _of_targets(asked: Asked, scores: NDArray[Any], margins: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores and margins of some targets; views where these are neighbours.

    Scores may be of all targets, or of those that are asked for alone.
    """
    if scores.ndim != 2 or margins.ndim != 2:  # which bench.lds refuses, in its words
        return scores, margins
    chosen = parse_targets(str(asked.targets), margins.shape[1])
    count = len(range(*chosen.indices(margins.shape[1]))) if isinstance(chosen, slice) else len(chosen)
    if scores.shape[1] == margins.shape[1]:
        scores = scores[:, chosen]
    elif scores.shape[1] != count:
        raise InputError(
            f"{asked.scores} has {counted(scores.shape[1], 'column')}, and --targets {asked.targets} takes {count} of "
            f"{counted(margins.shape[1], 'target')}: give scores of these or of all"
        )
    return scores, margins[:, chosen]


def parse_targets(text: str, n_targets: int) -> slice | NDArray[np.intp]:
    """`0-99,250` as numbers of targets; a single span, such as `0-99`, as a slice.

    Raises:
        InputError: it is not so written, beyond the targets that there are, or names one twice.
    """
    spans = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", word)
        if found is None or (last := int(found[2] or found[1])) < (first := int(found[1])):
            raise InputError(f"--targets is {text!r}: write numbers and spans, such as 0-99 or 0-99,250")
        if last >= n_targets:
            raise InputError(f"--targets is {text!r}, and there are targets 0 to {n_targets - 1}")
        spans.append((first, last + 1))
    if len(spans) == 1:
        return slice(*spans[0])
    numbers = np.concatenate([np.arange(*span, dtype=np.intp) for span in spans])
    values, counts = np.unique(numbers, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"--targets is {text!r}: it names target {values[counts > 1][0]} twice")
    return numbers


def _stamps(scores: str) -> list[str]:
    """What whoever made the scores wants to be shown with every result of them."""
    from bench.interop import score_matrix

    origin = score_matrix.read_origin(Path(scores))
    return origin.stamps if origin is not None else []


def _judging(truth: GroundTruth) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Masks and margins of the rows that judge: the mean over a subset's seeds; each row alone where none says more.

    Of an imported store both are views of its files.
    """
    index = truth.of_group("eval")
    if truth.imported is not None:
        rows = truth.rows(index, as_stored=True)
        return rows.masks, rows.margins
    rows, repeats = truth.rows(index), truth.plan.repeats
    return rows.masks[::repeats], rows.margins.reshape(len(rows) // repeats, repeats, -1).mean(1)


def _open_scores(path: str) -> NDArray[Any]:
    if Path(path).suffix != ".pt":
        return _open_array("scores", path)
    from bench.interop import datamodels_pt

    return datamodels_pt.read(path).weight


def _open_array(name: str, path: str) -> NDArray[Any]:
    try:
        with Path(path).open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY" and not start.startswith(b"PK"):
            raise InputError(f"--{name}: {path} is not a .npy file: write one with numpy.save")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--{name}: cannot read {path}: {error.strerror or error}; name a .npy file") from error
    except Exception as error:  # numpy has many: torn zip, torn header, Python objects, shorter than it says
        raise InputError(f"--{name}: {path} is not a whole .npy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"--{name}: {path} is an archive of several arrays; give a .npy file with one")
    return array
