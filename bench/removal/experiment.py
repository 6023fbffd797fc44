"""Train without the most memorized examples, and without as many random ones.

Every seed trains on all examples, and without each number of them twice: without the most memorized, the same for all
seeds, and without the first of a random order of its own. Seeds share initialisation and batch order where the number
of examples is the same, so that differences are taken seed by seed; their spread is that of seeds and random sets, for
the store's estimates and the test examples as they are. The test examples have no part in what is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import atomic, datasets, launch, memorization, memorization_files, runner, stacks, status, trained_on
from bench.errors import BenchError, InputError
from bench.files import stamp
from bench.progress import Progress
from bench.recorded import Recorded
from bench.removal.document import Estimate, Histogram, Removal, Step
from bench.store import GroundTruth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data, Setting
    from bench.train import Trainer

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_MODEL, _SET, _TIES = 4, 5, 6  # streams of the root seed, none of a ground truth's
_BINS = 50  # from −1 to 1


@dataclass(frozen=True)
class Options:
    """What the experiment can be told.

    Attributes:
        shares: of the training examples, to be removed.
        seeds: models per number of examples removed.
        seed: what initialisations, batch orders and random sets come from.
        outputs: what memorization is of: `correct`, `margins`, or `auto`: correctness where the store keeps it.
        setting: what to train; by default the setting that the store names.
        device, data_dir, allow_modified_data: as of `bench train`.
    """

    shares: Sequence[float] = SHARES
    seeds: int = 10
    seed: int = 0
    outputs: str = "auto"
    setting: str | None = None
    device: str = "auto"
    data_dir: str | None = None
    allow_modified_data: bool = False


def removal(
    store: str | Path,
    options: Options | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Removal:
    """Estimate memorization from a store, and train its setting without the most memorized examples.

    Args:
        store: a store of `bench train`, kept with `train_correct` or `train_margins`.
        options: what to do.
        out: a new folder for removal.json, .csv, .md, .png and .svg, and for memorization.npz: the estimates with
            `order`, the training examples from the most memorized on.
        progress: where to say what is done; nowhere by default.

    Raises:
        BenchError: a store that was imported, or keeps no outputs on its training examples, or is of other data or
            another recipe than its setting has now; shares or seeds out of range, or more examples to remove than have
            an estimate; a folder that is there already or cannot be written.
    """
    options, progress = options or Options(), progress or Progress(quiet=True)
    if options.seeds < 2:
        raise BenchError(f"--seeds is {options.seeds}: a standard error takes at least two")
    if options.seed < 0:
        raise BenchError(f"--seed is {options.seed}: it cannot be negative")
    truth = _opened(Path(store))
    place = None if out is None else Path(out)
    if place is not None:
        memorization_files.refuse_existing(place)
    name = _outputs(truth, options.outputs)
    assert truth.meta is not None
    counts = _counts(options.shares, truth.meta.n_train)
    setting, data = _examples(truth, options)
    if stamped := stamp(data.origin):
        progress.say(stamped)
    rows = truth.rows(np.flatnonzero(truth.completed), as_stored=True)
    own = memorization.own(rows.masks, rows.train[name])
    order = _order(own, options.seed)
    if counts and counts[-1] > len(order):
        raise InputError(
            f"--shares has {max(options.shares):g}, which is {counts[-1]} training examples, and {store} tells the "
            f"memorization of {len(order)}, the others being in all subsets or in none: remove fewer"
        )
    if place is not None:
        atomic.writable_folder(place)
    full, memorized, random = _accuracies(setting, data, order, counts, options, progress)
    steps = []
    for count, kept, drawn in zip(counts, memorized, random, strict=True):
        steps.append(
            Step(
                share=count / data.n_train,
                removed=count,
                least=float(own.memorization[order[count - 1]]),
                memorized=kept,
                random=drawn,
                difference=drawn.minus(kept),
                cost=full.minus(kept),
                cost_random=full.minus(drawn),
            )
        )
    limit = memorization.MEMORIZATION if name == "train_correct" else memorization_files.OF_MARGINS
    made = Removal(
        setting=setting.name,
        alpha=truth.meta.identity.alpha,
        runs=len(rows),
        store=str(store),
        key=truth.meta.key,
        n_train=data.n_train,
        n_targets=data.n_targets,
        outputs=name,
        memorization=memorization_files.described(own, limit),
        histogram=_histogram(own.memorization),
        seeds=options.seeds,
        seed=options.seed,
        full=full,
        steps=steps,
        notes=[*([stamped] if stamped else []), *_notes(data, order, full, steps)],
        versions=launch.versions(),
        hardware=launch.hardware(launch.device_kind(options.device)),
    )
    if place is not None:
        _write(place, made, own, order, progress)
    return made


def _opened(folder: Path) -> GroundTruth:
    members = status.stores_in(folder)
    if len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise InputError(f"{folder} holds several stores ({names}): name one of them")
    truth = GroundTruth.open(members[0])
    if truth.imported is not None:
        raise InputError(f"{members[0]} was imported without its examples: name a store of bench train")
    if truth.meta is None:
        raise InputError(
            f"{members[0]} has no meta.json, which says what it was trained on: name a store of bench train"
        )
    return truth


def _outputs(truth: GroundTruth, asked: str) -> str:
    wanted = {"correct": ["train_correct"], "margins": ["train_margins"], "auto": ["train_correct", "train_margins"]}
    if asked not in wanted:
        raise BenchError(f"--outputs is {asked!r}: use auto, correct or margins")
    for name in wanted[asked]:
        if name in truth.schema:
            return name
    first = wanted[asked][0]
    what = "outputs on its training examples" if asked == "auto" else first
    raise InputError(
        f"{truth.path} keeps no {what}, which memorization is told from: train with --keep {first.replace('_', '-')}"
    )


def _counts(shares: Sequence[float], n_train: int) -> list[int]:
    """Numbers of examples to remove, ascending, each once."""
    if not len(shares):
        raise BenchError("--shares names none: write some, such as 0.01,0.05,0.2")
    for share in shares:
        if not 0 < share < 1:
            raise BenchError(f"--shares has {share:g}: it takes shares of the training examples, between 0 and 1")
        if not 0 < round(share * n_train) < n_train:
            raise BenchError(
                f"--shares has {share:g}, which is {round(share * n_train)} of {n_train} training examples: remove at "
                "least one, and leave one"
            )
    return sorted({round(share * n_train) for share in shares})


def _examples(truth: GroundTruth, options: Options) -> tuple[Setting, Data]:
    """The setting and its examples, which must be those that the store was trained on."""
    assert truth.meta is not None
    setting = datasets.setting(options.setting or status.setting_of(truth))
    data = runner.load(setting, options.data_dir, options.allow_modified_data)
    trained_on.refuse_others(truth.path, truth.meta.identity, setting, data)
    return setting, data


def _order(own: memorization.Own, seed: int) -> NDArray[np.int64]:
    """Training examples from the most memorized on, equals in random order; without those of unknown memorization."""
    known = np.flatnonzero(np.isfinite(own.memorization))
    known = np.random.default_rng([seed, _TIES]).permutation(known)
    return known[np.argsort(-own.memorization[known], kind="stable")]


def _accuracies(
    setting: Setting,
    data: Data,
    order: NDArray[np.int64],
    counts: list[int],
    options: Options,
    progress: Progress,
) -> tuple[Estimate, list[Estimate], list[Estimate]]:
    """Test accuracy with all examples, and by count without the most memorized and without random ones."""
    from bench.train import Trainer, pick_device

    trainer = Trainer(setting.recipe, data, pick_device(options.device))
    drawn = [np.random.default_rng([options.seed, _SET, s]).permutation(data.n_train) for s in range(options.seeds)]
    everything = np.arange(data.n_train)
    kept = [everything] * options.seeds
    for count in counts:
        kept += [np.delete(everything, order[:count])] * options.seeds
        kept += [np.delete(everything, one[:count]) for one in drawn]
    seeds = [np.random.SeedSequence([options.seed, _MODEL, s]) for s in range(options.seeds)]
    right = _trained(trainer, kept, seeds * (1 + 2 * len(counts)), progress, setting.name)
    parts = [Estimate.of(right[at : at + options.seeds]) for at in range(0, len(right), options.seeds)]
    return parts[0], parts[1::2], parts[2::2]


def _trained(
    trainer: Trainer,
    kept: Sequence[NDArray[np.int64]],
    seeds: Sequence[np.random.SeedSequence],
    progress: Progress,
    name: str,
) -> list[float | None]:
    """Test accuracy of a model per subset; None where it diverged."""
    found: dict[int, float | None] = {}

    def take(mine: slice, made: Mapping[str, NDArray[Any]]) -> float | None:
        whole = np.isfinite(made["margins"]).all(axis=1)
        right = [float(one) if there else None for one, there in zip(made["correct"].mean(axis=1), whole, strict=True)]
        found.update(zip(range(mine.start, mine.stop), right, strict=True))
        known = [one for one in right if one is not None]
        return float(np.mean(known)) if known else None

    recorded = Recorded(keep=("correct",))
    stacks.train(trainer, kept, seeds, recorded, take, progress, f"training {name} without examples")
    return [found[at] for at in range(len(kept))]


def _histogram(values: NDArray[np.float32]) -> Histogram:
    """Counts by bins of equal width; of correctness from −1 to 1, else as far as the values go, with 0 as an edge."""
    known = values[np.isfinite(values)]
    reach = max(1.0, float(np.abs(known).max()))
    counts, edges = np.histogram(known, np.linspace(-reach, reach, _BINS + 1))
    return Histogram(edges.tolist(), counts.tolist())


def _notes(data: Data, order: NDArray[np.int64], full: Estimate, steps: Sequence[Step]) -> list[str]:
    notes = []
    there = np.bincount(data.train_y, minlength=data.n_classes) > 0
    for step in steps:
        left = np.bincount(np.delete(data.train_y, order[: step.removed]), minlength=data.n_classes) > 0
        if (there & ~left).any():
            gone = ", ".join(map(str, np.flatnonzero(there & ~left)))
            notes.append(f"without the {step.removed} most memorized there is no training example of class {gone}")
    lost = sum(
        one is None for part in (full, *(e for s in steps for e in (s.memorized, s.random))) for one in part.each
    )
    if lost:
        notes.append(f"{lost} models diverged; their seeds are left out of what they belong to")
    return notes


def _write(folder: Path, made: Removal, own: memorization.Own, order: NDArray[np.int64], progress: Progress) -> None:
    from bench.removal import plot, tables

    arrays: Any = {**memorization_files.arrays(own), "order": order}
    atomic.write(folder / "memorization.npz", lambda file: np.savez(file, **arrays))
    atomic.write_text(folder / "removal.csv", made.to_frame().to_csv(index=False, lineterminator="\n"))
    atomic.write_text(folder / "removal.md", tables.grid(made).markdown())
    plot.write(folder, made)
    atomic.write_text(folder / "removal.json", made.text())  # last: it vouches for the others
    progress.say(f"written to {folder}")
