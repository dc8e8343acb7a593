"""Coordinates that are as independent as a rotation can make them (FastICA)."""

import numpy as np

__all__ = ["rotated"]

_STEPS, _MOST = 60, 10_000


def rotated(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and the matrix `[d, d]` for which ``(x − mean) @ matrix`` is white with
    columns that are far from normal.

    References:
      Hyvärinen, "Fast and robust fixed-point algorithms for independent component
      analysis" (1999), the symmetric form with tanh.
    """
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
    white = vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    if len(x) > _MOST:
        x = x[rng.choice(len(x), _MOST, replace=False)]
    z = (x - mean) @ white
    n, d = z.shape
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    for _ in range(_STEPS):
        bent = np.tanh(z @ turn)
        new = z.T @ bent / n - turn * (1 - bent**2).mean(axis=0)
        left, _, right = np.linalg.svd(new)
        new = left @ right
        moved = 1 - np.abs((new * turn).sum(axis=0)).min()
        turn = new
        if moved < 1e-4:
            break
    return mean, white @ turn
