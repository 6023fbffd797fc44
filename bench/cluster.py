"""Submit the shards of a ground truth as jobs through submitit, wait for them, and gather the store.

A job trains one shard and shares nothing with the others but the store's folder: finished blocks are the only state
that counts. Jobs may die, run twice or run late; what is missing when one has ended is submitted again.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench import atomic, blocks, datasets, launch, runner, store, submit
from bench.errors import BenchError
from bench.progress import Progress
from bench.shards import Array
from bench.wording import counted, either

if TYPE_CHECKING:
    import submitit

    from bench.launch import Request
    from bench.store import Meta

_POLL_S = 2.0
_LONGEST_POLL_S = 60.0  # the scheduler serves others too: asked less often the longer it takes
_GRACE_S = 15.0  # what a file may take to be seen on another machine


class Submitted(msgspec.Struct):
    """`slurm/jobs.json` in a store: the jobs that may still be in the queue.

    Attributes:
        key: of the ground truth that they make.
        shards: how many it was cut into.
        jobs: id of the job that trains a shard.
    """

    key: str
    shards: int
    jobs: dict[int, str]


def train(options: runner.Options, folder: Path, array: Array, workers: int | None = None) -> Meta | None:
    """Make a ground-truth store, or go on with one, by jobs: one per shard of which blocks are missing.

    Ctrl-C cancels them. Jobs that an earlier call submitted and that are still in the queue are waited for, not
    submitted again.

    Returns:
        The store's meta, or None with `array.detach` where jobs have work left.

    Raises:
        BenchError: bad usage or input, or a shard that failed or whose jobs died too often.
    """
    array.check()
    options.check()
    folder = folder.resolve() if folder.name in ("", "..") else folder.absolute()  # as jobs will find it
    if options.device == "auto":
        options = replace(options, device=array.device)
    submit.check_tools(array)
    setting = datasets.setting(options.setting)
    data = runner.load(setting, options.data_dir, options.allow_modified_data)
    request = launch.widened(options.request(setting, data), folder)
    on_gpu = request.device.partition(":")[0] == "cuda"  # which this machine need not have
    who = launch.check(request, "cuda" if on_gpu else None)
    atomic.writable_folder(folder)
    progress = Progress(quiet=options.quiet)
    call = (asdict(options), str(folder), (0, array.shards), workers)
    jobs = _Jobs(array, request, who.key, folder, progress, call)
    jobs.adopt()
    launch.claim(folder, who, progress)  # here and once: jobs that all set an older store aside would collide
    atomic.writable_folder(folder / "slurm")
    jobs.waiting = [shard for shard in sorted(jobs.missing()) if shard not in jobs.running]
    if array.detach and (jobs.waiting or jobs.running):
        jobs.submit()
        if jobs.waiting:
            progress.say(
                f"{counted(len(jobs.waiting), 'shard waits', 'shards wait')} until {array.parallelism} or fewer jobs "
                "are in the queue"
            )
        return None
    jobs.finish()
    return _gather(jobs, request, folder, progress)


def _gather(jobs: _Jobs, request: Request, folder: Path, progress: Progress) -> Meta:
    deadline = time.monotonic() + _LONGEST_POLL_S
    while jobs.missing() and time.monotonic() < deadline:
        jobs.look()  # every job has said that it is done: their blocks must come to be seen here too
        time.sleep(_POLL_S)
    if missing := jobs.missing():
        rows = sum(missing.values())
        raise BenchError(f"{folder} lacks {counted(rows, 'row')} after every job has ended: run the same command again")
    try:
        launch.device_kind(request.device)
    except BenchError:
        # No such device here. The last shard to end has gathered already, unless it could not see another's blocks.
        if not _whole(folder, jobs):
            jobs.waiting = [0]
            jobs.finish()
        found = _whole(folder, jobs)
    else:
        found = launch.make(request, folder, progress)
    if found is None:
        raise BenchError(f"{folder} has every row and could not be gathered: run the same command again")
    return found


def _whole(folder: Path, jobs: _Jobs) -> Meta | None:
    meta = store.read_meta(folder)
    right = meta is not None and meta.key == jobs.key and len(meta.subset_of_row) == jobs.n_rows
    return meta if right and meta is not None and not store.damaged(folder, meta) else None


class _Jobs:
    """The jobs of one ground truth: which shards wait for one, which have one, and what became of it."""

    def __init__(
        self,
        array: Array,
        request: Request,
        key: str,
        folder: Path,
        progress: Progress,
        call: submit.Call,
    ) -> None:
        self.array, self.request, self.key, self.folder, self.progress = array, request, key, folder, progress
        self.call = call  # but for the shard
        self.n_rows = request.plan.n_rows
        self.slurm, self.logs = array.cluster == "slurm", folder / "slurm"
        self.waiting: list[int] = []
        self.running: dict[int, submitit.Job[None]] = {}
        self.failed: list[str] = []
        self._alive: set[str] = set()  # jobs that may hold a place: some end a while after their result is there
        self._gone: dict[int, float] = {}  # since when a job is not in the queue any more
        self._deaths: Counter[int] = Counter()
        self._left: dict[int, int] = {}
        self._queue: dict[str, str] = {}
        self._asked, self._began = float("-inf"), time.monotonic()

    def name(self, shard: int) -> str:
        """A shard as the command line writes it."""
        return f"shard {shard}/{self.array.shards}"

    def missing(self) -> dict[int, int]:
        """Rows that no good block holds, by the shard that trains them."""
        size, found = launch.rows_per_block(self.request), Counter[int]()
        for start, stop in store.missing_rows(store.find_blocks(self.folder, self.key).good, self.n_rows):
            for row in range(start, stop):
                found[row // size % self.array.shards] += 1
        return dict(found)

    def done(self) -> int:
        """Rows whose blocks are there, by their names alone: for the progress."""
        count = covered = 0
        for path in sorted((self.folder / "blocks").glob("rows-*.npz")):
            start, stop = blocks.span(path) or (0, 0)
            count += max(0, min(stop, self.n_rows) - max(start, covered))
            covered = max(covered, stop)
        return count

    def look(self) -> None:
        """Have the file system look again: a network's remembers for a while that a file was not there."""
        for folder in (self.logs, self.folder / "blocks"):
            with contextlib.suppress(OSError):
                folder.chmod(folder.stat().st_mode)

    def adopt(self) -> None:
        """Take over the jobs of an earlier call that are still in the queue.

        Raises:
            BenchError: there are some, and they make something else.
        """
        try:
            earlier = msgspec.json.decode((self.logs / "jobs.json").read_bytes(), type=Submitted)
        except (OSError, msgspec.DecodeError):
            return
        if not self.slurm or not earlier.jobs:
            return
        if not self._ask():
            raise BenchError("--slurm: squeue does not answer, and jobs may be in the queue already: try again later")
        alive = {shard: name for shard, name in earlier.jobs.items() if not submit.is_over(self._queue.get(name))}
        if not alive:
            return
        if (earlier.key, earlier.shards) != (self.key, self.array.shards):
            other = "other settings, data or code" if earlier.key != self.key else f"--shards {earlier.shards}"
            ids = " ".join(sorted({name.partition("_")[0] for name in alive.values()}))
            raise BenchError(
                f"{self.folder} has {counted(len(alive), 'job')} in the queue that {either(len(alive), 'was', 'were')} "
                f"submitted with {other}: "
                f"wait for them, or end them by scancel {ids}"
            )
        self.running = {shard: submit.taken_up(self.logs, name) for shard, name in alive.items()}
        self._alive.update(alive.values())
        self.progress.say(
            counted(
                len(alive),
                "job that was submitted before is still in the queue",
                "jobs that were submitted before are still in the queue",
            )
        )

    def submit(self) -> None:
        """Submit what waits: all of it as one array, which SLURM keeps to its limit, or else what there is room for.

        Raises:
            BenchError: the cluster refuses.
        """
        busy = len(self._alive if self.slurm else self.running)
        whole = not busy and (self.slurm or self.array.detach)
        shards = self.waiting if whole else self.waiting[: max(0, self.array.parallelism - busy)]
        if not shards:
            return
        options, folder, (_, n), workers = self.call
        calls = [(options, folder, (shard, n), workers) for shard in shards]
        made = submit.submit(self.array, self.logs, calls)
        self.running.update(zip(shards, made, strict=True))
        self._alive.update(job.job_id for job in made)
        self.waiting = [shard for shard in self.waiting if shard not in self.running]
        self._record()
        ids = ", ".join(submit.arrays(made))
        self.progress.say(f"submitted {len(made)} of {counted(self.array.shards, 'shard')}: job {ids}")

    def finish(self) -> None:
        """Until no shard waits or runs.

        Raises:
            BenchError: one failed, or died too often.
        """
        if not (self.waiting or self.running):
            return
        what = f"training {self.request.setting.name} in {counted(self.array.shards, 'shard')}"
        done = self.done()
        try:
            with self.progress.task(what, self.n_rows, "models", done) as advance:
                while self.waiting or self.running:
                    self.submit()
                    time.sleep(_POLL_S if self.slurm else _POLL_S / 10)
                    self.look()
                    self._collect()
                    now = self.done()
                    advance(now - done)
                    done = now
        except KeyboardInterrupt:
            self.cancel()
            raise
        if self.failed:
            more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
            raise BenchError(f"{self.failed[0]}{more}; the same command submits only what is missing")

    def cancel(self) -> None:
        """Take every job out of the queue."""
        jobs = list(self.running.values())
        submit.cancel(self.array, jobs)
        if jobs:
            self.progress.say(f"cancelled {counted(len(jobs), 'job')}")
        self.running = {}
        self._record()

    def _record(self) -> None:
        record = Submitted(self.key, self.array.shards, {shard: job.job_id for shard, job in self.running.items()})
        atomic.write_text(self.logs / "jobs.json", msgspec.json.encode(record).decode() + "\n")

    def _collect(self) -> None:
        """Take note of the jobs that have ended."""
        if self.slurm:
            self._find_gone()
        ended = {shard: state for shard in self.running if (state := self._state(shard)) is not None}
        if not ended:
            return
        left = None
        for shard, how in ended.items():
            state, job = how, self.running.pop(shard)
            self._gone.pop(shard, None)
            if job.paths.result_pickle.exists():
                reason = submit.error_of(job)
                if reason is None:
                    continue
                if not reason.startswith(submit.TIMED_OUT):
                    self._fail(f"{self.name(shard)} failed in job {job.job_id}: {reason}", job)
                    continue
                state = "TIMEOUT"
            left = self.missing() if left is None else left
            if shard in left:
                self._died(shard, job, state, left[shard])
        self._record()

    def _died(self, shard: int, job: submitit.Job[None], state: str, left: int) -> None:
        self._deaths[shard] = self._deaths[shard] + 1 if left == self._left.get(shard, left) else 1
        self._left[shard] = left
        sentence = f"{self.name(shard)}: job {job.job_id} ended as {state} before it was done"
        if self._deaths[shard] > self.array.retries:
            self._fail(f"{sentence}, {self._deaths[shard]} times in a row without a new block", job)
            return
        self.progress.say(f"{sentence}; it is submitted again; its log is {job.paths.stderr}")
        self.waiting.append(shard)

    def _fail(self, sentence: str, job: submitit.Job[None]) -> None:
        self.failed.append(f"{sentence}; its log is {job.paths.stderr}")
        self.progress.say(self.failed[-1])

    def _state(self, shard: int) -> str | None:
        """How the job of a shard ended, None while it has not."""
        job = self.running[shard]
        if job.paths.result_pickle.exists():
            return "COMPLETED"
        if not self.slurm:
            return "DIED" if job.done() and not job.paths.result_pickle.exists() else None
        gone = time.monotonic() - self._gone.get(shard, float("inf"))
        return self._queue.get(job.job_id, "GONE") if gone >= _GRACE_S else None

    def _find_gone(self) -> None:
        """Note since when jobs are not in the queue; asked the more seldom the longer it takes."""
        pause = min(_LONGEST_POLL_S, max(_POLL_S, (time.monotonic() - self._began) / 20))
        if time.monotonic() - self._asked < pause or not self._ask():
            return
        self._alive = {name for name in self._alive if not submit.is_over(self._queue.get(name))}
        for shard, job in self.running.items():
            if submit.is_over(self._queue.get(job.job_id)):
                self._gone.setdefault(shard, time.monotonic())
            else:
                self._gone.pop(shard, None)

    def _ask(self) -> bool:
        """Ask SLURM; where it does not answer, that says nothing of the jobs."""
        self._asked, told = time.monotonic(), submit.queue()
        self._queue = told or {}
        return told is not None
