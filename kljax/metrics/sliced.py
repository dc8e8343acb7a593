"""The sliced Wasserstein distance of two samples."""

import numpy as np

from kljax.arguments import whole
from kljax.typing import ArrayLike

__all__ = ["sliced_wasserstein2"]


def sliced_wasserstein2(
    x_p: ArrayLike, x_q: ArrayLike, *, directions: int = 128
) -> float:
    """Sliced 2-Wasserstein distance of two equally large samples.

    `sqrt(mean over directions a of W2^2(<a, x_p>, <a, x_q>))`; on a line the best
    matching is that of the sorted values. In the plane the directions are spread
    evenly, elsewhere drawn from a fixed seed.

    Args:
      x_p, x_q: `[n, d]`, finite.
      directions: at least 1.

    Returns:
      A float, at least 0, in units of the samples; a shift s alone gives about
      `|s| / sqrt(d)`.

    Raises:
      ValueError: shapes that differ, no samples, or values that are not finite.

    Example:
      >>> x = np.arange(8.0).reshape(4, 2)
      >>> round(sliced_wasserstein2(x, x + np.array([3.0, 4.0])) ** 2, 9)
      12.5

    Reference: Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of
    measures", Eq. 4.
    """
    p, q = (np.asarray(x, np.float64) for x in (x_p, x_q))
    if p.ndim != 2 or p.shape != q.shape or not p.size:
        raise ValueError(
            f"x_p and x_q must be [n, d] of one shape, got {list(p.shape)} and "
            f"{list(q.shape)}; draw equally many samples"
        )
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise ValueError("x_p and x_q must be finite, got NaN or infinity")
    directions = whole("directions", directions)
    axes = _axes(p.shape[1], directions)
    gap = np.sort(p @ axes, axis=0) - np.sort(q @ axes, axis=0)
    return float(np.sqrt(np.mean(gap**2)))


def _axes(dimension: int, count: int) -> np.ndarray:
    """Unit vectors `[d, k]`."""
    if dimension == 2:
        angle = np.pi * (np.arange(count) + 0.5) / count
        return np.stack([np.cos(angle), np.sin(angle)])
    drawn = np.random.default_rng(0).normal(size=(dimension, count))
    return drawn / np.linalg.norm(drawn, axis=0)
