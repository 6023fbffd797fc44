"""The verbs `push` and `pull`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.wording import counted

_URLS = """URL is a path, or what fsspec reads: file://, s3://BUCKET/FOLDER (pip install 'ldsbench[share-s3]'),
hf://buckets/OWNER/NAME/FOLDER or hf://datasets/OWNER/NAME/FOLDER (pip install 'ldsbench[share-hf]'), and others.
Credentials come from the environment, as AWS_PROFILE or HF_TOKEN."""
_PUSH = f"""Send a store to a URL: the parts that are not there yet, then a manifest with their sha256.
A store that is not finished is sent as the blocks it has; several machines may push theirs to one URL.

{_URLS}"""
_PULL = f"""Have the store at a URL as a folder, every part checked by its sha256.
Until all is there it is STORE.partial, and the same command goes on from there. A STORE of the same ground truth
gets what it lacks; where the URL holds blocks alone, the bench train command trains the rest and gathers.

{_URLS}"""


def add_push(verbs: Any) -> argparse.ArgumentParser:
    """The verb `push`."""
    made = _verb(verbs, "push", "send a store to a URL: a path, s3://, hf://, …", _PUSH)
    made.add_argument("store", metavar="STORE", help="folder of the store, finished or not")
    made.add_argument("url", metavar="URL", help="an empty folder, or one with pushes of the same ground truth")
    made.add_argument(
        "--recheck", action="store_true", help="read the parts that are there, and send damaged ones again"
    )
    _flags(made)
    return made


def add_pull(verbs: Any) -> argparse.ArgumentParser:
    """The verb `pull`."""
    made = _verb(verbs, "pull", "have the store at a URL as a folder", _PULL)
    made.add_argument("url", metavar="URL", help="what bench push wrote to")
    made.add_argument("store", metavar="STORE", help="where to: a new folder, or one of the same ground truth")
    _flags(made)
    return made


def _verb(verbs: Any, name: str, summary: str, about: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return made


def _flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for the file system of the URL, as endpoint_url=http://localhost:9000 or anon=true; may be given again",
    )
    made.add_argument(
        "--parallel", type=int, default=4, metavar="K", help="parts under way at once, each up to 64 MiB of memory (4)"
    )
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")


def push(given: argparse.Namespace) -> int:
    """Send a store."""
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results, whatever libraries print
        import bench.sharing.push as sharing
        from bench.progress import Progress

        found = sharing.push(
            Path(given.store),
            given.url,
            _options(given),
            Progress(quiet=given.quiet),
            parallel=given.parallel,
            recheck=given.recheck,
        )
    if given.json:
        _print_json(found)
        return 0
    print(f"{found.url}: {_what(found)}")
    print(
        f"  {counted(found.sent, 'part', form=',')} of {found.parts} sent, {found.bytes_sent:,} of {found.bytes:,} "
        "bytes"
    )
    return 0


def pull(given: argparse.Namespace) -> int:
    """Have a store."""
    with contextlib.redirect_stdout(sys.stderr):
        import bench.sharing.pull as sharing
        from bench.progress import Progress

        found = sharing.pull(
            given.url, Path(given.store), _options(given), Progress(quiet=given.quiet), parallel=given.parallel
        )
    if given.json:
        _print_json(found)
        return 0
    print(f"{found.store}: {_what(found)}")
    if not found.files:
        print("  nothing that the URL holds was wanting")
        return 0
    print(
        f"  {counted(found.files, 'file', form=',')} added, {found.bytes:,} bytes, of which {found.bytes_fetched:,} "
        "came now"
    )
    if not found.whole:
        print("  the same bench train command trains what is missing, and gathers the arrays")
    return 0


def _options(given: argparse.Namespace) -> dict[str, Any]:
    from bench.sharing.remote import options

    if given.parallel < 1:
        raise BenchError(f"--parallel is {given.parallel}: it takes at least one")
    return options(given.option)


def _what(found: Any) -> str:
    if found.whole:
        return f"{found.title}, whole: {counted(found.rows, 'row', form=',')}"
    return f"{found.title}, not whole: blocks of {found.held:,} of {counted(found.rows, 'row', form=',')}"


def _print_json(value: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
