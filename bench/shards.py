"""What the command line says of shards: which one this process trains, or how jobs of a cluster share them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.errors import BenchError, nearest

MAX_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless an administrator changed it; numbers start at 0

Value = str | int | float | bool

# What a user may pass on to submitit. `nodes` and `tasks_per_node` are missing: one shard is one task.
_KEYS: dict[str, type] = {
    "cluster": str,
    "name": str,
    "timeout_min": int,
    "mem_gb": float,
    "cpus_per_task": int,
    "gpus_per_node": int,
    "partition": str,
    "qos": str,
    "account": str,
    "constraint": str,
    "gres": str,
    "nodelist": str,
    "exclude": str,
    "exclusive": bool,
    "mem_per_cpu": str,
    "mem_per_gpu": str,
    "dependency": str,
    "comment": str,
    "wckey": str,
    "mail_type": str,
    "mail_user": str,
    "setup": str,
    "use_srun": bool,
}
GENERIC = frozenset({"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node"})  # for every executor
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Array:
    """How a ground truth is spread over the jobs of a cluster.

    Attributes:
        shards: jobs in all; parallelism: of which so many run at a time.
        parameters: what the cluster is asked for, in submitit's words.
        cluster: `slurm`, or `local`: processes of this machine.
        detach: return as soon as the jobs are submitted.
        retries: how often in a row a shard is submitted again whose jobs die without a new block.
    """

    shards: int = 8
    parallelism: int = 16
    parameters: Mapping[str, Value] = field(default_factory=dict)
    cluster: str = "slurm"
    detach: bool = False
    retries: int = 3

    def check(self) -> None:
        """Refuse numbers that no cluster takes.

        Raises:
            BenchError: too few or too many.
        """
        if not 1 <= self.shards <= MAX_ARRAY:
            raise BenchError(f"--shards is {self.shards}: it takes 1 to {MAX_ARRAY}, the longest array that SLURM runs")
        if self.parallelism < 1:
            raise BenchError(f"--array-parallelism is {self.parallelism}: it takes at least one")

    @property
    def device(self) -> str:
        """The device that the jobs will find, which the machine that submits them need not have."""
        asked = self.parameters.get("gpus_per_node", 0), "gpu" in str(self.parameters.get("gres", ""))
        return "cuda" if any(asked) else "cpu"


def flags(made: argparse.ArgumentParser) -> None:
    """Add the options that say which shards are trained where."""
    made.add_argument("--shard", metavar="i/n", help="train only every n-th block from the i-th (from 0); any order")
    made.add_argument(
        "--slurm",
        nargs="?",
        const="",
        metavar="key=value,…",
        help="submit the shards to SLURM, wait for them, gather: partition=gpu,gpus_per_node=1,timeout_min=240",
    )
    made.add_argument("--shards", type=int, metavar="N", help="with --slurm: so many jobs in all (8)")
    made.add_argument(
        "--array-parallelism", type=int, metavar="K", help="with --slurm: at most so many jobs at a time (16)"
    )
    made.add_argument(
        "--slurm-detach", action="store_true", help="with --slurm: submit and return; the same command again waits"
    )


def asked(given: argparse.Namespace) -> tuple[tuple[int, int], Array | None]:
    """The shard to train here, and the jobs to submit instead where there is --slurm.

    Raises:
        BenchError: an option that does not go with the others, or has a wrong value.
    """
    if given.slurm is None:
        for name in ("shards", "array_parallelism", "slurm_detach"):
            if getattr(given, name) not in (None, False):
                flag = f"--{name.replace('_', '-')}"
                raise BenchError(f"{flag} says how --slurm submits: add --slurm, or leave {flag} out")
        return shard("0/1" if given.shard is None else given.shard), None
    if given.shard is not None:
        raise BenchError(f"--shard is {given.shard!r}, and --slurm submits every shard: leave one of the two out")
    parameters = parse(given.slurm)
    cluster = str(parameters.pop("cluster", "slurm"))
    if cluster not in ("slurm", "local"):
        raise BenchError(f"--slurm: cluster is {cluster!r}, and must be slurm or local")
    numbers = {"shards": given.shards, "parallelism": given.array_parallelism}
    array = Array(
        parameters=parameters,
        cluster=cluster,
        detach=given.slurm_detach,
        **{name: value for name, value in numbers.items() if value is not None},
    )
    array.check()
    return (0, 1), array


def shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers.

    Raises:
        BenchError: it is not that.
    """
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise BenchError(f"--shard is {text!r}: write i/n with 0 ≤ i < n, such as 0/4")
    return int(i), int(n)


def parse(text: str) -> dict[str, Value]:
    """`key=value,…` with every value of its key's type; a value may hold commas, as `exclude=n1,n2` does.

    Raises:
        BenchError: an unknown key, or a value of another type.
    """
    found: dict[str, str] = {}
    for piece in text.split(",") if text else []:
        name, equals, value = piece.partition("=")
        if equals and name in _KEYS and value:
            found[name] = value
        elif equals and name not in _KEYS:
            raise BenchError(f"--slurm has no key {name!r}{nearest(name, list(_KEYS))} (it has: {', '.join(_KEYS)})")
        elif found and not equals and piece and piece not in _KEYS:
            found[next(reversed(found))] += f",{piece}"
        else:
            raise BenchError(f"--slurm: {piece!r} is no key=value: write such as partition=gpu,timeout_min=240")
    return {name: _value(name, value) for name, value in found.items()}


def _value(name: str, text: str) -> Value:
    kind = _KEYS[name]
    try:
        if kind is bool:
            return _TRUTHS[text.lower()]
        made: Value = kind(text)
        if kind is not str and not float(made) >= (0 if name == "gpus_per_node" else 1e-3):
            raise ValueError(text)
    except (KeyError, ValueError) as error:
        words = {int: "a positive integer", float: "a positive number", bool: "true or false"}
        raise BenchError(f"--slurm: {name} is {text!r}, and must be {words[kind]}") from error
    return made
