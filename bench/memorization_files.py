"""Estimates of `bench.memorization` from a store, or from several of different subset sizes; as numbers and as files.

memorization.npz  memorization, memorization_stderr, consistency, consistency_stderr, n_with, n_without [n_train]
influence.npy     float32 [n_train, n_targets], positive where keeping the example helps, 0 where it cannot be told;
                  influence_stderr.npy alike, NaN there; influence.origin.json says that all rows made it, so that
                  bench lds does not score it on those that judge
pairs.npz         tr_idx, tt_idx, infl, mem of the pairs from both thresholds on
c_score.npy       float32 [n_train], of several stores: the mean of their consistency
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic, memorization, status
from bench.errors import BenchError, InputError
from bench.interop import score_matrix
from bench.store import GroundTruth

Array = NDArray[Any]
OF_MARGINS = 1.0
"""Least memorization, and influence, of what counts as high where outputs are margins."""
_NEAR = 0.2  # of that: what counts as near 0


def summary(
    store: Path, out: Path | None, outputs: str, influence: float | None, memorized: float | None
) -> dict[str, Any]:
    """Compute the estimates of a store, or of all stores of a family, and write them.

    Args:
        store: its folder, or one of several stores.
        out: where files go (of a family, in folders of its stores' names); None writes nothing.
        outputs: `correct`, `margins`, or `auto`: correctness where all stores keep it.
        influence: least influence of a pair; None takes the paper's .15 of correctness, and 1 of margins.
        memorized: least memorization of its training example; None takes .25, and 1.

    Returns:
        Numbers of plain types: per store, and the C-score of several.

    Raises:
        BenchError: no store, one without what is asked for, or a folder that cannot be written.
    """
    folders = status.stores_in(store)
    if out is not None:
        refuse_existing(out)
    found: dict[str, Any] = {"stores": [], "files": []}
    consistencies = []
    for folder in folders:
        place = None if out is None else out if len(folders) == 1 else out / folder.name
        one, own = _store(folder, place, outputs, influence, memorized, found["files"])
        found["stores"].append(one)
        if own is not None:
            consistencies.append(own.consistency)
    if len(folders) > 1 and len(consistencies) == len(folders):
        if len({len(one) for one in consistencies}) > 1:
            raise InputError(f"{store} holds stores of different numbers of training examples: they have no C-score")
        score = np.mean(consistencies, axis=0)
        found["c_score"] = {"mean": float(np.nanmean(score))}
        if out is not None:
            _save(out / "c_score.npy", score, found["files"])
    return found


def _store(
    folder: Path, out: Path | None, outputs: str, influence: float | None, memorized: float | None, files: list[str]
) -> tuple[dict[str, Any], memorization.Own | None]:
    truth = GroundTruth.open(folder)
    rows = truth.completed
    kept = set(truth.imported.schema if truth.imported is not None else truth.meta.schema if truth.meta else ())
    by_correctness = outputs == "correct" or (outputs == "auto" and "correct" in kept)
    names = ("correct", "train_correct") if by_correctness else ("margins", "train_margins")
    if by_correctness and "correct" not in kept:
        raise InputError(
            f"{folder} keeps no correctness: train with --keep correct,train-correct, or use --outputs margins"
        )
    least = influence if influence is not None else memorization.INFLUENCE if by_correctness else OF_MARGINS
    limit = memorized if memorized is not None else memorization.MEMORIZATION if by_correctness else OF_MARGINS
    masks = truth.masks[rows]
    values = truth.array(names[0])[rows] if by_correctness else truth.margins[rows]
    own = memorization.own(masks, truth.array(names[1])[rows]) if names[1] in kept else None
    notes = (
        [] if own is not None else [f"no memorization: the store keeps no {names[1]} (train with --keep {names[1]})"]
    )
    influences, stderr, pairs = [], [], []
    memory = np.full(masks.shape[1], np.inf, np.float32) if own is None else own.memorization
    for slab in memorization.influence_slabs(masks, values):
        pairs.append(memorization.high_pairs(slab, memory, least=least, memorized=limit))
        stderr.append(slab.stderr if out is not None else slab.stderr[:: max(1, len(slab.stderr) // 200)])
        if out is not None:
            influences.append(slab.influence)
    train, targets, strength = (np.concatenate([one[k] for one in pairs]) for k in range(3))
    errors = np.concatenate(stderr)
    if out is not None:
        _save(out / "influence.npy", np.nan_to_num(np.concatenate(influences)), files)
        score_matrix.stamp(out / "influence.npy", "memorization", [], score_matrix.fitted(truth, np.flatnonzero(rows)))
        _save(out / "influence_stderr.npy", errors, files)
        if own is not None:
            _save(out / "memorization.npz", arrays(own), files)
        known = memory if own is not None else np.full_like(memory, np.nan)
        _save(out / "pairs.npz", {"tr_idx": train, "tt_idx": targets, "infl": strength, "mem": known[train]}, files)
    made: Any = truth.imported if truth.imported is not None else truth.meta and truth.meta.identity
    return {
        "store": str(folder),
        "runs": int(rows.sum()),
        "alpha": float(made.alpha) if made is not None else float(masks.mean()),
        "outputs": names[0],
        "memorization": None if own is None else described(own, limit),
        "consistency": None if own is None else float(np.nanmean(own.consistency)),
        "influence_stderr": float(np.nanmedian(errors)),
        "pairs": len(train),
        "thresholds": {"influence": least, "memorized": limit},
        "notes": notes,
    }, own


def refuse_existing(out: Path) -> None:
    """Refuse a place that something is at already.

    Raises:
        BenchError: there is.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise BenchError(f"--out {out} is there already: name another folder, or remove it")


def arrays(own: memorization.Own) -> dict[str, Array]:
    """What memorization.npz holds."""
    return {field.name: getattr(own, field.name) for field in fields(own)}


def described(own: memorization.Own, limit: float) -> dict[str, Any]:
    """How memorization is spread over the training examples.

    Args:
        own: the estimates.
        limit: from where on an example counts as memorized.

    Returns:
        mean, median, q95, q99 and max; above and below: examples from `limit` on, and as far below 0, where noise
        alone puts as many as above; near_zero: share within ±near; top_tenth: of all memorization above 0, the share
        that a tenth of the examples holds; examples, and unknown ones among them; stderr: the median standard error.

    Raises:
        InputError: every example is in all runs, or in none.
    """
    known = np.sort(own.memorization[np.isfinite(own.memorization)].astype(np.float64))
    if not len(known):
        raise InputError("every training example is in all runs, or in none: memorization cannot be told")
    median, q95, q99 = (float(q) for q in np.quantile(known, [0.5, 0.95, 0.99]))
    positive = np.maximum(known, 0)
    top = positive[-max(1, len(known) // 10) :].sum()
    return {
        "mean": float(known.mean()),
        "median": median,
        "q95": q95,
        "q99": q99,
        "max": float(known[-1]),
        "limit": limit,
        "above": int((known >= limit).sum()),
        "below": int((known <= -limit).sum()),
        "near": _NEAR * limit,
        "near_zero": float((np.abs(known) <= _NEAR * limit).mean()),
        "top_tenth": float(top / positive.sum()) if positive.any() else 0.0,
        "examples": len(own.memorization),
        "unknown": len(own.memorization) - len(known),
        "stderr": float(np.nanmedian(own.memorization_stderr)),
    }


def _save(path: Path, value: Any, files: list[str]) -> None:
    atomic.writable_folder(path.parent)
    if isinstance(value, dict):
        atomic.write(path, lambda out: np.savez(out, **value))
    else:
        atomic.write(path, lambda out: np.save(out, value, allow_pickle=False))
    files.append(str(path))
