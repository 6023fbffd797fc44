"""The verb `memorization`: estimates of Feldman & Zhang from a store's runs, as a table and as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.wording import counted


def add(verbs: Any) -> argparse.ArgumentParser:
    """The verb."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "memorization",
        help="memorization, influence and consistency of a store's runs, with standard errors",
        description="How much likelier a model is to be right on an example when it is trained on it (memorization), "
        "or on another (influence), and how likely without it (consistency). From correctness where the store keeps "
        "it (bench train --keep correct,train-correct; bench import heldout-influence), else from margins.",
    )
    made.add_argument(
        "store", metavar="STORE", help="a store, or a folder of several, alpha-…, whose mean is the C-score"
    )
    made.add_argument("--out", metavar="DIR", help="write influence.npy, memorization.npz and pairs.npz there")
    made.add_argument(
        "--outputs", choices=("auto", "correct", "margins"), default="auto", help="what of the runs is compared (auto)"
    )
    made.add_argument("--influence", type=float, metavar="X", help="least influence of a pair (0.15; of margins 1)")
    made.add_argument(
        "--memorized", type=float, metavar="X", help="least memorization of its training example (0.25; of margins 1)"
    )
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def run(given: argparse.Namespace) -> int:
    """Print the estimates' summary, and write them."""
    from bench import memorization_files

    found = memorization_files.summary(
        Path(given.store),
        None if given.out is None else Path(given.out),
        given.outputs,
        given.influence,
        given.memorized,
    )
    if given.json:
        import json

        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for one in found["stores"]:
        print(f"{one['store']}: {counted(one['runs'], 'run')}, alpha {one['alpha']:g}, {one['outputs']}")
        if one["memorization"] is not None:
            memory = one["memorization"]
            print(
                f"  memorization: mean {memory['mean']:.4f}, median {memory['median']:.4f}, 95% {memory['q95']:.3f}, "
                f"99% {memory['q99']:.3f}; {memory['above']} of {memory['examples']} examples from "
                f"{one['thresholds']['memorized']:g} on (median standard error {memory['stderr']:.3f})"
            )
            print(
                f"  {memory['near_zero']:.1%} within ±{memory['near']:g} of 0; the top tenth holds "
                f"{memory['top_tenth']:.0%} of what is above 0"
            )
            print(f"  consistency: mean {one['consistency']:.4f}")
        print(
            f"  influence: {counted(one['pairs'], 'pair')} from {one['thresholds']['influence']:g} on"
            f"{'' if one['memorization'] is None else ', of memorized examples'} "
            f"(median standard error {one['influence_stderr']:.3f})"
        )
        for note in one["notes"]:
            print(f"  note: {note}")
    if "c_score" in found:
        print(f"C-score over {counted(len(found['stores']), 'subset size')}: mean {found['c_score']['mean']:.4f}")
    for path in found["files"]:
        print(path)
    return 0
