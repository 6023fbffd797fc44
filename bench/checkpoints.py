"""Models trained on the full training set, for the methods that look into models; made once, kept on disk."""

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


class Pool:
    """Checkpoints 0, 1, 2, … of a ground truth's setting. Number c depends on the root seed and c alone.

    Args:
        trainer: what trains them.
        seed: the root seed.
        folder: where they are kept, one file each, named by number and `key`.
        key: the ground truth's: a checkpoint of another is never used.
    """

    def __init__(self, trainer: Trainer, seed: int, folder: Path, key: str, progress: Progress) -> None:
        self.trainer, self.seed, self.folder, self.key, self.progress = trainer, seed, folder, key, progress
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

    def run(self, number: int) -> TrainingRun:
        """How checkpoint `number` is trained.

        Raises:
            BenchError: the recipe is not plain SGD.
        """
        return self.trainer.full_run(subsets.checkpoint_seed(self.seed, number))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}-{self.key[:16]}.npz"

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
            self.progress.say(f"the checkpoint {path.name} is torn or altered; it is trained anew")
            return None
        return vector, seconds

    def _checksum(self, number: int, vector: NDArray[np.float32]) -> str:
        return hashing.digest([self.key, number, hashing.array(vector)])

    def _train(self, numbers: list[int]) -> None:
        from bench.train import cpu_threads, one_torch_thread

        everything = np.arange(self.trainer.data.n_train)
        on_cpu = self.trainer.device.type == "cpu"
        workers = cpu_threads() if on_cpu else 1
        size = -(-len(numbers) // workers)
        spans = [(at, min(at + size, len(numbers))) for at in range(0, len(numbers), size)]
        writing = threading.Lock()

        def stack(span: tuple[int, int]) -> int:
            mine = numbers[slice(*span)]
            began = time.perf_counter()
            seeds = [subsets.checkpoint_seed(self.seed, number) for number in mine]
            vectors = self.trainer.train([everything] * len(mine), seeds).cpu().numpy()
            each = (time.perf_counter() - began) / len(mine)
            with writing:
                for number, vector in zip(mine, vectors, strict=True):
                    self._have[number] = vector, each
                    self._keep(number, vector, each)
            return len(mine)

        context = one_torch_thread() if on_cpu else nullcontext()
        with context, self.progress.task("training full-set checkpoints", len(numbers), "models") as advance:
            launch.run_all(stack, spans, workers, advance, self.trainer.stop)

    def _keep(self, number: int, vector: NDArray[np.float32], seconds: float) -> None:
        checksum = self._checksum(number, vector)
        atomic.write(
            self._path(number),
            lambda file: np.savez(file, vector=vector, seconds=seconds, checksum=checksum),
        )
