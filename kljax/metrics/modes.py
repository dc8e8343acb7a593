"""Which modes of a mixture samples cover, and how evenly."""

from typing import NamedTuple

import numpy as np

from kljax.typing import ArrayLike

__all__ = ["ModeCoverage", "mode_coverage"]


class ModeCoverage(NamedTuple):
    """`modes` that are hit, `tv` of their frequencies, shares `near` and `core`."""

    modes: int
    tv: float
    near: float
    core: float


def mode_coverage(
    x: ArrayLike,
    means: ArrayLike,
    std: ArrayLike,
    *,
    reach: float = 4.0,
    core: float = 2.0,
    share: float = 0.2,
) -> ModeCoverage:
    """How samples spread over equally likely modes.

    Every sample belongs to the mode with the nearest mean, in units of its standard
    deviation.

    Args:
      x: samples, `[n, d]`.
      means: `[k, d]`.
      std: standard deviation of each mode, `[k]`, > 0.
      reach: a sample is near its mode within so many standard deviations.
      core: the same for its core.
      share: of its due `n / k` that a mode must have near it to be hit.

    Returns:
      How many modes are hit; the total variation, in [0, 1], of the modes'
      frequencies against equal ones; the shares of samples near their mode and in its
      core.

    Raises:
      ValueError: shapes that do not fit, or no samples.

    Example:
      >>> means = np.array([[-1.0], [1.0]])
      >>> mode_coverage(np.array([[-1.0], [-1.1]]), means, np.array([0.1, 0.1]))
      ModeCoverage(modes=1, tv=0.5, near=1.0, core=1.0)
    """
    points, centers, widths = (np.asarray(a, np.float64) for a in (x, means, std))
    fits = points.ndim == centers.ndim == 2 and points.shape[1] == centers.shape[1]
    if not fits or widths.shape != centers.shape[:1] or not len(points):
        raise ValueError(
            "expected x [n, d], means [k, d] and std [k], got "
            f"{list(points.shape)}, {list(centers.shape)} and {list(widths.shape)}"
        )
    gaps = np.linalg.norm(points[:, None] - centers, axis=-1) / widths
    mode, distance = gaps.argmin(axis=1), gaps.min(axis=1)
    count, modes = len(points), len(centers)
    frequency = np.bincount(mode, minlength=modes) / count
    held = np.bincount(mode[distance < reach], minlength=modes) / count
    return ModeCoverage(
        modes=int((held > share / modes).sum()),
        tv=float(0.5 * np.abs(frequency - 1 / modes).sum()),
        near=float((distance < reach).mean()),
        core=float((distance < core).mean()),
    )
