"""What a method sets for the whole process is put back, however it ends."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.process import process_as_it_was

SEEN: dict[str, Callable[[], object]] = {
    "working directory": Path.cwd,
    "environment": lambda: dict(os.environ),
    "recursion limit": sys.getrecursionlimit,
    "warning filters": lambda: list(warnings.filters),
    "numpy's errors": np.geterr,
    "default device": lambda: torch.empty(0).device,
    "default type": torch.get_default_dtype,
    "threads": torch.get_num_threads,
    "gradients": torch.is_grad_enabled,
    "deterministic": torch.get_deterministic_debug_mode,
    "matrix products": torch.get_float32_matmul_precision,
    "anomalies": torch.is_anomaly_enabled,
    "cuDNN": lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
}


def _spoil(folder: Path) -> None:
    os.chdir(folder)
    os.environ["OF_A_METHOD"] = "1"
    del os.environ["OF_THE_TEST"]
    sys.setrecursionlimit(sys.getrecursionlimit() + 7)
    warnings.simplefilter("error", FutureWarning)
    np.seterr(all="raise")
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.autograd.set_detect_anomaly(mode=True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_everything_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    monkeypatch.setenv("OF_THE_TEST", "was here")
    before = {name: look() for name, look in SEEN.items()}
    changed = {}
    try:
        with process_as_it_was():
            _spoil(tmp_path)
            changed = {name: look() for name, look in SEEN.items()}
            if ends == "raises":
                raise KeyError(ends)
    except KeyError:
        assert ends == "raises"
    assert all(changed[name] != before[name] for name in SEEN)
    assert {name: look() for name, look in SEEN.items()} == before


def test_streams_stay_open_and_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with process_as_it_was():
        print("said", flush=True)
        assert sys.stdout.encoding == before[0].encoding
        sys.stdout.close()
        sys.stderr.close()
        sys.stderr = None
    assert (sys.stdout, sys.stderr) == before
    print("after")
    print("after", file=sys.stderr)
    assert capsys.readouterr() == ("said\nafter\n", "after\n")


def test_a_device_that_was_chosen_before_stays_chosen() -> None:
    torch.set_default_device("meta")
    try:
        with process_as_it_was():
            torch.set_default_device("cpu")
        assert torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_device(None)
