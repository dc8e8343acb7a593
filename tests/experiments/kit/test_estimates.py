"""Intervals of the kit against scipy and resampling written out."""

import numpy as np
import pytest
from scipy import stats

from experiments import kit
from kljax.metrics.estimates import RESAMPLED


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)
    common = 3 + random.normal(size=12)
    return common + 0.3, common + 0.2 * random.normal(size=12)


def scores(a, b, **options):
    rows = {(m, s): {"x": v[s]} for m, v in {"a": a, "b": b}.items() for s in range(12)}
    return kit.Scores(rows, **options)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_paired_and_unpaired_differences_have_the_intervals_of_scipy(drawn, level):
    paired = scores(*drawn).difference("x", "a", "b")
    want = stats.ttest_rel(*drawn).confidence_interval(level)
    assert paired.interval(level) == pytest.approx((want.low, want.high))
    unpaired = kit.Estimate(drawn, kind="difference of unpaired means")
    want = stats.ttest_ind(*drawn, equal_var=False).confidence_interval(level)
    assert unpaired.interval(level) == pytest.approx((want.low, want.high))
    assert unpaired.value == pytest.approx(paired.value)
    one = scores(*drawn).estimate("x", "a")
    want = stats.ttest_1samp(drawn[0], 0).confidence_interval(level)
    assert one.interval(level) == pytest.approx((want.low, want.high))
    assert one.half_width(level) == pytest.approx((want.high - want.low) / 2)


def test_the_ratio_of_means_is_not_the_mean_of_ratios():
    a, b = np.array([1.0, 9.0]), np.array([1.0, 3.0])
    found = kit.Scores({(m, s): {"x": v[s]} for m, v in {"a": a, "b": b}.items()
                        for s in range(2)})  # fmt: skip
    of_means, of_ratios = (
        found.ratio_of_means("x", "a", "b"), found.mean_of_ratios("x", "a", "b")
    )  # fmt: skip
    assert of_means.value == 2.5 and of_ratios.value == 2.0
    assert "ratio of means" in of_means.what and "mean of ratios" in of_ratios.what


def test_estimates_are_divided_unit_by_unit(drawn):
    one, other = (kit.Estimate((v,), what=name) for v, name in zip(drawn, "ab"))
    ratio = one / other
    np.testing.assert_allclose(ratio.units, drawn[0] / drawn[1])
    assert ratio.what == "a over b" and ratio.value == ratio.units.mean()
    with pytest.raises(kit.Missing, match="a minus a is 0"):
        other / (one - one)


def test_the_interval_of_a_ratio_of_means_covers_it():
    """In 2,000 draws of a skewed pair, 95 % of the intervals hold the true ratio 2."""
    random, held = np.random.default_rng(1), []
    for _ in range(2000):
        b = random.gamma(4.0, 0.25, 30)
        ends = kit.Estimate(
            (2 * b + random.normal(0, 0.3, 30), b), kind="ratio of means"
        ).interval()
        held.append(ends[0] < 2 < ends[1])
    assert 0.935 < np.mean(held) < 0.965


@pytest.mark.parametrize("kind", ["mean", "ratio of means", "unpaired"])
def test_bootstrap_resamples_units_paired_where_they_are(drawn, kind):
    a, b = drawn
    random = np.random.default_rng(0)
    rows = random.integers(0, 12, (RESAMPLED, 12))
    if kind == "mean":
        found = scores(a, b, bootstrap=True).difference("x", "a", "b")
        want = (a - b)[rows].mean(1)
    elif kind == "ratio of means":
        found = scores(a, b, bootstrap=True).ratio_of_means("x", "a", "b")
        want = a[rows].mean(1) / b[rows].mean(1)
    else:
        unpaired = {"kind": "difference of unpaired means", "bootstrap": True}
        found = kit.Estimate((a, b), **unpaired)
        other = random.integers(0, 12, (RESAMPLED, 12))
        want = a[rows].mean(1) - b[other].mean(1)
    assert found.interval() == pytest.approx(np.quantile(want, (0.025, 0.975)))


def test_the_sign_test_is_scipys():
    units = np.array([1.0, 2.0, -0.5, 3.0, 0.0, 4.0, 5.0])
    want = stats.binomtest(5, 6, alternative="greater").pvalue
    assert kit.Estimate((units,)).sign_test() == pytest.approx(want)
    with pytest.raises(kit.Missing, match="all units are 0"):
        kit.Estimate((np.zeros(3),)).sign_test()


def test_one_unit_has_no_interval():
    one = kit.Estimate((np.ones(1),), over="seeds")
    with pytest.raises(kit.Missing, match="one of the seeds only"):
        one.interval()
    assert str(one) == "1"
