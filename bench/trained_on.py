"""Whether a ground truth was trained on the examples, and by the recipe, that its setting has now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import hashing
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.datasets import Data, Setting
    from bench.store import Identity


def refuse_others(path: Path, who: Identity, setting: Setting, data: Data) -> None:
    """Refuse a store of other data, or of another recipe.

    Args:
        path: the store.
        who: what it says that it is of.
        setting: what is to be trained or explained.
        data: the setting's examples.

    Raises:
        InputError: they differ.
    """
    for what, now, then in (
        ("on other data", hashing.data(data), who.data),
        ("by another recipe", hashing.recipe(setting.recipe), who.recipe),
    ):
        if now != then:
            raise InputError(f"{path} was trained {what} than {setting.name} has now: train it again")
