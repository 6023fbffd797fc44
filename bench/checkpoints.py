"""Models trained for the methods that look into models, on the full training set or on random subsets of it.

They are made once and kept on disk. Their randomness is a stream of its own: they share no subset and no seed with a
row of the ground truth.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import atomic, hashing, launch, subsets

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.progress import Progress
    from bench.train import Trainer, TrainingRun
    from bench.trajectory import Trajectory


_SUBSETS = 4  # a stream of the root seed, beside those of `bench.subsets`


class Pool:
    """Checkpoints 0, 1, 2, … of a ground truth's setting. Number c depends on the root seed and c alone.

    Args:
        trainer: what trains them.
        seed: the root seed.
        folder: where they are kept, one file each, named by number and `key`.
        key: the ground truth's: a checkpoint of another is never used.
        alpha: each is trained on a random subset of this share of the examples; None: on all of them.
    """

    def __init__(
        self, trainer: Trainer, seed: int, folder: Path, key: str, progress: Progress, alpha: float | None = None
    ) -> None:
        self.trainer, self.seed, self.folder, self.key, self.progress = trainer, seed, folder, key, progress
        self.alpha, self._on_subsets = alpha, dict[float, Pool]()
        self._have: dict[int, tuple[NDArray[np.float32], float]] = {}

    def get(self, count: int) -> tuple[torch.Tensor, float]:
        """The first `count` as one tensor `[count, n_state]` on the device (see `Flat`), and the seconds they took."""
        import torch
        import torch._dynamo  # torch.func would import it, seconds, at its first use: in the middle of a method's time

        for number in range(count):
            if number not in self._have and (kept := self._read(number)) is not None:
                self._have[number] = kept
        missing = [number for number in range(count) if number not in self._have]
        if missing:
            self._train(missing)
        parts = [self._have[number] for number in range(count)]
        vectors = torch.from_numpy(np.stack([vector for vector, _ in parts])).to(self.trainer.device)
        return vectors, sum(seconds for _, seconds in parts)

    def on_subsets(self, alpha: float) -> Pool:
        """The pool of models that are each trained on a random subset of this share of the examples."""
        made = Pool(self.trainer, self.seed, self.folder, self.key, self.progress, alpha)
        return self._on_subsets.setdefault(alpha, made)

    def examples(self, number: int) -> NDArray[np.int64]:
        """Sorted indices of the training examples that checkpoint `number` is trained on."""
        n = self.trainer.data.n_train
        if self.alpha is None:
            return np.arange(n)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, _SUBSETS, number, 0]))
        return np.sort(rng.permutation(n)[: subsets.subset_size(n, self.alpha)])

    def model_seed(self, number: int) -> np.random.SeedSequence:
        """What the initialisation and the batches of checkpoint `number` come from."""
        if self.alpha is None:
            return subsets.checkpoint_seed(self.seed, number)
        return np.random.SeedSequence([self.seed, _SUBSETS, number, 1])

    def trajectory(self, number: int, count: int) -> tuple[Trajectory, float]:
        """`count` states along the training run of checkpoint `number`, and the seconds that the run took."""
        from bench import trajectory

        return trajectory.of_checkpoint(self, number, count)

    def run(self, number: int) -> TrainingRun:
        """How checkpoint `number` is trained.

        Raises:
            BenchError: the recipe is not plain SGD.
        """
        return self.trainer.full_run(subsets.checkpoint_seed(self.seed, number))

    def _path(self, number: int) -> Path:
        kind = "" if self.alpha is None else f"-{self.alpha:g}"
        return self.folder / f"{number:04d}{kind}-{self.key[:16]}.npz"

    def _read(self, number: int) -> tuple[NDArray[np.float32], float] | None:
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                vector, seconds, checksum = kept["vector"], float(kept["seconds"]), str(kept["checksum"])
        except Exception:  # zipfile and numpy have many words for one broken file
            checksum = "torn"
        if checksum == "torn" or checksum != self._checksum(number, vector):
            self.progress.say(f"{path.name} is torn or altered, or of another setting: the checkpoint is trained anew")
            return None
        return vector, seconds

    def _checksum(self, number: int, vector: NDArray[np.float32]) -> str:
        which = [number] if self.alpha is None else [number, self.alpha]
        return hashing.digest([self.key, *which, hashing.array(vector)])

    def _train(self, numbers: list[int]) -> None:
        from bench.train import cpu_threads, one_torch_thread

        on_cpu = self.trainer.device.type == "cpu"
        workers = cpu_threads() if on_cpu else 1
        size = -(-len(numbers) // workers)
        spans = [(at, min(at + size, len(numbers))) for at in range(0, len(numbers), size)]
        writing = threading.Lock()

        def stack(span: tuple[int, int]) -> int:
            mine = numbers[slice(*span)]
            began = time.perf_counter()
            chosen, seeds = [self.examples(number) for number in mine], [self.model_seed(number) for number in mine]
            vectors = self.trainer.train(chosen, seeds).cpu().numpy()
            each = (time.perf_counter() - began) / len(mine)
            with writing:
                for number, vector in zip(mine, vectors, strict=True):
                    self._have[number] = vector, each
                    self._keep(number, vector, each)
            return len(mine)

        context = one_torch_thread() if on_cpu else nullcontext()
        what = "training full-set checkpoints" if self.alpha is None else "training checkpoints on subsets"
        with context, self.progress.task(what, len(numbers), "models") as advance:
            launch.run_all(stack, spans, workers, advance, self.trainer.stop)

    def _keep(self, number: int, vector: NDArray[np.float32], seconds: float) -> None:
        checksum = self._checksum(number, vector)
        atomic.write(
            self._path(number),
            lambda file: np.savez(file, vector=vector, seconds=seconds, checksum=checksum),
        )
