"""What each method says of itself: parameters, rows, needs, cost, source. Methods are imported; nothing is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import get_type_hints

import msgspec

from bench import _plugins, methods, packages
from bench.errors import BenchError
from bench.methods import Method, Needs
from bench.wording import counted

SIGN = "positive: keeping the example raises the target's margin (alike for every method)"


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a method's constructor; `default` as text, None where a value must be given; `unit` of its numbers."""

    name: str
    type: str
    default: str | None
    unit: str | None = None


class Package(msgspec.Struct, frozen=True):
    """An optional package that a method needs.

    Attributes:
        requirement: as pip knows it; installed: its version, None where it is not.
        fault: what is wrong with it; remedy: what to type then. None where nothing is.
    """

    requirement: str
    installed: str | None
    fault: str | None = None
    remedy: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A method.

    Attributes:
        summary: one line. error: why there is nothing more, as where it cannot be imported.
        parameters: of its constructor.
        rows: names of the rows that a run of all methods has of it; by_default: whether a run without --method has
            them too.
        needs: what each of these rows needs, in words.
        packages: the optional ones.
        growth: how its cost grows; citation: where it was published; sign: what a positive score means.
        file: where it is.
    """

    summary: str
    error: str | None = None
    parameters: list[Parameter] = []
    rows: list[str] = []
    by_default: bool = False
    needs: dict[str, list[str]] = {}
    packages: list[Package] = []
    growth: str = ""
    citation: str = ""
    sign: str = SIGN
    file: str | None = None


def entries(names: Iterable[str] = ()) -> dict[str, Entry]:
    """What methods say of themselves, by name; of all that are found, without names.

    Args:
        names: of methods, or the paths of their files.

    Raises:
        BenchError: a name that no method has, or a file that is no method. Of all of them, one that cannot be imported
            is an entry with the reason.
    """
    asked = list(names)
    known = methods.names()
    if not asked:
        return {name: _lenient(name, summary) for name, summary in known.items()}
    methods.check(asked)
    return {_plugins.short(name): _entry(name, known.get(_plugins.canonical(name))) for name in asked}


def _lenient(name: str, summary: str) -> Entry:
    try:
        return _entry(name, summary)
    except BenchError as error:
        return Entry(summary=summary, error=" ".join(str(error).split()))


def _entry(name: str, summary: str | None) -> Entry:
    cls = _plugins.load("methods", name, Method)  # type: ignore[type-abstract]
    module = inspect.getmodule(cls)
    if summary is None:
        summary = inspect.cleandoc((module and module.__doc__) or cls.__doc__ or "").partition("\n")[0]
    made = [_plugins.construct(cls, f"the method {name}", dict(variant)) for variant in cls.variants]
    what = f"the method {name}"
    rows = {_plugins.short(name) + one.suffix: methods.needs_of(one.made, what) for one in made}
    required = list(dict.fromkeys((package, needs.extra) for needs in rows.values() for package in needs.packages))
    return Entry(
        summary=summary,
        parameters=_parameters(cls),
        rows=list(rows),
        by_default=cls.default,
        needs={row: words(needs) for row, needs in rows.items()},
        packages=[_package(requirement, extra) for requirement, extra in required],
        growth=cls.growth,
        citation=cls.citation,
        file=_shown(inspect.getsourcefile(cls)),
    )


def _parameters(cls: type[Method]) -> list[Parameter]:
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = [one for one in inspect.signature(cls).parameters.values() if one.kind not in starred]
    hints = get_type_hints(cls.__init__)
    return [
        Parameter(
            one.name,
            _plugins.type_name(hints[one.name]) if one.name in hints else "anything",
            None if one.default is inspect.Parameter.empty else str(one.default),
            cls.units.get(one.name),
        )
        for one in given
    ]


def words(needs: Needs) -> list[str]:
    """What is needed besides packages."""
    found = [
        counted(count, what, form=",")
        for count, what in (
            (needs.fit_rows, "fit row"),
            (needs.tune_rows, "tune row"),
        )
        if count
    ]
    if needs.checkpoints:
        found.append(_models(needs))
    if needs.max_parameters is not None:
        found.append(f"a model of at most {needs.max_parameters:,} parameters")
    if needs.plain_sgd:
        found.append("a recipe of plain SGD, whose training run can be differentiated")
    return found


def _models(needs: Needs) -> str:
    subsets = needs.trained_on == "subsets"
    words = ("checkpoint trained on subsets", "checkpoints trained on subsets") if subsets else ("full-set checkpoint",)
    said = counted(needs.checkpoints, *words, form=",")
    if needs.single_model is not None and needs.single_model != needs.checkpoints:
        said += f" ({needs.single_model:,} by the protocol single-model)"
    return said


def _package(requirement: str, extra: str) -> Package:
    fault = packages.fault(requirement)
    remedy = None if fault is None else packages.remedy(requirement, extra)
    return Package(requirement, packages.installed(requirement), fault, remedy)


def _shown(path: str | None) -> str | None:
    """As a path from here, where it is below."""
    if path is None:
        return None
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def text(name: str, entry: Entry) -> str:
    """An entry for people."""
    lines = [f"{name}: {entry.summary}" if entry.summary else name]
    if entry.error is not None:
        return "\n".join([*lines, f"  cannot be used  {entry.error}"])
    facts: list[tuple[str, str]] = []
    width = max((len(one.name) for one in entry.parameters), default=0)
    for one in entry.parameters:
        default = "must be given" if one.default is None else f"default {one.default}"
        unit = f"; 1 is {one.unit}" if one.unit else ""
        facts.append(("parameters", f"{one.name:<{width}}  {one.type}; {default}{unit}"))
    run = "in every run" if entry.by_default else "in a run with --method all, or by name"
    facts.append(("rows", f"{', '.join(entry.rows)} ({run})"))
    alike = len({tuple(needs) for needs in entry.needs.values()}) == 1
    for row, needs in entry.needs.items():
        said = ", ".join(needs) or "nothing"
        facts.append(("needs", said if alike else f"{row}: {said}"))
        if alike:
            break
    for package in entry.packages:
        state = f"{package.installed} is installed" if package.installed else "not installed"
        state = state if package.remedy is None else f"{state}: {package.remedy}"
        facts.append(("packages", f"{package.requirement} ({state})"))
    facts += [("cost grows as", entry.growth), ("source", entry.citation), ("sign", entry.sign)]
    facts.append(("file", entry.file or ""))
    before = ""
    for title, value in facts:
        if value:
            lines.append(f"  {'' if title == before else title:<14}  {value}")
            before = title
    return "\n".join(lines)
