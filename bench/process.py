"""What is set for a whole process, put back after a method may have changed it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Setting = tuple[Callable[[Any], object], Any]
"""What puts a value back, and the value."""


@contextmanager
def process_as_it_was() -> Iterator[None]:
    """Put back what a method may have changed for those after it.

    The standard streams, the working directory, the environment, the recursion limit, warning filters, numpy's handling
    of floating-point errors, and torch's threads, default type and device, gradients, determinism, precision of matrix
    products, cuDNN's switches and anomaly detection. What is not: the random generators, which no method may rely on,
    and what the modules that a method imports set for themselves.
    """
    with ExitStack() as after:
        for put_back, was in (*_of_python(), *_of_torch()):
            after.callback(put_back, was)
        sys.stdout, sys.stderr = _Lent(sys.stdout), _Lent(sys.stderr)
        with np.errstate(), warnings.catch_warnings():
            yield


def _of_python() -> Iterator[Setting]:
    yield os.chdir, Path.cwd()
    yield _environment, dict(os.environ)
    yield sys.setrecursionlimit, sys.getrecursionlimit()
    yield _streams, (sys.stdout, sys.stderr)


class _Lent:
    """A stream that stays open when it is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _streams(was: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = was


def _environment(was: dict[str, str]) -> None:
    for name in os.environ.keys() - was.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in was.items() if os.environ.get(name) != value})


def _of_torch() -> Iterator[Setting]:
    import torch

    device = torch.empty(0).device  # get_default_device of torch 2.6 fails once None has been set
    yield torch.set_default_device, None if device.type == "cpu" else device  # None is the CPU, at no cost
    yield torch.set_default_dtype, torch.get_default_dtype()
    yield torch.set_num_threads, torch.get_num_threads()
    yield torch.set_grad_enabled, torch.is_grad_enabled()
    yield torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode()
    yield torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()
    yield _anomalies, (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
    yield _cudnn, {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}


def _anomalies(was: tuple[bool, bool]) -> None:
    import torch

    torch.autograd.set_detect_anomaly(*was)


def _cudnn(was: dict[str, bool]) -> None:
    import torch

    for name, value in was.items():
        setattr(torch.backends.cudnn, name, value)
