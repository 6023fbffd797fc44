"""Where the numbers come from: what to type to get them again, and the hashes, versions and rows behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.report.markup import text
from bench.wording import counted

if TYPE_CHECKING:
    from bench.results import Leaderboard


_SINGLE_MODEL = "all subset models have one seed, and what is left out has weight 0 in its batches"


def box(board: Leaderboard) -> str:
    """Everything of the leaderboard that says how it was made."""
    rows = board.rows
    counts = {
        "fit": f"{counted(rows.fit, 'model', form=',')}, which methods may learn from",
        "tune": f"{counted(rows.tune, 'model', form=',')}, for choosing hyper-parameters",
        "eval": f"{rows.eval:,} models of {rows.eval // rows.repeats:,} subsets, which judge",
        "seeds per eval subset": str(rows.repeats),
        "diverged": f"{counted(rows.diverged, 'model', form=',')}, left out",
    }
    asked = {
        "setting": board.setting,
        "alpha": f"{board.alpha:g} of the training set in each subset",
        "margin": board.output,
        "root seed": str(board.seed),
        "protocol": f"{board.protocol}: "
        + ("every subset model has a seed of its own" if board.protocol == "expectation" else _SINGLE_MODEL),
        "sizes": f"{board.n_train:,} training examples × {counted(board.n_targets, 'target', form=',')}",
    }
    hashes = {**board.hashes, "ground truth": board.ground_truth.get("key", "")}
    parts = [
        _facts("Asked for", asked),
        _facts("Models trained", counts),
        _facts("Data", board.data),
        _facts("Hardware", board.hardware),
        _facts("Versions", board.versions),
        _facts("Hashes", hashes, code=True),
    ]
    return _command(board) + f'<div class="facts">{"".join(parts)}</div>' + _parameters(board)


def _command(board: Leaderboard) -> str:
    if not board.command:
        return '<p class="soft">The leaderboard does not say which command made it.</p>'
    return (
        "<h3>To get the same again</h3>"
        f'<div class="command"><pre><code id="command">{text(board.command)}</code></pre>'
        '<button type="button" id="copy" class="script-only">Copy</button>'
        '<span id="copied" role="status" aria-live="polite"></span></div>'
    )


def _facts(title: str, facts: Mapping[str, str], *, code: bool = False) -> str:
    if not facts:
        return ""
    opened, closed = ("<code>", "</code>") if code else ("", "")
    lines = "".join(f"<dt>{text(name)}</dt><dd>{opened}{text(value)}{closed}</dd>" for name, value in facts.items())
    return f"<div><h3>{title}</h3><dl>{lines}</dl></div>"


def _parameters(board: Leaderboard) -> str:
    """What each method was told, defaults included."""
    told = {
        row.name: ", ".join(f"{name} = {value}" for name, value in row.params.items())
        for row in board.methods
        if row.params
    }
    return _facts("Parameters of the methods", told)
