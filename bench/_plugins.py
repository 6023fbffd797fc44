"""Find and load the modules of a plug-in folder, methods/ or datasets/, importing none that is not used."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
        try:
            text = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
            tree = ast.parse(text)
        except SyntaxError as error:
            found[name] = Found(name, f"cannot be read: {error.msg} (line {error.lineno})")
            continue
        except (OSError, ValueError) as error:  # not UTF-8, a null byte, compiled, or not to be opened
            found[name] = Found(name, f"cannot be read: {error}")
            continue
        found[name] = Found(name, (ast.get_docstring(tree) or "").split("\n")[0], tree)
    for point in entry_points(group=f"bench.{kind}"):
        origin = f"from {point.dist.name}" if point.dist else ""
        name = point.name.replace("_", "-")
        found.setdefault(name, Found(name, origin, point=point))
    return dict(sorted(found.items()))


def names(kind: Kind) -> dict[str, Found]:
    """Every plug-in of `kind` by name; their files are read, not imported.

    Raises:
        BenchError: a folder of $BENCH_<KIND> does not exist.
    """
    path = search_path(kind)
    for folder in path[1:]:
        if not Path(folder).is_dir():
            raise BenchError(f"$BENCH_{kind.upper()} names {folder!r}, which is not a folder: name one that exists")
    return _found(kind, tuple(path))


def canonical(name: str) -> str:
    """The one spelling of a plug-in's name: dashes, but a file's path as it is."""
    return name if name.endswith(".py") else name.replace("_", "-")


def short(name: str) -> str:
    """The name without its folder and suffix, as tables show it."""
    return canonical(name).removesuffix(".py").replace(os.sep, "/").rpartition("/")[2]


def check(kind: Kind, name: str) -> None:
    """Refuse a name that no plug-in has, and a path that is no file; nothing is imported.

    Raises:
        BenchError: there is no such plug-in; the sentence says what there is and what is near.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise BenchError(f"there is no file {name!r}: give the path of a Python file that holds a {kind[:-1]}")
        return
    known = names(kind)
    name = canonical(name)
    if name not in known:
        hint = nearest(name, list(known))
        raise BenchError(f"there is no {kind[:-1]} {name!r}{hint} (there are: {', '.join(known)})")


class _AsItIs(SourceFileLoader):
    """Compiles a file anew: cached bytecode is taken for a file edited within the same second to the same length."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The code of the file's text."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _module(kind: Kind, name: str) -> ModuleType | type:
    check(kind, name)
    if name.endswith(".py"):
        path = Path(name)
        called = f"bench_{kind}_{path.stem}"
        spec = importlib.util.spec_from_file_location(called, path, loader=_AsItIs(called, str(path)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickling look their module up by name
        spec.loader.exec_module(module)
        return module
    name = canonical(name)
    point = names(kind)[name].point
    if point is not None:
        loaded = point.load()
        if not isinstance(loaded, ModuleType | type):
            raise BenchError(f"the entry point {point.name!r} of bench.{kind} must name a module or a class")
        return loaded
    package = importlib.import_module(f"bench.{kind}")
    package.__path__ = search_path(kind)  # $BENCH_<KIND> may have changed since it was imported
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
    except (Exception, SystemExit) as error:
        raise BenchError(f"the {kind[:-1]} {name!r} does not import: {type(error).__name__}: {error}") from error
    if isinstance(module, type):
        classes = [module] if issubclass(module, base) else []
    else:
        classes = list(_defined(module, base))
    if len(classes) != 1:
        has = ", ".join(sorted(c.__name__ for c in classes)) or "none" + _unfinished(module, base)
        raise BenchError(
            f"the {kind[:-1]} {name!r} must define exactly one subclass of bench.{base.__name__}, and it has {has}"
        )
    return classes[0]


def _defined(module: ModuleType, base: type[T]) -> Iterator[type[T]]:
    for value in dict.fromkeys(v for v in vars(module).values() if isinstance(v, type)):
        if issubclass(value, base) and value.__module__ == module.__name__:
            abstract = inspect.isabstract(value) or value.__name__.startswith("_")
            if not abstract:
                yield value


def _unfinished(module: ModuleType | type, base: type) -> str:
    """Which of a module's subclasses lack which method of the contract, for the error that there is none."""
    values = [module] if isinstance(module, type) else vars(module).values()
    lacking = [
        f"{v.__name__} does not define {', '.join(sorted(getattr(v, '__abstractmethods__', ())))}"
        for v in values
        if isinstance(v, type) and issubclass(v, base) and v is not base and inspect.isabstract(v)
    ]
    return f" ({'; '.join(lacking)})" if lacking else ""


