"""Curves of value over cost."""

import numpy as np
import pytest
from scipy import integrate

from kljax.metrics import frontier_gain


def test_gain_is_the_mean_difference_where_both_are():
    rng = np.random.default_rng(0)
    x, u = np.sort(rng.uniform(0, 2, 9)), np.sort(rng.uniform(1, 3, 7))
    y, v = np.sort(rng.normal(size=(2, 9)))[:, :9]
    v = v[:7]
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    apart = lambda t: np.interp(t, x, y) - np.interp(t, u, v)
    kinks = [t for t in [*x, *u] if low < t < high]
    exact = integrate.quad(apart, low, high, points=kinks, limit=200)[0] / (high - low)
    mixed = rng.permutation(9)
    assert frontier_gain(x[mixed], y[mixed], u, v) == pytest.approx(exact, abs=1e-9)
    assert frontier_gain(u, v, x, y) == pytest.approx(-exact, abs=1e-9)
    worse = [*x, x[3] + 0.01, x[3]], [*y, y[3], y[3] - 1]
    assert frontier_gain(*worse, u, v) == pytest.approx(exact, abs=1e-9)


def test_curves_apart_have_no_gain_and_shapes_are_checked():
    assert np.isnan(frontier_gain([0, 1], [0, 1], [1, 2], [0, 1]))
    with pytest.raises(ValueError, match=r"other_cost has shape \(2,\)"):
        frontier_gain([0, 1], [0, 1], [1, 2], [0, 1, 2])
