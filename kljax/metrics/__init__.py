"""Measures of samples and predictions; in NumPy and float64, but for tokens."""

from kljax.metrics.calibration import (
    Reliability,
    brier_score,
    calibration_error,
    classification_scores,
    classwise_calibration_error,
    reliability,
)
from kljax.metrics.frontier import frontier_gain
from kljax.metrics.images import (
    PrecisionRecall,
    frechet_distance,
    frechet_distance_from_moments,
    nearest_distances,
    precision_recall,
)
from kljax.metrics.judge import FeatureJudge, class_gaussians, variance_ratios
from kljax.metrics.modes import ModeCoverage, mode_coverage
from kljax.metrics.problems import Problem, arithmetic, reasoning_gym
from kljax.metrics.rewards import (
    lexical_reward,
    number_reward,
    sentiment_reward,
    token_constraint,
)
from kljax.metrics.sliced import sliced_wasserstein2
from kljax.metrics.text import cross_prompt_similarity, meteor, token_similarity
from kljax.metrics.tokens import ExactMatch, exact_match, token_measures

__all__ = [
    "ExactMatch",
    "FeatureJudge",
    "ModeCoverage",
    "PrecisionRecall",
    "Problem",
    "Reliability",
    "arithmetic",
    "brier_score",
    "calibration_error",
    "class_gaussians",
    "classification_scores",
    "classwise_calibration_error",
    "cross_prompt_similarity",
    "exact_match",
    "frechet_distance",
    "frechet_distance_from_moments",
    "frontier_gain",
    "lexical_reward",
    "meteor",
    "mode_coverage",
    "nearest_distances",
    "number_reward",
    "precision_recall",
    "reasoning_gym",
    "reliability",
    "sentiment_reward",
    "sliced_wasserstein2",
    "token_constraint",
    "token_measures",
    "token_similarity",
    "variance_ratios",
]
