"""Datamodels as MadryLab released them: a torch file of a dict.

    weight  [n_train, n_targets]   per kept example, in units of the margin
    bias    [n_targets]            prediction of the empty mask
    lam     [n_targets]            LASSO penalty

Files are read by torch's restricted unpickler alone: one that holds more than tensors is refused and runs nothing.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.errors import InputError
from bench.interop.torch_zip import is_zip
from bench.wording import counted

Array = NDArray[Any]
KEYS = ("weight", "bias", "lam")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class Released(NamedTuple):
    """One file: `weight` `[n_train, n_targets]`, `bias` and `lam` `[n_targets]`, real numbers."""

    weight: Array
    bias: Array
    lam: Array


def read(path: str | Path) -> Released:
    """Read a file; of a large one, what is not looked at stays on disk (where torch wrote it as a zip).

    Raises:
        InputError: it is no such file, holds more than tensors, or a key is missing, of another shape or of no real
            numbers; the keys are named.
    """
    path = Path(path)
    found = _load(path)
    wanted = f"a dict of {', '.join(KEYS)}"
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, where released datamodels are {wanted}")
    missing = [key for key in KEYS if key not in found]
    if missing:
        keys = ", ".join(map(repr, sorted(map(str, found)))) or "no key"
        raise InputError(f"{path} lacks {', '.join(missing)}: it has {keys}, where released datamodels are {wanted}")
    arrays = {key: _array(path, key, found[key], 2 if key == "weight" else 1) for key in KEYS}
    n_targets = arrays["weight"].shape[1]
    for key in KEYS[1:]:
        if arrays[key].shape != (n_targets,):
            raise InputError(
                f"{path}: {key} has shape {list(arrays[key].shape)}, and weight {list(arrays['weight'].shape)} has "
                f"{counted(n_targets, 'column')}: both count targets"
            )
    return Released(**arrays)


def _load(path: Path) -> Any:
    import torch

    try:
        zipped = is_zip(path)  # older files of torch are no zip, and cannot be mapped
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; name a .pt file") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:  # torch's own text advises to load it without restriction
        raise InputError(
            f"{path} holds other objects than tensors and is not read, as that could run any code: released datamodels "
            f"are a dict of {', '.join(KEYS)}, all tensors"
        ) from error
    except Exception as error:  # torn zip, torn pickle, a file of something else
        raise InputError(f"{path} is torn or not a file that torch.save wrote: get it again") from error


def _array(path: Path, key: str, value: Any, rank: int) -> Array:
    import torch

    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: {key} is a {type(value).__name__}, where a tensor is needed")
    name = str(value.dtype).removeprefix("torch.")
    if name not in _FLOATS or value.layout != torch.strided:
        raise InputError(f"{path}: {key} is of {name} ({value.layout}), where a dense tensor of real numbers is needed")
    if value.ndim != rank:
        axes = "[n_train, n_targets]" if rank == 2 else "[n_targets]"
        raise InputError(f"{path}: {key} has shape {list(value.shape)}, where {axes} is needed")
    value = value.detach()
    found: Array = (value.float() if name == "bfloat16" else value).numpy()
    return found


def write(path: str | Path, weight: Array, bias: Array, lam: Array) -> None:
    """Write a file of the released kind, float32, whole or not at all.

    Args:
        path: the file.
        weight: `[n_train, n_targets]`; bias, lam: `[n_targets]`.
        bias: see `weight`.
        lam: see `weight`.

    Raises:
        BenchError: shapes that do not fit, values that are not finite or that float32 cannot hold, or a place that
            cannot be written.
    """
    import torch

    shapes = {"weight": np.shape(weight), "bias": np.shape(bias), "lam": np.shape(lam)}
    told = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
    if len(shapes["weight"]) != 2 or any(shapes[key] != shapes["weight"][1:] for key in KEYS[1:]):
        raise InputError(f"{path}: {told} do not fit: give [n_train, n_targets], [n_targets] and [n_targets]")
    tensors = {}
    for key, value in zip(KEYS, (weight, bias, lam), strict=True):
        if value.dtype.kind not in "biuf":
            raise InputError(f"{path}: {key} is of type {value.dtype}, where real numbers are needed")
        with np.errstate(over="ignore"):
            made = np.ascontiguousarray(value, np.float32)
        finite = np.isfinite(made)
        if not finite.all():
            column = np.argwhere(~finite)[0][-1]
            raise InputError(f"{path}: {key} of target {column} is {value[~finite][0]}, which no datamodel has")
        tensors[key] = torch.from_numpy(made if made.flags.writeable else made.copy())
    atomic.write(Path(path), lambda file: torch.save(tensors, file))


def export(scores: Path, dest: Path, bias: str | None, lam: str | None) -> list[str]:
    """Write a score matrix as released datamodels.

    Bias and penalty come from files, else from `SCORES.extra.npz`, which holds `bias` and `lam`.

    Returns:
        What to print.

    Raises:
        InputError: a file is missing or no such array; BenchError: see `write`.
    """
    if dest.suffix != ".pt":
        raise InputError(f"DEST is {str(dest)!r}: datamodels are written as .pt, so name a file that ends so")
    weight = _numpy(scores, "scores")
    beside = scores.with_suffix(".extra.npz")
    extra = {} if bias and lam else _extra(beside)
    parts = {}
    for key, given in (("bias", bias), ("lam", lam)):
        if given is not None:
            parts[key] = _numpy(Path(given), f"--{key}")
        elif key in extra:
            parts[key] = extra[key]
        else:
            lacks = f"{beside} has no {key}" if beside.is_file() else f"there is no {beside}"
            raise InputError(
                f"{scores} has no {key}, which a .pt of datamodels needs: {lacks}, so name a file with --{key}, or "
                "make the scores by bench attribute --method datamodels"
            )
    write(dest, weight, **parts)
    n_train, n_targets = weight.shape
    return [f"{dest}: weight [{n_train}, {n_targets}], bias and lam [{n_targets}], float32"]


def _extra(path: Path) -> dict[str, Array]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as found:
            return {key: found[key] for key in KEYS[1:] if key in found}
    except Exception as error:  # torn zip, torn array, Python objects
        raise InputError(f"{path} is torn or not an archive of numbers ({error}): make the scores again") from error


def _numpy(path: Path, what: str) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror or error}; name a .npy file") from error
    except Exception as error:
        raise InputError(f"{what}: {path} is torn or not a .npy file of numbers ({error})") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{what}: {path} is an archive of several arrays; give a .npy file with one")
    return found
