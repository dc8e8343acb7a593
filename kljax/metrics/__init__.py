"""Measures of generated samples, in NumPy and float64."""

from kljax.metrics.images import (
    PrecisionRecall,
    frechet_distance,
    frechet_distance_from_moments,
    nearest_distances,
    precision_recall,
)

__all__ = [
    "PrecisionRecall",
    "frechet_distance",
    "frechet_distance_from_moments",
    "nearest_distances",
    "precision_recall",
]
