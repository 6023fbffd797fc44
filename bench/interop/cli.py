"""The verbs `import` and `export`: one sub-command per format of `bench.interop.FORMATS`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from bench.errors import BenchError
from bench.interop import FORMATS


def add_import(verbs: Any) -> argparse.ArgumentParser:
    """The verb `import`."""
    return _add(verbs, "import", "read another tool's files: a ground-truth store, or scores")


def add_export(verbs: Any) -> argparse.ArgumentParser:
    """The verb `export`."""
    return _add(verbs, "export", "write a store, or scores, as another tool's files")


def _add(verbs: Any, verb: str, summary: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(verb, help=summary, description=f"{summary.capitalize()}.")
    made.add_argument("--list", action="store_true", help="say what there is of each format, and do nothing")
    formats = made.add_subparsers(dest="format", metavar="FORMAT")
    for name, found in FORMATS.items():
        if found.reads if verb == "import" else found.writes:
            one = formats.add_parser(
                name,
                help=found.summary,
                description=f"{found.summary[0].upper()}{found.summary[1:]}.\n\n{found.text}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            found.load().flags(one, verb)
            one.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return made


def run(given: argparse.Namespace) -> int:
    """Do what `import` or `export` was asked for."""
    there = {name: one for name, one in FORMATS.items() if (one.reads if given.verb == "import" else one.writes)}
    if given.list:
        for name, one in there.items():
            print(name, *f"{one.summary}\n{one.text}".splitlines(), sep="\n  ", end="\n\n")
        return 0
    if given.format is None:
        raise BenchError(
            f"the format is missing (there are: {', '.join(there)}); bench {given.verb} --list says what each is"
        )
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results, whatever libraries print
        module = there[given.format].load()
        lines = (module.import_ if given.verb == "import" else module.export)(given)
    print(*lines, sep="\n")
    return 0
