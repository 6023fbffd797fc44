"""LDS against scipy, target by target, and its behaviour on the inputs that make others fail."""

import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.errors import InputError
from bench.predictions import Precision, predict
from bench.scorer import LDS, MarginRanks, lds

Array = NDArray[Any]
Case = tuple[Array, Array, Array]


def by_scipy(predictions: Array, margins: Array) -> Array:
    """Spearman per target: predictions [M, T], margins [M, T]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = zip(predictions.T, margins.T, strict=True)
        return np.array([spearmanr(p, y)[0] if not np.isnan(y).any() else np.nan for p, y in pairs], float)


def problem(m: int = 40, n: int = 30, t: int = 12, seed: int = 0, dtype: Any = np.float64) -> Case:
    rng = np.random.default_rng(seed)
    masks = rng.random((m, n)) < 0.5
    scores = rng.standard_normal((n, t)).astype(dtype)
    margins = (masks @ scores / 3 + rng.standard_normal((m, t))).astype(dtype)
    return scores, masks, margins


@st.composite
def problems(draw: st.DrawFn) -> Case:
    m, n, t = draw(st.integers(2, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    masks = draw(hnp.arrays(bool, (m, n)))
    # Small integers tie often and sum exactly in any order.
    score = draw(st.sampled_from([st.integers(-2, 2), st.integers(-1000, 1000), st.just(1)]))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8]))
    scores = draw(hnp.arrays(np.float64, (n, t), elements=score.map(float)))
    scores = np.clip(scores, -100, 100).astype(dtype)
    special = st.sampled_from([0.0, -0.0, 1.5, np.inf, -np.inf, 1e300, -1e300, 5e-324])
    value = draw(
        st.sampled_from(
            [
                special,
                st.floats(-4, 4, width=16),
                st.floats(allow_nan=False),
                st.just(3.0),
                st.floats(allow_infinity=False) | st.just(np.nan),
            ]
        )
    )
    return scores, masks, draw(hnp.arrays(np.float64, (m, t), elements=value))


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([np.float64, np.float32, np.float16]))
def test_equals_scipy_with_ties_constants_nan_and_infinities(case: Case, dtype: Any) -> None:
    scores, masks, margins = case
    with np.errstate(over="ignore"):
        margins = margins.astype(dtype)
    result = lds(scores, masks, margins)
    expected = by_scipy(masks.astype(float) @ scores.astype(float), margins.astype(float))
    np.testing.assert_allclose(result.per_target, expected, rtol=0, atol=1e-12)
    assert result.n_excluded == np.isnan(expected).sum() == sum(result.excluded.values())
    if result.n_excluded < len(expected):
        assert result.mean == pytest.approx(np.nanmean(expected), abs=1e-12)
        assert result.ci[0] <= result.mean <= result.ci[1]


@pytest.mark.parametrize("shape", [(2, 5, 1), (3, 1, 4), (100, 50, 200), (1500, 20, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scipy_on_continuous_values(shape: tuple[int, int, int], dtype: Any) -> None:
    scores, masks, margins = problem(*shape, dtype=dtype)
    expected = by_scipy(masks.astype(np.float64) @ scores.astype(np.float64), margins)
    np.testing.assert_allclose(lds(scores, masks, margins).per_target, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", ["outlier", "exponential", "halves"])
def test_ranks_of_uneven_columns(scale: str) -> None:
    """Crowded buckets fall back to merging: outliers, many magnitudes, heavy ties."""
    rng = np.random.default_rng(3)
    margins = rng.standard_normal((500, 4))
    if scale == "outlier":
        margins[7] = 1e200
    elif scale == "exponential":
        margins = np.exp(150 * margins)
    else:
        margins = np.round(margins * 2) / 2
    scores, masks, _ = problem(500, 60, 4)
    expected = by_scipy(masks @ scores, margins)
    np.testing.assert_allclose(lds(scores, masks, margins).per_target, expected, rtol=0, atol=1e-12)


def test_counts_exclusions_by_reason_and_ties() -> None:
    scores, masks, margins = problem(t=8)
    margins[0, 0] = np.nan
    margins[:, 1] = 2.0
    scores[3, 2] = np.inf
    scores[:, 3] = 0.0
    scores[5, 4] = np.nan
    margins[1, 4] = np.nan
    margins[4, 5] = margins[9, 5]
    result = lds(scores, masks, margins)
    assert result.n_excluded == 5
    assert result.excluded == {
        "margins contain NaN": 2,
        "scores not finite": 1,
        "margins constant": 1,
        "predictions constant": 1,
    }
    assert np.isnan(result.per_target).tolist() == [True] * 5 + [False] * 3
    assert result.n_tied == 1
    assert result.mean == np.nanmean(result.per_target)


def test_every_target_excluded_gives_nan_not_an_error() -> None:
    scores, masks, margins = problem()
    result = lds(scores, masks, np.ones_like(margins))
    assert np.isnan([result.mean, result.stderr, *result.ci]).all()
    assert result.n_excluded == result.n_targets == 12


def test_scores_without_a_finite_value_are_an_error() -> None:
    scores, masks, margins = problem()
    with pytest.raises(InputError, match="scores has no finite value"):
        lds(np.full_like(scores, np.nan), masks, margins)


def test_masks_may_be_any_zero_one_numbers() -> None:
    scores, masks, margins = problem()
    expected = lds(scores, masks, margins)
    for dtype in (np.uint8, np.int64, np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(lds(scores, masks.astype(dtype), margins).per_target, expected.per_target)
    as_lists = lds(scores.tolist(), masks.tolist(), margins.tolist())
    np.testing.assert_array_equal(as_lists.per_target, expected.per_target)


def test_minus_zero_ties_with_zero() -> None:
    margins = np.array([[0.0], [-0.0], [1.0], [-1.0]])
    scores, masks = np.array([[1.0], [2.0]]), np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    expected = spearmanr([0, 1, 2, 3], [1, 1, 2, 0])[0]
    assert lds(scores, masks, margins).per_target[0] == pytest.approx(expected, abs=1e-15)


def test_integers_beyond_53_bits_keep_their_order() -> None:
    margins = (2**60 + np.arange(8, dtype=np.int64))[:, None]
    masks = np.tri(8, dtype=bool)
    assert lds(np.ones((8, 1)), masks, margins).mean == 1.0


def test_repeated_masks_tie_exactly_and_form_groups() -> None:
    rng = np.random.default_rng(0)
    distinct = rng.random((60, 300)) < 0.5
    masks = np.repeat(distinct, 3, axis=0)[rng.permutation(180)]
    scores = rng.standard_normal((300, 40)) * np.exp(rng.standard_normal((300, 40)) * 5)
    precisions: list[Precision] = ["float32", "float64"]
    for precision in precisions:
        for max_bytes in (256 << 20, 20_000):
            predictions = predict(scores.astype(np.float32), masks, precision, max_bytes=max_bytes)
            assert all(len(np.unique(row)) <= 60 for row in predictions)
    result = lds(scores, masks, rng.standard_normal((180, 40)))
    assert result.n_groups == 60
    assert result.n_tied == 40
    assert lds(scores, masks, rng.standard_normal((180, 40)), groups=np.arange(180) % 7).n_groups == 7


def test_cached_ranks_change_nothing() -> None:
    scores, masks, margins = problem(t=150)
    ranks = MarginRanks.of(margins)
    plain, cached = lds(scores, masks, margins), lds(scores, masks, margins, ranks=ranks)
    np.testing.assert_array_equal(plain.per_target, cached.per_target)
    np.testing.assert_array_equal(plain.influence, cached.influence)
    assert (plain.ci, plain.n_tied, plain.excluded) == (cached.ci, cached.n_tied, cached.excluded)


def test_small_budgets_change_only_the_last_bits() -> None:
    scores, masks, margins = problem(60, 200, 150)
    scores[3, 5] = np.nan
    whole = lds(scores, masks, margins)
    for max_bytes in (5_000, 100_000, 1_000_000):
        parts = lds(scores, masks, margins, max_bytes=max_bytes)
        np.testing.assert_allclose(parts.per_target, whole.per_target, rtol=0, atol=1e-12)
        np.testing.assert_allclose(parts.influence, whole.influence, rtol=0, atol=1e-10)
        assert parts.ci == pytest.approx(whole.ci, abs=1e-9)
        expected = masks @ np.where(np.isnan(scores), 0, scores)
        np.testing.assert_allclose(predict(np.nan_to_num(scores), masks, max_bytes=max_bytes).T, expected, atol=1e-12)


@pytest.mark.parametrize("layout", ["F", "strided", "float16", "big-endian", "reversed"])
def test_layouts_and_byte_orders(layout: str) -> None:
    scores, masks, margins = problem(60, 300, 70, dtype=np.float16)
    scores, margins = scores.astype(np.float32), margins.astype(np.float32)
    expected = lds(scores, masks, margins, precision="float64")
    if layout == "F":
        scores, masks, margins = map(np.asfortranarray, (scores, masks, margins))
    elif layout == "strided":
        scores, masks = np.repeat(np.repeat(scores, 2, 0), 2, 1)[::2, ::2], np.repeat(masks, 2, 1)[:, ::2]
    elif layout == "float16":
        scores = scores.astype(np.float16)
    elif layout == "big-endian":
        scores, margins = scores.astype(">f4"), margins.astype(">f4")
    else:
        scores, masks = scores[::-1], masks[:, ::-1]
    for max_bytes in (256 << 20, 50_000):
        result = lds(scores, masks, margins, precision="float64", max_bytes=max_bytes)
        np.testing.assert_allclose(result.per_target, expected.per_target, rtol=0, atol=1e-12)


def test_precision_auto() -> None:
    scores, masks, _ = problem(10, 20, 3, dtype=np.float32)
    assert predict(scores, masks).dtype == np.float64
    assert predict(scores, masks, "float32").dtype == np.float32
    big, big_masks = np.ones((5001, 401), np.float32), np.ones((100, 5001), bool)
    assert predict(big, big_masks).dtype == np.float32
    assert predict(big.astype(np.float64), big_masks).dtype == np.float64
    assert predict(big.astype(np.int8), big_masks).dtype == np.float64


def test_float32_predictions_flip_only_near_ties() -> None:
    scores, masks, margins = problem(100, 2_000, 50, dtype=np.float32)
    precisions: list[Precision] = ["float32", "float64"]
    single, double = (lds(scores, masks, margins, precision=p).per_target for p in precisions)
    np.testing.assert_allclose(single, double, rtol=0, atol=40 / 100**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, k, y: (s.T, k, y), "scores looks transposed.*pass scores.T"),
        (lambda s, k, y: (s, k.T, y), "masks looks transposed"),
        (lambda s, k, y: (s, k, y.T), "margins looks transposed"),
        (lambda s, k, y: (s[:-1], k, y), "scores has 29 rows but masks has 30 columns"),
        (lambda s, k, y: (s[:, :-1], k, y), "scores has 11 columns but margins has 12"),
        (lambda s, k, y: (s, k[:-1], y), "masks has 39 rows but margins has 40"),
        (lambda s, k, y: (s, k[:1], y[:1]), "at least two subsets"),
        (lambda s, k, y: (s[:, 0], k, y), r"scores has shape \(30,\)"),
        (lambda s, k, y: (s[:, :0], k, y[:, :0]), "nothing to score"),
        (lambda s, k, y: (s, np.where(k, 1, 2 * (np.arange(30) == 4)), y), r"masks\[0, 4\] is 2"),
        (lambda s, k, y: (s, np.where(k, 1.0, np.nan), y), "is nan; use 1"),
        (lambda s, k, y: (s.astype(object), k, y), "scores has dtype object"),
        (lambda s, k, y: (s, k, y.astype(str)), "margins has dtype <U"),
        (lambda s, k, y: (s + 1j, k, y), "scores has dtype complex128"),
        (lambda s, k, y: ([[*s[0]], [3]], k, y), "scores is not an array"),
    ],
)
def test_bad_input_is_named(change: Callable[[Any, Any, Any], Case], message: str) -> None:
    scores, masks, margins = problem()
    masks[0, 4] = False
    with pytest.raises(InputError, match=message):
        lds(*change(scores, masks, margins))


def test_bad_options_are_named() -> None:
    scores, masks, margins = problem()
    with pytest.raises(InputError, match="groups has shape"):
        lds(scores, masks, margins, groups=[0, 1])
    with pytest.raises(InputError, match="ranks are of margins with shape"):
        lds(scores, masks, margins, ranks=MarginRanks.of(margins[:, :3]))
    with pytest.raises(InputError, match="level is 95"):
        lds(scores, masks, margins, level=95)
    with pytest.raises(InputError, match="precision is 'half'"):
        lds(scores, masks, margins, precision="half")  # type: ignore[arg-type]


def test_influence_predicts_the_loss_of_a_subset() -> None:
    scores, masks, margins = problem(200, 50, 30)
    result = lds(scores, masks, margins)
    assert abs(result.influence.sum()) < 1e-9
    left_out = [lds(scores, np.delete(masks, i, 0), np.delete(margins, i, 0)).mean for i in range(20)]
    predicted = result.mean - result.influence[:20] / 199
    assert np.corrcoef(np.array(left_out) - result.mean, predicted - result.mean)[0, 1] > 0.99


@pytest.fixture
def files(tmp_path: Path) -> list[Array]:
    """Memmaps of 61 MB of scores, 7 MB of margins and 5 MB of masks."""
    rng = np.random.default_rng(0)
    m, n, t = 600, 8_000, 2_000
    scores = np.lib.format.open_memmap(tmp_path / "scores.npy", "w+", np.float32, (n, t))
    for k in range(0, n, 1000):
        scores[k : k + 1000] = rng.standard_normal((1000, t), np.float32)
    np.save(tmp_path / "masks.npy", rng.random((m, n)) < 0.5)
    np.save(tmp_path / "margins.npy", rng.standard_normal((m, t)).astype(np.float32))
    return [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("scores", "masks", "margins")]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_memory_stays_under_the_budget(files: list[Array], precision: Precision) -> None:
    """Numpy reports its allocations to tracemalloc; pages of the files themselves are the system's cache."""
    scores, masks, margins = files
    small = tuple(np.array(a[:50, :50]) for a in files)
    lds(small[0], small[1], small[2])
    budget = 8 << 20
    tracemalloc.start()
    try:
        result = lds(scores, masks, margins, precision=precision, max_bytes=budget)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * budget
    part = lds(np.array(scores[:, :50]), masks, margins[:, :50], precision=precision)
    np.testing.assert_allclose(result.per_target[:50], part.per_target, rtol=0, atol=1e-5)


