"""Corrections for many comparisons, rank intervals and letters against their definitions."""

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.errors import InputError
from bench.stats import holm, letters, rank_intervals

Array = NDArray[Any]

p_values = st.lists(st.floats(0, 1), max_size=12)


def rejected(p: list[float], level: float) -> set[int]:
    """Holm's procedure as he states it: step down while the smallest that is left is at most level/(how many are)."""
    left, out = sorted(range(len(p)), key=lambda i: p[i]), set[int]()
    while left and p[left[0]] <= level / len(left):
        out.add(left.pop(0))
    return out


class TestHolm:
    def test_published_examples(self) -> None:
        # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"), and statsmodels' multipletests on the same.
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.5, 0.6, 0.9]) == pytest.approx([1, 1, 1])
        assert holm([0.02]) == pytest.approx([0.02])

    @given(p_values, st.sampled_from([0.01, 0.05, 0.3]))
    @settings(deadline=None)
    def test_is_the_procedure(self, p: list[float], level: float) -> None:
        adjusted = holm(p)
        on_the_edge = {i for i in range(len(p)) if abs(adjusted[i] - level) < 1e-12}
        assert {i for i in range(len(p)) if adjusted[i] <= level} ^ rejected(p, level) <= on_the_edge
        assert ((np.array(p) <= adjusted) & (adjusted <= 1)).all()

    @given(p_values)
    @settings(deadline=None)
    def test_keeps_the_order_and_ties(self, p: list[float]) -> None:
        adjusted = holm(p)
        for i, j in combinations(range(len(p)), 2):
            if p[i] <= p[j]:
                assert adjusted[i] <= adjusted[j]
            if p[i] == p[j]:
                assert adjusted[i] == adjusted[j]

    def test_nan_is_not_counted(self) -> None:
        found = holm([np.nan, 0.01, np.nan, 0.04])
        np.testing.assert_array_equal(np.isnan(found), [True, False, True, False])
        assert found[[1, 3]] == pytest.approx([0.02, 0.04])
        assert len(holm([])) == 0
        assert np.isnan(holm([np.nan])).all()


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[float], Array]:
    """LDS, best first, and which pairs are told apart."""
    k = draw(st.integers(0, 8))
    values = sorted(draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), min_size=k, max_size=k)), reverse=True)
    apart = np.zeros((k, k), bool)
    for i, j in combinations(range(k), 2):
        apart[i, j] = apart[j, i] = draw(st.booleans())
    return values, apart


class TestRankIntervals:
    def test_by_hand(self) -> None:
        apart = np.zeros((4, 4), bool)
        for i, j in ((0, 2), (0, 3), (1, 3)):
            apart[i, j] = apart[j, i] = True
        assert rank_intervals([0.9, 0.8, 0.7, 0.6], apart) == [(1, 2), (1, 3), (2, 4), (3, 4)]
        assert rank_intervals([0.9, 0.8, 0.7], np.zeros((3, 3), bool)) == [(1, 3)] * 3
        assert rank_intervals([0.7, 0.9, 0.8], ~np.eye(3, dtype=bool)) == [(3, 3), (1, 1), (2, 2)]
        assert rank_intervals([], np.zeros((0, 0), bool)) == []

    @given(tables())
    @settings(deadline=None)
    def test_hold_each_ranking_that_the_tests_allow(self, table: tuple[list[float], Array]) -> None:
        values, apart = table
        found = rank_intervals(values, apart)
        for k, (best, worst) in enumerate(found):
            # The method's own rank is possible, whichever way ties go.
            assert best <= 1 + sum(v > values[k] for v in values)
            assert worst >= len(values) - sum(v < values[k] for v in values)
            # It ends where the proven differences end.
            assert best - 1 == sum(apart[k, i] and values[i] > values[k] for i in range(len(values)))
            assert len(values) - worst == sum(apart[k, i] and values[i] < values[k] for i in range(len(values)))
        for i, j in combinations(range(len(values)), 2):
            if not apart[i, j]:  # intervals of those that are not told apart overlap
                assert found[i][0] <= found[j][1]


class TestLetters:
    def test_by_hand(self) -> None:
        apart = np.zeros((4, 4), bool)
        for i, j in ((0, 2), (0, 3), (1, 3)):
            apart[i, j] = apart[j, i] = True
        assert letters(apart) == ["a", "ab", "bc", "c"]
        assert letters(np.zeros((3, 3), bool)) == ["a", "a", "a"]
        assert letters(~np.eye(3, dtype=bool)) == ["a", "b", "c"]
        assert letters(np.zeros((0, 0), bool)) == []
        assert letters(np.zeros((1, 1), bool)) == ["a"]

    @given(tables())
    @settings(deadline=None)
    def test_share_one_iff_not_told_apart(self, table: tuple[list[float], Array]) -> None:
        _, apart = table
        groups = [set(text) for text in letters(apart)]
        for i, j in combinations(range(len(groups)), 2):
            assert bool(groups[i] & groups[j]) == (not apart[i, j])
        assert all(groups)
        # No letter says what another one says.
        members = {name: {k for k, g in enumerate(groups) if name in g} for g in groups for name in g}
        for one, other in combinations(members, 2):
            assert not members[one] <= members[other]
            assert not members[other] <= members[one]
        # They come up in order.
        firsts = [min(members[name]) for name in sorted(members)]
        assert firsts == sorted(firsts)

    def test_more_than_the_alphabet(self) -> None:
        names = letters(~np.eye(60, dtype=bool))
        assert names[:2] == ["a", "b"]
        assert names[25:28] == ["z", "a1", "b1"]
        assert len(set(names)) == 60
        # One that is told apart from none has all letters, and they can still be read.
        apart = ~np.eye(31, dtype=bool)
        apart[30], apart[:, 30] = False, False
        assert sorted(re.findall(r"[a-z]\d*", letters(apart)[30])) == sorted(names[:30])


def test_bad_input() -> None:
    lopsided = np.array([[False, True], [False, False]])
    for wrong in (lopsided, np.eye(2, dtype=bool), np.zeros((2, 3), bool), np.zeros((3, 3), bool)):
        with pytest.raises(InputError, match="symmetric"):
            rank_intervals([0.1, 0.2], wrong)
    with pytest.raises(InputError, match="symmetric"):
        letters(lopsided)
