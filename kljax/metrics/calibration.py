"""Whether a model's confidence is earned: calibration of its first choices.

NumPy in, floats out, float64 throughout: these run once per evaluation.
"""

from typing import NamedTuple

import numpy as np

from kljax.arguments import whole
from kljax.errors import unknown
from kljax.typing import ArrayLike, Float, Int

__all__ = [
    "Reliability",
    "brier_score",
    "calibration_error",
    "classification_scores",
    "classwise_calibration_error",
    "reliability",
]


class Reliability(NamedTuple):
    """Per bin of confidence: what a reliability diagram shows. Empty bins are 0."""

    confidence: Float[np.ndarray, "k"]
    accuracy: Float[np.ndarray, "k"]
    count: Float[np.ndarray, "k"]


def reliability(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15, equal: str = "width"
) -> Reliability:
    """Mean confidence and accuracy in bins of equal width on (0, 1], or of equal count.

    Args:
      confidence: probability of the model's first choice, in [0, 1], any shape.
      correct: whether that choice was right (booleans, or probabilities of it), the
        same shape.
      bins: at least 1.
      equal: "width": bin k is ((k - 1) / bins, k / bins], with 0 in the first one; or
        "count": the values in order, in bins of as many each ("adaptive").

    Returns:
      Three arrays with one entry per bin.

    Raises:
      ValueError: shapes that differ, no values, values outside [0, 1], confidences
        that are NaN, or another word for `equal`. A NaN in `correct` shows in its bin.

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
    if equal not in BINNED:
        raise ValueError(unknown("equal", equal, BINNED))
    index = BINNED[equal](p, bins)
    count = np.bincount(index, minlength=bins).astype(np.float64)
    total = np.maximum(count, 1)
    mean = lambda x: np.bincount(index, weights=x, minlength=bins) / total  # noqa: E731
    return Reliability(mean(p), mean(hit), count)


def _by_width(p: np.ndarray, bins: int) -> np.ndarray:
    # Not ceil(p * bins): 7 / 25 * 25 is above 7.
    return np.searchsorted(np.arange(1, bins) / bins, p, side="left")


def _by_count(p: np.ndarray, bins: int) -> np.ndarray:
    place = np.empty(p.size, int)
    place[np.argsort(p, kind="stable")] = np.arange(p.size)
    return place * bins // p.size


BINNED = {"width": _by_width, "count": _by_count}
"""From confidences and a number of bins to the bin of each."""


def calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15, equal: str = "width"
) -> float:
    """Expected calibration error: ``sum_k (n_k / n) |accuracy_k - confidence_k|``.

    It is biased upwards by noise in the bins, about ``sqrt(bins / n) / 3``: compare at
    equal n.

    Args:
      confidence, correct, bins, equal: as in `reliability`.

    Returns:
      A float in [0, 1], 0 for a calibrated model.

    Raises:
      ValueError: as in `reliability`.

    Example:
      >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0], bins=10), 3)
      0.1

    References:
      Naeini, Cooper and Hauskrecht (2015); Guo et al. (2017), Eq. 3. By count: Nixon
      et al., "Measuring calibration in deep learning" (2019).
    """
    found = reliability(confidence, correct, bins=bins, equal=equal)
    gap = np.abs(found.accuracy - found.confidence)
    return float(np.sum(found.count * gap) / np.sum(found.count))


def classwise_calibration_error(
    probabilities: Float[ArrayLike, "*b k"],
    labels: Int[ArrayLike, "*b"],
    *,
    bins: int = 15,
    equal: str = "width",
) -> float:
    """Mean over the classes of the calibration error of that class's probability.

    Looks at all probabilities and not at those of the first choices alone.

    Args:
      probabilities: of the classes, in [0, 1].
      labels: the right classes, 0 to k - 1.
      bins, equal: as in `reliability`.

    Returns:
      A float in [0, 1]. Most probabilities are small, so it is smaller than
      `calibration_error`.

    Raises:
      ValueError: shapes that do not fit, labels out of range, and as in `reliability`.

    Example:
      >>> round(classwise_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 0]), 3)
      0.1

    References:
      Kull et al., "Beyond temperature scaling" (2019), Eq. 4.
    """
    p, hit = _probabilities(probabilities, labels)
    errors = [
        calibration_error(*column, bins=bins, equal=equal) for column in zip(p.T, hit.T)
    ]
    return float(np.mean(errors))


def brier_score(
    probabilities: Float[ArrayLike, "*b k"], labels: Int[ArrayLike, "*b"]
) -> float:
    """Mean of ``sum_k (p_k - 1[k = label])^2``: a proper score, unlike calibration.

    Args:
      probabilities, labels: as in `classwise_calibration_error`.

    Returns:
      A float in [0, 2]. (Some halve it.)

    Raises:
      ValueError: shapes that do not fit, or labels out of range.

    Example:
      >>> round(brier_score([[0.8, 0.2]], [0]), 3)
      0.08

    References:
      Brier, "Verification of forecasts expressed in terms of probability" (1950).
    """
    p, hit = _probabilities(probabilities, labels)
    return float(np.mean(np.sum((p - hit) ** 2, axis=-1)))


def classification_scores(
    logits: Float[ArrayLike, "b k"], labels: Int[ArrayLike, " b"]
) -> dict[str, float]:
    """What a classifier is judged by: accuracy, proper scores and calibration.

    Args:
      logits: at temperature 1, of examples that it was not trained on.
      labels: the right classes.

    Returns:
      "accuracy"; "ECE" and "adaptive ECE", by bins of equal width and of equal counts,
      of the first choices, "class-wise ECE" of all probabilities; "excess", confidence
      minus accuracy: all in per cent. "nats", the mean of -log p(label), and "Brier".

    Raises:
      ValueError: as in `classwise_calibration_error`.

    Example:
      >>> found = classification_scores([[9.0, 0.0], [9.0, 0.0]], [0, 1])
      >>> found["accuracy"], round(found["excess"], 1), round(found["nats"], 2)
      (50.0, 50.0, 4.5)
    """
    z = np.asarray(logits, np.float64)
    log_p = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    p, hit = _probabilities(np.exp(log_p), labels)
    y = np.asarray(labels)
    first = p.max(axis=-1), p.argmax(axis=-1) == y
    shares = {
        "accuracy": first[1].mean(),
        "ECE": calibration_error(*first),
        "adaptive ECE": calibration_error(*first, equal="count"),
        "class-wise ECE": classwise_calibration_error(p, y),
        "excess": first[0].mean() - first[1].mean(),
    }
    found = {name: 100 * float(share) for name, share in shares.items()}
    return {**found, "nats": -float(log_p[hit == 1].mean()), "Brier": brier_score(p, y)}


def _probabilities(probabilities: ArrayLike, labels: ArrayLike) -> list[np.ndarray]:
    """Probabilities and the right answers, both `[n, k]`."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim < 1 or p.shape[:-1] != y.shape or not p.size:
        raise ValueError(
            f"probabilities must be [..., k] and labels [...], got {p.shape} and "
            f"{y.shape}"
        )
    classes = np.arange(p.shape[-1])
    if not np.isin(y, classes).all():
        raise ValueError(f"labels must lie in 0 .. {p.shape[-1] - 1}, got {y}")
    hit = (y[..., None] == classes).astype(np.float64)
    return [x.reshape(-1, p.shape[-1]) for x in (p, hit)]
