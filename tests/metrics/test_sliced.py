"""The sliced Wasserstein distance against SciPy and the best matching."""

import numpy as np
import pytest
from scipy import optimize, stats

from kljax.metrics import sliced_wasserstein2


def test_sliced_distance_against_scipy():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 500, 2))
    y[:, 0] += 1.0
    # The squared distance of a shift alone is |shift|^2 / 2 in the plane.
    assert sliced_wasserstein2(x, x + np.array([3.0, 4.0])) == pytest.approx(
        5 / np.sqrt(2), rel=1e-6
    )
    angle = np.pi * (np.arange(16) + 0.5) / 16
    first = [
        stats.wasserstein_distance(x @ a, y @ a)
        for a in np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ]
    got = sliced_wasserstein2(x, y, directions=16)
    assert np.sqrt(np.mean(np.square(first))) <= got < 1.1 * np.mean(first) + 0.3


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_every_slice_is_the_best_matching(dimension):
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 12, dimension))
    axes = random.normal(size=(4000, dimension))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    if dimension == 2:
        angle = np.pi * (np.arange(128) + 0.5) / 128
        axes = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    squared = []
    for axis in axes[:400]:
        cost = np.square((x @ axis)[:, None] - y @ axis)
        squared.append(cost[optimize.linear_sum_assignment(cost)].mean())
    got = sliced_wasserstein2(x, y, directions=128 if dimension == 2 else 4000)
    # Slices that are drawn differ: by chance alone, where there are more than one.
    tolerance = {1: 1e-9, 2: 1e-9, 5: 0.1}[dimension]
    assert got == pytest.approx(np.sqrt(np.mean(squared)), rel=tolerance)


def test_samples_that_do_not_fit_are_refused():
    x = np.zeros((4, 2))
    for y in (np.zeros((3, 2)), np.zeros((4, 3)), np.zeros(4)):
        with pytest.raises(ValueError, match="draw equally many samples"):
            sliced_wasserstein2(x, y)
    with pytest.raises(ValueError, match="finite"):
        sliced_wasserstein2(x, x * np.nan)
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        sliced_wasserstein2(x, x, directions=0)
