"""report.html: one file that holds all it needs, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from bench import tables
from bench.report import breakdown, plots, provenance, svg, table
from bench.report.markup import figure, json, number, section, source_hash, text
from bench.wording import counted, either

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.curve import Curve
    from bench.report.gallery import Gallery
    from bench.results import Leaderboard

_WHAT_LDS_IS = (
    "<b>LDS</b> asks whether a method can tell what training examples do: models are trained on random halves of the "
    "training set, and the method must rank, from its scores alone, which halves make the model surer of a target. "
)
_WHAT_LDS_IS_EXACTLY = (
    "Exactly: Spearman's rank correlation, over held-out training subsets, between the sum of the method's scores over "
    "the subset and the margin of the models trained on it, averaged over targets. 1 is perfect, 0 is chance."
)


def html(
    board: Leaderboard,
    per_target: dict[str, NDArray[np.float64]],
    gallery: Gallery | str = "",
    curve: Curve | str = "",
    explored: str = "",
) -> str:
    """The page.

    Args:
        board: the leaderboard.
        per_target: LDS of every target, float64 `[n_targets]`, by method name; of which methods it is known.
        gallery: examples of single targets; else a sentence that says why there are none.
        curve: the learning curve; else such a sentence.
        explored: what `bench explore` found, as HTML.
    """
    style, script = (files("bench.report").joinpath(name).read_text("utf-8") for name in ("report.css", "report.js"))
    sections = _sections(board, per_target, gallery, curve)
    if explored:
        sections.insert(-1, ("explore", "What the scores are for", explored))
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    body = "\n".join(section(name, title, content) for name, title, content in sections)
    data = "" if isinstance(gallery, str) else json(gallery.as_json())
    holder = f'<script type="application/json" id="gallery-data">{data}</script>\n' if data else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(board.setting)}: attribution methods by LDS</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#ranking">Skip to the ranking</a>
<header>
{_head(board)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}</main>
{holder}<script>{script}</script>
</body>
</html>
"""


def _head(board: Leaderboard) -> str:
    stamps = "".join(f'<p class="stamp">{text(stamp)}</p>' for stamp in tables.stamps(board))
    return f"""<p class="kicker">Attribution methods by LDS</p>
<h1>{text(board.setting)}</h1>
{stamps}<p class="lead">{_WHAT_LDS_IS if board.alpha == 0.5 else _WHAT_LDS_IS.replace("halves", "parts")}</p>
<p class="soft">{_WHAT_LDS_IS_EXACTLY}</p>
{_figures(board)}
<p class="soft">{text(" ".join(tables.caption(board)))}</p>"""


def _figures(board: Leaderboard) -> str:
    """The few numbers that a reader should leave with."""
    rows = plots.scored(board)
    shown = []
    if rows:
        best = rows[0]
        tied = [row for row in rows if row.lds == best.lds]
        alike = [row for row in rows[1:] if best.group and row.group and set(best.group) & set(row.group)]
        also = f"; not told apart from {counted(len(alike), 'other')}" if alike else ""
        name = best.name if len(tied) == 1 else f"{best.name} and {len(tied) - 1} more"
        shown.append((tables.lds(best.lds), "best LDS", f"{name}{also}"))
        if best.of_ceiling is not None and best.of_ceiling.value > 0:
            what = "of what noise lets any method reach"
            shown.append((f"{number(100 * best.of_ceiling.value, 0)}%", what, f"{best.name}"))
    if board.ceiling is not None:
        shown.append((tables.lds(board.ceiling.lds), "noise ceiling", tables.interval(board.ceiling.ci)))
    others = len(board.methods) - len(rows)
    rest = f"{others} without a score" if others else "none failed or was skipped"
    shown.append((str(len(board.methods)), "method" if len(board.methods) == 1 else "methods", rest))
    items = "".join(
        f"<div><dt>{text(title)}</dt><dd><b>{text(value)}</b> <span>{text(more)}</span></dd></div>"
        for value, title, more in shown
    )
    return f'<dl class="figures">{items}</dl>'


def _sections(
    board: Leaderboard, per_target: dict[str, NDArray[np.float64]], gallery: Gallery | str, curve: Curve | str
) -> list[tuple[str, str, str]]:
    """Anchor, title and content of each section."""
    names: Sequence[str] = () if isinstance(gallery, str) else gallery.class_names
    found = [("ranking", "Ranking", _ranking(board, per_target))]
    if plots.scored(board):
        with svg.style():
            if drawn := plots.costs(board):
                found.append(("cost", "Quality against cost", drawn))
            spread = plots.histograms(board, per_target)
        heat = breakdown.heat(board, names)
        found.append(("targets", "Target by target", _targets(spread, heat)))
    found.append(("learning", "Learning curve", _learning(curve)))
    found.append(("examples", "Examples", _examples(gallery)))
    found.append(("provenance", "Provenance", provenance.box(board)))
    return found


