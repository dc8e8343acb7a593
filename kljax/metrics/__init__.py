"""Measures of samples and predictions; in NumPy and float64, but `token_measures`."""

from kljax.metrics.calibration import Reliability, calibration_error, reliability
from kljax.metrics.images import (
    PrecisionRecall,
    frechet_distance,
    frechet_distance_from_moments,
    nearest_distances,
    precision_recall,
)
from kljax.metrics.tokens import token_measures

__all__ = [
    "PrecisionRecall",
    "Reliability",
    "calibration_error",
    "frechet_distance",
    "frechet_distance_from_moments",
    "nearest_distances",
    "precision_recall",
    "reliability",
    "token_measures",
]
