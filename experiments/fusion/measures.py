"""Rows of the logit fusion tables, and what is measured of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.fusion.scoring import STATIC

__all__ = ["CONTEXT", "FIXED", "ROWS", "closure", "closures", "column", "half_width"]

Result = dict[str, Any]
FIXED = tuple(f"proxy {weight:g}" for weight in STATIC)
ROWS = (
    "large base",
    "small base",
    "small expert",
    *FIXED,
    "tuned static",
    "grid",
    "dynamic",
    "KL ball",
    "Jeffreys",
    "axis",
    "projection",
    "soup",
    "large fine-tuned",
)
CONTEXT = ("large few-shot", "expert few-shot", "dynamic few-shot")


def column(
    scores: Sequence[Result], row: str, measure: str = "exact"
) -> np.ndarray | None:
    """A row's values, seeds by tasks, exact match in per cent; None if not there."""
    values = [
        [task[measure].get(row) for task in one["tasks"].values()] for one in scores
    ]
    if any(v is None for line in values for v in line):
        return None
    # Stages store what is not finite as a word.
    return np.array(values, np.float64) * (100 if measure == "exact" else 1)


def half_width(values: np.ndarray) -> float:
    """Half of Student's 95 % interval of a mean; infinite for one value.

    Example:
        >>> round(half_width(np.array([1.0, 2.0, 3.0])), 3)
        2.484
    """
    n = len(values)
    if n < 2:
        return math.inf
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def closure(ours: float, base: float, tuned: float) -> tuple[float, float]:
    """Share of fine-tuning's score, and share of the gap to it that is closed.

    Args:
        ours: score of the method.
        base: score of the large model before.
        tuned: score of the large model fine-tuned.

    Example:
        >>> [round(v, 3) for v in closure(46.09, 29.93, 47.79)]  # the paper's numbers
        [0.964, 0.905]
    """
    gap = tuned - base
    return (
        ours / tuned if tuned else math.nan,
        (ours - base) / gap if gap else math.nan,
    )


def closures(scores: Sequence[Result], row: str) -> np.ndarray | None:
    """Both measures per seed, on averages over the tasks as in the paper."""
    parts = [column(scores, name) for name in (row, "large base", "large fine-tuned")]
    if any(part is None for part in parts):
        return None
    means = [part.mean(axis=1) for part in parts if part is not None]
    return np.array([closure(*values) for values in zip(*means, strict=True)])
