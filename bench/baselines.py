"""baseline.json: what of a run another run can be compared with, in one file small enough for version control.

Per method the LDS of every target, the influence of every eval subset on the mean, and a sketch of all influences:
enough for the paired intervals of `bench.stats.paired_difference`, without score matrices or ground truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bench import atomic, hashing, provenance
from bench.documents import DocumentError, decoded
from bench.errors import InputError
from bench.stats.paired import SKETCH, Sample
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.judge import Judge
    from bench.results import Leaderboard

SCHEMA: Literal[1] = 1
FILE = "baseline.json"
_MARGINS = 256  # numbers in the margins' sketch
_ROUNDED = 2e-5  # an LDS and the mean of its rounded targets agree to this


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The models that judged.

    Attributes:
        setting, alpha, output, protocol, seed, repeats: as in `bench.results.Leaderboard`.
        n_train, n_targets, n_subsets: sizes.
        data, recipe, masks, targets: hashes of the examples, of how models are trained, of the eval subsets, and of the
            target examples.
        margins: sketch of the ranks of the margins: the same models on another machine agree but for rounding.
    """

    setting: str
    alpha: float
    output: str
    protocol: str
    seed: int
    repeats: int
    n_train: int
    n_targets: int
    n_subsets: int
    data: str
    recipe: str
    masks: str
    targets: str
    margins: list[float]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One method; the arrays are empty where it has no LDS.

    Attributes:
        per_target: `[n_targets]`, None where excluded.
        influence: `[n_subsets]`; sketch: `[1024]` (`bench.stats.paired.Sample`).
    """

    name: str
    params: dict[str, Any]
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    lds: float | None = None
    ci: tuple[float, float] | None = None
    per_target: list[float | None] = []
    influence: list[float] = []
    sketch: list[float] = []

    @property
    def sample(self) -> Sample:
        """For comparisons."""
        values = [math.nan if value is None else value for value in self.per_target]
        return Sample(np.array(values), np.array(self.influence), np.array(self.sketch))


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file.

    Attributes:
        schema: version of this format.
        judged: what every method was judged by.
        methods: in the order of the table.
        made: provenance of the run: date, commit of the folder that it was started in, command, versions, hardware,
            hashes of the code; and when it was made a baseline (updated).
        digest: of all the rest; one that does not fit shows that the file was edited.
    """

    schema: Literal[1] = SCHEMA
    judged: Judged
    methods: list[Entry]
    made: dict[str, str] = {}
    digest: str = ""

    def sealed(self) -> Baseline:
        """The same with its digest."""
        return msgspec.structs.replace(self, digest=_digest(self))


def _digest(baseline: Baseline) -> str:
    return hashing.digest(msgspec.to_builtins(msgspec.structs.replace(baseline, digest="")))


def of_run(
    board: Leaderboard,
    samples: Mapping[str, Sample],
    judge: Judge,
    data: Data,
) -> Baseline:
    """What of a run is kept for comparisons.

    Args:
        board: its leaderboard.
        samples: of the methods that have an LDS, by name.
        judge: its eval rows.
        data: the setting's examples.
    """
    judged = Judged(
        setting=board.setting,
        alpha=board.alpha,
        output=board.output,
        protocol=board.protocol,
        seed=board.seed,
        repeats=board.rows.repeats,
        n_train=board.n_train,
        n_targets=board.n_targets,
        n_subsets=len(judge.masks),
        data=board.hashes.get("data", ""),
        recipe=board.hashes.get("recipe", ""),
        masks=hashing.array(np.packbits(judge.masks, axis=1)),
        targets=hashing.digest([hashing.array(data.test_x), hashing.array(data.test_y)]),
        margins=_rounded(_margin_sketch(judge), 5),
    )
    entries = []
    for row in board.methods:
        one = samples.get(row.name) if row.lds is not None else None
        entries.append(
            Entry(
                name=row.name,
                params=row.params,
                status=row.status,
                reason=row.reason,
                lds=row.lds,
                ci=row.ci,
                per_target=[] if one is None else [None if v != v else round(v, 6) for v in one.per_target.tolist()],
                influence=[] if one is None else _rounded(one.influence, 6),
                sketch=[] if one is None else _rounded(one.sketch, 5),
            )
        )
    at = provenance.commit()
    made = {
        "date": provenance.now(),
        **({} if at is None else {"commit": at}),
        "command": board.command,
        **{name: board.hashes[name] for name in ("training code", "harness") if name in board.hashes},
        **{f"version of {k}": v for k, v in board.versions.items()},
        **board.hardware,
    }
    return Baseline(judged=judged, methods=entries, made=made).sealed()


