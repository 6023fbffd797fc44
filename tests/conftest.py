"""A setting small enough to train in every test."""

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import bench
from bench import baselines, cli, results, scorer, store
from bench.baselines import Baseline
from bench.datasets import Architecture, Data, Dataset, Recipe, Setting
from bench.files import Files
from bench.judge import Judge
from bench.launch import Request
from bench.progress import Progress
from bench.results import Counts, Leaderboard, Row
from bench.scorer import MarginRanks, Trace
from bench.stats import Sample
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


class World:
    """A synthetic ground truth with methods of known quality: true effects plus noise, some of it common to targets.

    Models have noise of their own and noise that all targets of a model share, as trained ones do; `quality` .3 to 1
    gives LDS of about .3 to .7.
    """

    def __init__(self, seed: int, n_train: int = 200, n_targets: int = 120, n_subsets: int = 120) -> None:
        self.rng = np.random.default_rng(seed)
        common = self.rng.standard_normal((n_train, 3)) @ self.rng.standard_normal((3, n_targets))
        self.effects = self.rng.standard_normal((n_train, n_targets)) + common
        order = self.rng.random((n_subsets, n_train)).argsort(1)
        self.masks = order < n_train // 2
        self.margins = self.retrained()

    def retrained(self) -> NDArray[np.float32]:
        """Margins of new models on the same subsets."""
        m, t = len(self.masks), self.effects.shape[1]
        signal = (self.masks - 0.5) @ self.effects
        noise = self.rng.standard_normal((m, t)) + 0.5 * self.rng.standard_normal((m, 1))
        margins: NDArray[np.float32] = (signal + 0.6 * signal.std() * noise).astype(np.float32)
        return margins

    def scores(self, quality: float = 1.0) -> NDArray[np.float64]:
        """Of a method, drawn anew: its noise, in part common to targets as a projection's, is about 1/quality."""
        n, t = self.effects.shape
        shared = self.rng.standard_normal((n, 20)) @ self.rng.standard_normal((20, t)) / np.sqrt(20)
        noise = self.rng.standard_normal((n, t)) + 0.5 * shared
        drawn: NDArray[np.float64] = self.effects + 1.0 / quality * noise
        return drawn

    def lds(self, scores: NDArray[np.float64]) -> float:
        return bench.lds(scores, self.masks, self.margins).mean

    def worse(self, scores: NDArray[np.float64], share: float = 0.1) -> NDArray[np.float64]:
        """The same scores with as much noise as takes this share of their LDS away."""
        noise, goal = scores.std() * self.rng.standard_normal(scores.shape), (1 - share) * self.lds(scores)
        low, high = 0.0, 8.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.lds(scores + middle * noise) > goal else (low, middle)
        found: NDArray[np.float64] = scores + high * noise
        return found

    def run(self, scores: dict[str, Any], **changes: Any) -> Baseline:
        """What a run leaves; in place of scores a status and a reason. `changes` are fields of its leaderboard."""
        judge = Judge(self.masks, self.margins, MarginRanks.of(self.margins), None)
        rows, samples = [], {}
        for name, given in scores.items():
            if isinstance(given, tuple):
                rows.append(Row(name=name, params={}, status=given[0], reason=given[1]))
                continue
            trace = Trace(*judge.ranks.ranks.shape)
            found = scorer.lds(given, judge.masks, judge.margins, ranks=judge.ranks, undefined="zero", trace=trace)
            rows.append(Row(name=name, params={"size": 3}, status="ok", lds=found.mean, ci=found.ci))
            samples[name] = Sample(found.per_target, found.influence, trace.sketch)
        n, t = self.effects.shape
        values: dict[str, Any] = {
            **{"setting": "toy/mlp", "alpha": 0.5, "output": "logsumexp", "seed": 0, "n_train": n, "n_targets": t},
            **{"rows": Counts(10, 4, 2 * len(self.masks), 2), "ceiling": None, "methods": results.ranked(rows)},
            **{"ground_truth": {}, "hashes": {"data": "d", "recipe": "r"}, "command": "python -m bench run toy/mlp"},
            **{"versions": {"torch": "2.6"}, "hardware": {"cores": "2"}},
        }
        x = np.arange(n + t, dtype=np.float32)[:, None]
        data = Data(x[:n], np.zeros(n, np.int64), x[n:], np.zeros(t, np.int64), 2)
        made = baselines.of_run(Leaderboard(**(values | changes)), samples, judge, data)
        facts = {name: text for name, text in made.made.items() if name not in ("date", "commit")}
        return msgspec.structs.replace(made, made=facts).sealed()  # the same at any time and place


@pytest.fixture
def world() -> type[World]:
    return World
