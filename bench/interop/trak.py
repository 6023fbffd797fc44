"""Score files of TRAK (the package traker)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.errors import BenchError, InputError
from bench.wording import counted

NAME = "trak"
ABOUT = """A TRAKer's save_dir, or one of its score files:
  metadata.json             train set size, of which the scores must be
  experiments.json          whether the scores are finished
  scores/{experiment}.mmap  float32 or float16 [n_train, n_targets]; in spite of the name a .npy file
Both are fixed: rows are training examples, and a positive score raises the model output (the margin) that TRAK
explains. Where that output is a loss, import the file by `scores` with --sign -.
Exported: scores/{experiment}.mmap and experiments.json, which a TRAKer's saver finds there."""


def flags(made: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb."""
    from bench.interop import options

    if verb == "export":
        options.ends(made, "FILE.npy of scores", "a save_dir: folder that gets scores/…, which may be there")
        made.add_argument("--experiment", default="ldsbench", metavar="NAME", help="what it is called (ldsbench)")
        return
    options.ends(made, "save_dir of a TRAKer, or FILE.mmap", "FILE.npy for the scores")
    made.add_argument("--experiment", metavar="NAME", help="which, where there are several")
    options.scores(made, orientation="train,test", sign="+")


def import_(given: argparse.Namespace) -> list[str]:
    """Make a score matrix; gives what to print."""
    from bench.interop import options, reading, score_matrix

    score_matrix.target(given.dest)
    source = Path(given.source)
    if not source.is_dir():
        options.unused(given, ("experiment",), "the scores of one file")
        return score_matrix.import_(
            given, NAME, score_matrix.Read(reading.npy(reading.present(source)), [source], ["TRAK's own sign: margins"])
        )
    path = _chosen(source, given.experiment)
    values = reading.npy(reading.present(path))
    files = [path, source / "metadata.json"]
    n_train = _json(files[1]).get("train set size")
    if values.ndim == 2 and n_train is not None and len(values) != n_train:
        turned = "; it looks transposed" if values.shape[1] == n_train else ""
        raise InputError(
            f"{path} has {counted(len(values), 'row')}, and metadata.json says that the training set has "
            f"{n_train}{turned}"
        )
    experiments = source / "experiments.json"
    if experiments.exists() or experiments.is_symlink():
        found = _json(experiments).get(path.stem)
        if isinstance(found, dict) and found.get("scores_finalized") == 0:
            raise InputError(f"{path} is not finished, says experiments.json: call the TRAKer's finalize_scores first")
        files.append(experiments)
    return score_matrix.import_(given, NAME, score_matrix.Read(values, files))


def _chosen(source: Path, experiment: str | None) -> Path:
    there = sorted(path.stem for path in (source / "scores").glob("*.mmap"))
    if not there:
        raise InputError(f"{source} has no scores/*.mmap: name the save_dir of a TRAKer that has scored")
    if experiment is None and len(there) > 1:
        raise BenchError(f"{source} has scores of {', '.join(there)}: say which with --experiment NAME")
    name = experiment or there[0]
    if name not in there:
        raise BenchError(f"--experiment is {name!r}, and {source} has scores of {', '.join(there)}")
    return source / "scores" / f"{name}.mmap"


def _json(path: Path) -> dict[str, Any]:
    from bench.interop import reading

    found = reading.json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, where an object is needed")
    return found


def export(given: argparse.Namespace) -> list[str]:
    """Write scores into a save_dir; gives what to print."""
    import msgspec
    import numpy as np

    from bench import atomic
    from bench.interop import exporting

    scores, dest = exporting.scores(Path(given.source)), Path(given.dest)
    name = given.experiment
    if not name or any(c in name for c in "/\\\0") or name.startswith("."):
        raise BenchError(f"--experiment is {name!r}: it becomes a file's name, so write a plain word")
    path, listed = dest / "scores" / f"{name}.mmap", dest / "experiments.json"
    known = _json(listed) if listed.exists() or listed.is_symlink() else {}
    values = np.asarray(scores, np.float32)
    exporting.write([(path, lambda file: np.save(file, values, allow_pickle=False))])
    known[name] = {"num_targets": values.shape[1], "scores_path": str(path.resolve()), "scores_finalized": 1}
    atomic.write(listed, lambda file: file.write(msgspec.json.encode(known)))
    return [f"{path}: float32 {list(values.shape)}", f"{listed}: {', '.join(known)}"]
