"""The verb `explore`: what score matrices are for, one question each."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.explore import verbs

if TYPE_CHECKING:
    from bench.explore.document import Document, Finding
    from bench.explore.subject import Subject

_DESCRIPTION = (
    "What attributions are for. Each question is asked of the score matrices of a run, or of matrices from files on a "
    "ground-truth store. Of a run everything is written to RUN/explore, where bench report finds it: VERB.json, .csv, "
    ".html (a page that explains itself), plots and arrays."
)


def add(top: Any) -> argparse.ArgumentParser:
    """The verb."""
    made: argparse.ArgumentParser = top.add_parser(
        "explore",
        help="what scores are for: similar examples, leakage, brittleness, counterfactuals, …",
        description=_DESCRIPTION,
    )
    asked = made.add_subparsers(dest="explore", required=True, metavar="VERB")
    for name in verbs.names():
        verb = verbs.load(name)
        parser = asked.add_parser(name, help=verb.HELP, description=verb.DESCRIPTION)
        _shared(parser)
        verb.add(parser)
    parser = asked.add_parser(
        "all",
        help="all of them, each with its defaults",
        description="Every verb with its defaults, one after another. What a store without examples cannot answer is "
        "left out, with the reason.",
    )
    _shared(parser)
    return made


def _shared(made: argparse.ArgumentParser) -> None:
    made.add_argument("path", metavar="RUN|STORE", help="folder of bench run, or of bench train or bench import")
    made.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME[:key=value,…]",
        help="of a run, one of its rows, or all (default: the best); on a store it is run; may be given again",
    )
    made.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="[NAME=]FILE.npy",
        help="a score matrix from a file, as of bench run; may be given again",
    )
    made.add_argument("--orientation", action="append", default=[], metavar="train,test|test,train", help="of --scores")
    made.add_argument("--sign", action="append", default=[], metavar="+|-", help="of --scores")
    made.add_argument("--out", metavar="DIR", help="where to write (RUN/explore; of a store nothing without it)")
    made.add_argument("--setting", metavar="S", help="the setting, where it is a file's (default: the one named)")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    made.add_argument(
        "--data-dir", metavar="DIR", help="where the dataset's files are (else $BENCH_DATA, else download)"
    )
    made.add_argument(
        "--allow-modified-data", action="store_true", help="take files that are not the published ones, and say so"
    )
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    made.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")


def run(given: argparse.Namespace) -> int:
    """Open, ask, write, print. 1 where some of all verbs cannot be asked for another reason than missing examples."""
    if given.setting is not None:
        from bench import datasets

        datasets.check(given.setting)
    every = given.explore == "all"
    wanted = verbs.names() if every else [given.explore]
    made: list[Document] = []
    refused: dict[str, BenchError] = {}
    with contextlib.redirect_stdout(sys.stderr):  # what plug-ins and libraries print: stdout is for results
        subject = _opened(given)
        out = _folder(given, subject)
        for name in wanted:
            try:
                made.append(_made(name, subject, _defaults(name, given) if every else given, out))
            except BenchError as error:
                if not every:
                    raise
                refused[name] = error
        if subject.is_run and out is not None and out.resolve() == (subject.path / "explore").resolve():
            _rewrite(subject, made)
    if not made:
        raise next(iter(refused.values()))
    for document in made:
        _show(document, given.json, every)
    if given.json and every:
        import msgspec

        whole = {document.verb: document for document in made}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(whole)).decode() + "\n")
    return 1 if _told(refused) else 0


def _told(refused: dict[str, BenchError]) -> bool:
    """Say on stderr what was not asked, and why; whether any reason is other than that there are no examples."""
    from bench.explore.subject import NoExamplesError

    for name, error in refused.items():
        print(f"bench: without {name}: {error}", file=sys.stderr)
    return not all(isinstance(error, NoExamplesError) for error in refused.values())


def _opened(given: argparse.Namespace) -> Subject:
    from bench.explore.subject import open_subject
    from bench.progress import Progress

    return open_subject(
        given.path,
        methods=given.method,
        scores=given.scores,
        orientation=given.orientation,
        sign=given.sign,
        setting=given.setting,
        device=given.device,
        data_dir=given.data_dir,
        allow_modified_data=given.allow_modified_data,
        progress=Progress(quiet=given.quiet),
    )


def _folder(given: argparse.Namespace, subject: Subject) -> Path | None:
    if given.out is not None:
        return Path(given.out)
    return subject.path / "explore" if subject.is_run else None


def _defaults(name: str, given: argparse.Namespace) -> argparse.Namespace:
    """The verb's own defaults beside what all verbs share."""
    parser = argparse.ArgumentParser()
    verbs.load(name).add(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **vars(given)})


def _made(name: str, subject: Subject, given: argparse.Namespace, out: Path | None) -> Document:
    finding: Finding[Document] = verbs.load(name).make(subject, given, out)
    if out is not None:
        from bench.explore import files

        files.write(out, finding)
        subject.progress.say(f"written to {out / name}.html, .json and .csv")
    return finding.document


def _rewrite(subject: Subject, made: list[Document]) -> None:
    """The run's own files, where something was found that its leaderboard has a column for."""
    if any(document.verb == "counterfactual" for document in made):
        from bench import results

        results.rewrite(subject.path, subject.why if subject.data is None else subject.data)
        subject.progress.say(f"{subject.path / 'leaderboard.json'} has the counterfactual scores")


def _show(document: Document, as_json: bool, one_of_many: bool) -> None:
    if as_json:
        if not one_of_many:
            sys.stdout.write(document.text())
        return
    from bench.explore import page

    sys.stdout.write(page.view(document.verb).grid(document).plain())
    if one_of_many:
        sys.stdout.write("\n")
