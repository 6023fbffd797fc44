"""What `import bench` promises, wherever it is installed."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bench


def test_public_names() -> None:
    for name in bench.__all__:
        assert getattr(bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bench.nothing  # noqa: B018


def test_functions_stay_functions_after_their_modules_are_loaded() -> None:
    import bench.runner
    import bench.scorer

    assert callable(bench.lds)
    assert callable(bench.run)
    assert callable(bench.fit_datamodels)


def test_import_is_light() -> None:
    code = "import sys, bench; print({'torch', 'numpy', 'scipy', 'pandas', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_plugins_import_under_bench() -> None:
    for name in ("bench.methods.random", "bench.datasets.digits"):
        module = importlib.import_module(name)
        assert module.__name__ == name
        assert Path(str(module.__file__)).is_file()


def test_a_plugin_class_survives_spawn(tmp_path: Path) -> None:
    code = (
        "import multiprocessing as mp, pickle\n"
        "from bench import methods\n"
        "def name(m): return type(m).__module__\n"
        "if __name__ == '__main__':\n"
        "    (one,) = methods.chosen(['graddot:checkpoints=2'])\n"
        "    assert pickle.loads(pickle.dumps(one.method)).checkpoints == 2\n"
        "    with mp.get_context('spawn').Pool(1) as pool: print(pool.apply(name, (one.method,)))\n"
    )
    script = tmp_path / "spawn.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "bench.methods.graddot"
