"""The verb `removal`: what memorized training examples are worth, by training without them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from bench.errors import BenchError


def add(verbs: Any) -> argparse.ArgumentParser:
    """The verb."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "removal",
        help="train without a store's most memorized examples, and without random ones, and compare",
        description="Train a store's setting without its most memorized training examples, and without as many random "
        "ones, a random set per seed, and compare their test accuracy (Feldman and Zhang 2020, figure 2). Memorization "
        "is told from the store's models, which must have been kept with their outputs on the training examples "
        "(bench train --keep correct,train-correct); the test examples have no part in what is removed.",
    )
    made.add_argument("store", metavar="STORE", help="a store of bench train")
    made.add_argument(
        "--shares",
        default="0.01,0.02,0.05,0.1,0.2",
        metavar="X,…",
        help="shares of the training examples to remove (0.01,0.02,0.05,0.1,0.2)",
    )
    made.add_argument("--seeds", type=int, default=10, metavar="N", help="models per number of examples removed (10)")
    made.add_argument("--seed", type=int, default=0, help="what seeds and random sets come from (0)")
    made.add_argument(
        "--outputs",
        choices=("auto", "correct", "margins"),
        default="auto",
        help="what memorization is of (auto: correctness where the store keeps it)",
    )
    made.add_argument(
        "--out", metavar="DIR", help="write removal.json, .csv, .md, .png, .svg and memorization.npz there"
    )
    made.add_argument("--setting", metavar="S", help="the setting, where the store's is a file (default: the store's)")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    made.add_argument(
        "--data-dir", metavar="DIR", help="where the dataset's files are (else $BENCH_DATA, else download)"
    )
    made.add_argument(
        "--allow-modified-data", action="store_true", help="take files that are not the published ones, and say so"
    )
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made


def run(given: argparse.Namespace) -> int:
    """Train, compare, print."""
    try:
        shares = [float(word) for word in given.shares.split(",") if word]
    except ValueError as error:
        raise BenchError(f"--shares is {given.shares!r}: write numbers between 0 and 1, such as 0.01,0.05") from error
    if given.setting is not None:
        from bench import datasets

        datasets.check(given.setting)
    with contextlib.redirect_stdout(sys.stderr):  # what plug-ins and libraries print: stdout is for results
        from bench.progress import Progress
        from bench.removal.experiment import Options, removal

        options = Options(
            shares,
            given.seeds,
            given.seed,
            given.outputs,
            given.setting,
            given.device,
            given.data_dir,
            given.allow_modified_data,
        )
        made = removal(given.store, options, out=given.out, progress=Progress(quiet=given.quiet))
    if given.json:
        sys.stdout.write(made.text())
    else:
        from bench.removal import tables

        tables.show(made)
    return 0
