"""TRAK through its authors' package (PyPI `traker`): projected margin gradients of several checkpoints.

Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale". The package's default is
no damping; `damping` adds that share of the mean diagonal of each checkpoint's feature kernel, and `tune` takes the
best of DAMPINGS by LDS on the tune rows. As in `trak-sjlt`, gradients of training examples are of the logsumexp margin,
which the loss is a function of, and those of targets of the margin that is judged.
"""

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench import halving
from bench.methods import Method, Needs
from bench.outputs import margins
from bench.parameters import at_least
from bench.task import Task

DAMPINGS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
BATCH = 256


class Trak(Method):
    units = {"damping": "the mean diagonal of a checkpoint's feature kernel"}
    variants = ({}, {"damping": "tune"})
    citation = 'Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale"'
    growth = "checkpoints × (n_train + n_targets) × parameters × projection dimension"

    def __init__(self, checkpoints: int = 5, proj_dim: int = 512, damping: float | Literal["tune"] = 0.0) -> None:
        at_least(1, checkpoints=checkpoints, proj_dim=proj_dim)
        at_least(0, damping=damping)
        self.checkpoints, self.proj_dim, self.damping = checkpoints, proj_dim, damping

    @property
    def needs(self) -> Needs:
        tuned = 2 if self.damping == "tune" else 0
        return Needs(tune_rows=tuned, checkpoints=self.checkpoints, packages=("traker>=0.3.2",))

    def attribute(self, task: Task) -> NDArray[np.float32]:
        with contextlib.redirect_stderr(io.StringIO()):  # the package's progress bars
            return self._attribute(task)

    def _attribute(self, task: Task) -> NDArray[np.float32]:
        import torch
        from trak import TRAKer
        from trak.modelout_functions import ImageClassificationModelOutput
        from trak.projectors import BasicProjector, ProjectionType

        class Judged(ImageClassificationModelOutput):  # type: ignore[misc]  # the package has no types
            @staticmethod
            def get_output(model: Any, weights: Any, buffers: Any, image: torch.Tensor, label: torch.Tensor) -> Any:
                logits = torch.func.functional_call(model, (weights, buffers), image.unsqueeze(0))
                return margins(logits, label.unsqueeze(0), task.output).sum()

        def through(call: Any, x: torch.Tensor, y: torch.Tensor) -> Callable[[slice], None]:
            # By `num_samples` the package would count the examples of a batch that did not fit.
            return lambda part: call(batch=(x[part], y[part]), inds=np.arange(part.start, part.stop))

        models = task.checkpoints(self.checkpoints)
        if self.damping == 0 and self.proj_dim >= task.data.n_train:
            task.note(f"{self.proj_dim} dimensions for {task.data.n_train} examples and no damping: a singular kernel")
        projector = BasicProjector(
            grad_dim=sum(p.numel() for p in models[0].parameters()),
            proj_dim=self.proj_dim,
            seed=task.seed,
            proj_type=ProjectionType.rademacher,
            device=task.device,
            block_size=self.proj_dim,  # one block: the package would otherwise draw the matrix anew for every batch
        )
        projector.free_memory = lambda: None  # the package frees the matrix at each finalize, and cannot do so twice
        traker = TRAKer(
            model=task.flat().module,
            task="image_classification",
            train_set_size=task.data.n_train,
            save_dir=str(task.cache),
            device=str(task.device),
            projector=projector,
            proj_dim=self.proj_dim,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        x, y = task.inputs("train")
        for number, model in enumerate(models):
            traker.load_checkpoint(model.state_dict(), model_id=number)
            halving.through(through(traker.featurize, x, y), len(y), BATCH)
        x, y = task.inputs("test")
        traker.finalize_features()
        if task.output != "logsumexp":  # which is the package's own
            traker.gradient_computer.modelout_fn = Judged()
        for number, model in enumerate(models):
            traker.start_scoring_checkpoint("targets", model.state_dict(), number, num_targets=len(y))
            halving.through(through(traker.score, x, y), len(y), BATCH, "targets")

        def scores(damping: float) -> NDArray[np.float32]:
            for number in range(self.checkpoints):
                traker.saver.load_current_store(number)
                features = torch.as_tensor(traker.saver.current_store["grads"])
                traker.score_computer.lambda_reg = damping * float(features.square().sum(0).mean())
                traker.saver.model_ids[number]["is_finalized"] = 0
                traker.finalize_features(model_ids=[number])
            return np.array(traker.finalize_scores("targets"), np.float32)

        if self.damping == "tune":
            return task.choose((d, scores(d)) for d in DAMPINGS)[1]
        return scores(self.damping)
