"""Memorization, influence and consistency against the definitions, and the verb that writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bench import memorization
from bench.errors import InputError
from bench.kernels.sums import masked_sums
from bench.rows import RowView

Array = NDArray[Any]
Main = Callable[..., Any]


def direct(masks: Array, outputs: Array) -> tuple[Array, Array]:
    """The definitions, one example after another."""
    n, t = masks.shape[1], outputs.shape[1]
    values, stderr = np.full((n, t), np.nan), np.full((n, t), np.nan)
    y = outputs.astype(np.float64)
    for i in range(n):
        kept, others = y[masks[:, i]], y[~masks[:, i]]
        if len(kept) and len(others):
            values[i] = kept.mean(0) - others.mean(0)
        if len(kept) > 1 and len(others) > 1:
            stderr[i] = np.sqrt(kept.var(0, ddof=1) / len(kept) + others.var(0, ddof=1) / len(others))
    return values, stderr


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array]:
    m, n, t = draw(st.integers(2, 150)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    masks = draw(hnp.arrays(bool, (m, n)))
    elements = draw(st.sampled_from([st.sampled_from([0, 1]), st.integers(-3, 3), st.floats(-50, 50, width=32)]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return masks, draw(hnp.arrays(np.float64, (m, t), elements=elements)).astype(dtype)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_influence_is_its_definition(problem: tuple[Array, Array]) -> None:
    masks, outputs = problem
    values, stderr = direct(masks, outputs)
    scale = 1 + np.abs(outputs).max()
    for found, expected in zip(memorization.influence(masks, outputs), (values, stderr), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * scale)
    for small in memorization.influence_slabs(masks, outputs, slab_bytes=1):
        np.testing.assert_allclose(small.influence, values[small.train], atol=1e-6 * scale)
        assert small.train.stop - small.train.start == 1


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 40 * 33, memorization._CHUNK_BYTES])
def test_margins_by_chunks_of_runs(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    """Of any length, of float16 far from zero, read from disk by rows that are no neighbours."""
    rng = np.random.default_rng(3)
    masks, outputs = rng.random((150, 40)) < 0.5, (100 + rng.standard_normal((150, 90))).astype(np.float16)
    masks[:, 0], masks[:, 1] = True, False
    rows = np.sort(rng.choice(150, 101, replace=False))
    monkeypatch.setattr(memorization, "_CHUNK_BYTES", chunk_bytes)
    found = memorization.influence(RowView(masks, rows), RowView(outputs, rows))
    for one, expected in zip(found, direct(masks[rows], outputs[rows]), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(one[:2]).all()


def test_masked_sums_are_products() -> None:
    rng = np.random.default_rng(4)
    kept, values = rng.random((64, 7)) < 0.5, rng.standard_normal((64, 5))
    found = np.ones((7, 5))
    masked_sums(np.packbits(kept, axis=0, bitorder="little"), values, 1, 4, found)
    expected = np.ones((7, 5))
    expected[:, 1:4] += kept.T.astype(float) @ values[:, 1:4]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [bool, np.float32, np.uint8])
def test_correctness_of_any_type_is_counted(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    masks, right = rng.random((203, 70)) < 0.7, (rng.random((203, 33)) < 0.8).astype(dtype)
    for found, expected in zip(memorization.influence(masks, right), direct(masks, right), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("real", [False, True])
def test_own(real: bool) -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((90, 12)) < 0.7
    masks[:, 3], masks[:, 4] = True, False
    masks[:, 5] = np.arange(90) == 7
    outputs = rng.standard_normal((90, 12)) * 3 + 1000 if real else rng.random((90, 12)) < 0.5 + 0.4 * masks
    values, stderr = direct(masks, outputs)
    found = memorization.own(masks, outputs)
    np.testing.assert_allclose(found.memorization, np.diag(values), atol=1e-4 if real else 1e-6)
    np.testing.assert_allclose(found.memorization_stderr, np.diag(stderr), rtol=1e-5)
    for i in range(12):
        others = outputs[~masks[:, i], i]
        assert found.n_without[i] == len(others)
        assert found.n_with[i] == 90 - len(others)
        if len(others):
            assert found.consistency[i] == pytest.approx(others.mean(), rel=1e-6)
        else:
            assert np.isnan(found.consistency[i])
    assert np.isnan(found.memorization[[3, 4]]).all()
    assert np.isnan(found.memorization_stderr[5])
    assert np.isfinite(found.memorization[5])


@pytest.mark.parametrize("chunk", [None, 7 * 8 * 12])
@pytest.mark.parametrize("size", [1.0, 1e8])
def test_an_odd_first_run_costs_the_others_no_digits(size: float, chunk: int | None, monkeypatch: Any) -> None:
    if chunk is not None:
        monkeypatch.setattr(memorization, "_CHUNK_BYTES", chunk)
    rng = np.random.default_rng(4)
    masks = rng.random((60, 12)) < 0.7
    outputs = rng.standard_normal((60, 12))
    masks[0], outputs[0] = True, size
    found = memorization.own(masks, outputs)
    for i in range(12):
        others = outputs[~masks[:, i], i]
        assert found.consistency[i] == pytest.approx(others.mean(), abs=1e-6)
        assert found.consistency_stderr[i] == pytest.approx(others.std(ddof=1) / len(others) ** 0.5, abs=1e-6)


def test_standard_errors_are_those_of_the_estimates() -> None:
    """Over many benchmarks drawn alike, estimates scatter as their standard errors say."""
    rng = np.random.default_rng(2)
    estimates, errors = [], []
    for _ in range(400):
        masks = rng.random((120, 6)) < 0.7
        right = rng.random((120, 6)) < 0.4 + 0.3 * masks
        found = memorization.own(masks, right)
        estimates.append(found.memorization)
        errors.append(found.memorization_stderr)
    assert np.mean(estimates) == pytest.approx(0.3, abs=0.01)
    assert np.std(estimates, axis=0).mean() == pytest.approx(np.mean(errors), rel=0.05)


def test_high_pairs() -> None:
    slab = memorization.Slab(slice(2, 4), np.array([[0.2, 0.1], [0.15, 0.3]], np.float32), np.zeros((2, 2), np.float32))
    train, targets, values = memorization.high_pairs(slab, np.array([1, 1, 0.1, 0.25], np.float32))
    assert (train.tolist(), targets.tolist()) == ([3, 3], [0, 1])
    assert values.tolist() == pytest.approx([0.15, 0.3])
    assert len(memorization.high_pairs(slab, np.full(4, np.nan, np.float32))[0]) == 0


def test_bad_input_is_named() -> None:
    masks = np.ones((4, 3), bool)
    with pytest.raises(InputError, match="one row of each per run"):
        memorization.influence(masks, np.zeros((5, 2)))
    with pytest.raises(InputError, match="at least two"):
        memorization.influence(masks[:1], np.zeros((1, 2)))
    with pytest.raises(InputError, match="both count train examples"):
        memorization.own(masks, np.zeros((4, 2)))
    bad = np.full((4, 2), 0.5)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="run 2 are not all finite"):
        memorization.influence(masks, bad)


def test_verb(main: Main, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    words = ["--keep", "correct,train-correct", "--alpha", "0.5,0.7", "--models", "60", "--quiet"]
    assert main("train", "digits/logreg", *words, "--out", str(store))[0] == 0
    code, text, _ = main("memorization", str(store), "--out", str(out), "--json")
    assert code == 0
    found = json.loads(text)
    assert [one["alpha"] for one in found["stores"]] == [0.5, 0.7]
    assert [one["runs"] for one in found["stores"]] == [60, 60]
    masks = np.load(store / "alpha-0.7" / "masks.npy")
    right = np.unpackbits(np.load(store / "alpha-0.7" / "correct.npy"), axis=1, count=360)
    train_right = np.unpackbits(np.load(store / "alpha-0.7" / "train_correct.npy"), axis=1, count=1437)
    values, stderr = direct(masks, right)
    np.testing.assert_allclose(np.load(out / "alpha-0.7" / "influence.npy"), np.nan_to_num(values), atol=1e-6)
    np.testing.assert_allclose(np.load(out / "alpha-0.7" / "influence_stderr.npy"), stderr, atol=1e-6)
    own = np.load(out / "alpha-0.7" / "memorization.npz")
    memory = np.array(
        [train_right[masks[:, i], i].mean() - train_right[~masks[:, i], i].mean() for i in range(masks.shape[1])]
    )
    np.testing.assert_allclose(own["memorization"], memory, atol=1e-6)
    pairs = np.load(out / "alpha-0.7" / "pairs.npz")
    expected = np.argwhere((values >= 0.15 - 1e-9) & (memory >= 0.25)[:, None])
    np.testing.assert_array_equal(np.stack([pairs["tr_idx"], pairs["tt_idx"]], axis=1), expected)
    consistency = [np.load(out / f"alpha-{a}" / "memorization.npz")["consistency"] for a in ("0.5", "0.7")]
    np.testing.assert_allclose(np.load(out / "c_score.npy"), np.mean(consistency, axis=0), atol=1e-6)
    code, _, error = main("memorization", str(store), "--out", str(out))
    assert code == 2
    assert "is there already" in error
    code, text, _ = main("memorization", str(store / "alpha-0.5"), "--outputs", "margins")
    assert code == 0
    assert "no memorization: the store keeps no train_margins" in text
