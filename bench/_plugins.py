"""Find and load the modules of a plug-in folder, methods/ or datasets/, importing none that is not used."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from bench.errors import BenchError, nearest

Kind = Literal["methods", "datasets"]
T = TypeVar("T")

_HERE = Path(__file__).resolve().parent


def search_path(kind: Kind) -> list[str]:
    """Where `bench.<kind>` looks: inside the wheel, else beside bench/, then the folders of $BENCH_<KIND>."""
    installed, checkout = _HERE / kind, _HERE.parent / kind
    own = installed if installed.is_dir() else checkout
    extra = os.environ.get(f"BENCH_{kind.upper()}", "")
    return [str(own), *filter(None, extra.split(os.pathsep))]


@dataclass(frozen=True)
class Found:
    """A plug-in that exists: its name, its one-line summary and the syntax tree of its file, where it has one."""

    name: str
    summary: str
    tree: ast.Module | None = None
    point: EntryPoint | None = None


@cache
def _found(kind: Kind, path: tuple[str, ...]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for module in pkgutil.iter_modules(path):
        if module.name.startswith("_"):
            continue
        name = module.name.replace("_", "-")  # fashion_mnist.py is fashion-mnist
        spec = module.module_finder.find_spec(module.name, None)
        text = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            found[name] = Found(name, f"cannot be read: {error.msg} (line {error.lineno})")
            continue
        found[name] = Found(name, (ast.get_docstring(tree) or "").split("\n")[0], tree)
    for point in entry_points(group=f"bench.{kind}"):
        origin = f"from {point.dist.name}" if point.dist else ""
        name = point.name.replace("_", "-")
        found.setdefault(name, Found(name, origin, point=point))
    return dict(sorted(found.items()))


def names(kind: Kind) -> dict[str, Found]:
    """Every plug-in of `kind` by name; their files are read, not imported."""
    return _found(kind, tuple(search_path(kind)))


def _module(kind: Kind, name: str) -> ModuleType | type:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise BenchError(f"there is no file {name!r}: give the path of a Python file that holds a {kind[:-1]}")
        spec = importlib.util.spec_from_file_location(f"bench_{kind}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickling look their module up by name
        spec.loader.exec_module(module)
        return module
    known = names(kind)
    name = name.replace("_", "-")
    if name not in known:
        hint = nearest(name, list(known))
        raise BenchError(f"there is no {kind[:-1]} {name!r}{hint} (there are: {', '.join(known)})")
    point = known[name].point
    if point is not None:
        loaded = point.load()
        if not isinstance(loaded, ModuleType | type):
            raise BenchError(f"the entry point {point.name!r} of bench.{kind} must name a module or a class")
        return loaded
    return importlib.import_module(f"bench.{kind}.{name.replace('-', '_')}")


def load(kind: Kind, name: str, base: type[T]) -> type[T]:
    """The plug-in class called `name` (a known name, or the path of a .py file): the one `base` subclass it defines.

    Raises:
        BenchError: no such plug-in (the sentence says what there is and what is near), or a file that does not
            import or does not define exactly one concrete subclass of `base`.
    """
    try:
        module = _module(kind, name)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(f"the {kind[:-1]} {name!r} does not import: {type(error).__name__}: {error}") from error
    if isinstance(module, type):
        classes = [module] if issubclass(module, base) else []
    else:
        classes = list(_defined(module, base))
    if len(classes) != 1:
        has = ", ".join(sorted(c.__name__ for c in classes)) or "none"
        raise BenchError(
            f"the {kind[:-1]} {name!r} must define exactly one subclass of bench.{base.__name__}, and it has {has}"
        )
    return classes[0]


def _defined(module: ModuleType, base: type[T]) -> Iterator[type[T]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
            abstract = inspect.isabstract(value) or value.__name__.startswith("_")
            if not abstract:
                yield value


def split_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """`trak:damping=1.0,checkpoints=5` → `("trak", {"damping": 1.0, "checkpoints": 5})`.

    Values are Python literals; anything else stays a string.

    Raises:
        BenchError: a part without `=`.
    """
    name, _, rest = spec.partition(":")
    arguments: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, text = part.partition("=")
        if not equals or not key.strip():
            raise BenchError(f"{spec!r}: cannot read {part!r}; write parameters as name:key=value,key=value")
        try:
            arguments[key.strip()] = ast.literal_eval(text.strip())
        except (SyntaxError, ValueError):
            arguments[key.strip()] = text.strip()
    return name, arguments


def construct(cls: type[T], what: str, arguments: dict[str, Any]) -> tuple[T, dict[str, Any]]:
    """Build `cls(**arguments)` and return it with all its parameters, defaults filled in.

    Values must fit the constructor's annotations.

    Raises:
        BenchError: an unknown parameter (with the nearest), one without a value, or a value of the wrong type.
    """
    parameters = inspect.signature(cls).parameters
    known = list(parameters)
    for key in arguments:
        if key not in parameters:
            there = f"(there are: {', '.join(known)})" if known else "(it has none)"
            raise BenchError(f"{what} has no parameter {key!r}{nearest(key, known)} {there}")
    full = {p.name: arguments.get(p.name, p.default) for p in parameters.values()}
    lacking = [key for key, value in full.items() if value is inspect.Parameter.empty]
    if lacking:
        raise BenchError(f"{what} needs a value for its parameter {lacking[0]!r}: write name:{lacking[0]}=value")
    hints = get_type_hints(cls.__init__)
    for key, value in arguments.items():
        if key in hints:
            full[key] = _converted(value, hints[key], f"{what}: the parameter {key}")
    try:
        return cls(**full), full
    except ValueError as error:
        raise BenchError(f"{what}: {error}") from error


def _converted(value: Any, hint: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        text = str(error)
        raise BenchError(f"{where} is {value!r}: {text[:1].lower()}{text[1:]}") from error
