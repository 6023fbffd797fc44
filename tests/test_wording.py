"""Counts in sentences."""

import pytest

from bench.errors import InputError
from bench.wording import counted, either, raised


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (-1, "-1 runs"), (12345, "12345 runs")]
)
def test_only_1_is_one(number: int, words: str) -> None:
    assert counted(number, "run") == words


def test_other_words_and_forms() -> None:
    assert counted(1, "class", "classes") == "1 class"
    assert counted(3, "class", "classes") == "3 classes"
    assert counted(12345, "run", form=",") == "12,345 runs"
    assert (either(1, "is", "are"), either(0, "is", "are")) == ("is", "are")


def test_what_was_raised() -> None:
    assert raised(ValueError("a\n b")) == "ValueError: a b"
    assert raised(ValueError()) == "ValueError"
    assert raised(InputError("k is 3: take 2")) == "k is 3: take 2"
    assert raised(InputError()) == "InputError"
