"""Two trade-off curves, compared where both are: reward at equal KL, say."""

import numpy as np

from kljax.typing import ArrayLike, Float

__all__ = ["frontier_gain"]


def frontier_gain(
    cost: Float[ArrayLike, "n"],
    value: Float[ArrayLike, "n"],
    other_cost: Float[ArrayLike, "m"],
    other_value: Float[ArrayLike, "m"],
) -> float:
    """How much higher a curve of value over cost is than another, at equal cost.

    The mean of the difference over the costs that both curves span, linear between
    their points (of a concave curve with few of them a little too low). A point that
    costs more than another and has no higher value does not count.

    Args:
      cost, value: points of the curve in any order, at least two.
      other_cost, other_value: those of the other.

    Returns:
      In the unit of the values; NaN where the curves share no range of costs.

    Raises:
      ValueError: shapes.

    Example:
      >>> frontier_gain([0.0, 2.0], [0.0, 2.0], [1.0, 3.0], [0.0, 2.0])
      1.0
    """
    curves = []
    pairs = {"cost": (cost, value), "other_cost": (other_cost, other_value)}
    for name, pair in pairs.items():
        x, y = (np.asarray(each, np.float64) for each in pair)
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
            raise ValueError(
                f"{name} has shape {x.shape} and its values {y.shape}; expected the "
                "same [n], n > 1"
            )
        order = np.lexsort((-y, x))
        x, y = x[order], y[order]
        best = np.append(True, y[1:] > np.maximum.accumulate(y)[:-1])
        curves.append((x[best], y[best]))
    (x, y), (u, v) = curves
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if not low < high:
        return float("nan")
    # The difference is linear between the points of either curve.
    where = np.unique(np.clip(np.concatenate([x, u]), low, high))
    apart = np.interp(where, x, y) - np.interp(where, u, v)
    return float(np.trapezoid(apart, where) / (high - low))
