"""README.md says what the records and the commands say, and what it tells people to type works."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench import store
from bench.cli import parser
from bench.runner import Options, train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "tests" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_current(writer: ModuleType) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert writer.render(text) == text, "run: python tests/readme.py"


@pytest.mark.parametrize(
    ("record", "same"),
    [
        ("mnist-logreg", ("influence", "trak:checkpoints=50", "trak:checkpoints=10", "tracin", "graddot")),
        ("mnist-mlp", ("trak:checkpoints=50", "trak:checkpoints=10", "trak:checkpoints=1")),
    ],
)
def test_published_figures_come_out(writer: ModuleType, record: str, same: tuple[str, ...]) -> None:
    rows = {row.name: row.one_seed.lds for row in writer.record(record).methods if row.one_seed is not None}
    for name in same:
        assert rows[name] == pytest.approx(writer.PUBLISHED[record][name][1], abs=0.03)
    assert [rows[name] for name in same] == sorted((rows[name] for name in same), reverse=True)


def test_commands_in_the_readme_parse() -> None:
    text = (ROOT / "README.md").read_text("utf-8").replace("\\\n", " ").partition("\n## Commands")[0]
    commands = re.findall(r"python -m bench ([^#`\n]+)", text)
    assert len(commands) >= 4
    for command in commands:
        parser().parse_args(command.split())


def test_example_dataset_runs_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench

    examples = ROOT / "tests" / "examples"
    where: dict[str, Any] = {"models": 30, "methods": "heldout", "device": "cpu", "quiet": True}
    by_path = bench.run(setting=f"{examples}/rings.py/mlp:n_train=60", out=str(tmp_path / "a"), **where)
    monkeypatch.setenv("BENCH_DATASETS", str(examples))
    by_name = bench.run(setting="rings/mlp:n_train=60", out=str(tmp_path / "b"), **where)
    assert by_path.setting == by_name.setting == "rings/mlp:n_train=60"
    assert by_path.methods[0].lds == by_name.methods[0].lds is not None
    assert by_path.data == {"made by": "rings.py"}


def test_shards_in_a_shell(tmp_path: Path) -> None:
    """The loop that the README shows; and what it says of folders that are copied together."""
    text = (ROOT / "README.md").read_text("utf-8")
    loop = re.search(r"```sh\n(for i in .*?done\n)```", text, re.DOTALL)
    assert loop is not None
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", "-euc", loop[1]], check=True, cwd=tmp_path, env=environment)
    assert store.verify(tmp_path / "store") == []
    blocks = sorted((tmp_path / "store" / "blocks").iterdir())
    for part in (blocks[::2], blocks[1::2]):
        (tmp_path / "copy" / "blocks").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "store" / "identity.json", tmp_path / "copy")
        for path in part:
            shutil.copy2(path, tmp_path / "copy" / "blocks")
    options = Options("digits/logreg", models=300, quiet=True)
    assert train(options, tmp_path / "copy") is not None
    assert {p.name: p.stat().st_mtime_ns for p in blocks} == {
        p.name: p.stat().st_mtime_ns for p in (tmp_path / "copy" / "blocks").iterdir()
    }


def test_example_method_runs(tmp_path: Path) -> None:
    import bench

    board = bench.run(
        setting="digits/logreg",
        models=64,
        methods=[str(ROOT / "tests" / "examples" / "pixels.py"), "random"],
        out=str(tmp_path / "run"),
        quiet=True,
    )
    assert [row.name for row in board.methods] == ["pixels", "random"]
    assert board.methods[0].lds is not None
    assert board.methods[0].lds > 0.1
