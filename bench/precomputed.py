"""Score matrices from files as methods: `bench run --scores [NAME=]FILE.npy` makes each a row of the table.

A file that `bench import` wrote has its origin beside it and says by itself what its rows, columns and sign were; of
any other one `--orientation` and `--sign` say it. The scores of example i are in the i-th place, in the order of the
setting's training set, and those of target j in the j-th.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import hashing, npy, returned
from bench.errors import BenchError, InputError
from bench.interop import score_matrix
from bench.interop.options import ORIENTATIONS
from bench.methods import Chosen, Method, Needs
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.task import Task

_SIGNS = ("+", "-")
_UNKNOWN = "whether they were made from rows that judge is not known"


@dataclass(frozen=True)
class _File:
    """A score matrix as its file has it.

    Attributes:
        path: the file; checksum: sha256 of its bytes.
        orientation: what its rows,columns are; sign: `+` or `-`.
        imported: whether `bench import` wrote it, and so turned it already.
        remarks: what readers must know.
    """

    path: Path
    checksum: str
    orientation: str
    sign: str
    imported: bool
    remarks: Sequence[str]


class Precomputed(Method):
    """Scores from a file; they cost what nobody knows."""

    def __init__(self, file: _File) -> None:
        self.file = file

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def attribute(self, task: Task) -> NDArray[Any]:
        """The file's scores, turned to `[n_train, n_targets]` and +.

        Raises:
            InputError: it has changed since the run began.
        """
        for text in self.file.remarks:
            task.note(text)
        return self.scores()

    def scores(self) -> NDArray[Any]:
        """The same without a task.

        Raises:
            InputError: the file has changed since the run began.
        """
        one = self.file
        if hashing.file(one.path) != one.checksum:
            raise InputError(f"{one.path} has changed since this run began: run it again")
        values = _opened(one.path)
        turned = values.T if one.orientation == "test,train" else values
        return -_signed(turned) if one.sign == "-" else np.array(turned)


def _signed(values: NDArray[Any]) -> NDArray[Any]:
    """As numbers that have a negative: of unsigned integers and truth values −x is not."""
    return values.astype(np.float64) if values.dtype.kind in "bui" else values


def chosen(specs: Sequence[str], orientations: Sequence[str], signs: Sequence[str]) -> list[Chosen]:
    """The methods that `[NAME=]FILE.npy` specs stand for.

    Args:
        specs: as given; without a name it is the file's, without its ending.
        orientations: of each, `train,test` or `test,train`; or one for all, or none where all have an origin.
        signs: the same, `+` or `-`.

    Raises:
        BenchError: a file cannot be read or is no score matrix, orientation or sign is missing, there are more or
            fewer of them than files, or they contradict a file's origin.
    """
    for name, words, known in (("orientation", orientations, ORIENTATIONS), ("sign", signs, _SIGNS)):
        for word in words:
            if word not in known:
                raise BenchError(f"--{name} is {word!r}: it is {' or '.join(known)}")
        if words and not specs:
            raise BenchError(f"--{name} is given without --scores: it says how a file of scores is read")
        if len(words) not in (0, 1, len(specs)):
            raise BenchError(
                f"--{name} is given {counted(len(words), 'time')} for {counted(len(specs), 'file')} of --scores: give "
                "it once for all of them, or once for each, in their order"
            )
    made = []
    for number, spec in enumerate(specs):
        name, path = _named(spec)
        given = {
            flag: words[number if len(words) > 1 else 0]
            for flag, words in (("orientation", orientations), ("sign", signs))
            if words
        }
        own = {flag for flag, words in (("orientation", orientations), ("sign", signs)) if len(words) == len(specs)}
        made.append(_chosen(name, path, given, own))
    return made


def _chosen(name: str, path: Path, given: dict[str, str], own: set[str]) -> Chosen:
    """A file as a method; `own` are the flags that were given for this file and not for all of several."""
    values = _opened(path)  # before anything is computed
    origin = score_matrix.read_origin(path)
    if origin is None and score_matrix.origin_path(path).exists():
        raise InputError(
            f"{score_matrix.origin_path(path)} does not vouch for {path} (torn, or of another matrix): import the "
            "scores again, or remove it and give --orientation and --sign"
        )
    parameters: dict[str, Any] = {"path": str(path), "sha256": hashing.file(path)}
    if origin is None:
        orientation, sign = _sense(path, given)
        remarks = [f"scores of {path.name}, read as {orientation} with sign {sign}; {_UNKNOWN}"]
    else:
        orientation, sign = "train,test", "+"
        for flag, usual in (("orientation", orientation), ("sign", sign)):
            if flag in own and given[flag] != usual:
                raise BenchError(
                    f"{path} was turned to train,test and + when it was imported, as its origin beside it says, and "
                    f"--{flag} says {given[flag]}: leave --{flag} out, or say {usual} for it"
                )
        was = f"{origin.source} ({origin.orientation}, sign {origin.sign})"
        remarks = [f"scores of {path.name}, imported from {was}; {_UNKNOWN}", *origin.stamps, *origin.notes]
        parameters["origin"] = {
            "source": origin.source,
            "orientation": origin.orientation,
            "sign": origin.sign,
            "files": {file: part.sha256 for file, part in origin.origin.items()},
        }
    parameters |= {"orientation": orientation, "sign": sign}
    if values.ndim != 2:
        raise InputError(f"{path} has shape {list(values.shape)}, where [{orientation}] is needed")
    try:
        returned.as_floats(values[:0])
    except InputError as error:
        raise InputError(f"--scores: {path} cannot be scored, since {error}") from error
    file = _File(path, parameters["sha256"], orientation, sign, origin is not None, remarks)
    return Chosen(name, Precomputed(file), parameters, str(path))


def _named(spec: str) -> tuple[str, Path]:
    """Name and file of `[NAME=]FILE`."""
    name, equals, rest = spec.partition("=")
    if not equals or Path(spec).is_file() or "/" in name:
        name, rest = "", spec
    path = Path(rest)
    name = name.strip() if equals and rest != spec else path.stem
    if not name or not rest:
        raise BenchError(f"--scores is {spec!r}: write FILE.npy, or NAME=FILE.npy")
    return name, path


def _sense(path: Path, given: dict[str, str]) -> tuple[str, str]:
    if "orientation" not in given:
        raise BenchError(
            f"{path} does not say what its rows and columns are: add --orientation train,test or --orientation "
            "test,train"
        )
    if "sign" not in given:
        raise BenchError(
            f"{path} does not say what its sign means: add --sign + if a larger score means that keeping the example "
            "raises the margin, and --sign - if the opposite, as for losses"
        )
    return given["orientation"], given["sign"]


def _opened(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped.

    Raises:
        InputError: it is not there, or no such file.
    """
    if path.suffix != ".npy":
        raise InputError(
            f"--scores: {path} is no .npy file: numpy.save writes one, and `bench import FORMAT SOURCE NAME.npy` "
            "turns other tools' files into one (bench import --list)"
        )
    try:
        return npy.load(path, mmap_mode="r")
    except OSError as error:
        raise InputError(f"--scores: cannot read {path}: {error.strerror or error}; name a .npy file") from error
    except Exception as error:  # numpy has many words for a broken file
        raise InputError(f"--scores: {path} is not a whole .npy array of numbers: {error}") from error


def check_shapes(picked: Sequence[Chosen], n_train: int, n_targets: int) -> None:
    """Refuse scores of other numbers of examples or targets, before anything is trained.

    Raises:
        InputError: one has another shape; the sentence says whether it looks transposed.
    """
    for one in picked:
        if not isinstance(one.method, Precomputed):
            continue
        file = one.method.file
        shape = _opened(file.path).shape
        turned = shape[::-1] if file.orientation == "test,train" else shape
        if turned == (n_train, n_targets):
            continue
        where = f"{file.path} has shape {list(shape)}, read as {file.orientation}"
        if turned == (n_targets, n_train):
            other = next(word for word in ORIENTATIONS if word != file.orientation)
            advice = "import it again, the other way round" if file.imported else f"say --orientation {other}"
            raise InputError(
                f"{where}, and the setting has {n_train} examples and {n_targets} targets: it looks transposed, so "
                f"{advice}"
            )
        raise InputError(
            f"{where}, and the setting has {n_train} examples and {n_targets} targets: are these scores of another one?"
        )
