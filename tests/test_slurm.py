"""`--slurm` against a real SLURM: one node on the loopback, started here and stopped again (tox -e slurm).

It needs root, and slurmctld, slurmd and munged; BENCH_INSTALL_SLURM=1, as tox sets it, has apt-get install Debian's.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import cli, cluster, store

pytestmark = pytest.mark.slurm

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS = 4  # as SLURM is told; the machine may have fewer


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running SLURM; SLURM_CONF points there."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("slurmctld, slurmd and munged are started as root, and this is another user")
    if not all(map(shutil.which, DAEMONS)) and os.environ.get("BENCH_INSTALL_SLURM") and shutil.which("apt-get"):
        # RUNLEVEL keeps the packages from starting daemons of their own, which have no configuration.
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update"], check=False, env=quiet)
        subprocess.run(["apt-get", "install", "-y", "slurm-wlm", "munge"], check=False, env=quiet)
    if missing := [name for name in DAEMONS if not shutil.which(name)]:
        pytest.skip(f"there is no {', '.join(missing)}: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    started: list[subprocess.Popen[bytes]] = []
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        _start(folder, started)
        yield folder
    finally:
        if len(started) == len(DAEMONS):
            subprocess.run(["scancel", "--user=root"], check=False)
            _until_empty()  # the last step of a job needs the daemons
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        for left in _processes(f"SLURM_CONF={folder}/slurm.conf"):
            if left != os.getpid():
                os.kill(left, signal.SIGKILL)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _start(folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    host = socket.gethostname().partition(".")[0]
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(
        f"""\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    munge = [f"--{name}={folder}/munge{end}" for name, end in (("socket", ".sock"), ("key-file", ".key"))]
    munge += [f"--{name}={folder}/munged.{name.partition('-')[0]}" for name in ("log-file", "pid-file", "seed-file")]
    # --force: the folder of a test is open to nobody else, which munged would have otherwise.
    for command in (["munged", "--force", "--foreground", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
        out = (folder / f"{command[0]}.out").open("wb")
        started.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, start_new_session=True))
        out.close()
        time.sleep(0.5)
    deadline = time.monotonic() + 60
    while _told("sinfo", "--noheader", "--format=%T") != "idle":
        gone = [process.args for process in started if process.poll() is not None]
        if gone or time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("slurm*.*"))
            pytest.fail(f"SLURM did not start ({gone} ended):\n{logs}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def in_queue() -> str:
    return _told("squeue", "--noheader")


def _until_empty() -> None:
    deadline = time.monotonic() + 60
    while in_queue() and time.monotonic() < deadline:
        time.sleep(0.1)


def _processes(*environment: str) -> Iterator[int]:
    """Processes with these words in their environment."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if set(map(str.encode, environment)) <= set(path.read_bytes().split(b"\0")):
                yield int(path.parent.name)


class Watcher(threading.Thread):
    """Sees how many jobs run at once, and scancels a task of the array once it runs, where one is named."""

    def __init__(self, doomed: str | None = None) -> None:
        super().__init__(daemon=True)
        self.doomed, self.ended = doomed, threading.Event()
        self.seen: set[str] = set()
        self.most = 0

    def run(self) -> None:
        while not self.ended.wait(0.1):
            running = _told("squeue", "--noheader", "--array", "--states=R", "--format=%i").split()
            self.seen.update(running)
            self.most = max(self.most, len(running))
            for name in running:
                if self.doomed is not None and name.endswith(f"_{self.doomed}"):
                    subprocess.run(["scancel", name], check=True)
                    self.doomed = None

    def __enter__(self) -> "Watcher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


@pytest.fixture(autouse=True)
def soon(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.is_dir()
    _until_empty()
    monkeypatch.setattr(cluster, "_GRACE_S", 2.0)
    monkeypatch.setattr(cluster, "_POLL_S", 0.5)


@pytest.fixture
def toy_file(tmp_path: Path, toy_source: str) -> Path:
    """The toy dataset, of which every job takes so long that it can be seen."""
    path = tmp_path / "toy.py"
    load = "rng = np.random.default_rng(7)"
    wait = "import os, time\n        time.sleep(4 * ('SUBMITIT_EXECUTOR' in os.environ))\n        "
    path.write_text(toy_source.replace(load, wait + load))
    return path


def words(toy_file: Path, out: Path, *more: str) -> list[str]:
    return ["train", f"{toy_file}/logreg", "--models", "96", "--device", "cpu", "--out", str(out), *more]


def test_an_array_a_cap_and_a_cancelled_job(
    tmp_path: Path, toy_file: Path, same_store: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Five shards, two at a time; one is scancelled and submitted again; the store is that of one process."""
    assert cli.main(words(toy_file, tmp_path / "whole", "--quiet")) == 0
    arguments = words(
        *(toy_file, tmp_path / "jobs", "--slurm", "partition=main,timeout_min=10,cpus_per_task=1"),
        *("--shards", "5", "--array-parallelism", "2"),
    )
    with Watcher(doomed="1") as watcher:
        assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "96 rows × 10 targets" in out
    assert "submitted 5 of 5 shards: job " in err
    assert re.search(r"shard 1/5: job \d+_1 ended as \w+ before it was done; it is submitted again; its log is /", err)
    assert "submitted 1 of 5 shards: job " in err
    assert watcher.most == 2
    assert len(watcher.seen) == 6
    same_store(tmp_path / "whole", tmp_path / "jobs")
    assert cli.main(arguments) == 0
    assert "submitted" not in capsys.readouterr().err


def test_a_killed_process_is_submitted_again(
    tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL, as of a node that is out of memory; of two jobs, whose processes this machine can see."""
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for number in _processes("SLURM_ARRAY_TASK_ID=1", "SUBMITIT_EXECUTOR=slurm"):
                line = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
                if b"submitit.core._submit" in line and not line[0].endswith(b"srun"):
                    os.kill(number, signal.SIGKILL)
                    killed.append(number)
            time.sleep(0.1)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert cli.main(words(toy_file, tmp_path / "s", "--slurm", "--shards", "2")) == 0
    thread.join(1)
    assert len(killed) == 1
    assert "ended as FAILED before it was done; it is submitted again" in capsys.readouterr().err
    assert store.verify(tmp_path / "s") == []


def test_detach_and_take_up(tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = words(toy_file, tmp_path / "s", "--slurm", "--shards", "3")
    assert cli.main([*arguments, "--slurm-detach"]) == 0
    assert len(in_queue().splitlines()) >= 1
    assert not (tmp_path / "s" / "meta.json").exists()
    assert cli.main([*arguments[:-1], "2"]) == 2
    assert "3 jobs in the queue that were submitted with --shards 3" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    err = capsys.readouterr().err
    assert "3 jobs that were submitted before are still in the queue" in err
    assert "submitted 3" not in err
    assert store.verify(tmp_path / "s") == []


def test_interrupt_cancels(tmp_path: Path, toy_file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *words(toy_file, tmp_path / "s", "--slurm", "--shards", "4")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "s" / "slurm" / "jobs.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert in_queue()
    process.send_signal(signal.SIGINT)
    assert "cancelled 4 jobs\nbench: interrupted;" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    _until_empty()
    assert in_queue() == ""


def test_what_sbatch_refuses(tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(toy_file, tmp_path / "s", "--quiet", "--slurm", "partition=nothing", "--shards", "2")) == 2
    err = capsys.readouterr().err
    assert "--slurm: the jobs cannot be submitted: " in err
    assert "invalid partition specified: nothing" in err
    assert err.count("\n") == 1
