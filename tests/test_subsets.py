"""Which rows exist is a function of their numbers alone, and the rows that judge share no mask with the others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import subsets
from bench.errors import BenchError
from bench.subsets import GROUPS, Plan

plans = st.builds(
    lambda repeats, eval_subsets, tune_rows, more: Plan(2 * repeats + 5 + more, repeats, eval_subsets, tune_rows),
    st.integers(1, 5),
    st.integers(2, 12),
    st.integers(0, 6),
    st.integers(0, 150),
)


def groups(plan: Plan) -> dict[str, NDArray[np.int64]]:
    _, group = plan.layout()
    return {name: np.flatnonzero(group == code) for code, name in enumerate(GROUPS)}


def slow_layout(plan: Plan) -> list[tuple[int, str]]:
    """The module's documentation, row by row, with a counter for each role."""
    rows: list[tuple[int, str]] = []
    evals = tunes = 0

    def add(role: str, start: int | None = None) -> None:
        rows.append((len(rows) if start is None else start, role))

    while len(rows) < plan.n_rows:
        for half in range(2):
            start = len(rows)
            for _ in range(plan.repeats):
                add("eval", start) if evals < plan.eval_subsets else add("fit")
            evals += 1
            if half:
                add("tune" if tunes < plan.tune_rows else "fit")
                tunes += 1
            for _ in range(5):
                add("fit")
    rows = rows[: plan.n_rows]
    for row, (subset, role) in enumerate(rows):
        if role == "eval" and [s for s, _ in rows].count(subset) < plan.repeats:
            rows[row] = subset, "fit"
    return rows


@given(plans)
def test_layout_is_the_documented_one(plan: Plan) -> None:
    subset, group = plan.layout()
    assert [(int(s), GROUPS[g]) for s, g in zip(subset, group, strict=True)] == slow_layout(plan)


@given(plans, st.integers(0, 150))
def test_layout_of_fewer_rows_is_a_prefix(short: Plan, more: int) -> None:
    """Masks never change; only the eval subset that the end cuts off waits, as fit rows, for the rest of its seeds."""
    long = replace(short, n_rows=short.n_rows + more)
    (subset, group), (long_subset, long_group) = short.layout(), long.layout()
    np.testing.assert_array_equal(subset, long_subset[: len(subset)])
    differ = np.flatnonzero(group != long_group[: len(group)])
    assert all(GROUPS[group[row]] == "fit" and GROUPS[long_group[row]] == "eval" for row in differ)
    if len(differ):
        assert len(differ) < short.repeats
        assert len(set(subset[differ])) == 1
        assert differ[-1] == short.n_rows - 1
        assert subset[differ[0]] + short.repeats > short.n_rows


@given(plans)
def test_groups_share_no_row_and_no_mask(plan: Plan) -> None:
    """Also where the plan ends inside an eval subset: the rows left of it fit, and no judge has their mask."""
    subset, _ = plan.layout()
    found = groups(plan)
    assert sorted(np.concatenate(list(found.values()))) == list(range(plan.n_rows))
    by_mask = [set(subset[rows]) for rows in found.values()]
    assert sum(map(len, by_mask)) == len(set.union(*by_mask))
    assert all((subset[found["eval"]] == s).sum() == plan.repeats for s in by_mask[GROUPS.index("eval")])
    assert 2 <= len(by_mask[GROUPS.index("eval")]) <= plan.eval_subsets
    assert len(found["tune"]) <= plan.tune_rows
    assert len(found["fit"]) >= 5


@pytest.mark.parametrize("repeats", [2, 3])
def test_masks_themselves_are_disjoint_where_the_end_cuts(repeats: int) -> None:
    """Bit for bit, for every end within one period."""
    for n_rows in range(2 * repeats + 5, 2 * repeats + 5 + 11 + 2 * repeats):
        plan = Plan(n_rows, repeats)
        made = subsets.masks(3, plan.layout()[0], 60, 0.5)
        seen = {name: {made[row].tobytes() for row in rows} for name, rows in groups(plan).items()}
        assert not seen["eval"] & (seen["fit"] | seen["tune"])
        assert not seen["fit"] & seen["tune"]
        assert len(groups(plan)["eval"]) == repeats * len(seen["eval"])


def test_default_plan() -> None:
    plan = Plan(1500)
    found = groups(plan)
    assert {name: len(rows) for name, rows in found.items()} == {"fit": 1000, "tune": 100, "eval": 400}
    assert len(set(plan.layout()[0][found["eval"]])) == 200


def test_beyond_enough_eval_and_tune_rows_all_fit() -> None:
    found = groups(Plan(4000))
    assert {name: len(rows) for name, rows in found.items()} == {"fit": 3500, "tune": 100, "eval": 400}


@given(st.integers(2, 400), st.floats(0.01, 0.99), st.integers(0, 2**63), st.integers(0, 10**6))
def test_subset_size_is_exact(n_train: int, alpha: float, seed: int, subset: int) -> None:
    size = round(alpha * n_train)
    if not 0 < size < n_train:
        with pytest.raises(BenchError, match=r"--alpha"):
            subsets.kept(seed, subset, n_train, alpha)
        return
    chosen = subsets.kept(seed, subset, n_train, alpha)
    assert len(chosen) == len(set(chosen.tolist())) == size
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < n_train
    (mask,) = subsets.masks(seed, np.array([subset]), n_train, alpha)
    np.testing.assert_array_equal(np.flatnonzero(mask), chosen)


def test_masks_depend_on_seed_and_subset_alone() -> None:
    rows = np.array([9, 0, 4, 9])
    made = subsets.masks(1, rows, 50, 0.4)
    np.testing.assert_array_equal(made[0], made[3])
    np.testing.assert_array_equal(made[1:2], subsets.masks(1, np.array([0]), 50, 0.4))
    assert (made[0] != made[1]).any()
    assert (made != subsets.masks(2, rows, 50, 0.4)).any(1).all()


def test_every_example_is_kept_equally_often() -> None:
    share = subsets.masks(0, np.arange(4000), 30, 0.3).mean(0)
    assert np.abs(share - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 4000)


def test_streams_of_one_seed_differ() -> None:
    """Masks, models and checkpoints of one number must not come from one stream."""
    mask = np.random.SeedSequence([5, 0, 3])
    states = {tuple(s.generate_state(4)) for s in (mask, subsets.model_seed(5, 3), subsets.checkpoint_seed(5, 3))}
    assert len(states) == 3
    rows = {tuple(subsets.model_seed(5, row).generate_state(4)) for row in range(500)}
    assert len(rows) == 500


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ((100, 0), "--repeats is 0"),
        ((100, -1), "--repeats is -1"),
        ((100, 2, 1), "--eval-subsets is 1"),
        ((100, 2, 200, -1), "--tune-rows is -1"),
        ((0,), "--models is 0"),
        ((8, 2), "--models is 8"),
        ((14, 5), "--models is 14"),
    ],
)
def test_refused_plans_name_the_flag(arguments: tuple[Any, ...], flag: str) -> None:
    with pytest.raises(BenchError, match=flag):
        Plan(*arguments)


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_smallest_plan_judges(repeats: int) -> None:
    plan = Plan(2 * repeats + 5, repeats)
    assert len(groups(plan)["eval"]) == 2 * repeats
    assert len(groups(plan)["fit"]) == 5


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 1.5, float("nan"), float("inf"), 0.001, 0.999])
def test_refused_alpha_names_the_flag(alpha: float) -> None:
    with pytest.raises(BenchError, match=r"--alpha is .*must keep some but not all of 40"):
        subsets.subset_size(40, alpha)
