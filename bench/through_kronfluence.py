"""K-FAC and EK-FAC influence through kronfluence, as its authors use it: factors fitted, then pairwise scores.

Grosse et al. (2023), "Studying large language model generalization with influence functions". The package does not
know of weight decay; its scores for the measurement −margin are Σ −∇m_jᵀ (F + λ I)⁻¹ ∇ℓ_k over linear and
convolutional layers, with labels of F drawn from the model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.module.tracked_module import TrackedModule
from kronfluence.task import Task as KronfluenceTask
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from bench import halving
from bench.outputs import margins
from bench.recipes import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.task import Task

Strategy = Literal["kfac", "ekfac"]
DAMPINGS: tuple[float | str, ...] = ("library", 0.001, 0.01, 0.1, 1.0, 10.0)
BATCH = 512
_QUERY_BYTES = 2**30


class _Classification(KronfluenceTask):  # type: ignore[misc]  # the package has no types
    """The package's description of what is trained and what is measured."""

    def __init__(self, output: Output, smoothing: float) -> None:
        self.output, self.smoothing = output, smoothing

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
        """Sum of the losses; where `sample`, labels are drawn ones, which need no smoothing."""
        x, y = batch
        smoothing = 0.0 if sample else self.smoothing
        return F.cross_entropy(model(x), y, reduction="sum", label_smoothing=smoothing)

    def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
        """Minus the sum of the margins: an example that raises a margin then has a positive score."""
        x, y = batch
        return -margins(model(x), y, self.output).sum()


def attribute(task: Task, strategy: Strategy, checkpoints: int, damping: float | str) -> NDArray[np.float32]:
    """Scores `[n_train, n_targets]`, mean over checkpoints.

    Args:
        task: what a method is given.
        strategy: which factors.
        checkpoints: how many models.
        damping: relative to the mean eigenvalue over all layers; `library` for the package's default, 1e-8 absolute;
            `tune` for the best of DAMPINGS on the tune rows, chosen at the first checkpoint.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, that the package's GradScaler has moved
        return _attribute(task, strategy, checkpoints, damping)


def _attribute(task: Task, strategy: Strategy, checkpoints: int, damping: float | str) -> NDArray[np.float32]:
    def scores_at(one: Analysis, damping: float | str) -> NDArray[np.float32]:
        library = ScoreArguments().damping_factor
        return one.scores(library if damping == "library" else float(damping) * one.mean_eigenvalue)

    total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
    for number, model in enumerate(task.checkpoints(checkpoints)):
        one = Analysis(task, model, strategy, f"{strategy}-{number}")
        if damping == "tune":
            damping, scores = task.choose((d, scores_at(one, d)) for d in DAMPINGS)
        else:
            scores = scores_at(one, damping)
        total += scores / checkpoints
    return total


class Analysis:
    """The package's factors at one model, fitted; its files are in the task's cache.

    Args:
        task: what a method is given.
        model: a module of its own: the package puts its wrappers into it.
        strategy: which factors.
        name: of the folder.
        empirical: factors by the examples' own labels in place of drawn ones.
    """

    def __init__(self, task: Task, model: nn.Module, strategy: Strategy, name: str, *, empirical: bool = False) -> None:
        self._train, self._test = (TensorDataset(*(t.cpu() for t in task.inputs(part))) for part in ("train", "test"))
        self._model, self._name, self._device, self._cache = model, name, task.device, task.cache
        self._about = _Classification(task.output, task.setting.recipe.label_smoothing)
        _know_subclasses(model)
        self._n_parameters = sum(p.numel() for p in model.parameters())
        self.strategy: Strategy = strategy
        arguments = FactorArguments(strategy=strategy, use_empirical_fisher=empirical)
        generator = torch.Generator(task.device).manual_seed(task.seed)
        first, second = (self._train if empirical else self._drawn(generator) for _ in range(2))

        def fit(batch: int) -> Analyzer:
            made = self._opened()
            how = {"per_device_batch_size": batch, "overwrite_output_dir": True}
            made.fit_covariance_matrices("factors", first, factor_args=arguments, **how)
            made.perform_eigendecomposition("factors", factor_args=arguments, overwrite_output_dir=True)
            made.fit_lambda_matrices("factors", second, factor_args=arguments, **how)
            return made

        self._analyzer, self._batch = halving.whole(fit, min(BATCH, len(self._train)))

    def _opened(self) -> Analyzer:
        """With a model of its own: one that ran out of memory half way is left with hooks in it."""
        return Analyzer(
            self._name,
            prepare_model(copy.deepcopy(self._model), self._about),
            self._about,
            cpu=self._device.type == "cpu",
            disable_tqdm=True,
            output_dir=str(Path(self._cache)),
        )

    def _drawn(self, generator: torch.Generator) -> TensorDataset:
        """The training examples with labels drawn from the model; beforehand, so that batches may be of any size."""
        x = self._train.tensors[0]

        def probabilities(part: slice) -> torch.Tensor:
            return torch.softmax(self._model(x[part].to(self._device)), 1)

        with torch.no_grad():
            p = torch.cat([found for _, found in halving.each(probabilities, len(x), BATCH)])
        drawn = [torch.multinomial(some, 1, generator=generator).squeeze(1) for some in p.split(BATCH)]
        return TensorDataset(x, torch.cat(drawn).cpu())

    @property
    def mean_eigenvalue(self) -> float:
        """Of the factored matrix, over the parameters of all layers."""
        if self.strategy == "ekfac":
            found = self._analyzer.load_lambda_matrices("factors")
            counts = found["num_lambda_processed"]
            parts = [m.double() / int(counts[name]) for name, m in found["lambda_matrix"].items()]
        else:
            found = self._analyzer.load_eigendecomposition("factors")
            pairs = found["activation_eigenvalues"], found["gradient_eigenvalues"]
            parts = [torch.outer(a.double(), pairs[1][name].double()) for name, a in pairs[0].items()]
        return float(torch.cat([part.reshape(-1) for part in parts]).mean())

    def scores(self, damping_factor: float | None) -> NDArray[np.float32]:
        """Scores `[n_train, n_targets]` per training example of the mean loss, with an absolute damping."""
        whole, queries = self._batch, min(len(self._test), max(1, _QUERY_BYTES // (4 * self._n_parameters)))

        def score(batch: int) -> None:
            if batch < whole:
                self._analyzer = self._opened()
            self._analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                self._test,
                self._train,
                per_device_query_batch_size=max(1, queries * batch // whole),
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(damping_factor=damping_factor),
                overwrite_output_dir=True,
            )

        halving.whole(score, whole)
        made: NDArray[np.float32] = self._analyzer.load_pairwise_scores("scores")["all_modules"].T.numpy()
        return made / np.float32(len(self._train))


def _know_subclasses(model: nn.Module) -> None:
    """The package looks its wrappers up by a layer's exact type, and would stop at one derived from nn.Linear.

    Its wrappers call the layer itself, so a subclass keeps its own forward.
    """
    known: dict[type[nn.Module], Any] = TrackedModule.SUPPORTED_MODULES
    kinds: Sequence[tuple[type[nn.Module], Any]] = list(known.items())
    for layer in model.modules():
        for kind, wrapper in kinds:
            if isinstance(layer, kind):
                known.setdefault(type(layer), wrapper)
