"""Content hashes: what makes a finished block or score still the right one."""

from __future__ import annotations

import ast
import hashlib
import threading
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench.recipes import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data

_PARSING = threading.Lock()  # CPython's parser counts its depth once for all threads (its issue 106905)
_HERE = Path(__file__).resolve().parent
_APART = {"methods", "datasets"} | {
    *("comparing", "contract", "explore", "interop", "removal", "report", "sharing", "stats", "tables"),
}
_PRESENTING = (
    "__main__.py",
    "baselines.py",
    "cli.py",
    "commands.py",
    "curve_plot.py",
    "curve_tables.py",
    "documents.py",
    "evidence.py",
    "judge.py",
    "memorization_cli.py",
    "memorization_files.py",
    "progress.py",
    "provenance.py",
    "results.py",
    "shuffle.py",
    "sketch.py",
    "standings.py",
    "status.py",
)
_TRAINING = (
    "augment.py",
    "fused.py",
    "kernels/sgd.py",
    "models.py",
    "networks.py",
    "outputs.py",
    "recipes.py",
    "recorded.py",
    "sequential.py",
    "subsets.py",
    "train.py",
    "work.py",
)
# Training code that makes the same numbers as an earlier one, to the last bit, where both can make them: the earlier
# one's hash stands for both, and its stores go on. Each change, as Python 3.11 unparses it and as later ones do.
_SAME_NUMBERS = {
    # The protocol single-model came: all margins of a store of digits/mlp (1,500 × 360) were trained again and equal.
    "370db4e6951da7f9430f9f20a5bdbf816311a9d64a96169862e353de48556a1b": (
        "7202d30d3830463005b689437cdce45faec6b12317272c22378bc355d4e0876a"
    ),
    "61d889b398edd3a3446fc13c1b4b8f73293bc75dbd23ce7aca26dcb3a8f4775d": (
        "74ecf5776efdc414149e85ec868d067833343d075cc663a74e94f09660dceff8"
    ),
}


def digest(value: Any) -> str:
    """sha256 of a value of plain types, in canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def array(value: NDArray[Any]) -> str:
    """sha256 of an array: dtype, shape and content in C order."""
    contiguous = np.ascontiguousarray(value)
    running = hashlib.sha256(f"{contiguous.dtype.str}{contiguous.shape}".encode())
    running.update(contiguous.reshape(-1).view(np.uint8).data)
    return running.hexdigest()


def file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data(value: Data) -> str:
    """Hash of the examples themselves, in order; where they came from does not count."""
    parts = [array(x) for x in (value.train_x, value.train_y, value.test_x, value.test_y)]
    return digest([*parts, value.n_classes])


def recipe(value: Recipe) -> str:
    """Hash of the architecture and of how it is trained; the evidence for it does not count."""
    return digest({name: part for name, part in asdict(value).items() if name != "evidence"})


def training_code() -> str:
    """Hash of the code that turns a seed into margins. Comments, docstrings and layout do not count."""
    made = digest([_stripped((_HERE / name).read_text("utf-8")) for name in _TRAINING])
    return _SAME_NUMBERS.get(made, made)


def script(path: Path) -> str:
    """Hash of a Python file's code: comments, docstrings and layout do not count. Of another file's bytes."""
    try:
        return digest(_stripped(path.read_text("utf-8")))
    except (SyntaxError, ValueError):
        return file(path)


@cache
def harness_code() -> str:
    """Hash of the harness's code that a finished score may depend on: all but what only prints, reads or writes files.

    Comments, docstrings and layout do not count.
    """
    paths = [p for p in _HERE.rglob("*.py") if not _APART & set(p.relative_to(_HERE).parts)]
    return digest([_stripped(p.read_text("utf-8")) for p in sorted(paths) if p.name not in _PRESENTING])


def _stripped(source: str) -> str:
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return ast.unparse(tree)
