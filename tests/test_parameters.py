"""Numbers out of range are refused by every method's constructor, before anything is trained."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from bench import _plugins, influence, methods
from bench.errors import InputError
from bench.methods import Method
from bench.parameters import above, at_least, at_most

# Values below 1 that mean something, with what they mean.
MEANT: dict[tuple[str, str, float], str] = {
    ("datamodels", "folds", 0): "one split in place of folds",
    ("ridge", "folds", 0): "one split in place of folds",
    ("influence-cg", "deflate", 0): "no eigenpairs are taken out",
}


def _numbers() -> Iterator[tuple[str, str, float]]:
    """Every number among the parameters of built-in methods, with values that make no sense but for `MEANT`."""
    for name in methods.names():
        cls = _plugins.load("methods", name, Method)  # type: ignore[type-abstract]
        hints = get_type_hints(cls.__init__) if "__init__" in vars(cls) else {}
        for parameter in inspect.signature(cls).parameters:
            kinds = {hints.get(parameter), *get_args(hints.get(parameter))}
            if int in kinds:
                yield from ((name, parameter, 0), (name, parameter, -1))
            if float in kinds:
                yield from ((name, parameter, value) for value in (-1.0, float("nan"), float("inf")))


@pytest.mark.parametrize(("name", "parameter", "value"), list(_numbers()))
def test_numbers_that_make_no_sense_are_refused_at_once(name: str, parameter: str, value: Any) -> None:
    cls = _plugins.load("methods", name, Method)  # type: ignore[type-abstract]
    if (name, parameter, value) in MEANT:
        _plugins.construct(cls, name, {parameter: value})
        return
    with pytest.raises(InputError, match=rf"\b{parameter}\b.* is {value}[:;]"):
        _plugins.construct(cls, name, {parameter: value})


def test_every_exception_is_still_a_parameter() -> None:
    assert set(MEANT) <= set(_numbers())


def test_bounds() -> None:
    at_least(0, damping=0, other="tune")
    above(0, tolerance=1e-9, other="auto")
    with pytest.raises(InputError, match=r"^damping is -0\.5: it is a number of at least 0$"):
        at_least(0, checkpoints=1, damping=-0.5)
    with pytest.raises(InputError, match=r"^l2 is 0: it is a number above 0$"):
        above(0, l2=0)
    at_most(10, deflate=10, other="all")
    with pytest.raises(InputError, match=r"^deflate is 11: it is a number of at most 10$"):
        at_most(10, deflate=11)


def test_searches_try_the_default_too() -> None:
    """So that a tuned row is no worse than the default one on the rows that it is tuned on."""
    through_kronfluence = pytest.importorskip("bench.through_kronfluence")
    arnoldi = importlib.import_module("bench.methods.influence_arnoldi").InfluenceArnoldi
    damped = arnoldi(damping="tune", rest="damped")
    grids: dict[str, tuple[Any, ...]] = {
        "ekfac": through_kronfluence.DAMPINGS,
        "kfac": through_kronfluence.DAMPINGS,
        "influence-arnoldi": arnoldi(damping="tune")._dampings(0.0),
        **{
            name: importlib.import_module(f"bench.methods.{name.replace('-', '_')}").DAMPINGS
            for name in ("ekfac-direct", "influence-lissa", "trak")
        },
    }
    for name, grid in grids.items():
        cls = _plugins.load("methods", name, Method)  # type: ignore[type-abstract]
        assert inspect.signature(cls).parameters["damping"].default in grid, name
    assert 0.0 in damped._dampings(1e-3)
    assert damped._dampings(0.0) == influence.DAMPINGS  # without weight decay, 0 would be divided by
