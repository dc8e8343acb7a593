"""Whether a model's confidence is earned: calibration of its first choices.

NumPy in, floats out, float64 throughout: these run once per evaluation.
"""

from typing import NamedTuple

import numpy as np

from kljax.arguments import whole
from kljax.typing import ArrayLike, Float

__all__ = ["Reliability", "calibration_error", "reliability"]


class Reliability(NamedTuple):
    """Per bin of confidence: what a reliability diagram shows. Empty bins are 0."""

    confidence: Float[np.ndarray, "k"]
    accuracy: Float[np.ndarray, "k"]
    count: Float[np.ndarray, "k"]


def reliability(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> Reliability:
    """Mean confidence and accuracy in bins of equal width on (0, 1].

    Args:
      confidence: probability of the model's first choice, in [0, 1], any shape.
      correct: whether that choice was right (booleans, or probabilities of it), the
        same shape.
      bins: at least 1.

    Returns:
      Three arrays with one entry per bin.

    Raises:
      ValueError: shapes that differ, no values, values outside [0, 1], or confidences
        that are NaN. A NaN in `correct` shows in its bin.

    Example:
      >>> found = reliability([0.9, 0.7, 0.2], [True, False, False], bins=2)
      >>> found.count.tolist(), found.accuracy.tolist()
      ([1.0, 2.0], [0.0, 0.5])

    References:
      DeGroot and Fienberg (1983); Guo et al., "On calibration of modern neural
      networks" (2017), figure 1 and Eq. 2: bins open on the left.
    """
    p, hit = (np.asarray(x, np.float64).reshape(-1) for x in (confidence, correct))
    if p.shape != hit.shape or not p.size:
        raise ValueError(
            f"correct: expected as many values as confidence, {p.size} and not 0, got "
            f"{hit.size}"
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"confidence: expected values in [0, 1], got {p.min()} to {p.max()}"
        )
    if ((hit < 0) | (hit > 1)).any():
        raise ValueError(
            f"correct: expected values in [0, 1], got {hit.min()} to {hit.max()}"
        )
    bins = whole("bins", bins)
    index = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.float64)
    total = np.maximum(count, 1)
    mean = lambda x: np.bincount(index, weights=x, minlength=bins) / total  # noqa: E731
    return Reliability(mean(p), mean(hit), count)


def calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> float:
    """Expected calibration error: ``sum_k (n_k / n) |accuracy_k - confidence_k|``.

    It is biased upwards by noise in the bins, about ``sqrt(bins / n) / 3``: compare at
    equal n.

    Args:
      confidence, correct, bins: as in `reliability`.

    Returns:
      A float in [0, 1], 0 for a calibrated model.

    Raises:
      ValueError: as in `reliability`.

    Example:
      >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0], bins=10), 3)
      0.1

    References:
      Naeini, Cooper and Hauskrecht (2015); Guo et al. (2017), Eq. 3.
    """
    found = reliability(confidence, correct, bins=bins)
    gap = np.abs(found.accuracy - found.confidence)
    return float(np.sum(found.count * gap) / np.sum(found.count))
