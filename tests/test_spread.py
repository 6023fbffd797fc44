"""The spread over targets against pandas."""

import numpy as np
import pandas as pd
import pytest

from bench.errors import InputError
from bench.stats import spread_over_targets
from bench.stats.spread import FIFTHS, QUANTILES


@pytest.mark.parametrize("t", [5, 23, 100])
def test_against_pandas(t: int) -> None:
    rng = np.random.default_rng(t)
    frame = pd.DataFrame({"lds": rng.normal(0.2, 0.3, t), "label": rng.integers(0, 4, t), "variance": rng.random(t)})
    frame.loc[frame.sample(t // 5, random_state=0).index, "lds"] = np.nan
    frame.loc[frame.label == 3, "lds"] = np.nan
    found = spread_over_targets(frame.lds.to_numpy(), frame.label.to_numpy(), frame.variance.to_numpy())
    known = frame.dropna()
    assert found.quantiles == pytest.approx(known.lds.quantile(list(QUANTILES)).to_list())
    assert found.negative == pytest.approx((known.lds < 0).mean())
    by_class = frame.groupby("label").lds.mean().to_dict()
    assert found.by_class == pytest.approx(by_class, nan_ok=True)
    # Fifths of as equal a size as can be, the first ones larger.
    place = known.variance.rank(method="first").astype(int) - 1
    sizes = [len(known) // FIFTHS + (k < len(known) % FIFTHS) for k in range(FIFTHS)]
    fifth = np.repeat(np.arange(FIFTHS), sizes)[place]
    expected = known.lds.groupby(fifth).mean().reindex(range(FIFTHS))
    assert found.by_variance == pytest.approx(expected.to_list(), nan_ok=True)


def test_one_target_and_none() -> None:
    one = spread_over_targets(np.array([-0.5]), [7], [1.0])
    assert one.quantiles == (-0.5,) * len(QUANTILES)
    assert one.negative == 1
    assert one.by_class == {7: -0.5}
    assert one.by_variance == pytest.approx((-0.5, *[np.nan] * 4), nan_ok=True)
    none = spread_over_targets(np.full(2, np.nan), [0, 4], [1.0, 2.0])
    assert np.isnan([*none.quantiles, none.negative, *none.by_variance, *none.by_class.values()]).all()
    assert set(none.by_class) == {0, 4}


def test_zero_is_not_negative_and_unknown_variance_comes_last() -> None:
    found = spread_over_targets(np.array([0.0, 0.1, 0.2, 0.3, 0.4]), [0] * 5, [3, np.nan, 1, 0, 2])
    assert found.negative == 0
    assert found.by_variance == pytest.approx((0.3, 0.2, 0.4, 0.0, 0.1))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="one value for each target"):
        spread_over_targets(np.zeros(3), [0, 1], [1.0, 1.0, 1.0])
