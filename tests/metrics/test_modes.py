"""Coverage of modes, on samples whose coverage is known."""

import numpy as np
import pytest

from kljax.metrics import mode_coverage

ANGLE = 2 * np.pi * np.arange(8) / 8
MEANS = np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1)
STD = np.full(8, 0.08)
MODE = np.arange(8000) % 8
NOISE = np.random.default_rng(1).normal(size=(8000, 2))


def test_a_missing_mode_and_stray_points_are_seen():
    good = MEANS[MODE] + 0.08 * NOISE
    score = mode_coverage(good, MEANS, STD)
    assert score.modes == 8 and score.tv < 0.01 and score.near > 0.999
    # Two standard deviations in the plane: 1 - exp(-2).
    assert score.core == pytest.approx(1 - np.exp(-2), abs=0.01)
    lost = MEANS[np.where(MODE == 3, 4, MODE)] + 0.08 * NOISE
    score = mode_coverage(lost, MEANS, STD)
    assert score.modes == 7 and score.tv == pytest.approx(0.125, abs=0.01)
    stray = good * np.where(np.arange(8000) < 2000, 0.0, 1.0)[:, None]
    assert mode_coverage(stray, MEANS, STD).near == pytest.approx(0.75, abs=0.01)


def test_a_mode_belongs_to_the_nearest_mean_in_its_own_width():
    means, std = np.array([[0.0], [1.0]]), np.array([0.1, 1.0])
    score = mode_coverage(np.array([[0.4], [0.6]]), means, std)
    assert score.modes == 1 and score.tv == 0.5


@pytest.mark.parametrize("shape", [(0, 2), (5, 3), (5,)])
def test_shapes_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"expected x \[n, d\]"):
        mode_coverage(np.zeros(shape), MEANS, STD)
