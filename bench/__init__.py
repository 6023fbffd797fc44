"""An attribution benchmark: train many models on random subsets, and ask which method's scores rank them best."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "BenchError": "bench.errors",
    "Data": "bench.datasets",
    "Dataset": "bench.datasets",
    "Datamodels": "bench.lasso",
    "GroundTruth": "bench.store",
    "LDS": "bench.lds",
    "Leaderboard": "bench.results",
    "Method": "bench.methods",
    "Needs": "bench.methods",
    "Task": "bench.task",
    "fit_datamodels": "bench.lasso",
    "lds": "bench.lds",
    "run": "bench.runner",
}

__all__ = ["__version__", *sorted(_LAZY)]

if TYPE_CHECKING:
    from bench.datasets import Data, Dataset
    from bench.errors import BenchError
    from bench.lasso import Datamodels, fit_datamodels
    from bench.lds import LDS, lds
    from bench.methods import Method, Needs
    from bench.results import Leaderboard
    from bench.runner import run
    from bench.store import GroundTruth
    from bench.task import Task


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import bench` itself costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
