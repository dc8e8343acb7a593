"""The arguments of `kljax.divergences.gaussian`: shapes, variances and covariances."""

import math

import jax.numpy as jnp
import numpy as np

from kljax.arguments import legal
from kljax.typing import Array, ArrayLike


def _skew(cov):
    """Where a matrix differs from its transpose beyond rounding and small steps."""
    axes = {"axis": (-2, -1), "keepdims": True, "initial": 0}
    gap = abs(cov - cov.swapaxes(-1, -2)).max(**axes)
    return gap > 1e-3 * abs(cov).max(**axes)


def _indefinite(cov):
    """Where it is no covariance; a traced one that is skew, the others give NaN."""
    if not isinstance(cov, np.ndarray):
        return _skew(cov)
    with np.errstate(all="ignore"):
        # In units of the deviations: the smallest variance counts like the largest.
        inverse = 1 / np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1))
        unit = _finite(cov * inverse[..., :, None] * inverse[..., None, :], cov)
        rounding = 4 * unit.shape[-1] * np.finfo(np.float64).eps
        low = np.linalg.eigvalsh(unit.astype(np.float64)).min(-1, initial=1) < rounding
        return _skew(cov) | low[..., None, None]


def _negative(cov):
    """As `_indefinite`, but singular matrices are legal."""
    if not isinstance(cov, np.ndarray):
        return _skew(cov)
    with np.errstate(all="ignore"):
        values = np.linalg.eigvalsh(_finite(cov, cov))
        rounding = 10 * values.shape[-1] * np.finfo(cov.dtype).eps
        low = values.min(-1, initial=0) < -rounding * abs(values).max(-1, initial=0)
        return _skew(cov) | low[..., None, None]


def _finite(matrix: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Identities in place of matrices given with NaN, which is no error; −1 for what
    only became NaN."""
    passes = np.isnan(given).any((-2, -1), keepdims=True)
    eye = np.eye(matrix.shape[-1], dtype=matrix.dtype)
    return np.where(passes, eye, np.where(np.isfinite(matrix), matrix, -eye))


_SPREADS = {
    ("var", False): ("positive", lambda x: x <= 0),
    ("var", True): ("at least 0", lambda x: x < 0),
    ("cov", False): ("symmetric and positive definite", _indefinite),
    ("cov", True): ("symmetric and positive semi-definite", _negative),
}
"""What a spread must be, by kind and whether it may be singular; where it is not."""


def order(alpha: ArrayLike, mean: Array) -> Array:
    """Alpha, checked where it is a number, with the leading shape of `mean`."""
    if isinstance(alpha, int | float) and not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    alpha = jnp.asarray(alpha, mean.dtype)
    alpha = legal("alpha", alpha, lambda x: (x <= 0) | (x == jnp.inf), "positive")
    try:
        return jnp.broadcast_to(alpha, mean.shape[:-1])
    except ValueError:
        raise ValueError(
            f"alpha of shape {jnp.shape(alpha)} does not broadcast to the leading "
            f"axes {mean.shape[:-1]} of the Gaussians"
        ) from None


def pair(
    mean_p: ArrayLike,
    spread_p: ArrayLike,
    mean_q: ArrayLike,
    spread_q: ArrayLike,
    kind: str,
    rank: int,
    *,
    singular: bool = False,
) -> list[Array]:
    """The four arrays in float32 or float64 with equal leading axes; `rank` event
    axes of size d in the spreads, whose values may be `singular` or not."""
    names = ("mean_p", f"{kind}_p", "mean_q", f"{kind}_q")
    arrays = [jnp.asarray(x) for x in (mean_p, spread_p, mean_q, spread_q)]
    dtype = jnp.result_type(jnp.float32, *arrays)
    arrays = [x.astype(dtype) for x in arrays]
    shapes = ", ".join(f"{n} {x.shape}" for n, x in zip(names, arrays))
    ranks = (1, rank, 1, rank)
    if any(x.ndim < r for x, r in zip(arrays, ranks)):
        raise ValueError(f"means are [..., d], {kind}s {rank} axes of d; got {shapes}")
    d = arrays[0].shape[-1]
    if any(x.shape[x.ndim - r :] != (d,) * r for x, r in zip(arrays, ranks)):
        raise ValueError(
            f"the last axis of the means and the last {rank} of {kind}_p and {kind}_q "
            f"must have one size d; got {shapes}"
        )
    leads = [x.shape[: x.ndim - r] for x, r in zip(arrays, ranks)]
    try:
        lead = jnp.broadcast_shapes(*leads)
    except ValueError:
        raise ValueError(f"leading axes do not broadcast: {shapes}") from None
    words, illegal = _SPREADS[kind, singular]
    for i in (1, 3):
        arrays[i] = legal(names[i], arrays[i], illegal, words)
    return [jnp.broadcast_to(x, lead + (d,) * r) for x, r in zip(arrays, ranks)]
