"""The verbs `list`, what there is, and `check-method`, whether a method keeps its contract."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, UnmetError

if TYPE_CHECKING:
    from bench.contract.conformance import Report

_MARKS = {"passed": "✓", "failed": "✗", "unseen": "–"}
_NOT_BY_DEFAULT = "*"


def add_list(verbs: Any) -> argparse.ArgumentParser:
    """The verb `list`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "list",
        help="what there is: methods with parameters and needs, settings",
        description="List methods and settings. With --long, or of the methods that are named, also parameters with "
        "types and defaults, the rows of a run of all methods, what is needed and whether it is installed, how the "
        "cost grows, and the source.",
    )
    made.add_argument("what", nargs="?", choices=("methods", "datasets"), help="only these")
    made.add_argument("names", nargs="*", metavar="NAME", help="only these methods, in full; or the paths of files")
    made.add_argument("--long", action="store_true", help="all that methods say of themselves (imports them)")
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def list_(given: argparse.Namespace) -> int:
    """What there is."""
    from bench import datasets, methods

    if given.what == "datasets" and (given.names or given.long):
        raise BenchError("--long and NAME are of methods: python -m bench list methods [NAME …] --long")
    if given.names or given.long:
        return _in_full(given)
    found: dict[str, dict[str, str]] = {}
    if given.what != "datasets":
        found["methods"] = methods.names()
    if given.what != "methods":
        found["datasets"] = datasets.settings()
    if given.json:
        import json  # msgspec is not loaded yet, and need not be

        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    width = max((len(name) for part in found.values() for name in part), default=0)
    quick = methods.by_default() if "methods" in found else {}
    for title, part in found.items():
        print("methods" if title == "methods" else "settings")
        for name, summary in part.items():
            mark = _NOT_BY_DEFAULT if title == "methods" and not quick[name] else " "
            print(f" {mark}{name:<{width}}  {summary}")
        if title == "methods" and not all(quick.values()):
            print(f" {_NOT_BY_DEFAULT} takes longer, or an extra: in a run with --method all, or by name")
        if title == "methods":
            print("   parameters, needs, cost and source: python -m bench list methods NAME, or --long")
    return 0


def _in_full(given: argparse.Namespace) -> int:
    with _results_only():
        from bench.contract import listing

        found = listing.entries(given.names)
    if given.json:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode({"methods": found})).decode() + "\n")
    else:
        print("\n\n".join(listing.text(name, entry) for name, entry in found.items()))
    return 0


def add_check_method(verbs: Any) -> argparse.ArgumentParser:
    """The verb `check-method`."""
    made: argparse.ArgumentParser = verbs.add_parser(
        "check-method",
        help="does a method keep its contract? shape, sign, determinism, rows that judge, …",
        description="Call a method on a small bundled setting and check: shape, type and finiteness of its scores; the "
        "same scores under the same seed and in any order of calls; no use of rows that judge; examples left as they "
        "were; and the sign, by whether leaving out a target's own class is predicted to do it more harm than leaving "
        "out another. Exit code 1 where a check fails.",
    )
    made.add_argument("methods", nargs="*", metavar="METHOD[:key=value,…]", help="paths of files, or names; or all")
    made.add_argument("--template", action="store_true", help="print a method's file to start from")
    made.add_argument("--device", default="cpu", help="auto, cpu or cuda (cpu)")
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def check_method(given: argparse.Namespace) -> int:
    """Whether methods keep their contract."""
    from bench import methods

    if given.template:
        if given.methods:
            raise BenchError("--template prints a file and checks nothing: leave the methods out")
        sys.stdout.write(template().read_text("utf-8"))
        return 0
    if not given.methods:
        raise BenchError("what to check is missing: name a method's file, or print one with --template")
    methods.check(given.methods)
    with _results_only():
        from bench.contract import conformance

        picked = methods.chosen(given.methods)
    reports: list[Report] = []
    with conformance.opened(given.device) as bench:
        for one in picked:
            with _results_only():
                try:
                    reports.append(conformance.check(one, bench))
                except UnmetError as error:
                    if len(picked) == 1:
                        raise
                    reports.append(conformance.Report(one.name, [], skipped=str(error)))
            if not given.json:
                print(*_lines(reports[-1], titled=len(picked) > 1), sep="\n", flush=True)
    if given.json:
        import msgspec

        made = [{"method": r.method, "passed": r.passed, "skipped": r.skipped, "checks": r.checks} for r in reports]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode({"methods": made})).decode() + "\n")
    return 0 if all(report.passed for report in reports) else 1


def template() -> Path:
    """The file that --template prints."""
    from bench import _plugins

    return Path(_plugins.search_path("methods")[0]) / "_template.py"


def _results_only() -> contextlib.AbstractContextManager[Any]:
    """What plug-ins print goes to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _lines(report: Report, *, titled: bool) -> list[str]:
    """A line per check, and one that sums them up."""
    if report.skipped is not None:
        return [f"{report.method}: skipped: {report.skipped}", ""]
    width = max(len(check.name) for check in report.checks)
    lines = [f"{_MARKS[check.status]} {check.name:<{width}}  {check.figure}" for check in report.checks]
    failed = [check.name for check in report.checks if check.status == "failed"]
    last = f"{report.method}: {'keeps the contract' if not failed else 'fails: ' + ', '.join(failed)}"
    return [*lines, last, ""] if titled else [*lines, last]
