"""Write the generated parts of README.md from the records in results/records and from what the commands print.

    python tests/readme.py

tests/test_readme.py fails where README.md is not what this makes.
"""

import argparse
import contextlib
import io
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from bench import cli, curve_tables, results, tables
from bench.cli import parser
from bench.curve import Curve
from bench.explore import page
from bench.results import Leaderboard

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "results" / "records"

# Deng et al. (2024), dattri: LDS on MNIST, 5,000 / 500, one seed per subset, read off its figures (±0.005).
PUBLISHED = {
    "mnist-logreg": {
        "influence": ("IF explicit", 0.798),
        "influence-cg": ("IF CG", 0.798),
        "influence-lissa:depth=2000": ("IF LiSSA", 0.787),
        "trak:checkpoints=50": ("TRAK-50", 0.681),
        "trak:checkpoints=10": ("TRAK-10", 0.643),
        "trak:checkpoints=1": ("TRAK-1", 0.413),
        "tracin": ("TracIn", 0.330),
        "graddot": ("GradDot", 0.327),
        "influence-arnoldi": ("IF Arnoldi", 0.310),
        "gradcos": ("GradCos", 0.191),
        "representer": ("RPS", 0.188),
    },
    "mnist-mlp": {
        "trak:checkpoints=50": ("TRAK-50", 0.446),
        "trak:checkpoints=10": ("TRAK-10", 0.331),
        "influence-cg": ("IF CG", 0.256),
        "tracin": ("TracIn", 0.144),
        "influence-lissa:checkpoints=1,depth=500": ("IF LiSSA", 0.136),
        "gradcos": ("GradCos", 0.122),
        "trak:checkpoints=1": ("TRAK-1", 0.112),
        "graddot": ("GradDot", 0.100),
        "representer": ("RPS", 0.093),
        "influence-arnoldi": ("IF Arnoldi", 0.087),
    },
}


def record(name: str) -> Leaderboard:
    return results.read(RECORDS / name)


def leaderboard() -> str:
    board = record("digits-mlp")
    return tables.markdown(board) + "\n" + _made_with(board)


