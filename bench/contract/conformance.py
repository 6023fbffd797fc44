"""Does a method keep its contract? Measured on a small bundled setting, in seconds.

300 training digits, 60 targets, a network of 16 hidden units, and 240 models trained on halves of the examples. The
method is called three times: anew, anew after others have drawn from the global random generators, and once more as the
object of the first call.

The sign is checked by leaving a class out. Models that never saw a target's class have far lower margins on it: here by
12 on average, and for every target no other class does as much harm (`tests/test_conformance.py` trains them). So the
examples of a target's own class must have a higher mean score than those of other classes: a method with the sign right
puts it before nearly all of them, one with the sign wrong behind nearly all, and one that knows nothing (a control, or
an estimate that is all noise) before half of them. Of the last kind the check says that there is no sign to be seen; it
does not fail, since nothing can be told. A negative LDS further from 0 than chance takes it fails in any case.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench import datasets, hashing, methods, returned
from bench.errors import BenchError, ChangedError, EvalRowError, UnmetError
from bench.files import Files
from bench.guard import Guard
from bench.judge import Judge
from bench.launch import Request, make
from bench.lent import ARRAYS
from bench.methods import Chosen
from bench.progress import Progress
from bench.recipes import Architecture
from bench.standings import FAR
from bench.subsets import Plan
from bench.wording import counted, raised
from bench.workbench import Bench

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data, Setting
    from bench.task import Task

Status = Literal["passed", "failed", "unseen"]
SIZES = 300, 60
MODELS, REPEATS = 240, 2
CLEAR = 0.65  # share of other classes before which the own one must come; 1 − CLEAR, behind which it must not
SAME = 1e-3  # of the scores' norm: two calls that differ by more do not do the same


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was checked; status: how it ended (`unseen`: nothing can be said, which is no fault).
        figure: what was measured, or what is wrong.
    """

    name: str
    status: Status
    figure: str


@dataclass(frozen=True)
class Report:
    """All that was checked of a method; `skipped` says why it was not called."""

    method: str
    checks: list[Check]
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)


@contextmanager
def opened(device: str = "cpu") -> Iterator[Bench]:
    """The bundled setting with its models, in a temporary folder."""
    setting, data = _small()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder, quiet = Path(scratch), Progress(quiet=True)
        make(Request(setting, data, Plan(MODELS, REPEATS), device=device), folder / "ground-truth", quiet)
        yield Bench.open(setting, data, folder / "ground-truth", folder, device, quiet, MODELS)


def _small() -> tuple[Setting, Data]:
    whole = datasets.setting("digits/mlp")
    everything = whole.dataset.load(Files(()))
    n, t = SIZES
    data = replace(
        everything,
        train_x=everything.train_x[:n],
        train_y=everything.train_y[:n],
        test_x=everything.test_x[:t],
        test_y=everything.test_y[:t],
    )
    return replace(whole, recipe=replace(whole.recipe, architecture=Architecture("mlp", (16,)))), data


def check(one: Chosen, bench: Bench) -> Report:
    """Check a method.

    Args:
        one: the method with its parameters.
        bench: where: `opened()`, which may be used for several.

    Raises:
        UnmetError: it needs what is not there, so that nothing can be said of it.
    """
    methods.needs_of(one.method, one.name)
    unmet = bench.unmet(one)
    if unmet is not None:
        raise UnmetError(f"{one.name} cannot be checked here: it {unmet}")
    with _inputs_as_they_were(bench):
        return _checked(one, bench)


