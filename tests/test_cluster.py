"""Shards as jobs: through submitit's local executor, and the rules of submitting with jobs that are none."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import cli, cluster, launch, runner, shards, store, submit
from bench.errors import BenchError
from bench.runner import Options
from bench.shards import Array

Same = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_GRACE_S", 0.0)
    monkeypatch.setattr(cluster, "_POLL_S", 0.05)


@pytest.fixture
def toy_file(tmp_path: Path, toy_source: str) -> Path:
    path = tmp_path / "toy.py"
    path.write_text(toy_source)
    return path


def words(toy_file: Path, out: Path, *more: str) -> list[str]:
    return ["train", f"{toy_file}/logreg", "--models", "64", "--device", "cpu", "--out", str(out), *more]


def in_jobs(source: str, code: str) -> str:
    """The toy dataset, which first runs `code` where it is loaded by a job."""
    load = "rng = np.random.default_rng(7)"
    return source.replace(
        load, f"import os\n        if 'SUBMITIT_EXECUTOR' in os.environ:\n            {code}\n        {load}"
    )


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *told: str) -> None:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    for word in told:
        assert word in err


# The local executor: real processes


def test_a_killed_job_is_submitted_again(
    tmp_path: Path, toy_file: Path, toy_source: str, same_store: Same, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two jobs dies of SIGKILL; the store is the one that a single process makes."""
    assert cli.main(words(toy_file, tmp_path / "whole", "--quiet")) == 0
    once = f"""import pathlib, signal
            flag = pathlib.Path({str(tmp_path / "flag")!r})
            try:
                flag.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass"""
    toy_file.write_text(in_jobs(toy_source, once))
    assert cli.main(words(toy_file, tmp_path / "jobs", "--slurm", "cluster=local", "--shards", "2")) == 0
    out, err = capsys.readouterr()
    assert "64 rows" in out
    assert err.count("ended as DIED before it was done; it is submitted again; its log is ") == 1
    assert "64/64 models" in err
    log = Path(err.partition("its log is ")[2].partition("\n")[0])
    assert log.is_relative_to(tmp_path / "jobs" / "slurm")
    assert log.is_file()
    same_store(tmp_path / "whole", tmp_path / "jobs")
    before = contents(tmp_path / "jobs")
    assert cli.main(words(toy_file, tmp_path / "jobs", "--slurm", "cluster=local", "--shards", "2")) == 0
    assert contents(tmp_path / "jobs") == before