def test_import_is_light() -> None:
    code = (
        "import sys, bench.scorer; heavy = {'torch', 'scipy', 'numba', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_result_prints_without_its_arrays() -> None:
    assert "per_target" not in repr(lds(*problem()))
    assert isinstance(lds(*problem()), LDS)


class TestTorch:
    """The torch path, on CPU tensors here and on a CUDA device where there is one."""

    torch = pytest.importorskip("torch")

    def check(self, scores: Array, masks: Array, margins: Array, device: str, **options: Any) -> None:
        from bench import scorer_torch

        expected = lds(scores, masks, margins, **options)
        tensors = [self.torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (scores, masks, margins)]
        for slab_bytes in (1 << 30, 100_000):
            result = scorer_torch.lds(*tensors, slab_bytes=slab_bytes, **options)
            np.testing.assert_allclose(result.per_target, expected.per_target, rtol=0, atol=1e-12)
            np.testing.assert_allclose(result.influence, expected.influence, rtol=0, atol=1e-10)
            assert result.ci == pytest.approx(expected.ci, abs=1e-10, nan_ok=True)
            for name in ("n_excluded", "excluded", "n_tied", "n_groups", "n_subsets", "n_targets"):
                assert getattr(result, name) == getattr(expected, name), name

    @settings(max_examples=60, deadline=None)
    @given(problems())
    def test_equals_numpy(self, case: Case) -> None:
        scores, masks, margins = case
        if scores.dtype == np.float16:
            scores = scores.astype(np.float32)
        self.check(scores, masks, margins, "cpu")

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_exclusions_groups_and_cached_ranks(self, device: str) -> None:
        scores, masks, margins = problem(120, 80, 90)
        masks[60:] = masks[:60]
        scores[2, 3], scores[:, 4], margins[5, 6], margins[:, 7] = np.nan, 0, np.nan, 1
        margins[:, 8] = np.round(margins[:, 8])
        margins[3, 9] = np.inf
        self.check(scores, masks, margins, device)
        self.check(scores, masks, margins, device, groups=np.arange(120) % 9)
        self.check(scores, masks, margins, device, ranks=MarginRanks.of(margins))

    @pytest.mark.gpu
    def test_front_door_takes_cuda_tensors(self) -> None:
        scores, masks, margins = problem(100, 400, 64, dtype=np.float32)
        on_device = [self.torch.from_numpy(a).cuda() for a in (scores, masks, margins)]
        expected = lds(scores, masks, margins)
        for arguments in (on_device, [on_device[0], masks, margins], [scores, masks, on_device[2]]):
            np.testing.assert_allclose(lds(*arguments).per_target, expected.per_target, rtol=0, atol=1e-12)

    def test_cpu_tensors_are_scored_without_a_copy(self) -> None:
        scores, masks, margins = problem()
        tensors = [self.torch.from_numpy(a) for a in (scores, masks, margins)]
        np.testing.assert_array_equal(lds(*tensors).per_target, lds(scores, masks, margins).per_target)
        tensors[0].requires_grad_()
        half = tensors[2].to(self.torch.bfloat16)
        expected = lds(scores, masks, half.float().numpy())
        np.testing.assert_array_equal(lds(tensors[0], tensors[1], half).per_target, expected.per_target)

    def test_errors(self) -> None:
        from bench import scorer_torch

        scores, masks, margins = problem()
        with pytest.raises(InputError, match=r"pass scores\.T"):
            scorer_torch.lds(scores.T, masks, margins)
        with pytest.raises(InputError, match=r"masks\[0, 0\] is 3"):
            scorer_torch.lds(scores, np.full(masks.shape, 3), margins)
        with pytest.raises(InputError, match="no finite value"):
            scorer_torch.lds(scores * np.nan, masks, margins)
        with pytest.raises(InputError, match="ranks are of"):
            scorer_torch.lds(scores, masks, margins, ranks=MarginRanks.of(margins[:, :3]))