def _checked(one: Chosen, bench: Bench) -> Report:
    checks, before = [_described(one, bench)], _inputs(bench)
    try:
        array = _first(one, bench, checks)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a method raises
        checks.append(_refused(error))
        return Report(one.name, checks)
    if array is None:
        return Report(one.name, checks)

    def anew() -> Any:
        fresh = replace(one, method=_built(type(one.method), one.parameters, bench))
        return _call(fresh, bench, 2)[0]

    def later() -> Any:
        _call(methods.chosen(["random"])[0], bench, 3)
        return _call(one, bench, 3)[0]

    checks.append(_same("same under the seed", array, anew, "of a new object, with other global random states"))
    checks.append(_same("same in any order", array, later, "of the first object again, after another method"))
    after = _inputs(bench)
    changed = [part for part in before if before[part] != after[part]]
    told = f"it changed {' and '.join(changed)}" if changed else f"{', '.join(before)}: the same bytes as before"
    checks.append(Check("inputs unchanged", "failed" if changed else "passed", told))
    checks.append(sign(array, bench))
    return Report(one.name, checks)


@contextmanager
def _inputs_as_they_were(bench: Bench) -> Iterator[None]:
    """Put the examples back, so that a method that reached and changed them does not spoil the check of the next."""
    owned = [getattr(bench.data, name) for name in ARRAYS]
    tensors = [tensor for part in ("train", "test") for tensor in bench.pool.trainer.inputs(part)]
    arrays, placed = [array.copy() for array in owned], [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for array, kept in zip(owned, arrays, strict=True):
            if array.flags.writeable:
                array[...] = kept
        for tensor, was in zip(tensors, placed, strict=True):
            tensor.data.copy_(was)


def _built(cls: type[Any], parameters: Mapping[str, Any], bench: Bench) -> Any:
    """A method's object, made under guard, as in a run.

    Raises:
        Exception: whatever its constructor raises.
        EvalRowError: it opened the ground truth.
    """
    with Guard(bench.truth.path) as guard:
        made = cls(**parameters)
    if guard.touched:
        raise EvalRowError(f"it opened {Path(guard.touched).name} of the ground truth when it was built")
    return made


def _described(one: Chosen, bench: Bench) -> Check:
    """Whether it says what it is, and every row that a run of all methods would have of it can be built."""
    cls, module = type(one.method), sys.modules.get(type(one.method).__module__)
    for variant in cls.variants:
        try:
            _built(cls, variant, bench)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Check("described", "failed", f"its variant {dict(variant)} cannot be built: {raised(error)}")
    summary = (getattr(module, "__doc__", None) or "").strip()
    facts = {"a first line of its file's docstring": summary, "citation": cls.citation, "growth": cls.growth}
    lacking = [name for name, value in facts.items() if not value]
    many = f"{counted(len(cls.variants), 'row')} in a run of all methods"
    return Check(
        "described", "unseen" if lacking else "passed", many + (f"; no {', no '.join(lacking)}" * bool(lacking))
    )


def _first(one: Chosen, bench: Bench, checks: list[Check]) -> NDArray[Any] | None:
    """Call it, look at what it returns; None where that is no scores."""
    given, task, seconds = _call(one, bench, 1)
    rows, checkpoints, judging = len(task.usage.rows), task.usage.checkpoints, len(bench.access.eval)
    used = f"{counted(rows, 'row')} and {counted(checkpoints, 'checkpoint')} used"
    checks += [
        Check("runs", "passed", f"{seconds:.2f} s"),
        Check("no rows that judge", "passed", f"{used}; none of the {judging} rows that judge"),
    ]
    array: NDArray[Any] | None = None
    try:
        array = returned.as_array(given)
        returned.check_shape(array, bench.data.n_train, bench.data.n_targets)
        checks.append(Check("shape", "passed", f"[n_train, n_targets] = {list(array.shape)}"))
    except BenchError as error:
        checks.append(Check("shape", "failed", str(error)))
        return None
    try:
        floats = returned.as_floats(array)
        checks.append(Check("dtype", "passed", str(array.dtype)))
    except BenchError as error:
        checks.append(Check("dtype", "failed", str(error)))
        return None
    finite = np.isfinite(floats)
    others = int(np.count_nonzero(~finite))
    figure = counted(others, "score is not", "scores are not") if others else "100% of the scores"
    checks.append(Check("finite", "failed" if others else "passed", figure))
    return floats if finite.any() else None


def _refused(error: BaseException) -> Check:
    said = raised(error)
    if isinstance(error, EvalRowError):
        return Check("no rows that judge", "failed", said)
    if isinstance(error, ChangedError):
        return Check("inputs unchanged", "failed", said)
    return Check("inputs unchanged" if "read-only" in said else "runs", "failed", said)


def _call(one: Chosen, bench: Bench, seed: int) -> tuple[Any, Task, float]:
    """What it returns, its task, and seconds, with the global random generators at a seed; they are put back."""
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        given, task, meter, _ = bench.call(one)
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
    return given, task, meter.seconds - task.usage.waited


def _same(name: str, first: NDArray[Any], call: Callable[[], Any], how: str) -> Check:
    try:
        second = returned.as_floats(returned.as_array(call()))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Check(name, "failed", f"{how}: {_refused(error).figure}")
    if second.shape != first.shape:
        return Check(name, "failed", f"{how}: shape {list(second.shape)} after {list(first.shape)}")
    if np.array_equal(first, second, equal_nan=True):
        return Check(name, "passed", f"{how}: the same numbers")
    finite = np.isfinite(first) & np.isfinite(second)
    if (np.isfinite(first) != np.isfinite(second)).any():
        return Check(name, "failed", f"{how}: other scores are NaN or infinite")
    norm = np.linalg.norm(first[finite].astype(np.float64))
    apart = float(np.linalg.norm(first[finite].astype(np.float64) - second[finite]) / (norm or 1.0))
    return Check(name, "passed" if apart <= SAME else "failed", f"{how}: {apart:.1e} of the scores' norm apart")


def _inputs(bench: Bench) -> dict[str, str]:
    """Hashes of what methods are given."""
    rows = bench.truth.rows(np.arange(bench.n_rows))
    tensors = [hashing.array(t.cpu().numpy()) for part in ("train", "test") for t in bench.pool.trainer.inputs(part)]
    return {
        "examples": hashing.digest([hashing.data(bench.data), *tensors]),
        "rows": hashing.digest([hashing.array(rows.masks), hashing.array(rows.margins)]),
    }


def own_class_first(scores: NDArray[Any], train_y: NDArray[np.int64], test_y: NDArray[np.int64]) -> float:
    """How many of the other classes a target's own one comes before, by the mean score of its examples.

    Args:
        scores: finite `[n_train, n_targets]`.
        train_y: `[n_train]`, the examples' classes.
        test_y: `[n_targets]`, the targets'.

    Returns:
        The share, mean over targets; a tie counts one half.
    """
    classes = np.unique(train_y)
    means = np.stack([scores[train_y == label].mean(0, dtype=np.float64) for label in classes])
    own = np.searchsorted(classes, test_y)
    mine = means[own, np.arange(len(own))]
    above = (mine > means).sum(0) + ((mine == means).sum(0) - 1) / 2
    return float(above.mean() / (len(classes) - 1))


def sign(scores: NDArray[Any], bench: Bench) -> Check:
    """Whether positive scores are of examples that raise the margin; the module's docstring says how it is told.

    Args:
        scores: float `[n_train, n_targets]`; targets with a score that is not finite are left out.
        bench: the bundled setting.
    """
    data, finite = bench.data, np.isfinite(scores).all(0)
    first = own_class_first(scores[:, finite], data.train_y, data.test_y[finite]) if finite.any() else 0.5
    judge = Judge.of(bench.truth.rows(bench.access.eval), REPEATS, data.test_y)
    verdict = judge.verdict(scores, permutations=1999)
    value = verdict.lds.mean
    figure = f"own class before {first:.0%} of the others"
    if np.isfinite(value):
        figure += f"; LDS {value:.3f} on {len(judge.masks)} subsets".replace("-", "−")
    if first < 1 - CLEAR or (value < 0 and verdict.null.p_value < FAR):
        return Check("sign", "failed", f"{figure}: are the scores of the opposite sign?")
    if first < CLEAR:
        return Check("sign", "unseen", f"no sign to be seen: {figure} (50% is chance)")
    return Check("sign", "passed", figure)
