"""Measures of samples and predictions; in NumPy and float64, but for tokens."""

from kljax.metrics.calibration import (
    Reliability,
    brier_score,
    calibration_error,
    classification_scores,
    classwise_calibration_error,
    reliability,
)
from kljax.metrics.images import (
    PrecisionRecall,
    frechet_distance,
    frechet_distance_from_moments,
    nearest_distances,
    precision_recall,
)
from kljax.metrics.judge import FeatureJudge, class_gaussians, variance_ratios
from kljax.metrics.modes import ModeCoverage, mode_coverage
from kljax.metrics.sliced import sliced_wasserstein2
from kljax.metrics.tokens import ExactMatch, exact_match, token_measures

__all__ = [
    "ExactMatch",
    "FeatureJudge",
    "ModeCoverage",
    "PrecisionRecall",
    "Reliability",
    "brier_score",
    "calibration_error",
    "class_gaussians",
    "classification_scores",
    "classwise_calibration_error",
    "exact_match",
    "frechet_distance",
    "frechet_distance_from_moments",
    "mode_coverage",
    "nearest_distances",
    "precision_recall",
    "reliability",
    "sliced_wasserstein2",
    "token_measures",
    "variance_ratios",
]
