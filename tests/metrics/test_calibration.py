"""Calibration of first choices against hand counts and a calibrated law."""

import numpy as np
import pytest

from kljax.metrics import calibration_error, reliability


def test_bins_by_hand():
    confidence = np.array([0.0, 0.2, 0.2000001, 0.55, 0.6, 1.0])
    correct = np.array([0, 1, 1, 0, 1, 1])
    found = reliability(confidence, correct, bins=5)
    assert found.count.tolist() == [2, 1, 2, 0, 1]  # open on the left; 0 in the first
    np.testing.assert_allclose(found.accuracy, [0.5, 1, 0.5, 0, 1])
    np.testing.assert_allclose(found.confidence, [0.1, 0.2000001, 0.575, 0, 1])
    gaps = 2 * 0.4 + 0.7999999 + 2 * 0.075 + 0
    assert calibration_error(confidence, correct, bins=5) == pytest.approx(gaps / 6)


def test_a_calibrated_model_has_none_and_an_overconfident_one_its_excess():
    random = np.random.default_rng(0)
    p = random.uniform(0.2, 0.9, size=(400, 500))
    hit = random.uniform(size=p.shape) < p
    assert calibration_error(p, hit) < 0.006
    assert calibration_error(p + 0.1, hit) == pytest.approx(0.1, abs=0.006)


def test_bad_arguments_are_named():
    for arguments, words in (
        (([0.5], [1, 0]), "correct: expected as many"),
        (([], []), "correct: expected as many"),
        (([1.5], [1]), "confidence: expected values in"),
        (([np.nan], [1]), "confidence: expected values in"),
    ):
        with pytest.raises(ValueError, match=words):
            calibration_error(*arguments)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        reliability([0.5], [1], bins=0)
