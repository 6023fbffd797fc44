"""RUN/explore/VERB.html: what a verb found, on a page that holds all it needs; and the same as a part of the report."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import InputError
from bench.explore import blocks, verbs
from bench.explore.document import SCHEMA
from bench.report.markup import source_hash, text

if TYPE_CHECKING:
    from bench.explore.document import Document
    from bench.results import Leaderboard


def view(verb: str) -> Any:
    """The module that shows a verb's documents: `DOCUMENT`, its type, `TITLE`, `blocks`, `frame` and `grid`."""
    return import_module(f"bench.explore.views.{verb}")


def html(document: Document, folder: Path) -> str:
    """The page of one document; its pictures are read from `folder`."""
    shown, about = view(document.verb), document.about
    style = files("bench.report").joinpath("report.css").read_text("utf-8")
    policy = f"default-src 'none'; img-src data:; style-src {source_hash(style)}; base-uri 'none'; form-action 'none'"
    notes = "".join(f"<li>{text(note)}</li>" for note in document.notes)
    trained = f", {about.models:,} models trained for it" if about.models else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(about.setting)}: {text(shown.TITLE)}</title>
<style>{style}</style>
</head>
<body>
<header>
<p class="kicker">{text(about.setting)}: {about.n_train:,} training examples × {about.n_targets:,} targets</p>
<h1>{text(shown.TITLE)}</h1>
</header>
<main>
{blocks.html(shown.blocks(document), folder, document.verb, 2)}
{f'<h2>Notes</h2><ul class="notes">{notes}</ul>' if notes else ""}
<p class="soft">Made by <code>bench explore {document.verb}</code> in {about.seconds:.1f} s{trained}.</p>
</main>
</body>
</html>
"""


def read(folder: Path, verb: str) -> Document:
    """The document of a verb in a folder that `bench explore` has written.

    Raises:
        InputError: it is not there, or torn.
    """
    path = folder / f"{verb}.json"
    try:
        found: Document = msgspec.json.decode(path.read_bytes(), type=view(verb).DOCUMENT)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; bench explore {verb} makes it") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a document of bench explore {verb} ({error}): make it again") from error
    if found.schema != SCHEMA:
        raise InputError(f"{path} has the format {found.schema}, and {SCHEMA} is read here: make it again")
    return found


def section(folder: Path, board: Leaderboard) -> str:
    """What was explored of a run, as HTML for its report; empty where nothing was."""
    parts = []
    for verb in verbs.names():
        if not (folder / f"{verb}.json").exists():
            continue
        try:
            document = read(folder, verb)
        except InputError as error:
            parts.append(f'<p class="absent">{text(error)}.</p>')
            continue
        title = f'<h3 id="explore-{verb}">{text(view(verb).TITLE)}</h3>'
        if document.about.key != board.ground_truth["key"]:
            parts.append(
                f'{title}<p class="absent">{verb}.json is of another ground truth: run bench explore {verb} again.</p>'
            )
            continue
        notes = "".join(f"<li>{text(note)}</li>" for note in document.notes)
        shown = blocks.html(view(verb).blocks(document), folder, f"explore-{verb}")
        parts.append(title + shown + (f'<ul class="notes">{notes}</ul>' if notes else ""))
    return "\n".join(parts)
