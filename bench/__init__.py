"""An attribution benchmark: train many models on random subsets, and ask which method's scores rank them best."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "BenchError": "bench.errors",
    "Data": "bench.datasets",
    "Dataset": "bench.datasets",
    "Datamodels": "bench.lasso",
    "GroundTruth": "bench.store",
    "LDS": "bench.scorer",
    "Leaderboard": "bench.results",
    "Method": "bench.methods",
    "Needs": "bench.methods",
    "Task": "bench.task",
    "check": "bench.comparing.check",
    "compare": "bench.comparing.compare",
    "fit_datamodels": "bench.lasso",
    "fit_least_squares": "bench.ridge",
    "fit_ridge": "bench.ridge",
    "lasso_path": "bench.lasso",
    "lds": "bench.scorer",
    "run": "bench.runner",
}

__all__ = ["__version__", *sorted(_LAZY)]

if TYPE_CHECKING:
    from bench.comparing.check import check as check
    from bench.comparing.compare import compare as compare
    from bench.datasets import Data as Data
    from bench.datasets import Dataset as Dataset
    from bench.errors import BenchError as BenchError
    from bench.lasso import Datamodels as Datamodels
    from bench.lasso import fit_datamodels as fit_datamodels
    from bench.lasso import lasso_path as lasso_path
    from bench.methods import Method as Method
    from bench.methods import Needs as Needs
    from bench.results import Leaderboard as Leaderboard
    from bench.ridge import fit_least_squares as fit_least_squares
    from bench.ridge import fit_ridge as fit_ridge
    from bench.runner import run as run
    from bench.scorer import LDS as LDS
    from bench.scorer import lds as lds
    from bench.store import GroundTruth as GroundTruth
    from bench.task import Task as Task


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import bench` itself costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
