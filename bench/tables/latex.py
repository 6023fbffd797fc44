r"""The leaderboard, and its pairs, as LaTeX tables with booktabs: ready to be put into a paper by \input."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bench.tables import caption, footnotes, interval, lds, ranks, share, shown, stamps
from bench.tables.text import seconds

if TYPE_CHECKING:
    from bench.results import Cost, Leaderboard, Row
    from bench.tables import Column

_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "→": r"$\to$",
    "ρ": r"$\rho$",
    "·": r"$\cdot$",
    "²": r"\textsuperscript{2}",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
}
_NEEDS = r"% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs,textcomp}."


def escape(text: str) -> str:
    """Any text as LaTeX that prints it: special characters escaped, the signs of tables as mathematics."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return "".join(_SPECIAL.get(char, char) for char in " ".join(printable.split()))


def leaderboard(board: Leaderboard, also: Column | None = None) -> str:
    """A table of rank, LDS with interval, share of the ceiling and cost.

    The best method, and those that cannot be told from it, are bold; the letters of groups are superscripts. `also` is
    a further column of the CSV, as for `bench.tables.grid`.
    """
    if also is not None and also[0] != "peak_bytes" and shown(board, also[0]):
        also = None
    grouped = sum(row.group is not None for row in board.methods) > 1
    shares = any(row.of_ceiling for row in board.methods)
    removed = any(row.counterfactual for row in board.methods)
    header = ["Rank", "Method", "LDS", r"95\% interval", *(["Of ceiling"] if shares else [])]
    header += ["Counterfactual"] if removed else []
    header += ["Models", "Training", "Attributing", *([escape(also[0])] if also else [])]
    further = dict(zip((row.name for row in board.methods), also[1], strict=True)) if also else {}
    kinds = "rlrl" + "r" * (len(header) - 4)
    best = {letter for row in board.methods if row.rank == 1 for letter in _letters(row)}

    def line(row: Row) -> list[str]:
        ok = row.status == "ok"
        first = row.rank == 1 or bool(best & _letters(row))
        letters = rf"\textsuperscript{{{escape(row.group)}}}" if grouped and row.group else ""
        value = escape(lds(row.lds)) if ok else row.status
        cost = row.cost
        return [
            escape(ranks(row)),
            rf"\texttt{{{escape(row.name)}}}",
            (rf"\textbf{{{value}}}" if first else value) + letters,
            escape(interval(row.ci)),
            *([escape(share(row.of_ceiling.value if row.of_ceiling else None))] if shares else []),
            *([escape(lds(row.counterfactual.spearman if row.counterfactual else None))] if removed else []),
            *(("",) * 3 if not ok else ("--",) * 3 if cost is None else _figures(cost)),
            *([escape(further[row.name])] if also else []),
        ]

    bold = ["bold: the best method" + (" and those not distinguishable from it" if grouped else "")]
    notes = [note for note in footnotes(board) if not note.startswith("group: ")]
    if grouped:
        bold.append("superscripts: methods that share a letter are not distinguishable")
    head = " ".join(caption(board)).removeprefix(f"{board.setting}: LDS ")
    title = rf"Linear datamodeling score (LDS) of \texttt{{{escape(board.setting)}}} {escape(head)}"
    return _table(
        [title, *(f"{escape(text[0].upper() + text[1:])}." for text in bold)],
        "tab:lds-" + _label(board.setting),
        (kinds, header, [line(row) for row in board.methods]),
        [*stamps(board), *notes],
        board.command,
    )


def tabular(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> str:
    """A bare booktabs tabular of texts; the columns named in `right` end at one place."""
    lines = [
        _NEEDS,
        rf"\begin{{tabular}}{{@{{}}{''.join('r' if name in right else 'l' for name in header)}@{{}}}}",
        r"  \toprule",
        f"  {' & '.join(map(escape, header))} \\\\",
        r"  \midrule",
        *(f"  {' & '.join(map(escape, row))} \\\\" for row in rows),
        r"  \bottomrule",
    ]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _letters(row: Row) -> set[str]:
    """`"ab"` and `"a1b1"` are two letters each."""
    return set(re.findall(r"[a-z]\d*", row.group or ""))


def _figures(cost: Cost) -> tuple[str, ...]:
    return (str(cost.models), *map(_unit, (cost.train_seconds, cost.seconds)))


def _unit(value: float) -> str:
    return seconds(value).replace(" ", "\\,")


def _label(setting: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", setting.lower()).strip("-")


def _table(
    title: Sequence[str],
    label: str,
    body: tuple[str, Sequence[str], Sequence[Sequence[str]]],
    notes: Sequence[str],
    command: str,
) -> str:
    kinds, header, rows = body
    lines = [
        _NEEDS,
        *([f"% Made by: {' '.join(command.split())}"] if command else []),
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{' '.join(title)}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
        r"    \toprule",
        f"    {' & '.join(header)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if notes:
        lines += [r"  \par\smallskip", r"  \begin{minipage}{\linewidth}\footnotesize"]
        lines += [rf"    {escape(note[0].upper() + note[1:] if _is_word(note) else note)}.\par" for note in notes]
        lines += [r"  \end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _is_word(note: str) -> bool:
    """Whether a note may begin with a capital: not where it begins with a method's name."""
    return note.partition(":")[0] in ("rank", "chance", "all methods")