def _rounded(values: NDArray[np.float64], digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


def _margin_sketch(judge: Judge) -> NDArray[np.float64]:
    """Of ranks scaled to [−1, 1], so that two files' sketches can be compared by their angle."""
    from bench.kernels.sketch import add_to_sketch

    out, ranks = np.zeros(_MARGINS), judge.ranks.ranks
    for start in range(0, len(ranks), 1024):
        add_to_sketch(ranks[start : start + 1024] / max(1, ranks.shape[1] - 1), start, out)
    return out


def write(path: Path, baseline: Baseline) -> None:
    """Write it, one line for each method's numbers, so that a diff shows which methods changed.

    Raises:
        BenchError: the folder cannot be written.
    """
    whole = msgspec.to_builtins(baseline)
    methods = ",\n".join(f"  {msgspec.json.encode(entry).decode()}" for entry in whole.pop("methods"))
    head = msgspec.json.format(msgspec.json.encode({k: v for k, v in whole.items() if k != "judged"})).decode()
    judged = msgspec.json.encode(whole["judged"]).decode()
    text = head.rstrip().removesuffix("}").rstrip() + f',\n  "judged": {judged},\n  "methods": [\n{methods}\n  ]\n}}\n'
    atomic.write_text(path, text)


def read(path: Path) -> Baseline:
    """Read and check a baseline, given the file or the folder of a run.

    Raises:
        InputError: it is not there, torn, of another schema, or was edited: the field is named.
    """
    file = path / FILE if path.is_dir() else path
    text = _content(path, file)
    remedy = _remedy(file)
    delete = remedy if remedy.startswith("delete it") else f"delete it and {remedy}"
    try:
        whole = decoded(text)
    except DocumentError as error:
        raise InputError(f"{file} is not a baseline ({error}): {delete}") from error
    if isinstance(whole, dict) and "ground_truth" in whole and "judged" not in whole:
        raise InputError(f"{file} is a leaderboard, not a baseline: name its folder {file.parent}, or a {FILE}")
    if not resembles(whole):
        raise InputError(f"{file} is not a baseline (judged or methods is missing): {delete}")
    if whole.get("schema") != SCHEMA:
        version = repr(whole["schema"]) if "schema" in whole else "missing"
        raise InputError(f"{file}: schema is {version}, and this version reads {SCHEMA}: {remedy}")
    try:
        found = msgspec.convert(whole, Baseline)
    except msgspec.ValidationError as error:
        raise InputError(f"{file} is not a baseline ({error}): {remedy}") from error
    fault = _fault(found)
    if fault is not None:
        raise InputError(f"{file}: {fault}: {remedy}")
    if found.judged.n_subsets < 2:
        raise InputError(
            f"{file}: judged.n_subsets is {found.judged.n_subsets}, and a difference needs at least two: run with more "
            "--models"
        )
    return found


def resembles(whole: Any) -> bool:
    """Whether a JSON document was once a baseline, be it of another schema or edited."""
    return isinstance(whole, dict) and {"judged", "methods"} <= set(whole)


def _content(path: Path, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        if (path / "leaderboard.json").exists():
            hint = "an older version made this run: give its command again, which uses its scores and takes seconds"
        elif path.is_dir():
            hint = "name a folder that `bench run` wrote"
        else:
            hint = f"name a folder that `bench run` wrote, or make it with `bench check RUN --baseline {file} --update`"
        raise InputError(f"{file} does not exist: {hint}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _remedy(file: Path) -> str:
    if file.name == FILE and (file.parent / "leaderboard.json").exists():
        return "delete it and run the same command again, which takes seconds"
    return f"make a new one with `bench check RUN --baseline {file} --update`"


def _fault(baseline: Baseline) -> str | None:
    """What does not fit, as `field …`."""
    names = [entry.name for entry in baseline.methods]
    judged = baseline.judged
    if len(set(names)) < len(names):
        return f"methods has {next(n for n in names if names.count(n) > 1)!r} twice"
    for name in ("n_train", "n_targets", "n_subsets", "repeats"):
        if getattr(judged, name) < 1:
            return f"judged.{name} is {getattr(judged, name)}"
    if not 0 < judged.alpha < 1:
        return f"judged.alpha is {judged.alpha:g}"
    if len(judged.margins) != _MARGINS:
        return f"judged.margins has {counted(len(judged.margins), 'number')} instead of {_MARGINS}"
    for at, entry in enumerate(baseline.methods):
        if entry.lds is None and not entry.per_target:
            continue
        where = f"methods[{at}] ({entry.name})"
        lengths = {"per_target": judged.n_targets, "influence": judged.n_subsets, "sketch": SKETCH}
        for name, length in lengths.items():
            if len(getattr(entry, name)) != length:
                return f"{where}.{name} has {counted(len(getattr(entry, name)), 'number')} instead of {length}"
        values = [value for value in entry.per_target if value is not None]
        if not all(-1 <= value <= 1 for value in values):
            return f"{where}.per_target has a value outside [−1, 1]"
        mean = math.fsum(values) / len(values) if values else math.nan
        if entry.lds is None or not abs(entry.lds - mean) <= _ROUNDED:
            return f"{where}.lds is {entry.lds}, and its per_target has the mean {mean:.6f}"
        if entry.ci is not None and not -1 <= entry.ci[0] <= entry.lds <= entry.ci[1] <= 1:
            return f"{where}.ci is {list(entry.ci)}, which does not hold its lds {entry.lds}"
    if baseline.digest != _digest(baseline):
        return "digest does not fit the rest, so the file was changed by hand"
    return None