def _ranking(board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> str:
    parts = [table.ranked(board)]
    in_order = msgspec.structs.replace(board, methods=plots.scored(board))  # the table itself says why others failed
    notes = "".join(f"<li>{text(note)}</li>" for note in tables.footnotes(in_order))
    if notes:
        parts.append(f'<h3>Notes</h3><ul class="notes">{notes}</ul>')
    if board.chance is not None:
        chance = board.chance
        parts.append(
            f"<p><b>Chance:</b> random scores that know nothing reach an LDS of {number(chance.lds)} here "
            f"(p = {table.p_value(chance.p_value)}); 95% of {chance.permutations:,} random permutations of the "
            f"subsets lie in {tables.interval(chance.ci)}.</p>"
        )
    parts.append(table.tuned(board))
    parts.append(table.pairs(board))
    if plots.scored(board):
        with svg.style():
            parts.append(plots.standings(board, per_target))
    return "\n".join(part for part in parts if part)


def _targets(histograms: str, heat: str) -> str:
    parts = []
    if histograms:
        parts.append(
            '<p class="soft">The mean hides how a method does on single targets. Each histogram counts targets by '
            "their LDS; the lines are the 5%, 25%, 50%, 75% and 95% quantiles, the longest the median.</p>" + histograms
        )
    else:
        why = "per_target.csv is not beside the leaderboard"
        parts.append(f'<p class="absent">The LDS of single targets is not known: {why}.</p>')
    return "".join([*parts, heat])


def _learning(curve: Curve | str) -> str:
    if isinstance(curve, str):
        return f'<p class="absent">There is no learning curve here: {text(curve or "none was asked for")}.</p>'
    drawn_of = [point for point in curve.points if point.lds is not None and point.ci is not None]
    if not drawn_of:
        return '<p class="absent">There is no learning curve here: no target has a correlation on the tune rows.</p>'
    with svg.style():
        drawn = plots.learning(curve)
    return figure(
        drawn,
        f"How good datamodels, which are fitted on trained models, get as more models are trained: where the line is "
        f"flat, more would not help. Judged on {counted(curve.tune_rows, 'tune row', form=',')} of one seed each, "
        "which are noisier than what judges the table, so these numbers are lower than there. The band is the 95% "
        "interval.",
    )


def _examples(gallery: Gallery | str) -> str:
    if isinstance(gallery, str):
        return f'<p class="absent">There are no examples here: {text(gallery or "none were asked for")}.</p>'
    what = "images" if gallery.train_sheet is not None else "examples"
    said = (
        f"For a target, the training {what} that a method says raise its margin most, and lower it most, with scores."
    )
    if len(gallery.targets) < gallery.n_targets:
        said += (
            f" {len(gallery.targets):,} of {gallery.n_targets:,} targets {either(len(gallery.targets), 'is', 'are')} "
            "in this file, spread evenly, and those on which a method does best and worst."
        )
    missing = "".join(f"<li>{text(name)}: {text(why)}</li>" for name, why in gallery.missing.items())
    return f"""<p class="soft">{said}</p>
<p class="absent script-less">To look through them, this page needs JavaScript.</p>
<div id="gallery" class="script-only">
{_tools(gallery)}
<p id="gallery-status" role="status" aria-live="polite"></p>
<div id="strip" role="group" aria-label="Targets found"></div>
<div id="shown"></div>
</div>
{f'<ul class="notes">{missing}</ul>' if missing else ""}"""


def _tools(gallery: Gallery) -> str:
    """What to choose methods and targets with."""
    methods = "".join(f'<option value="{at}">{text(one.name)}</option>' for at, one in enumerate(gallery.methods))
    every = '<option value="all">all methods</option>' if len(gallery.methods) > 1 else ""
    orders = (("number", "by number"), ("worst", "worst LDS first"), ("best", "best LDS first"))
    order = "".join(f'<option value="{value}">{title}</option>' for value, title in orders)
    named = f" or {text(gallery.class_names[0])}" if gallery.class_names else ""
    field = 'type="search" autocomplete="off" spellcheck="false" aria-describedby="search-hint"'
    return f"""<div class="tools">
<p><label for="method">Method</label> <select id="method">{methods}{every}</select></p>
<p><label for="search">Find targets</label> <input id="search" {field}></p>
<p><label for="order">Order</label> <select id="order">{order}</select></p>
<p><button type="button" id="previous">Previous</button> <button type="button" id="next">Next</button></p>
</div>
<p id="search-hint" class="soft">A number (17), a class (class 3{named}), worst or best. Arrow keys walk along the
strip. ✓ and a blue frame: of the target's own class.</p>"""
