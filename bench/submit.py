"""What touches submitit and SLURM: the function that a job runs, submitting, the queue, cancelling.

Whether a job is still there is asked of `squeue`, which every cluster has, and not of `sacct`, as submitit does: a
cluster without accounting would never be seen to lose a job.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.shards import GENERIC, Array

if TYPE_CHECKING:
    import submitit

Call = tuple[dict[str, Any], str, tuple[int, int], int | None]  # the arguments of `train_shard`

_TIMEOUT_MIN = 240  # submitit's own, 5 minutes, is short for a shard; one that reaches it goes on in another job
_ANSWER_S = 60.0  # what a busy scheduler may take
_END_S = 15.0  # what a process may take to stop
TIMED_OUT = "submitit.core.utils.UncompletedJobError: "  # raised where the signal comes before `train_shard`
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}


def train_shard(options: dict[str, Any], folder: str, shard: tuple[int, int], workers: int | None) -> None:
    """What one job does: `bench train --shard i/n`. Its arguments are plain values: nobody's classes are pickled."""
    # submitit has a job outlive SIGTERM, and raise shortly before its time is up. Here scancel is to end it in order,
    # and in its last minute it may well finish a block.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    from bench import runner  # which takes a while

    if "SLURM_JOB_ID" in os.environ and options["device"] == "cpu":
        cores = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        workers = workers or (int(cores) if cores else None)  # not every cluster confines a job to its cores
    runner.train(runner.Options(**options), Path(folder), shard, workers)


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def check_tools(array: Array) -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        BenchError: submitit or SLURM is missing.
    """
    if importlib.util.find_spec("submitit") is None:
        raise BenchError("--slurm needs submitit, which is not installed: pip install 'ldsbench[slurm]'")
    if array.cluster == "slurm" and not all(map(shutil.which, ("sbatch", "srun", "squeue", "scancel"))):
        raise BenchError("--slurm finds no sbatch here: run it on a machine that submits to SLURM, or use --shard i/n")


def submit(array: Array, logs: Path, calls: Iterable[Call]) -> list[submitit.Job[None]]:
    """Submit calls of `train_shard` as one array.

    Raises:
        BenchError: the cluster refuses.
    """
    import submitit

    # Processes are named by their numbers, which come again: an earlier one's result must not be taken for a new one's.
    folder = logs if array.cluster == "slurm" else logs / f"local-{time.time_ns()}"
    told: dict[str, Any] = {"name": "bench", "timeout_min": _TIMEOUT_MIN, **array.parameters}
    if "setup" in told:
        told["setup"] = [told["setup"]]
    try:
        # What sbatch says goes into the sentence, not to the terminal besides.
        with _outside_jobs(), contextlib.redirect_stderr(io.StringIO()):
            executor = submitit.AutoExecutor(folder=folder, cluster=array.cluster)
            executor.update_parameters(
                **{name if name in GENERIC else f"slurm_{name}": value for name, value in told.items()},
                slurm_array_parallelism=array.parallelism,
            )
            return executor.map_array(train_shard, *zip(*calls, strict=True))
    except (RuntimeError, ValueError, OSError) as error:
        raise BenchError(f"--slurm: the jobs cannot be submitted: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _outside_jobs() -> Iterator[None]:
    """Hide the job that this process may itself run in: what it submits would inherit its size and place."""
    from submitit.helpers import clean_env

    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    with clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext():
        os.environ.update(kept)
        yield


def taken_up(logs: Path, name: str) -> submitit.Job[None]:
    """A job of SLURM that another process submitted."""
    import submitit

    return submitit.SlurmJob(logs, name)


def queue() -> dict[str, str] | None:
    """This user's jobs and their states, as far as SLURM remembers; None where it does not answer."""
    command = ["squeue", "--states=all", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ANSWER_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {words[0]: words[1] for words in map(str.split, told.splitlines()) if len(words) == 2}


def is_over(state: str | None) -> bool:
    """Whether a job of that state in the queue, or that is not in the queue, will do no more."""
    return state is None or state in _ENDED


def arrays(jobs: Iterable[submitit.Job[None]]) -> list[str]:
    """Ids of the arrays that jobs belong to."""
    return sorted({job.job_id.partition("_")[0] for job in jobs})


def cancel(array: Array, jobs: list[submitit.Job[None]]) -> None:
    """End jobs."""
    if array.cluster == "slurm":  # whole arrays: job by job would take a call each
        if jobs:
            subprocess.run(["scancel", *arrays(jobs)], check=False, capture_output=True)
        return
    for job in jobs:
        job.cancel(check=False)
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline and not all(job.done() for job in jobs):
        time.sleep(0.05)


def error_of(job: submitit.Job[None]) -> str | None:
    """What a job with a result raised, in a line: submitit puts the traceback between rules."""
    error = job.exception()
    if error is None:
        return None
    parts = re.split(r"^-{10,}$", str(error), flags=re.MULTILINE)
    lines = (parts[1] if len(parts) > 1 else str(error)).strip().splitlines() or ["no reason given"]
    return re.sub(r"^bench\.errors\.\w+: ", "", lines[-1].strip())
