"""JSON Schemas of leaderboard.json and baseline.json, from the structs that read them.

python -m bench.tables.json_schema    # writes bench/tables/schemas/*.json anew
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).resolve().parent / "schemas"


def made() -> dict[str, str]:
    """The text of each schema, by name."""
    from bench.baselines import Baseline
    from bench.results import Leaderboard

    structs: dict[str, Any] = {"leaderboard": Leaderboard, "baseline": Baseline}
    return {name: _text(name, struct) for name, struct in structs.items()}


def _text(name: str, struct: Any) -> str:
    found = msgspec.json.schema(struct)
    version = found["$defs"][struct.__name__]
    del version["properties"]["schema"]["default"]  # reading an older file may do without it; a schema must not
    version["required"] = ["schema", *version["required"]]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{name}.json of ldsbench, schema 1",
    }
    return msgspec.json.format(msgspec.json.encode(_ordered(head | found))).decode() + "\n"


def _ordered(value: Any) -> Any:
    """The same with alternatives in one order, which versions of msgspec write differently."""
    if isinstance(value, list):
        return [_ordered(part) for part in value]
    if not isinstance(value, dict):
        return value
    made = {key: _ordered(part) for key, part in value.items()}
    if "anyOf" in made:
        made["anyOf"] = sorted(made["anyOf"], key=msgspec.json.encode)
    return made


if __name__ == "__main__":
    for name, text in made().items():
        (FOLDER / f"{name}.json").write_text(text, "utf-8")
