"""Datasets. Each file in datasets/ is one, importable as bench.datasets.<file>; the front door to them is here.

A dataset is a class with a `models` table and one call:

    class Digits(Dataset):
        models = {"mlp": Recipe(Architecture("mlp", (64,)), epochs=15, batch_size=64, lr=0.1)}

        def load(self, files: Files) -> Data: ...

Its constructor arguments are its parameters (`mnist/mlp:n_train=2000`). A **setting** is `dataset/model`.
"""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bench import _plugins
from bench.errors import BenchError, InputError, nearest
from bench.recipes import Architecture, Augmentation, Evidence, Recipe
from bench.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.files import Files

__all__ = [
    "Architecture",
    "Augmentation",
    "Data",
    "Dataset",
    "Evidence",
    "Recipe",
    "Setting",
    "check",
    "names",
    "setting",
    "settings",
]

__path__ = _plugins.search_path("datasets")


@dataclass(frozen=True)
class Data:
    """Examples in memory, in the order that scores and masks refer to.

    Attributes:
        train_x: float32 `[n_train, …]`, train_y: int64 `[n_train]` in `0 … n_classes − 1`.
        test_x: float32 `[n_targets, …]`, test_y: int64 `[n_targets]`: the targets.
        n_classes: number of classes.
        origin: what it was read from: file names and their checksums, or the package that bundles it.
        image: `(channels, height, width)` of an example that is an image, where its own shape does not say so.
        class_names: a name for each class; empty where they are numbers.
    """

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    n_classes: int
    origin: Mapping[str, str] = field(default_factory=dict)
    image: tuple[int, ...] = field(default=(), kw_only=True)
    class_names: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Refuse examples that cannot be trained on.

        Raises:
            InputError: an array of another type or length, a label out of range, or a pixel that is not finite.
        """
        import numpy as np

        if not isinstance(self.n_classes, int) or self.n_classes < 2:
            raise InputError(f"n_classes of a dataset must be an integer from 2 on, and it is {self.n_classes!r}")
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            for name, array, dtype in ((f"{part}_x", x, "float32"), (f"{part}_y", y, "int64")):
                found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                if found != dtype:
                    raise InputError(f"{name} of a dataset must be a {dtype} array, and it is {found}")
            if x.ndim < 2 or y.ndim != 1 or not len(x) == len(y) > 0 or not x.size:
                raise InputError(f"{part}_x and {part}_y must have one row per example: {x.shape} and {y.shape}")
            if not 0 <= y.min() <= y.max() < self.n_classes:
                raise InputError(f"{part}_y must be in 0 … {self.n_classes - 1}: it is in {y.min()} … {y.max()}")
            if not np.isfinite(x).all():
                raise InputError(f"{part}_x has values that are NaN or infinite")
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            shapes = f"{self.train_x.shape[1:]} and {self.test_x.shape[1:]}"
            raise InputError(f"examples of train_x and test_x must have one shape: {shapes}")
        told = self.origin.items() if isinstance(self.origin, Mapping) else [(None,)]
        if not all(isinstance(word, str) for item in told for word in item):
            raise InputError(f"origin of a dataset must be a dict of text to text, and it is {self.origin!r:.100}")
        if self.image and (len(self.image) != 3 or math.prod(self.image) != self.train_x[0].size):
            shape = f"(channels, height, width) of {self.train_x[0].size} numbers"
            raise InputError(f"image of a dataset must be {shape}, and it is {self.image!r:.100}")
        if self.class_names and len(self.class_names) != self.n_classes:
            raise InputError(
                f"class_names of a dataset has {counted(len(self.class_names), 'name')} for {self.n_classes} classes"
            )

    @property
    def n_train(self) -> int:
        """Training examples."""
        return len(self.train_y)

    @property
    def n_targets(self) -> int:
        """Targets: the test examples whose margins are predicted."""
        return len(self.test_y)


class Dataset(ABC):
    """Where examples come from, and which models learn them, by which recipe."""

    models: ClassVar[Mapping[str, Recipe]]

    @abstractmethod
    def load(self, files: Files) -> Data:
        """Read the examples; `files` finds (or downloads) and checks what is not bundled.

        Raises:
            BenchError: a file is missing, damaged, or not the published one.
        """


@dataclass(frozen=True)
class Setting:
    """A dataset with its parameters, and one of its models with the recipe."""

    dataset_name: str
    model: str
    dataset: Dataset
    parameters: Mapping[str, Any]
    recipe: Recipe
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`dataset/model`, with the parameters that differ from their defaults: `mnist/mlp:n_train=2000`."""
        extra = ",".join(f"{k}={v}" for k, v in sorted(self.changed.items()))
        return f"{self.dataset_name}/{self.model}" + (f":{extra}" if extra else "")

    @property
    def slug(self) -> str:
        """The name as a folder name."""
        return self.name.replace("/", "-").replace(":", "-").replace(",", "-").replace("=", "")


def names() -> dict[str, str]:
    """Every dataset with its one-line summary."""
    return {name: found.summary for name, found in _plugins.names("datasets").items()}


def settings() -> dict[str, str]:
    """Every setting with its dataset's summary, read from the files' text: nothing is imported."""
    listed: dict[str, str] = {}
    for name, found in _plugins.names("datasets").items():
        models = _model_names(found.tree) or ["…"]
        listed.update({f"{name}/{model}": found.summary for model in models})
    return listed


def _model_names(tree: ast.Module | None) -> list[str]:
    """Keys of the table `models`, where the file spells them out."""
    for node in ast.walk(tree) if tree else ():
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "models" and isinstance(node, ast.Assign | ast.AnnAssign):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return [k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
    return []


def setting(spec: str) -> Setting:
    """Read `dataset/model[:key=value,…]`; the dataset is a known name or the path of a Python file.

    Raises:
        BenchError: unknown dataset, model or parameter (with the nearest name and what there is).
    """
    name, model, arguments = check(spec)
    cls = _plugins.load("datasets", name, Dataset)  # type: ignore[type-abstract]
    models = getattr(cls, "models", {})
    if model not in models:
        raise _no_model(name, model, list(models))
    if not isinstance(models[model], Recipe):
        raise BenchError(f"the dataset {name}: its model {model!r} must be a Recipe, and it is {models[model]!r:.100}")
    built = _plugins.construct(cls, f"the dataset {name}", arguments)
    return Setting(_plugins.short(name), model, built.made, built.parameters, models[model], built.changed)


def check(spec: str) -> tuple[str, str, dict[str, Any]]:
    """Dataset, model and parameters of a setting; nothing is imported.

    Raises:
        BenchError: an unknown dataset, or a model that its file's text does not name.
    """
    where, arguments = _plugins.split_spec(spec)
    name, slash, model = where.rpartition("/")
    name = _plugins.canonical(name)
    known = _plugins.names("datasets")
    if name.endswith(".py"):
        _plugins.check("datasets", name)
    elif not slash or name not in known:
        there = list(settings())
        shape = "" if slash else "; a setting is dataset/model"
        raise BenchError(f"there is no setting {where!r}{nearest(where, there)} (there are: {', '.join(there)}{shape})")
    elif (models := _model_names(known[name].tree)) and model not in models:
        raise _no_model(name, model, models)
    return name, model, arguments


def _no_model(name: str, model: str, models: list[str]) -> BenchError:
    there = f"(there are: {', '.join(models)})" if models else "(its class has no table `models`)"
    return BenchError(f"the dataset {name} has no model {model!r}{nearest(model, models)} {there}")
