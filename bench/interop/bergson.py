"""Bergson's score files, and the subsets of its banks of retrained models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InputError
from bench.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "bergson"
ABOUT = """Scores, a folder with (or with scores/, which has):
  info.json   num_items, num_scores, and the layout of a record
  scores.bin  a record for each training example: score_0, written_0, score_1, …
Rows are training examples; the sign is that of the query's gradient, so --sign says which it is. Scores that were never
written are refused, and scores per token (token_scores.bin) are not read.
Masks: subsets.json, a list of lists of the examples that each model was trained WITHOUT, becomes DEST.npy, bool
[M, n_train], for bench lds --masks and for `bench import arrays`; it needs --n-train."""

_FORMATS = ("float32", "float16", "float64", "bfloat16")


def flags(made: argparse.ArgumentParser, verb: str) -> None:  # noqa: ARG001
    """Add the options of a verb."""
    from bench.interop import options

    options.ends(made, "folder of info.json and scores.bin; or subsets.json", "FILE.npy for scores, or for masks")
    made.add_argument("--n-train", type=int, metavar="N", help="training examples in all, for masks")
    options.scores(made, orientation="train,test", sign=None)


def import_(given: argparse.Namespace) -> list[str]:
    """Make a score matrix, or masks; gives what to print."""
    from bench.interop import options, reading, score_matrix

    source, dest = Path(given.source), score_matrix.target(given.dest)
    if source.suffix == ".json":
        options.unused(given, options.SCORES, "masks")
        return _masks(source, dest, given.n_train)
    options.unused(given, options.STORES, "scores")
    options.sense(given, NAME)
    reading.folder(source, "the folder of info.json and scores.bin, or a subsets.json")
    folder = source / "scores" if (source / "scores").is_dir() else source
    read = score_matrix.Read(_scores(folder), [folder / "scores.bin", folder / "info.json"])
    return score_matrix.import_(given, NAME, read)


class _Records:
    """Score columns of the records of a scores.bin, indexed as a matrix is."""

    def __init__(self, records: np.memmap[Any, Any], names: list[str]) -> None:
        self.records, self.names = records, names
        self.shape = len(records), len(names)
        self.dtype: np.dtype[Any] = records.dtype[names[0]]

    def __getitem__(self, at: tuple[slice, slice]) -> NDArray[Any]:
        import numpy as np

        from bench.interop.torch_zip import widened

        rows, columns = at
        part = self.records[rows]
        return np.stack([widened(part[name]) for name in self.names[columns]], axis=1)


def _scores(folder: Path) -> _Records:
    import numpy as np

    from bench.interop import reading

    info = reading.json(folder / "info.json")
    if isinstance(info, dict) and info.get("attribute_tokens"):
        raise InputError(f"{folder / 'info.json'} is of scores per token, which are not read: score whole sequences")
    path = reading.present(folder / "scores.bin")
    n_items, n_scores, dtype = _record(folder / "info.json", info)
    size = path.stat().st_size
    if size != n_items * dtype.itemsize:
        raise InputError(
            f"{path} has {size:,} bytes, and info.json says {counted(n_items, 'record', form=',')} of "
            f"{dtype.itemsize}: one is torn"
        )
    records = np.memmap(path, dtype, "r", shape=(n_items,))
    for query in range(n_scores):
        written = records[f"written_{query}"].view(np.uint8)  # bytes other than 0 and 1 are no truth values
        if (written != 1).any():
            row, lacking = int(np.flatnonzero(written != 1)[0]), int((written != 1).sum())
            scores = counted(lacking, f"score of query {query} was", f"scores of query {query} were", form=",")
            raise InputError(f"{path}: {scores} never written, the first of example {row}: let bergson finish")
    return _Records(records, [f"score_{query}" for query in range(n_scores)])


def _record(path: Path, info: Any) -> tuple[int, int, np.dtype[Any]]:
    """How many records and scores there are, and what a record looks like; nothing of it is believed unchecked."""
    import numpy as np

    from bench.interop.torch_zip import BF16

    try:
        n_items, n_scores, told = info["num_items"], info["num_scores"], info["dtype"]
        names, formats, offsets, itemsize = (told[key] for key in ("names", "formats", "offsets", "itemsize"))
        wanted = [f"{what}_{query}" for query in range(len(names) // 2) for what in ("score", "written")]
        numbers = [n_items, n_scores, itemsize, *offsets]
        sound = names == wanted and len(names) == len(formats) == len(offsets) == 2 * n_scores
        if not sound or n_scores < 1 or n_items < 1 or any(type(n) is not int or n < 0 for n in numbers):
            raise InputError(f"{path} describes other records than bergson's score files have: get it again")
        kinds = []
        for name, kind in zip(names, formats, strict=True):
            if kind not in (_FORMATS if name.startswith("score") else ("bool",)):
                raise InputError(f"{path}: {name} is of type {kind!r}, where {' or '.join(_FORMATS)} is needed")
            kinds.append(BF16 if kind == "bfloat16" else np.dtype(kind))
        return n_items, n_scores, np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": itemsize})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no info.json of bergson's score files ({error!r}): get it again") from error


def _masks(source: Path, dest: Path, n_train: int | None) -> list[str]:
    import numpy as np

    from bench import atomic
    from bench.interop import reading, score_matrix, store_import

    rows = reading.json(source)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{source} is no list of lists of example numbers: name a subsets.json of bergson")
    if n_train is None or n_train < 2:
        raise BenchError(f"{source} does not say how many training examples there are: add --n-train N")
    masks = store_import.masks_of_ids(source, rows, n_train, left_out=True)
    origin = score_matrix.origins([source])
    try:
        atomic.write(dest, lambda file: np.save(file, masks, allow_pickle=False))
        score_matrix.write_origin(
            dest,
            source=NAME,
            orientation="subset,train",
            sign="+",
            n_train=n_train,
            n_targets=0,
            origin=origin,
            notes=[f"masks: 1 = kept; {source.name} lists the examples that are left out"],
        )
    except BaseException:
        dest.unlink(missing_ok=True)  # nobody vouches for it
        raise
    kept = masks.sum(1)
    return [
        f"{dest}: masks bool {list(masks.shape)}, 1 = kept; {kept.min()} to {kept.max()} examples are kept "
        f"({source.name} lists those that are left out)"
    ]
