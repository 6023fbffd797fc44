"""Make a ground truth: plan its rows, train the blocks that are missing, gather them."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bench import atomic, blocks, hashing, store, subsets, workers
from bench.errors import BenchError, InputError
from bench.recorded import EXTRAS, Dtype, Extra, Recorded
from bench.store import Identity, Meta, PlanMeta
from bench.subsets import GROUPS, Plan, Protocol, Sampling
from bench.work import Done, Feed, Span, Work

if TYPE_CHECKING:
    import torch

    from bench.datasets import Data, Setting
    from bench.progress import Progress
    from bench.recipes import Output

T = TypeVar("T")

BLOCK_ROWS = 128  # stacks of this many small models run fastest on a CPU
GPU_ROWS, _GPU_PARAMETERS = 2048, 2**27  # a stack is cut where it does not fit into memory
ALONE_ROWS = 8  # of models that train one after another: what a kill can lose
_STACK_PARAMETERS = 2**21  # larger models run faster in smaller stacks; this also bounds what a kill can lose
_FEW_BLOCKS = 8  # a small ground truth still has work for several threads


@dataclass(frozen=True)
class Request:
    """A ground truth to make.

    Attributes:
        setting: what to train on what; data: its examples.
        plan: the rows; alpha: kept fraction; seed: root seed; output: the model output.
        device: `auto`, `cpu` or `cuda`.
        block_rows: rows per block; by default a function of the model's size and the number of rows.
        shard: `(i, n)`: train only every n-th block, starting at the i-th.
        workers: processes that train blocks; by default one for each GPU where there are several, and threads of this
            process on a CPU.
        sampling: `exact` or `bernoulli` subsets; dtype, keep: of `bench.recorded.Recorded`.
        empty_classes: whether a subset may lack a class altogether.
        protocol: `expectation`, a seed for every row, or `single-model`, the same for all.
    """

    setting: Setting
    data: Data
    plan: Plan
    alpha: float = 0.5
    seed: int = 0
    output: Output = "logsumexp"
    device: str = "auto"
    block_rows: int | None = None
    shard: tuple[int, int] = (0, 1)
    workers: int | None = None
    sampling: Sampling = "exact"
    dtype: Dtype = "float32"
    keep: tuple[Extra, ...] = ()
    empty_classes: bool = False
    protocol: Protocol = "expectation"

    @property
    def recorded(self) -> Recorded:
        """What is kept of each model."""
        return Recorded(self.output, self.dtype, self.keep)


def rows_per_block(request: Request) -> int:
    """Rows that are trained as one stack and written as one block: the same for every shard on one kind of device."""
    if request.block_rows is not None:
        return request.block_rows
    data, recipe = request.data, request.setting.recipe
    on_gpu = request.device != "cpu" and (request.device != "auto" or device_kind("auto") == "cuda")
    if not recipe.stacked or (recipe.architecture.name == "cnn" and not on_gpu):
        return ALONE_ROWS
    size = recipe.architecture.parameters(data.train_x.shape[1:], data.n_classes)
    rows, parameters = (GPU_ROWS, _GPU_PARAMETERS) if on_gpu else (BLOCK_ROWS, _STACK_PARAMETERS)
    return max(16, min(rows, parameters // size, -(-request.plan.n_rows // _FEW_BLOCKS)))


def identity(request: Request, kind: str | None = None) -> Identity:
    """What the rows of `request` come from; its key is the ground truth's.

    Args:
        request: the ground truth.
        kind: `cpu` or `cuda`, where this machine need not have the device; by default what is here.

    Raises:
        BenchError: a value out of range, no such device, or a recipe that the protocol does not go with.
    """
    subsets.subset_size(request.data.n_train, request.alpha)
    if request.seed < 0:
        raise BenchError(f"--seed is {request.seed}: it cannot be negative")
    _check_protocol(request)
    plan, recipe, kind = request.plan, request.setting.recipe, kind or device_kind(request.device)
    # Where networks could be compiled and the environment says not to, their roundings differ.
    plain = not recipe.stacked and kind == "cuda" and os.environ.get("BENCH_COMPILE") == "0"
    return Identity(
        setting=request.setting.name,
        alpha=request.alpha,
        seed=request.seed,
        output=request.output,
        plan=PlanMeta(plan.repeats, plan.eval_subsets, plan.tune_rows, plan.judge_only),
        device=kind,
        data=hashing.data(request.data),
        recipe=hashing.recipe(recipe),
        code=hashing.training_code(),
        compiled=not plain,
        sampling=request.sampling,
        dtype=request.dtype,
        keep=tuple(name for name in EXTRAS if name in request.recorded.keep),
        protocol=request.protocol,
    )


def _check_protocol(request: Request) -> None:
    if request.protocol == "expectation":
        return
    if (why := request.setting.recipe.not_plain) is not None:
        raise BenchError(
            f"--protocol {request.protocol} leaves single examples out of their batches, and that is not possible with "
            f"{request.setting.name}, where {why}: use a setting that trains by plain SGD, such as digits/mlp"
        )
    if request.plan.repeats > 1:
        raise BenchError(
            f"--repeats is {request.plan.repeats}, and by --protocol {request.protocol} every model has the same seed: "
            "leave --repeats out"
        )


def device_kind(name: str) -> str:
    """`cpu` or `cuda`, without importing torch where the name says it all."""
    if name == "cpu":
        return name
    from bench.train import pick_device

    return pick_device(name).type


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for package in ("ldsbench", "numpy", "scipy", "torch", "numba", "scikit-learn", "traker"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device: str) -> dict[str, str]:
    """What it ran on, in words."""
    from bench.train import cpu_threads

    facts = {"machine": platform.machine(), "processor": _processor(), "cores": str(cpu_threads())}
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def check(request: Request, kind: str | None = None) -> Identity:
    """Refuse what cannot be made, before anything is written; returns what the rows come from (see `identity`).

    Raises:
        BenchError: a value out of range, no such device, a subset without a class, or one of two groups.
    """
    from bench.models import build

    who = identity(request, kind)
    data = request.data
    build(request.setting.recipe.architecture, data.train_x.shape[1:], data.n_classes)  # refuses what does not fit
    subset_of_row, _ = request.plan.layout()
    labels, empty = request.data.train_y, request.empty_classes
    if request.sampling == "exact":
        subsets.check_distinct(request.seed, request.plan, data.n_train, request.alpha)
    subsets.check_classes(request.seed, subset_of_row, labels, request.alpha, request.sampling, allow_empty=empty)
    return who


def make(request: Request, folder: Path, progress: Progress) -> Meta | None:
    """Train what is missing of a ground truth and gather it; what is there and right is kept.

    A store made for another setting, alpha, seed, output or plan is refused. One whose data, recipe, code or kind
    of device has changed since is set aside under another name, and said so.

    Returns:
        The store's meta, or None where other shards still have rows to train.

    Raises:
        BenchError: the store is another's, or the folder cannot be written.
    """
    request = widened(request, folder)
    who = check(request)
    if folder.name in ("", ".."):
        folder = folder.resolve()  # it needs a name to be set aside under another
    atomic.writable_folder(folder)
    claim(folder, who, progress)
    atomic.writable_folder(folder / "blocks")
    written = msgspec.json.format(msgspec.json.encode(who)) + b"\n"
    path = folder / "identity.json"
    if not path.is_file() or path.read_bytes() != written:
        atomic.write_text(path, written.decode())
    asked = msgspec.json.encode(store.Asked(request.plan.n_rows))
    if not (folder / store.ASKED).is_file() or (folder / store.ASKED).read_bytes() != asked:
        atomic.write_text(folder / store.ASKED, asked.decode())
    for place in (folder, folder / "blocks"):
        atomic.sweep(place)
    found = store.find_blocks(folder, who.key)
    n_rows = request.plan.n_rows
    missing = sum(stop - start for start, stop in store.missing_rows(found.good, n_rows))
    for bad in found.bad:
        progress.say(f"{folder.name}: {bad}; {'what is missing is trained anew' if missing else 'it is not needed'}")
    todo = list(_blocks_to_train(request, found.good))
    if todo:
        _train(request, who.key, folder, todo, n_rows - missing, progress)
        atomic.sweep(folder / "blocks")
        found = store.find_blocks(folder, who.key)
    if any(True for _ in store.missing_rows(found.good, n_rows)):
        return None
    used = [header for header in found.good if header.start < n_rows]
    meta = _meta(request, who, used)
    return _gathered(folder, meta, progress) or store.gather(folder, meta)


def widened(request: Request, folder: Path) -> Request:
    """A store that keeps more than is asked for serves as well, and goes on keeping it."""
    old = _read_identity(folder) if folder.is_dir() else None
    return replace(request, keep=old.keep) if old is not None and set(request.keep) < set(old.keep) else request


def _gathered(folder: Path, meta: Meta, progress: Progress) -> Meta | None:
    """The stored meta where it says of the rows what `meta` says, and the files are as it says; else None."""
    try:
        old = store.read_meta(folder)
    except InputError:
        progress.say(f"{folder.name}: meta.json cannot be read; the arrays are gathered anew")
        return None
    if old is None:
        return None
    told = msgspec.structs.replace(
        meta, origin=old.origin, versions=old.versions, hardware=old.hardware, checksums=old.checksums
    )
    if old != told:
        return None
    for wrong in (damage := store.damaged(folder, old)):
        progress.say(f"{folder.name}: {wrong}; it is gathered anew")
    return None if damage else old


def refuse_other(folder: Path, who: Identity) -> None:
    """Leave a store alone that is another's.

    Raises:
        BenchError: it was made with other settings, elsewhere, or by a later version.
    """
    store.refuse_newer(folder)
    old = _read_identity(folder)
    if old is None:
        if (folder / "masks.npy").exists() or (folder / "margins.npy").exists():
            raise BenchError(f"{folder} holds a ground truth that was not made here: name another folder with --out")
        return
    clash = who.clash(old)
    if clash is not None:
        raise BenchError(f"{folder} was made with {clash}: name another folder with --out")


def claim(folder: Path, who: Identity, progress: Progress) -> None:
    """Make sure that `folder` is for `who`; a store made by other data or code is set aside.

    Raises:
        BenchError: it holds something else.
    """
    refuse_other(folder, who)
    old = _read_identity(folder)
    if old is None:
        return
    changed = who.changed(old)
    if changed:
        aside = folder.with_name(f"{folder.name}.{old.key[:8]}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}.{old.key[:8]}-{number}")
        earlier = [p for p in folder.parent.glob(f"{folder.name}.{who.key[:8]}*") if _read_identity(p) == who]
        with atomic.writing(folder):
            folder.rename(aside)
            if _read_identity(aside) != old:  # another shard has done the same in between, and begun anew
                aside.rename(folder)
                return
            if earlier:
                earlier[0].rename(folder)
        then = f"{earlier[0].name} is taken up again" if earlier else "training anew"
        progress.say(f"{folder.name}: made by other {' and '.join(changed)} than now; kept as {aside.name}, {then}")


def _read_identity(folder: Path) -> Identity | None:
    """Who a store belongs to: identity.json, or where that is gone or torn, meta.json.

    Raises:
        BenchError: identity.json is torn, and there is no meta.json.
    """
    path = folder / "identity.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        with suppress(InputError):
            meta = store.read_meta(folder)
            if meta is not None:
                return meta.identity
        if isinstance(error, FileNotFoundError):
            return None
        raise BenchError(f"{path} cannot be read ({error}): move the folder away or name another with --out") from error


def _blocks_to_train(request: Request, good: list[blocks.Header]) -> Iterator[tuple[int, int]]:
    """Spans to train: the missing rows, cut at the multiples of `block_rows`, of this shard's blocks."""
    shard, shards = request.shard
    size = rows_per_block(request)
    for start, stop in store.missing_rows(good, request.plan.n_rows):
        at = start
        while at < stop:
            end = min(stop, (at // size + 1) * size)
            if (at // size) % shards == shard:
                yield at, end
            at = end


def _train(request: Request, key: str, folder: Path, todo: list[Span], done: int, progress: Progress) -> None:
    from bench.train import Trainer, cpu_threads, one_torch_thread, pick_device

    device = pick_device(request.device)
    devices = _devices(request, device)
    feed = Feed(todo)
    name = f"training {request.setting.name}"
    with progress.task(name, request.plan.n_rows, "models", done) as advance:

        def report(made: Done) -> None:
            header = made.header
            if header.diverged:
                rows = ", ".join(map(str, header.diverged))
                progress.say(f"rows that diverged: {rows}; their margins are not finite, twice, and are left out")
            advance(header.stop - header.start, header.accuracy)

        if devices:
            workers.train(request, key, folder, feed, devices, report)
            return
        trainer = Trainer(request.setting.recipe, request.data, device, protocol=request.protocol)
        work = Work(trainer, request, key, folder)

        def block(_: Span) -> Done:
            span = feed.next()
            assert span is not None  # asked for as often as there are spans
            made = work.block(span)
            if made.by_other:
                feed.shuffle()
            return made

        on_cpu = device.type == "cpu"
        with one_torch_thread() if on_cpu else nullcontext():
            run_all(block, todo, cpu_threads() if on_cpu else 1, report, trainer.stop)


def _devices(request: Request, device: torch.device) -> list[str]:
    """A device for each worker process; empty where this process trains by itself."""
    if device.type == "cpu":
        return ["cpu"] * (request.workers or 0)
    import torch

    gpus = torch.cuda.device_count() if device.index is None else 1
    count = request.workers or (gpus if gpus > 1 else 0)
    return [f"cuda:{i % gpus if device.index is None else device.index}" for i in range(count)]


def run_all(
    work: Callable[[Span], T],
    todo: list[Span],
    threads: int,
    report: Callable[[T], object],
    stop: threading.Event,
) -> None:
    """Run `work` on each item in `threads` threads; the first error, or Ctrl-C, is raised, and `stop` set before."""
    stop.clear()  # an earlier failure is no reason to give up now
    with ThreadPoolExecutor(threads) as pool:
        waiting: set[Future[T]] = set()
        try:
            for item in todo:
                waiting.add(pool.submit(work, item))
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    report(future.result())
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _meta(request: Request, who: Identity, used: list[blocks.Header]) -> Meta:
    subset_of_row, group_of_row = request.plan.layout()
    return Meta(
        format=store.FORMAT,
        key=who.key,
        identity=who,
        n_train=request.data.n_train,
        n_targets=request.data.n_targets,
        n_classes=request.data.n_classes,
        groups=GROUPS,
        subset_of_row=subset_of_row.tolist(),
        seed_of_row=who.seeds(request.plan.n_rows),
        group_of_row=group_of_row.tolist(),
        origin=dict(request.data.origin),
        versions=versions(),
        hardware=hardware(who.device),
        blocks=used,
        checksums={},
        diverged=[row for header in used for row in header.diverged if row < request.plan.n_rows],
        retried=[row for header in used for row in header.retried if row < request.plan.n_rows],
    )