def against_published(name: str) -> str:
    """Every method of a record, with the figure that was published for it where there is one."""
    board, published = record(name), PUBLISHED[name]
    header = "| method | published (dattri) | here, one seed | 95% interval | here, two seeds | of ceiling |"
    lines = [header, "|---|---:|---:|---|---:|---:|"]
    for row in board.methods:
        if row.lds is None:
            lines.append(f"| `{row.name}` | – | {row.status}: {row.reason} | – | – | – |")
            continue
        assert row.one_seed is not None
        assert row.of_ceiling is not None
        theirs = "–" if row.name not in published else "{}: {:.3f}".format(*published[row.name])
        one = row.one_seed
        share = tables.share(row.of_ceiling.value)
        cells = theirs, tables.lds(one.lds), tables.interval(one.ci), tables.lds(row.lds), share
        lines.append(f"| `{row.name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *tables.caption(board), "", _made_with(board)])


def every_method() -> str:
    """Default and tuned rows of every method side by side."""
    board = record("digits-mlp-all")
    by_plugin: dict[str, list[results.Row]] = {}
    for row in board.methods:
        by_plugin.setdefault(row.name.partition(":")[0], []).append(row)
    lines = [
        "| method | default | chosen on tune rows | the same, variant | of ceiling | models | attributing |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for plugin, rows in by_plugin.items():
        plain = [row for row in rows if not row.searches]
        tuned = [row for row in rows if row.searches]
        tuned.sort(key=lambda row: row.name.count(","))
        cells = [", ".join(tables.lds(row.lds) + _variant(row) for row in plain)]
        first = [row for row in tuned if "," not in row.name]
        cells.append(
            ", ".join(f"{tables.lds(row.lds)} ({row.searches[0].what} {row.searches[0].chosen})" for row in first)
        )
        cells.append(", ".join(f"{tables.lds(row.lds)}{_variant(row)}" for row in tuned if row not in first))
        best = rows[0]
        share = "" if best.of_ceiling is None else f"{best.of_ceiling.value:.0%}"
        assert best.cost is not None
        cells += [share, f"{best.cost.models:,}", f"{best.cost.seconds:.1f} s"]
        lines.append(f"| `{plugin}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", tables.caption(board)[0], "", _made_with(board)])


def _variant(row: results.Row) -> str:
    said = [part for part in row.name.partition(":")[2].split(",") if part and not part.endswith("=tune")]
    return f" ({', '.join(said)})" if said else ""


def single_model() -> str:
    board = record("digits-mlp-single-model")
    return tables.markdown(board) + "\n" + _made_with(board)


def removal() -> str:
    made = (RECORDS / "mnist-memorization" / "removal.md").read_text("utf-8")
    return made[made.index("| removed") :]


_EXPLORED = {"digits/mlp": "digits-mlp-explore", "fashion-mnist/mlp": "fashion-mnist-mlp-explore"}


def explored() -> str:
    """One line per question that `bench explore` answers, with what it found."""
    said = {
        "similar": _similar,
        "leakage": _leakage,
        "brittleness": _brittleness,
        "counterfactual": _counterfactual,
        "subpopulations": _subpopulations,
        "embedding": _embedding,
        "mislabel": _mislabel,
    }
    found: dict[str, dict[str, Any]] = {
        name: {verb: page.read(RECORDS / name, verb) for verb in said} for name in _EXPLORED.values()
    }
    lines = [f"| `bench explore …` | on `{'` | on `'.join(_EXPLORED)}` |", "|---|---|---|"]
    for verb, sentence in said.items():
        cells = [f"**`{verb}`**: {page.view(verb).TITLE}"]
        for name, documents in found.items():
            cells.append(f"{sentence(documents[verb])} ([page](results/records/{name}/{verb}.html))")
        lines.append(f"| {' | '.join(cells)} |")
    models = [sum(one.about.models for one in documents.values()) for documents in found.values()]
    return "\n".join([*lines, "", f"{models[0]:,} and {models[1]:,} models were trained for it.", ""])


def _pair(value: float, ci: tuple[float, float] | None) -> str:
    return f"{tables.lds(value)} {tables.interval(ci)}"


def _similar(one: Any) -> str:
    best = next(name for name in one.about.methods if name != "datamodels")
    (pair,) = (pair for pair in one.agreement if {pair.a, pair.b} == {"datamodels", best} and pair.side == "helpful")
    return (
        f"of the {one.k} most helpful examples by `datamodels` and by `{best}` {pair.overlap:.0%} are the same "
        f"(by chance {one.chance_overlap:.1%})"
    )


def _leakage(one: Any) -> str:
    exact = [rated for rated in one.evaluation.rated if rated.kind == "exact"]
    best = max((rated for rated in exact if not rated.baseline), key=lambda rated: (rated.recall, rated.average))
    raw = max((rated for rated in exact if rated.baseline), key=lambda rated: (rated.recall, rated.average))
    return (
        f"of {best.planted} planted exact copies `{best.name}` finds {best.recall:.0%} at a precision of 95% "
        f"({one.evaluation.share:.0%} of the targets replaced); {raw.name} {raw.recall:.0%}"
    )


def _brittleness(one: Any) -> str:
    best = max(one.methods, key=lambda method: method.both.count)
    return (
        f"`{best.name}` predicts that {best.predicted.count:g} of {best.predicted.of} targets flip without k examples: "
        f"{best.verified.count:g} of them do, and {best.random.count:g} without as many random ones"
    )


def _counterfactual(one: Any) -> str:
    best = max(one.methods, key=lambda method: method.score.value)
    return (
        f"predicted and real changes of margins rank alike by {_pair(best.score.value, best.score.ci)} (`{best.name}`; "
        f"noise lets about {tables.lds(one.ceiling.value)} be expected at most)"
    )


def _subpopulations(one: Any) -> str:
    best = max((row for row in one.evaluation.rows if not row.raw), key=lambda row: row.mean)
    raw = max((row for row in one.evaluation.rows if row.raw), key=lambda row: row.mean)
    return (
        f"clusters by `{best.name}` agree with hidden classes by an adjusted Rand index of "
        f"{_pair(best.mean, best.ci)}, clusters by {raw.name} by {_pair(raw.mean, raw.ci)}"
    )


def _embedding(one: Any) -> str:
    best = one.methods[0]
    return (
        f"{best.purity.share:.0%} of nearest neighbours are of the target's class by `{best.method}`, "
        f"{best.purity.raw:.0%} by pixels"
    )


def _mislabel(one: Any) -> str:
    best = max((told for told in one.told if not told.baseline), key=lambda told: told.auc)
    margin = max((told for told in one.told if told.baseline), key=lambda told: told.auc)
    return (
        f"wrong labels before right ones: AUC {_pair(best.auc, best.ci)} by `{best.name}`; by {margin.name} alone "
        f"{_pair(margin.auc, margin.ci)}"
    )


def _made_with(board: Leaderboard) -> str:
    packages = ", ".join(f"{name} {board.versions[name]}" for name in ("python", "torch", "numpy", "traker"))
    return f"Seed {board.seed}, {board.hardware['cores']} cores of {board.hardware['processor']}, {packages}.\n"


def by_fit_rows() -> str:
    """LDS of datamodels and differences in means, by the number of fit rows."""
    lines = ["| fit rows | `datamodels` | 95% interval | `heldout` | 95% interval |", "|---:|---:|---|---:|---|"]
    for name in ("digits-mlp", "digits-mlp-models2500", "digits-mlp-models5500"):
        board = record(name)
        rows = {row.name: row for row in board.methods}
        cells = [cell for one in ("datamodels", "heldout") for cell in _lds_and_interval(rows[one])]
        lines.append(f"| {board.rows.fit:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _lds_and_interval(row: results.Row) -> tuple[str, str]:
    return tables.lds(row.lds), tables.interval(row.ci)


def learning_curve() -> str:
    curve = msgspec.json.decode((RECORDS / "digits-mlp-curve" / "curve.json").read_bytes(), type=Curve)
    return curve_tables.markdown(curve)


def what_there_is() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main(["list"])
    return f"```\n$ python -m bench list\n{printed.getvalue()}```\n"


def commands() -> str:
    """`--help` of every verb, with the width of this page."""
    made = parser()
    made.formatter_class = _Wide
    (verbs,) = (action for action in made._actions if isinstance(action, argparse._SubParsersAction))
    lines = [f"```\n$ python -m bench --help\n{made.format_help()}```\n"]
    for name, verb in verbs.choices.items():
        verb.formatter_class = _Wide
        text = verb.format_help()
        lines.append(
            f"<details><summary><code>python -m bench {name} --help</code></summary>\n\n```\n{text}```\n</details>\n"
        )
    return "\n".join(lines)


class _Wide(argparse.RawDescriptionHelpFormatter):
    """Of one width everywhere; a usage of one line is not wrapped, which versions of Python do differently."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:  # noqa: ARG002
        """Name the words and leave out the options, which stand below."""
        words = [action.metavar or action.dest for action in actions if not action.option_strings]
        shown = " ".join(["python -m", self._prog, "[options]", *(str(word) for word in words)])
        super().add_usage(shown.replace("%", "%%"), actions, groups, prefix)

    def _format_text(self, text: str) -> str:
        return super()._format_text(text if "\n" in text else "\n".join(textwrap.wrap(text, 108)))


def example(name: str) -> str:
    return f"```python\n{(ROOT / 'tests' / 'examples' / name).read_text('utf-8')}```\n"


PARTS = {
    "leaderboard": leaderboard,
    "example": lambda: example("pixels.py"),
    "dataset": lambda: example("rings.py"),
    "list": what_there_is,
    "datamodels": by_fit_rows,
    "curve": learning_curve,
    "published logreg": lambda: against_published("mnist-logreg"),
    "published mlp": lambda: against_published("mnist-mlp"),
    "every method": every_method,
    "single-model": single_model,
    "removal": removal,
    "explore": explored,
    "commands": commands,
}


def render(text: str) -> str:
    """The README with every generated part anew."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}: generated -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no part {name!r}")
        text = pattern.sub(lambda found, made=make: f"{found[1]}{made()}{found[2]}", text, count=1)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text("utf-8")), "utf-8")
