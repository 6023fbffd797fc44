"""A setting small enough to train in every test."""

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from bench import cli, store
from bench.datasets import Architecture, Data, Dataset, Recipe, Setting
from bench.files import Files
from bench.launch import Request
from bench.progress import Progress
from bench.store import GroundTruth
from bench.subsets import Plan

Main = Callable[..., tuple[int, str, str]]


class Toy(Dataset):
    """Three noisy clusters: 40 training examples, 10 targets, 5 features."""

    models: ClassVar = {
        "logreg": Recipe(Architecture("logreg"), epochs=3, batch_size=8, lr=0.2, weight_decay=1e-2),
        "mlp": Recipe(Architecture("mlp", (6,)), epochs=3, batch_size=8, lr=0.1, weight_decay=1e-2),
    }

    def load(self, files: Files) -> Data:  # noqa: ARG002
        rng = np.random.default_rng(7)
        y = rng.integers(0, 3, 50)
        x = (rng.standard_normal((3, 5))[y] + rng.standard_normal((50, 5))).astype(np.float32)
        return Data(x[:40], y[:40], x[40:], y[40:], 3, {"made by": "the tests"})


@pytest.fixture
def toy() -> Setting:
    return Setting("toy", "logreg", Toy(), {}, Toy.models["logreg"])


@pytest.fixture
def toy_data() -> Data:
    return Toy().load(Files(()))


@pytest.fixture
def toy_request(toy: Setting, toy_data: Data) -> Request:
    """30 rows in the blocks 0-8, 8-16, 16-24 and 24-30."""
    return Request(toy, toy_data, Plan(30, 2), device="cpu", block_rows=8)


@pytest.fixture
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Progress:
    """Says nothing on stderr; what it would have said is in the file `quiet.log`."""
    log: Path = tmp_path_factory.mktemp("log") / "log.txt"
    return Progress(quiet=True, log=log)


@pytest.fixture(scope="session")
def toy_source() -> str:
    """The text of a dataset plug-in that holds `Toy`."""
    nodes = ast.parse(Path(__file__).read_text("utf-8")).body
    imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join([*imports, "", inspect.getsource(Toy)])


@pytest.fixture(scope="session")
def same_store() -> Callable[[Path, Path], None]:
    """Asserts that two stores are sound and hold the same."""

    def check(one: Path, other: Path) -> None:
        a, b = GroundTruth.open(one), GroundTruth.open(other)
        np.testing.assert_array_equal(a.masks, b.masks)
        np.testing.assert_allclose(a.margins, b.margins, atol=1e-5)
        assert a.meta is not None
        assert b.meta is not None
        assert a.meta.identity == b.meta.identity
        assert store.verify(one) == store.verify(other) == []

    return check


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Call the command line in a fresh folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["pytest", "not", "these"])

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return call
