"""Calibration of first choices against hand counts and a calibrated law."""

import numpy as np
import pytest

from kljax.metrics import (
    brier_score,
    calibration_error,
    classification_scores,
    classwise_calibration_error,
    reliability,
)


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


def by_the_definition(confidence, correct, bins):
    """A bin at a time, open on the left; the first one holds 0, too."""
    total = 0.0
    for m in range(1, bins + 1):
        low, high = (m - 1) / bins, m / bins
        inside = (low < confidence) & (confidence <= high)
        inside |= (m == 1) & (confidence == 0)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            total += inside.mean() * abs(gap)
    return total


@pytest.mark.parametrize("bins", [15, 25, 43])
def test_random_and_boundary_confidences_against_the_definition(bins):
    """7 / 25 is the upper end of its bin, though 7 / 25 * 25 is above 7."""
    random = np.random.default_rng(1)
    edges = np.repeat(np.arange(bins + 1) / bins, 20)
    p = np.concatenate([edges, random.uniform(size=10_000 - edges.size)])
    hit = random.uniform(size=p.size) < 0.5
    found = calibration_error(p, hit, bins=bins)
    assert found == pytest.approx(by_the_definition(p, hit, bins), rel=1e-12)
    ends = np.arange(1, bins + 1) / bins
    assert reliability(ends, ends > 0, bins=bins).count.tolist() == [1] * bins


def test_bins_of_equal_count():
    p = np.array([0.9, 0.1, 0.8, 0.2, 0.85, 0.15])
    found = reliability(p, p > 0.5, bins=2, equal="count")
    assert found.count.tolist() == [3, 3]
    np.testing.assert_allclose(found.confidence, [0.15, 0.85])
    np.testing.assert_allclose(found.accuracy, [0, 1])
    error = calibration_error(p, p > 0.5, bins=2, equal="count")
    assert error == pytest.approx(0.15)
    with pytest.raises(ValueError, match="unknown equal 'height'"):
        calibration_error(p, p > 0.5, equal="height")


def test_scores_of_all_classes():
    random = np.random.default_rng(2)
    p = random.dirichlet(np.ones(3), size=100_000)
    labels = (random.uniform(size=(len(p), 1)) > p.cumsum(1)).sum(1)
    assert calibration_error(p.max(1), p.argmax(1) == labels) <= 0.01
    assert classwise_calibration_error(p, labels) <= 0.01
    worse = classwise_calibration_error(p[:, ::-1], labels)
    by_class = [by_the_definition(p[:, 2 - k], labels == k, 15) for k in range(3)]
    assert worse == pytest.approx(np.mean(by_class)) and worse > 0.1
    one = [((p[i] - np.eye(3)[labels[i]]) ** 2).sum() for i in range(500)]
    assert brier_score(p[:500], labels[:500]) == pytest.approx(np.mean(one))
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 2"):
        brier_score(p[:2], [0, 3])
    with pytest.raises(ValueError, match="probabilities must be"):
        brier_score(p[:2], [0])


def test_a_classifier_is_judged_by_all_of_them():
    random = np.random.default_rng(4)
    logits, labels = random.normal(size=(200, 4)), random.integers(0, 4, 200)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = p.argmax(1) == labels
    found = classification_scores(logits + 7, labels)
    assert found["accuracy"] == pytest.approx(100 * right.mean())
    assert found["ECE"] == pytest.approx(100 * calibration_error(p.max(1), right))
    assert found["excess"] == pytest.approx(100 * (p.max(1) - right).mean())
    assert found["nats"] == pytest.approx(-np.log(p[np.arange(200), labels]).mean())
    assert found["Brier"] == pytest.approx(brier_score(p, labels))
    assert set(found) >= {"adaptive ECE", "class-wise ECE"}


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
