"""An opened ground truth with its setting: calls methods on it, and checks what they return."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import halving, hashing, launch, methods, packages, trained_on
from bench.absent import Absent
from bench.access import Access
from bench.checkpoints import Pool
from bench.cost import Meter, metered
from bench.errors import BenchError, ChangedError, EvalRowError, InputError, UnmetError
from bench.guard import Guard
from bench.methods import Chosen
from bench.process import process_as_it_was
from bench.progress import Progress
from bench.results import Cost, SearchRow
from bench.returned import check_scores
from bench.score_files import Attribution
from bench.store import GroundTruth
from bench.task import Task
from bench.wording import counted, either

if TYPE_CHECKING:
    from bench.datasets import Data, Setting

_METHOD_STREAM = 3


@dataclass
class Bench:
    """A setting with its ground truth on disk, ready for methods."""

    setting: Setting
    data: Data
    truth: GroundTruth
    access: Access
    pool: Pool
    folder: Path
    progress: Progress
    n_rows: int
    debug: bool = False

    @classmethod
    def open(
        cls, setting: Setting, data: Data, store: Path, folder: Path, device: str, progress: Progress, n_rows: int
    ) -> Bench:
        """Open the store and settle who may see what.

        Raises:
            BenchError: no store, another setting's, or one whose groups of rows mix.
        """
        from bench.train import Trainer, pick_device

        truth = GroundTruth.open(store)
        if truth.imported is not None:
            raise InputError(f"{store} was imported without the examples of {setting.name}: leave the setting out")
        if truth.meta is None:
            raise InputError(f"{store} has no meta.json, which says what it was trained on and which rows judge")
        identity = truth.meta.identity
        if identity.setting != setting.name:
            raise InputError(f"{store} was made with {identity.setting}, not {setting.name}: name that setting")
        trained_on.refuse_others(store, identity, setting, data)
        groups = [truth.of_group(group, n_rows) for group in ("fit", "tune", "eval")]
        diverged = sum(row < n_rows for row in truth.meta.diverged)
        no_fit = len(groups[0]) < 1 and not identity.plan.judge_only
        if diverged and (no_fit or len(groups[2]) < 2 * identity.plan.repeats):
            raise BenchError(
                f"{store}: {diverged} of {n_rows} models diverged, and too few are left to judge by: lower the "
                "recipe's learning rate"
            )
        trainer = Trainer(setting.recipe, data, pick_device(device), protocol=identity.protocol)
        pool = Pool(trainer, identity.seed, folder / "checkpoints", truth.meta.key, progress)
        return cls(setting, data, truth, Access(truth, *groups), pool, folder, progress, n_rows)

    @classmethod
    def without_examples(cls, truth: GroundTruth, folder: Path, device: str, progress: Progress) -> Bench:
        """Of an imported store: methods have its rows, and nothing that needs an example or a model.

        Raises:
            BenchError: no such device.
        """
        from bench.train import pick_device

        assert truth.imported is not None
        why = f"needs the examples, and {truth.path} was imported without them"
        data: Any = Absent(why, n_train=truth.imported.n_train, n_targets=truth.imported.n_targets)
        pool: Any = Absent(why, trainer=Absent(why, device=pick_device(device)))
        setting: Any = Absent(why)
        groups = [truth.of_group(group) for group in ("fit", "tune", "eval")]
        return cls(setting, data, truth, Access(truth, *groups), pool, folder, progress, len(truth.masks))

    @property
    def _meta(self) -> Any:
        return self.truth.imported or self.truth.meta

    @property
    def _made(self) -> Any:
        return self.truth.imported or self._meta.identity

    def key(self, one: Chosen) -> str:
        """Hash of everything that a method's scores come from."""
        source = inspect.getsourcefile(type(one.method))
        return hashing.digest(
            {
                "ground truth": self._meta.key,
                "rows": self.n_rows,
                "method": one.name,
                "parameters": msgspec.to_builtins(dict(one.parameters), enc_hook=repr),
                "source": hashing.file(Path(source)) if source else None,
                "harness": hashing.harness_code(),
                "versions": launch.versions(),
            }
        )

    def task(self, one: Chosen, cache: Path) -> Task:
        """What a method is given. Its randomness comes from the root seed and the method's name."""
        number = int.from_bytes(hashlib.sha256(one.plugin.encode()).digest()[:4])
        identity = self._made
        seed = np.random.SeedSequence([identity.seed, _METHOD_STREAM, number])
        trainer = self.pool.trainer
        return Task(
            self.setting, self.data, self.access, trainer, self.pool, identity.output, identity.alpha, seed, cache
        )

    def unmet(self, one: Chosen) -> str | None:
        """What a method needs and this does not have, as `needs …`."""
        needs = methods.needs_of(one.method)
        have = {"fit": len(self.access.fit), "tune": len(self.access.tune)}
        for group, least in (("fit", needs.fit_rows), ("tune", needs.tune_rows)):
            if have[group] < least:
                there = f"there {either(have[group], 'is', 'are')} {have[group]}"
                return f"needs {counted(least, f'{group} row')}, and {there}"
        try:
            why = self.setting.recipe.not_plain if needs.plain_sgd else None
            count = self.pool.trainer.n_parameters if needs.max_parameters is not None or needs.checkpoints else 0
        except UnmetError as error:
            return str(error)
        if why is not None:
            return f"needs a recipe of plain SGD, and of this one {why}"
        if needs.max_parameters is not None and count > needs.max_parameters:
            return f"needs a model of at most {needs.max_parameters:,} parameters, and this one has {count:,}"
        for package in needs.packages:
            if (fault := packages.fault(package)) is not None:
                return f"{fault}: {packages.remedy(package, needs.extra)}"
        return None

    def attribute(self, one: Chosen) -> Attribution:
        """Call a method, check what it returns and what it touched.

        Raises:
            Exception: whatever the method raises.
            BenchError: its scores have another shape, are not numbers, or it touched a row that judges, or examples.
        """
        returned, task, meter, kept = self.call(one)
        checked = check_scores(returned, self.data.n_train, self.data.n_targets)
        usage = task.usage
        cost = Cost(
            round(meter.seconds - usage.waited, 3),
            usage.models,
            meter.peak_bytes,
            round(usage.train_seconds, 3),
            kept + checked.nbytes + sum(array.nbytes for array in task.kept.values()),
        )
        searches = [SearchRow(one.what, one.chosen, one.tried) for one in task.searches]
        return Attribution(checked, cost, list(dict.fromkeys(task.notes)), task.kept, searches)

    def call(self, one: Chosen) -> tuple[Any, Task, Meter, int]:
        """What a method returns, unchecked; its task, what was measured, and how many bytes it left in its cache.

        Raises:
            Exception: whatever the method raises.
            EvalRowError: it touched a row that judges.
            ChangedError: it wrote to the examples. Those of others are as they were.
        """
        with tempfile.TemporaryDirectory(prefix="bench-") as cache:
            task = self.task(one, Path(cache))
            guard = Guard(self.truth.path)
            with process_as_it_was(), metered() as meter, guard, halving.told(task.note):
                try:
                    scores = one.method.attribute(task)
                finally:
                    opened = guard.touched and f"it opened {Path(guard.touched).name} of the ground truth"
                    refused = task.refused or opened
                    if refused:
                        raise EvalRowError(f"refused: {refused}; only task.fit and task.tune may be used")
            if changed := task.changed():
                names = " and ".join(f"task.data.{name}" for name in changed)
                raise ChangedError(f"it changed {names}, which a method must leave as it is: work on a copy")
            kept = sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file())
        return scores, task, meter, kept