def test_a_failed_job_is_told_in_a_sentence(
    tmp_path: Path, toy_file: Path, toy_source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_file.write_text(in_jobs(toy_source, 'raise ValueError("no such luck")'))
    arguments = words(toy_file, tmp_path / "s", "--quiet", "--slurm", "cluster=local", "--shards", "2")
    refused(
        capsys,
        arguments,
        "bench: shard ",
        "/2 failed in job ",
        ": the dataset toy cannot be loaded: ValueError: no such luck; its log is ",
        "_log.err (and 1 more); the same command submits only what is missing",
    )
    toy_file.write_text(toy_source)
    assert cli.main(words(toy_file, tmp_path / "s", "--quiet")) == 0


def test_detach(tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Returns at once; the last shard to end gathers."""
    arguments = words(toy_file, tmp_path / "s", "--slurm", "cluster=local", "--shards", "2", "--slurm-detach")
    assert cli.main(arguments) == 0
    assert "submitted; the same command without --slurm-detach waits" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "s" / "slurm" / "jobs.json").read_text())["jobs"]) == 2
    deadline = time.monotonic() + 120
    while not (tmp_path / "s" / "meta.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert store.verify(tmp_path / "s") == []
    assert cli.main(arguments) == 0
    assert "64 rows" in capsys.readouterr().out


def test_interrupt_ends_the_jobs(tmp_path: Path, toy_file: Path, toy_source: str) -> None:
    toy_file.write_text(in_jobs(toy_source, "import time; time.sleep(300)"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *words(toy_file, tmp_path / "s", "--slurm=cluster=local", "--shards=2")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    record, deadline = tmp_path / "s" / "slurm" / "jobs.json", time.monotonic() + 120
    while len(list(tmp_path.rglob("*_log.err"))) < 2 or not record.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    jobs = json.loads(record.read_text())["jobs"].values()
    process.send_signal(signal.SIGINT)
    assert "cancelled 2 jobs\nbench: interrupted;" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    for job in jobs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(job), 0)
    assert json.loads(record.read_text())["jobs"] == {}


# What the command line takes


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--slurm", "partiton=gpu"], ("no key 'partiton'", "did you mean 'partition'?")),
        (["--slurm", "nodes=2"], ("no key 'nodes'",)),
        (["--slurm", "timeout_min=long"], ("timeout_min is 'long', and must be a positive integer",)),
        (["--slurm", "timeout_min=0"], ("timeout_min is '0'",)),
        (["--slurm", "gpus_per_node=-1"], ("gpus_per_node is '-1'",)),
        (["--slurm", "mem_gb=nan"], ("mem_gb is 'nan', and must be a positive number",)),
        (["--slurm", "exclusive=perhaps"], ("exclusive is 'perhaps', and must be true or false",)),
        (["--slurm", "partition"], ("'partition' is no key=value",)),
        (["--slurm", "partition=gpu,exclusive"], ("'exclusive' is no key=value",)),
        (["--slurm", "cluster=lsf"], ("cluster is 'lsf', and must be slurm or local",)),
        (["--slurm=cluster=local", "--shards=0"], ("--shards is 0: it takes 1 to 1000",)),
        (["--slurm=cluster=local", "--shards=1001"], ("--shards is 1001: it takes 1 to 1000",)),
        (["--slurm=cluster=local", "--array-parallelism=0"], ("--array-parallelism is 0: it takes at least one",)),
        (["--slurm=cluster=local", "--shard=0/2"], ("--shard is '0/2', and --slurm submits every shard",)),
        (["--slurm=cluster=local", "--device=tpu"], ("--device is 'tpu'",)),
        (["--shards=3"], ("--shards says how --slurm submits",)),
        (["--array-parallelism=3"], ("--array-parallelism says how --slurm submits",)),
        (["--slurm-detach"], ("--slurm-detach says how --slurm submits",)),
    ],
)
def test_refused(
    tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: tuple[str, ...]
) -> None:
    refused(capsys, words(toy_file, tmp_path / "s", *flags), *told)
    assert not (tmp_path / "s" / "slurm").exists()


def test_without_submitit_or_slurm(
    tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(capsys, words(toy_file, tmp_path / "s", "--slurm"), "no sbatch here", "--shard i/n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    refused(capsys, words(toy_file, tmp_path / "s", "--slurm"), "pip install 'ldsbench[slurm]'")
    assert not (tmp_path / "s").exists()


def test_parameters() -> None:
    asked = shards.parse("partition=gpu,exclude=n1,n2,timeout_min=240,mem_gb=1.5,exclusive=true")
    assert asked == {"partition": "gpu", "exclude": "n1,n2", "timeout_min": 240, "mem_gb": 1.5, "exclusive": True}
    assert shards.parse("") == {}


def test_every_key_is_submitits() -> None:
    from submitit.slurm.slurm import SlurmExecutor

    assert set(shards._KEYS) - shards.GENERIC - {"cluster"} <= SlurmExecutor._valid_parameters()


@pytest.mark.parametrize(
    ("parameters", "device"),
    [({}, "cpu"), ({"gpus_per_node": 1}, "cuda"), ({"gpus_per_node": 0}, "cpu"), ({"gres": "gpu:a100:1"}, "cuda")],
)
def test_the_device_is_the_jobs(parameters: dict[str, shards.Value], device: str) -> None:
    assert Array(parameters=parameters).device == device


# The rules, with jobs that run when they are looked at


class Fake:
    """A scheduler in this process: what was submitted, and what becomes of the n-th job."""

    def __init__(self) -> None:
        self.arrays: list[list[int]] = []
        self.calls: dict[str, submit.Call] = {}
        self.states: dict[str, str] = {}
        self.fate: Callable[[str, submit.Call], str] = lambda _, call: self.run(call)
        self.most = 0

    def run(self, call: submit.Call) -> str:
        runner.train(Options(**call[0]), Path(call[1]), call[2])
        return "COMPLETED"

    def submit(self, _: Array, logs: Path, calls: list[submit.Call]) -> list[Any]:
        self.arrays.append([call[2][0] for call in calls])
        names = [f"{len(self.arrays)}_{i}" for i in range(len(calls))]
        self.calls.update(zip(names, calls, strict=True))
        self.states.update(dict.fromkeys(names, "PENDING"))
        return [self.job(logs, name) for name in names]

    def job(self, logs: Path, name: str) -> Any:
        paths = SimpleNamespace(result_pickle=logs / f"{name}_0_result.pkl", stderr=logs / f"{name}_0_log.err")
        return SimpleNamespace(job_id=name, paths=paths, exception=lambda: None)

    def queue(self) -> dict[str, str]:
        pending = [name for name, state in self.states.items() if state == "PENDING"]
        self.most = max(self.most, len(pending))
        for name in pending[:1]:
            self.states[name] = self.fate(name, self.calls[name])
        return dict(self.states)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    for name in ("submit", "queue"):
        monkeypatch.setattr(submit, name, getattr(made, name))
    monkeypatch.setattr(submit, "taken_up", made.job)
    monkeypatch.setattr(submit, "check_tools", lambda _: None)
    monkeypatch.setattr(cluster, "_POLL_S", 0.0)
    return made


@pytest.fixture
def options(toy_file: Path) -> Options:
    return Options(setting=f"{toy_file}/logreg", models=64, device="cpu", quiet=True)


def test_only_shards_with_missing_blocks_are_submitted(tmp_path: Path, options: Options, fake: Fake) -> None:
    """64 rows are four blocks of 16: five shards are four jobs, and one where three blocks are there."""
    assert cluster.train(options, tmp_path / "s", Array(5)) is not None
    assert fake.arrays == [[0, 1, 2, 3]]
    next((tmp_path / "s" / "blocks").glob("rows-000000032*")).unlink()
    assert cluster.train(options, tmp_path / "s", Array(5)) is not None
    assert fake.arrays == [[0, 1, 2, 3], [2]]
    assert cluster.train(options, tmp_path / "s", Array(5)) is not None
    assert len(fake.arrays) == 2


def test_jobs_that_die_without_a_block_are_given_up(
    tmp_path: Path, options: Options, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fate = lambda _, call: "OUT_OF_MEMORY" if call[2][0] == 1 else fake.run(call)
    with pytest.raises(BenchError, match=r"shard 1/2: job 4_0 ended as OUT_OF_MEMORY .*, 4 times in a row .*_log.err"):
        cluster.train(replace(options, quiet=False), tmp_path / "s", Array(2))
    assert fake.arrays == [[0, 1], [1], [1], [1]]
    assert capsys.readouterr().err.count("it is submitted again") == 3


def test_jobs_that_die_after_a_block_go_on(tmp_path: Path, options: Options, fake: Fake) -> None:
    """As at their time limit: every job of the one shard finishes a block."""

    def one_block(_: str, call: submit.Call) -> str:
        left = len(list((tmp_path / "s" / "blocks").glob("*.npz")))
        fake.run((*call[:2], (left, 4), None))
        return "TIMEOUT"

    fake.fate = one_block
    assert cluster.train(options, tmp_path / "s", Array(1, retries=1)) is not None
    assert fake.arrays == [[0]] * 4


def test_a_signal_before_the_shard_began_is_no_failure(
    tmp_path: Path, options: Options, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit raises where its signal of the time limit comes while the job is still importing."""
    from submitit.core.utils import UncompletedJobError

    told = [f"{UncompletedJobError.__module__}.UncompletedJobError: Job not requeued because: timed-out.", None]
    monkeypatch.setattr(submit, "error_of", lambda _: told.pop(0))

    def with_result(name: str, call: submit.Call) -> str:
        (tmp_path / "s" / "slurm" / f"{name}_0_result.pkl").touch()
        return fake.run(call) if name == "2_0" else "COMPLETED"

    fake.fate = with_result
    assert cluster.train(options, tmp_path / "s", Array(1)) is not None
    assert fake.arrays == [[0], [0]]


def test_resubmission_keeps_to_the_limit(tmp_path: Path, options: Options, fake: Fake) -> None:
    """The first array is the scheduler's to hold back; what comes after waits for room."""
    died: set[int] = set()

    def once(_: str, call: submit.Call) -> str:
        if call[2][0] in died:
            return fake.run(call)
        died.add(call[2][0])
        return "PREEMPTED"

    fake.fate = once
    assert cluster.train(options, tmp_path / "s", Array(4, parallelism=2)) is not None
    assert fake.arrays[0] == [0, 1, 2, 3]
    assert sorted(chain.from_iterable(fake.arrays[1:])) == [0, 1, 2, 3]
    assert max(map(len, fake.arrays[1:])) <= 2


def test_jobs_in_the_queue_are_waited_for(
    tmp_path: Path, options: Options, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.train(options, tmp_path / "s", Array(4, detach=True)) is None
    assert fake.arrays == [[0, 1, 2, 3]]
    with pytest.raises(BenchError, match=r"3 jobs in the queue that were submitted with --shards 4: .* scancel 1$"):
        cluster.train(options, tmp_path / "s", Array(2))
    with pytest.raises(BenchError, match=r"in the queue that were submitted with other settings, data or code"):
        cluster.train(replace(options, seed=1), tmp_path / "s", Array(4))
    assert cluster.train(replace(options, quiet=False), tmp_path / "s", Array(4)) is not None
    assert "1 job that was submitted before is still in the queue" in capsys.readouterr().err
    assert len(fake.arrays) == 1


def test_a_queue_that_does_not_answer_loses_no_job(
    tmp_path: Path, options: Options, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def busy() -> dict[str, str] | None:
        nonlocal count
        count += 1
        return fake.queue() if count % 3 == 0 else None

    monkeypatch.setattr(submit, "queue", busy)
    assert cluster.train(options, tmp_path / "s", Array(4)) is not None
    assert fake.arrays == [[0, 1, 2, 3]]


def test_interrupt_cancels(tmp_path: Path, options: Options, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    ended: list[str] = []
    fake.fate = interrupted
    monkeypatch.setattr(submit, "cancel", lambda _, jobs: ended.extend(job.job_id for job in jobs))
    with pytest.raises(KeyboardInterrupt):
        cluster.train(options, tmp_path / "s", Array(3))
    assert ended == ["1_0", "1_1", "1_2"]


def test_a_machine_without_the_jobs_device_gathers_by_a_job(
    tmp_path: Path, options: Options, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last shards to end did not see one another's blocks, one more job gathers."""
    here = True  # the jobs' machines take --device cuda for the CPU, this one has none

    def device_kind(name: str) -> str:
        if name == "cuda" and here:
            raise BenchError("--device is cuda, and torch sees no CUDA device here: use --device cpu")
        return name

    def elsewhere(_: str, call: submit.Call) -> str:
        nonlocal here
        here = False
        fake.run(call)
        here = True
        if len(fake.arrays) == 1:
            (tmp_path / "s" / "meta.json").unlink(missing_ok=True)
        return "COMPLETED"

    import torch

    fake.fate = elsewhere
    monkeypatch.setattr(launch, "device_kind", device_kind)
    monkeypatch.setattr(launch, "hardware", lambda _: {})
    monkeypatch.setattr("bench.train.pick_device", lambda _: torch.device("cpu"))
    array = Array(2, parameters={"gpus_per_node": 1})
    meta = cluster.train(replace(options, device="auto"), tmp_path / "s", array)
    assert meta is not None
    assert meta.identity.device == "cuda"
    assert fake.arrays == [[0, 1], [0]]


def test_what_a_job_is_told_is_plain(options: Options) -> None:
    assert Options(**asdict(options)) == options
    json.dumps(asdict(options))
