"""Chunks that are halved when memory runs out, by errors on purpose and by a process that is really short of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import halving
from bench.errors import InputError
from bench.launch import Request, make
from bench.methods import Chosen, Method
from bench.progress import Progress
from bench.task import Task
from bench.workbench import Bench

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_every_example_is_done_once_and_in_order_however_little_fits(count: int, step: int, fits: int) -> None:
    largest = []

    def work(part: slice) -> list[int]:
        if part.stop - part.start > fits:
            raise MemoryError
        largest.append(part.stop - part.start)
        return list(range(part.start, part.stop))

    said: list[str] = []
    with halving.told(said.append):
        done = [n for part, made in halving.each(work, count, step) for n in made if part.start <= n < part.stop]
    assert done == list(range(count))
    assert len(said) == (min(step, count) > fits)
    if said:
        assert max(largest) >= (fits + 1) // 2  # not smaller than it must be
        assert said[0].startswith(f"memory ran out with {min(step, count)} examples at a time: done ")


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_all_words_for_it_are_understood(error: Exception) -> None:
    def work(part: slice) -> None:
        if part.stop - part.start > 2:
            raise error

    said: list[str] = []
    with halving.told(said.append):
        assert [part.stop for part, _ in halving.each(work, 6, 4, "targets")] == [2, 4, 6]
    assert said == ["memory ran out with 4 targets at a time: done 2 at a time"]


@pytest.mark.parametrize("error", [MemoryError("one is too many"), ValueError("other"), RuntimeError("other")])
def test_what_smaller_chunks_cannot_mend_is_raised(error: Exception) -> None:
    def work(_: slice) -> None:
        raise error

    said: list[str] = []
    with halving.told(said.append), pytest.raises(type(error), match=str(error)):
        list(halving.each(work, 5, 4))
    assert said == []


def test_only_who_listens_is_told() -> None:
    def work(part: slice) -> None:
        if part.stop - part.start > 1:
            raise MemoryError

    first: list[str] = []
    with halving.told(first.append):
        list(halving.each(work, 2, 2))
    list(halving.each(work, 2, 2))
    assert len(first) == 1
    with pytest.raises(InputError, match="it takes at least 1"):
        list(halving.each(work, 2, 0))


_STARVED = """
import resource, sys
import torch
from bench import halving

with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 160 * 2**20,) * 2)
said, total = [], 0.0
with halving.told(said.append):
    for part, made in halving.each(lambda part: torch.ones(part.stop - part.start, 2**18).sum(1), 1024, 1024):
        total += float(made.sum())  # 1 MiB an example, a GiB at once
print(total / 2**18, said[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's means")
def test_a_process_that_is_short_of_memory_gets_through() -> None:
    root = Path(__file__).resolve().parent.parent
    made = subprocess.run([sys.executable, "-c", _STARVED], cwd=root, capture_output=True, text=True, check=True)
    done, said = made.stdout.split(" ", 1)
    assert float(done) == 1024
    at_a_time = int(said.split("done ")[1].split()[0])
    assert at_a_time in (128, 64, 32)


class Greedy(Method):
    def attribute(self, task: Task) -> NDArray[np.float32]:
        def work(part: slice) -> NDArray[np.float32]:
            if part.stop - part.start > 8:
                raise MemoryError
            found: NDArray[np.float32] = task.data.train_x[part] @ task.data.test_x.T
            return found

        twice = [[made for _, made in halving.each(work, task.data.n_train, 32)] for _ in range(2)]
        return np.concatenate(twice[0])


def test_a_method_that_ran_short_says_so(toy_request: Request, tmp_path: Path, quiet: Progress) -> None:
    make(toy_request, tmp_path / "gt", quiet)
    bench = Bench.open(toy_request.setting, toy_request.data, tmp_path / "gt", tmp_path, "cpu", quiet, 30)
    made = bench.attribute(Chosen("greedy", Greedy(), {}, "greedy"))
    assert made.notes == ["memory ran out with 32 examples at a time: done 8 at a time"]  # once, though it did so twice
    assert made.scores.shape == (40, 10)
