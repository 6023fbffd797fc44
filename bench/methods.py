"""Attribution methods. Each file in methods/ is one, importable as bench.methods.<file>; the front door is here.

A method is one call: what a task gives → scores `[n_train, n_targets]`, positive where keeping the example raises
the target's margin. A complete one:

    class LabelMatch(Method):
        def attribute(self, task: Task) -> NDArray[np.float32]:
            return (task.data.train_y[:, None] == task.data.test_y[None, :]).astype(np.float32)

Its constructor arguments are its parameters: annotate them and give them defaults; they are then set as
`name:key=value,…`.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench import _plugins
from bench.errors import BenchError, InputError
from bench.wording import raised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.task import Task, TrainedOn

__all__ = ["Chosen", "Method", "Needs", "by_default", "check", "chosen", "distinct", "names"]

__path__ = _plugins.search_path("methods")

_ALL = "all"
MOST_CHECKPOINTS = 100_000


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without; where it is missing, the table says `skipped: needs …`.

    Attributes:
        fit_rows: at least so many rows of the ground truth to fit on.
        tune_rows: at least so many rows to choose hyper-parameters on.
        max_parameters: the largest model it can work on; None for any.
        checkpoints: so many trained models.
        trained_on: what these have seen: `all` examples, or each a random one of `subsets`.
        single_model: how many they are by the protocol `single-model`, where that differs; None where it does not.
        plain_sgd: a recipe whose training run can be differentiated: steps of SGD on unaugmented batches.
        packages: optional packages as pip knows them, with their bounds, such as "kronfluence>=1.0".
        extra: the project's extra that installs them, for the sentence that says what is missing.
    """

    fit_rows: int = 0
    tune_rows: int = 0
    max_parameters: int | None = None
    checkpoints: int = 0
    trained_on: TrainedOn = "all"
    single_model: int | None = None
    plain_sgd: bool = False
    packages: tuple[str, ...] = ()
    extra: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can have.

        Raises:
            InputError: one is negative, or there are more checkpoints than anyone would train.
        """
        for name in ("fit_rows", "tune_rows", "max_parameters", "checkpoints", "single_model"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"it needs {value} {name}: that cannot be negative")
        if self.checkpoints > MOST_CHECKPOINTS:
            raise InputError(f"it asks for {self.checkpoints:,} checkpoints: take at most {MOST_CHECKPOINTS:,}")


class Method(ABC):
    """A training-data attribution method.

    Attributes:
        units: what numbers of a parameter are multiples of, such as {"damping": "the mean diagonal of the kernel"}.
        variants: the parameters that a run of every method tries, one row of the table each.
        default: whether a run without `--method` tries it too; False for what takes minutes, or an extra.
        citation: where it was published: authors, year, title.
        growth: how its cost grows, in words, such as "checkpoints × n_train × parameters".
    """

    units: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    default: ClassVar[bool] = True
    citation: ClassVar[str] = ""
    growth: ClassVar[str] = ""

    @property
    def needs(self) -> Needs:
        """What it needs, with the parameters it was built with."""
        return Needs()

    @abstractmethod
    def attribute(self, task: Task) -> NDArray[Any]:
        """Scores `[n_train, n_targets]`, real and finite; positive = keeping the example raises the margin."""


@dataclass(frozen=True)
class Chosen:
    """A method with its parameters.

    Attributes:
        name: the method's name in tables, with the parameters that differ from their defaults.
        method: the object; parameters: all of them, defaults filled in.
        spec: the plug-in's name, or the path of its file.
    """

    name: str
    method: Method
    parameters: Mapping[str, Any]
    spec: str

    @property
    def plugin(self) -> str:
        """The method's name without parameters, wherever its file is."""
        return _plugins.short(self.spec)


def needs_of(method: Method, what: str = "") -> Needs:
    """What a method needs.

    Args:
        method: the object.
        what: it is called, where the sentence does not go on from its name.

    Raises:
        BenchError: it does not say, or not by a `Needs`.
    """
    begin = f"{what}: " if what else ""
    try:
        needs: Any = method.needs
    except Exception as error:
        raise BenchError(f"{begin}its needs cannot be read: {raised(error)}") from error
    if not isinstance(needs, Needs):
        raise BenchError(f"{begin}its needs are of type {type(needs).__name__}: they must be a bench.Needs")
    return needs


def names() -> dict[str, str]:
    """Every method with its one-line summary; nothing is imported."""
    return {name: found.summary for name, found in _plugins.names("methods").items()}


def by_default() -> dict[str, bool]:
    """Whether a run without `--method` tries a method (`Method.default`), of every one, as its file says.

    Nothing is imported; of a method from an installed package it is not known, and taken to be so.
    """
    return {name: found.tree is None or not _says_no(found.tree) for name, found in _plugins.names("methods").items()}


def _says_no(tree: ast.Module) -> bool:
    lines = [line for cls in tree.body if isinstance(cls, ast.ClassDef) for line in cls.body]
    for line in lines:
        targets = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        named = any(isinstance(one, ast.Name) and one.id == "default" for one in targets)
        if named and isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Constant):
            return line.value.value is False
    return False


def chosen(specs: list[str] | None) -> list[Chosen]:
    """The methods that `name[:key=value,…]` specs name, each once; `all` is every method and variant.

    No specs at all are those methods of `all` that say so of themselves (`Method.default`).

    Raises:
        BenchError: an unknown method or parameter, a value of the wrong type, or a file that is no method. Among
            all methods, by default, one that cannot be loaded fails when it is called.
    """
    found: list[Chosen] = []
    for spec in specs or [_ALL]:
        if spec == _ALL:
            found += [one for name in names() for one in _variants(name) if specs or one.method.default]
        else:
            name, arguments = _plugins.split_spec(spec)
            found.append(_build(name, _plugins.load("methods", name, Method), arguments))  # type: ignore[type-abstract]
    return distinct(found)


def distinct(found: Iterable[Chosen]) -> list[Chosen]:
    """Each of several methods once, in their order.

    Raises:
        BenchError: two that are not the same have one name.
    """
    picked: dict[str, Chosen] = {}
    for one in found:
        other = picked.setdefault(one.name, one)
        if other.spec != one.spec:
            raise BenchError(
                f"two methods are called {one.name!r}, {other.spec} and {one.spec}: rename a file, or give scores a "
                "name as --scores NAME=FILE.npy"
            )
    return list(picked.values())


def check(specs: Iterable[str]) -> None:
    """Refuse specs of methods that do not exist; nothing is imported.

    Raises:
        BenchError: an unknown method, or a spec that cannot be read.
    """
    for spec in specs:
        if spec != _ALL:
            _plugins.check("methods", _plugins.split_spec(spec)[0])


class _Broken(Method):
    """Stands for a plug-in that cannot be loaded, so that a run of every method shows it as failed."""

    def __init__(self, error: BenchError) -> None:
        self.error = error

    def attribute(self, task: Task) -> NDArray[Any]:  # noqa: ARG002
        raise self.error


def _variants(name: str) -> list[Chosen]:
    try:
        cls = _plugins.load("methods", name, Method)  # type: ignore[type-abstract]
        return [_build(name, cls, dict(variant)) for variant in cls.variants]
    except BenchError as error:
        return [Chosen(name, _Broken(error), {}, name)]


def _build(name: str, cls: type[Method], arguments: dict[str, Any]) -> Chosen:
    name, short = _plugins.canonical(name), _plugins.short(name)
    built = _plugins.construct(cls, f"the method {short}", arguments)
    return Chosen(short + built.suffix, built.made, built.parameters, name)