def split_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """`trak:damping=1.0,checkpoints=5` → `("trak", {"damping": 1.0, "checkpoints": 5})`.

    Values are Python literals; anything else stays a string.

    Raises:
        BenchError: a part without `=`, or a parameter that is given twice.
    """
    name, _, rest = spec.partition(":")
    arguments: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, text = part.partition("=")
        if not equals or not key.strip():
            raise BenchError(f"{spec!r}: cannot read {part!r}; write parameters as name:key=value,key=value")
        key = key.strip()
        if key in arguments:
            raise BenchError(f"{spec!r} gives {key} twice: give it once")
        arguments[key] = _literal(text.strip())
    return name, arguments


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: "1is"
            return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


@dataclass(frozen=True)
class Built(Generic[T]):
    """A plug-in's object.

    Attributes:
        made: the object; parameters: all of its parameters, defaults filled in.
        changed: those that differ from their defaults, by name in order.
    """

    made: T
    parameters: dict[str, Any]
    changed: dict[str, Any]

    @property
    def suffix(self) -> str:
        """`:key=value,…` of what is changed, or nothing."""
        text = ",".join(f"{key}={value}" for key, value in self.changed.items())
        return f":{text}" if text else ""


def construct(cls: type[T], what: str, arguments: dict[str, Any]) -> Built[T]:
    """Build `cls(**arguments)`.

    Values must fit the constructor's annotations.

    Raises:
        BenchError: an unknown parameter (with the nearest), one without a value, a value of the wrong type, or a
            constructor that raises.
    """
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = {p.name: p for p in inspect.signature(cls).parameters.values() if p.kind not in starred}
    known = list(parameters)
    for key in arguments:
        if key not in parameters:
            there = f"(there are: {', '.join(known)})" if known else "(it has none)"
            raise BenchError(f"{what} has no parameter {key!r}{nearest(key, known)} {there}")
    full = {p.name: arguments.get(p.name, p.default) for p in parameters.values()}
    lacking = [key for key, value in full.items() if value is inspect.Parameter.empty]
    if lacking:
        raise BenchError(f"{what} needs a value for its parameter {lacking[0]!r}: write name:{lacking[0]}=value")
    try:
        hints = get_type_hints(cls.__init__)
    except Exception as error:
        raise BenchError(f"{what}: the annotations of its parameters cannot be read: {error}") from error
    for key, value in arguments.items():
        if key in hints:
            full[key] = _converted(value, hints[key], f"{what}: the parameter {key}")
    changed = {key: full[key] for key in sorted(full) if full[key] != parameters[key].default}
    try:
        return Built(cls(**full), full, changed)
    except BenchError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise BenchError(f"{what}: {kind}{error}") from error


def _converted(value: Any, hint: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise BenchError(f"{where} is {value!r}, and must be {type_name(hint)}") from error
    except TypeError:
        return value  # a type that cannot be checked


def type_name(hint: Any) -> str:
    """An annotation in words: `a number or 'tune'`."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is type(None):
        return "None"
    words = {int: "an integer", float: "a number", bool: "True or False", str: "text"}
    return words.get(hint) or getattr(hint, "__name__", None) or str(hint)
