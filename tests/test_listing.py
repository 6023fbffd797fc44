"""`bench list`: what methods say of themselves; methods from files, folders and installed packages."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import _plugins, methods, packages
from bench.contract import listing
from bench.errors import BenchError, InputError
from bench.methods import Needs

Main = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parent.parent
MINE = '''"""Mine: a method of the tests."""
from typing import Literal
from bench import Method, Needs

class Mine(Method):
    citation = 'Somebody (2024), "Something"'
    growth = "n_train × n_targets"
    default = False
    variants = ({}, {"size": 3, "damping": "tune"})
    def __init__(self, size: int = 2, damping: float | Literal["tune"] = 1.0, *, name=None): self.damping = damping
    @property
    def needs(self):
        return Needs(fit_rows=1, tune_rows=2 * (self.damping == "tune"), checkpoints=5, plain_sgd=True,
                     max_parameters=20_000, packages=("no-such-thing>=2", "numpy>=1"), extra="things")
    def attribute(self, task): ...
'''


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    _plugins._found.cache_clear()
    yield
    _plugins._found.cache_clear()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that $BENCH_METHODS names, with one method."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("BENCH_METHODS", str(tmp_path))
    return tmp_path


def test_a_method_in_full(main: Main, mine: Path) -> None:
    code, text, error = main("list", "methods", "mine")
    assert (code, error) == (0, "")
    rest = (
        "5 full-set checkpoints, a model of at most 20,000 parameters, a recipe of plain SGD, whose training run can "
        "be differentiated"
    )
    assert text.splitlines() == [
        "mine: Mine: a method of the tests.",
        "  parameters      size     an integer; default 2",
        "                  damping  a number or 'tune'; default 1.0",
        "                  name     anything; default None",
        "  rows            mine, mine:damping=tune,size=3 (in a run with --method all, or by name)",
        f"  needs           mine: 1 fit row, {rest}",
        f"                  mine:damping=tune,size=3: 1 fit row, 2 tune rows, {rest}",
        "  packages        no-such-thing>=2 (not installed: pip install 'ldsbench[things]')",
        f"                  numpy>=1 ({packages.installed('numpy')} is installed)",
        "  cost grows as   n_train × n_targets",
        '  source          Somebody (2024), "Something"',
        "  sign            positive: keeping the example raises the target's margin (alike for every method)",
        "  file            mine.py",
    ]
    assert main("list", "methods", str(mine / "mine.py"))[1] == text


def test_json_of_one_and_of_all(main: Main, mine: Path) -> None:
    (mine / "broken.py").write_text("def broken(:\n")
    code, text, _ = main("list", "methods", "mine", "--json")
    one = json.loads(text)["methods"]["mine"]
    assert code == 0
    assert (one["by_default"], one["rows"]) == (False, ["mine", "mine:damping=tune,size=3"])
    assert one["parameters"][1] == {"name": "damping", "type": "a number or 'tune'", "default": "1.0"}
    assert one["packages"][0] == {
        "requirement": "no-such-thing>=2",
        "installed": None,
        "fault": "needs the package no-such-thing, which is not installed",
        "remedy": "pip install 'ldsbench[things]'",
    }
    code, text, _ = main("list", "--long", "--json")
    every = json.loads(text)["methods"]
    assert code == 0
    assert every["mine"] == one
    assert set(every) == set(methods.names())
    assert "does not import: SyntaxError" in every["broken"]["error"]
    assert main("list", "--long")[1].count("\n\n") == len(every) - 1


def test_every_shipped_method_says_what_it_is() -> None:
    for name, entry in listing.entries().items():
        assert entry.error is None, name
        assert entry.summary, name
        assert entry.growth, name
        assert entry.citation or name in ("random", "constant", "label-match", "similarity"), name
        for package in entry.packages:
            assert package.installed is not None or package.remedy, name


def test_marks_in_the_short_list(main: Main, mine: Path) -> None:
    assert mine.is_dir()
    text = main("list", "methods")[1]
    assert " *mine " in text
    assert "  random " in text
    assert "* takes longer, or an extra" in text
    quick = methods.by_default()
    assert not quick["mine"]
    assert quick == {name: entry.by_default for name, entry in listing.entries().items()}
    assert "mine" not in {one.plugin for one in methods.chosen(None)}
    assert "mine" in {one.plugin for one in methods.chosen(["all"])}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("methods", "trakk"), "did you mean 'trak'"),
        (("methods", "no.py"), "there is no file 'no.py'"),
        (("datasets", "--long"), "are of methods"),
        (("datasets", "digits"), "are of methods"),
    ],
)
def test_bad_usage(main: Main, words: tuple[str, ...], said: str) -> None:
    code, text, error = main("list", *words)
    assert (code, text) == (2, "")
    assert said in error


def test_a_method_of_an_installed_package(tmp_path: Path) -> None:
    """Installed as pip does it, its metadata beside the module; seen by a process of its own."""
    site = tmp_path / "site"
    info = site / "theirs-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "theirs_methods.py").write_text(MINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[bench.methods]\ntheirs_best = theirs_methods:Mine\n")
    (info / "RECORD").write_text("theirs_methods.py,,\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}

    def bench(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    listed = bench("list", "methods")
    assert "theirs-best  " in listed.stdout
    assert "from theirs" in listed.stdout
    full = bench("list", "methods", "theirs-best", "--json")
    entry = json.loads(full.stdout)["methods"]["theirs-best"]
    assert entry["summary"] == "from theirs"
    assert entry["rows"] == ["theirs-best", "theirs-best:damping=tune,size=3"]
    checked = bench("check-method", "theirs-best")
    assert checked.returncode == 2
    assert "theirs-best cannot be checked here: it needs" in checked.stderr


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        ("numpy", None),
        ("numpy>=1", None),
        ("no-such", "needs the package no-such, which is not installed"),
        ("numpy>=99", "needs numpy>=99, and numpy {} is installed"),
        ("numpy[extra]<1", "needs numpy<1, and numpy {} is installed"),
        ("no-such; python_version < '3'", None),
    ],
)
def test_packages(requirement: str, fault: str | None) -> None:
    found = packages.fault(requirement)
    assert found == (fault and fault.format(packages.installed("numpy")))


def test_odd_installations_and_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'numpy >=' that it needs cannot be read: write 'name>=1.0'"):
        packages.fault("numpy >=")
    for version, fault in (
        ("2.0.dev3", None),
        ("1.0rc1", "1.0rc1 is installed"),
        ("not a version", "is installed"),
        (None, "not installed"),
    ):
        monkeypatch.setattr(packages, "version", lambda _, version=version: version)
        found = packages.fault("thing>=2.0.dev0")
        assert (found is None) if fault is None else (found is not None and fault in found), version


def test_needs_in_words() -> None:
    assert listing.words(Needs()) == []
    assert listing.words(Needs(fit_rows=1, tune_rows=2)) == ["1 fit row", "2 tune rows"]


def test_models_in_words() -> None:
    assert listing.words(Needs(checkpoints=1)) == ["1 full-set checkpoint"]
    assert listing.words(Needs(checkpoints=1, single_model=1)) == ["1 full-set checkpoint"]
    assert listing.words(Needs(checkpoints=1, trained_on="subsets")) == ["1 checkpoint trained on subsets"]
    found = listing.words(Needs(checkpoints=3, single_model=1))
    assert found == ["3 full-set checkpoints (1 by the protocol single-model)"]


def test_shipped_methods_say_which_models_they_take_and_what_a_damping_is_a_multiple_of() -> None:
    for name, entry in listing.entries().items():
        for row, needs in entry.needs.items():
            models = [need for need in needs if "checkpoint" in need]
            assert all(("on subsets" in need) == ("trained_on=subsets" in row) for need in models), row
        for parameter in entry.parameters:
            assert (parameter.unit is not None) == (parameter.name in ("damping", "kinks")), (name, parameter.name)
    assert (
        "3 full-set checkpoints (1 by the protocol single-model)" in listing.entries(["magic"])["magic"].needs["magic"]
    )
    said = listing.text("ekfac-direct", listing.entries(["ekfac-direct"])["ekfac-direct"])
    assert "damping      a number or 'tune'; default 0.1; 1 is the mean eigenvalue of each layer" in said


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ("1 / 0", "its needs cannot be read: ZeroDivisionError: division by zero"),
        ("{'fit_rows': 3}", "its needs are of type dict: they must be a bench.Needs"),
        ("Needs(fit_rows=-5)", "it needs -5 fit_rows: that cannot be negative"),
        ("Needs(checkpoints=10**9)", "it asks for 1,000,000,000 checkpoints: take at most 100,000"),
    ],
)
def test_needs_that_are_none(main: Main, mine: Path, needs: str, said: str) -> None:
    name = f"needy{abs(hash(needs))}"  # modules of one name in one process are one
    (mine / f"{name}.py").write_text(
        "from bench import Method, Needs\n\nclass Needy(Method):\n    @property\n    def needs(self):\n"
        f"        return {needs}\n    def attribute(self, task): ...\n"
    )
    for words in (("list", "methods", name), ("check-method", name)):
        code, text, error = main(*words)
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert said in error
    assert "A training-data attribution method" not in main("list")[1]  # the base class's words, of one without its own


def test_unreadable_needs_are_an_entry_with_the_reason(main: Main, mine: Path) -> None:
    (mine / "unreadable.py").write_text(MINE.replace("numpy>=1", "numpy >="))
    assert "cannot be read" in main("list", "--long")[1]
    with pytest.raises(BenchError):
        listing.entries(["unreadable"])
