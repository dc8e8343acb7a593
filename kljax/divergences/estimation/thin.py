"""Samples on a surface of fewer dimensions: a law without a density."""

import numpy as np

from kljax.divergences.estimation.lines import centered

__all__ = ["is_thin"]

_FLAT = 1e-9
_LOCAL_DIMENSIONS, _LOCAL_POINTS = 3, 4096
_LOCAL_LEAST = 800
_MISSING = 0.5
"""Dimensions by which distances to neighbors may fall short of d."""
_BOX = 6.0
"""Scales around the medians within which points count; moments of tails say nothing."""


def is_thin(x: np.ndarray, other: np.ndarray) -> bool:
    """Whether `x` `[n, d]` lies on a surface that the other sample fills.

    A plane or a quadric, exactly; in two or three dimensions any surface, by distances
    to neighbors, whose median falls as n^(−1/dimensions).
    """
    return _algebraic(x, other) or _local(x, other)


def _algebraic(x: np.ndarray, other: np.ndarray) -> bool:
    center, scale = centered(np.concatenate([x, other]))
    inside = lambda a: a[(np.abs(a - center) < _BOX * scale).all(axis=1)]  # noqa: E731
    x, other = inside(x), inside(other)
    n, d = min(len(x), len(other)), x.shape[1]
    if n < 4 * d:
        return False
    i, j = np.triu_indices(d)
    if len(i) + d > n / 3:
        i = j = np.arange(d)
    if 2 * d > n / 3:
        i = j = np.arange(0)
    made = [np.concatenate([a, a[:, i] * a[:, j]], axis=1) for a in (other, x)]
    center, scale = made[0].mean(axis=0), made[0].std(axis=0)
    covs = []
    for a in made:
        a = (a - center) / np.maximum(scale, 1e-300)
        covs.append(np.atleast_2d(np.cov(a.T)))
    values, vectors = np.linalg.eigh(covs[0])
    keep = values > 1e-6 * values[-1]  # what the other fills
    white = vectors[:, keep] / np.sqrt(values[keep])
    return bool(np.linalg.eigvalsh(white.T @ covs[1] @ white)[0] < _FLAT)


def _local(x: np.ndarray, other: np.ndarray) -> bool:
    d = x.shape[1]
    if d < 2 or d > _LOCAL_DIMENSIONS or min(len(x), len(other)) < _LOCAL_LEAST:
        return False
    from scipy import spatial

    def distance(x: np.ndarray) -> float:
        """Median of the logarithm, to the third neighbor."""
        near = spatial.KDTree(x).query(x, 4)[0][:, 3]
        return float(np.median(np.log(near + 1e-300)))

    def dimension(x: np.ndarray) -> float:
        x = x[:_LOCAL_POINTS]
        few = x[: len(x) // 8]
        return np.log(len(x) / len(few)) / max(distance(few) - distance(x), 1e-9)

    return dimension(x) < d - _MISSING < d - 0.4 * _MISSING < dimension(other)
