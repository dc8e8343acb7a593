"""Divergences between Gaussians in closed form.

A Gaussian is an object, `Gaussian(mean, cov)` with a full covariance or
`DiagonalGaussian(mean, var)` with variances (not standard deviations), and each
distance takes two of them, the target first; one of either kind works too. Leading axes
broadcast, values are in nats, and covariances must be positive definite: a matrix or
variance that is not raises a ValueError, or gives NaN where it is traced. Matrices may
differ from their transposes by a thousandth; their symmetric part is used.

All but the Wasserstein distance come from two numbers, with S = αΣq + (1−α)Σp and
δ = mean_p − mean_q: the Mahalanobis term δᵀS⁻¹δ and the log-determinant gap

    J(α) = (log|S| − (1−α) log|Σp| − α log|Σq|) / (2(1−α)),

which at α = 1 is the covariance part of the KL divergence. It is computed without the
cancellation near p = q, with derivatives of every order.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import floating, legal, real
from kljax.kernels.pairs.covariance import (
    log_det_gap,
    log_det_gap_diag,
    mahalanobis,
    squared_bures,
)
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "DiagonalGaussian",
    "Gaussian",
    "bhattacharyya",
    "cauchy_schwarz",
    "kl",
    "renyi",
    "squared_hellinger",
    "squared_wasserstein2",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, cov) on R^d, a pytree; the distances look at what it holds.

    Args:
      mean: `[..., d]`.
      cov: `[..., d, d]`, symmetric and positive definite.

    >>> p = Gaussian([1.0, 1.0], [[2.0, 0.0], [0.0, 2.0]])
    >>> float(kl(p, p))
    0.0
    """

    mean: Float[ArrayLike, "*#b d"]
    cov: Float[ArrayLike, "*#b d d"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(var)) on R^d, a pytree; the distances look at what it holds.

    Args:
      mean: `[..., d]`.
      var: `[..., d]`, variances > 0, not standard deviations.

    >>> p = DiagonalGaussian([1.0, 1.0], [2.0, 2.0])
    >>> float(kl(p, Gaussian([1.0, 1.0], 2 * jnp.eye(2))))
    0.0
    """

    mean: Float[ArrayLike, "*#b d"]
    var: Float[ArrayLike, "*#b d"]


_Side = Gaussian | DiagonalGaussian


def kl(p: _Side, q: _Side) -> Float[Array, "*b"]:
    """KL(p‖q) of two Gaussians, the expectation under p.

    ½ (tr Σq⁻¹Σp − d + log|Σq| − log|Σp| + δᵀΣq⁻¹δ); the reverse is `kl(q, p)`.

    Args:
      p, q: of one dimension d, leading axes broadcast.

    Returns:
      Nats `[...]`, ≥ 0.

    Raises:
      ValueError: shapes that do not fit; a covariance that is known not to be one.
      TypeError: a side that is no Gaussian.

    Example:
      >>> p = Gaussian(jnp.ones(2), jnp.eye(2))
      >>> round(float(kl(p, Gaussian(jnp.zeros(2), 2 * jnp.eye(2)))), 4)
      0.6931

    References:
      Kullback, Information Theory and Statistics (1959), ch. 9.
    """
    gap, distance, _ = _terms(p, q, 1.0)
    return gap + 0.5 * distance


def renyi(p: _Side, q: _Side, *, alpha: ArrayLike) -> Float[Array, "*b"]:
    """Rényi's divergence of order alpha, log ∫ p^α q^(1−α) / (α − 1).

    J(α) + ½ α δᵀS⁻¹δ with S = αΣq + (1−α)Σp; α = 1 is `kl`. For α > 1 the integral may
    diverge: where S is not positive definite the value is +inf, and its gradient 0.

    Args:
      p, q: as in `kl`.
      alpha: > 0, numbers that broadcast to `[...]`, may be traced and differentiated.

    Returns:
      Nats `[...]`, ≥ 0.

    Raises:
      ValueError, TypeError: as `kl`; an alpha that is known to be ≤ 0 or infinite.

    Example:
      >>> p, q = DiagonalGaussian([1.0], [2.0]), DiagonalGaussian([0.0], [1.0])
      >>> float(renyi(p, q, alpha=3.0))
      inf

    References:
      Gil, Alajaji, Linder, "Rényi divergence measures for commonly used univariate
      continuous distributions" (2013).
    """
    gap, distance, finite = _terms(p, q, alpha)
    return jnp.where(finite, gap + 0.5 * jnp.asarray(alpha) * distance, jnp.inf)


def bhattacharyya(p: _Side, q: _Side) -> Float[Array, "*b"]:
    """Bhattacharyya's distance, −log ∫ √(pq): half of Rényi's divergence at ½.

    ½ log(|S| / √(|Σp||Σq|)) + ⅛ δᵀS⁻¹δ, S = (Σp + Σq)/2; symmetric. Arguments, result
    and errors as in `kl`.

    Example:
      >>> p, q = DiagonalGaussian([2.0], [1.0]), DiagonalGaussian([0.0], [1.0])
      >>> float(bhattacharyya(p, q))
      0.5

    References:
      Kailath, "The divergence and Bhattacharyya distance measures in signal selection"
      (1967).
    """
    gap, distance, _ = _terms(p, q, 0.5)
    return 0.5 * gap + 0.125 * distance


def squared_hellinger(p: _Side, q: _Side) -> Float[Array, "*b"]:
    """Squared Hellinger distance, 1 − ∫ √(pq).

    1 − e^(−B) with B = `bhattacharyya`, symmetric, in [0, 1]; some authors use twice
    this. Arguments and errors as in `kl`.

    Example:
      >>> p, q = DiagonalGaussian([2.0], [1.0]), DiagonalGaussian([0.0], [1.0])
      >>> round(float(squared_hellinger(p, q)), 4)  # 1 − exp(−1/2)
      0.3935

    References:
      As `bhattacharyya`.
    """
    return -jnp.expm1(-bhattacharyya(p, q))


def cauchy_schwarz(p: _Side, q: _Side) -> Float[Array, "*b"]:
    """Cauchy–Schwarz divergence, log ∫ p² + log ∫ q² − 2 log ∫ pq.

    log(|S| / √(|Σp||Σq|)) + ½ δᵀS⁻¹δ, S = (Σp + Σq)/2; symmetric; some authors use half
    of this. Arguments, result and errors as in `kl`.

    Example:
      >>> p, q = DiagonalGaussian([2.0], [1.0]), DiagonalGaussian([0.0], [1.0])
      >>> float(cauchy_schwarz(p, q))
      2.0

    References:
      Kampa, Hasanbelliu, Principe, "Closed-form Cauchy–Schwarz pdf divergence for
      mixture of Gaussians" (2011), for one component.
    """
    gap, distance, _ = _terms(p, q, 0.5)
    return gap + 0.5 * distance


def squared_wasserstein2(p: _Side, q: _Side) -> Float[Array, "*b"]:
    """W₂², the square of the 2-Wasserstein distance (Fréchet's) of two Gaussians.

    |δ|² + tr(Σp + Σq − 2(Σp^½ Σq Σp^½)^½), |δ|² + Σ (√var_p − √var_q)² of diagonal
    ones. The square, as the distance itself has no gradient at p = q. Near p = q it is
    tr(XΣpX) with X = T − I, T the optimal map. Arguments and errors as in `kl`, but
    singular (positive semi-definite) covariances are legal too: the error is then of
    the order of the rounding of tr(Σp + Σq), and the gradient, in truth infinite, is
    finite, taken on the range of Σp.

    Returns:
      Squared units of the data, `[...]`, ≥ 0, symmetric.

    Example:
      >>> p, q = DiagonalGaussian([1.0], [4.0]), DiagonalGaussian([0.0], [1.0])
      >>> float(squared_wasserstein2(p, q))
      2.0

    References:
      Dowson, Landau, "The Fréchet distance between multivariate normal distributions"
      (1982).
    """
    delta, spread_p, spread_q = _pair(p, q, singular=True)
    distance = jnp.sum(delta**2, axis=-1)
    if spread_p.ndim > delta.ndim:
        return distance + squared_bures(spread_p, spread_q)
    # √a − √b as (a − b)/(√a + √b), which does not cancel.
    total = _root(spread_p) + _root(spread_q)
    gap = (spread_p - spread_q) / jnp.where(total == 0, 1, total)
    return distance + jnp.sum(gap**2, axis=-1)


def _root(var: Array) -> Array:
    """√var whose derivative at 0 is 0."""
    return jnp.where(var == 0, 0, jnp.sqrt(jnp.where(var == 0, 1, var)))


def _terms(p: Any, q: Any, alpha: ArrayLike) -> tuple[Array, Array, Array]:
    """J(alpha), δᵀS⁻¹δ, and whether S is positive definite (else both are 0)."""
    delta, spread_p, spread_q = _pair(p, q)
    order = _order(alpha, delta)
    if spread_p.ndim > delta.ndim:
        gap, mixture, finite = log_det_gap(spread_p, spread_q, order)
        distance = mahalanobis(delta, mixture)
    else:
        gap, mixture, finite = log_det_gap_diag(spread_p, spread_q, order)
        distance = jnp.sum(delta**2 / mixture, axis=-1)
    return gap, jnp.where(finite, distance, 0), finite


def _order(alpha: ArrayLike, delta: Array) -> Array:
    """Alpha, checked as far as it is known, with the leading shape of `delta`."""
    if isinstance(alpha, int | float) and not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    alpha = real("alpha", alpha).astype(delta.dtype)
    alpha = legal("alpha", alpha, lambda x: (x <= 0) | (x == jnp.inf), "positive")
    try:
        return jnp.broadcast_to(alpha, delta.shape[:-1])
    except ValueError:
        raise ValueError(
            f"alpha of shape {jnp.shape(alpha)} does not broadcast to the leading "
            f"axes {delta.shape[:-1]} of the Gaussians"
        ) from None


def _pair(p: Any, q: Any, *, singular: bool = False) -> tuple[Array, Array, Array]:
    """mean_p − mean_q ``[*b, d]`` and both spreads: variances ``[*b, d]`` if both sides
    are diagonal, else covariances ``[*b, d, d]``; float32 or float64."""
    given = [*_checked("p", p, singular), *_checked("q", q, singular)]
    dtype = jnp.result_type(*given)
    mean_p, spread_p, mean_q, spread_q = (x.astype(dtype) for x in given)
    shapes = ", ".join(str(x.shape) for x in given)
    d = mean_p.shape[-1]
    if mean_q.shape[-1] != d:
        raise ValueError(f"p and q must have one dimension d; got {shapes}")
    both, event = ((p, spread_p), (q, spread_q)), (d,)
    if not all(isinstance(side, DiagonalGaussian) for side in (p, q)):
        event = (d, d)
        spread_p, spread_q = (
            spread
            if isinstance(side, Gaussian)
            else jnp.where(np.eye(d, dtype=bool), spread[..., None], 0)
            for side, spread in both
        )
    leads = [x.shape[: x.ndim - len(event)] for x in (spread_p, spread_q)]
    try:
        lead = jnp.broadcast_shapes(*leads, mean_p.shape[:-1], mean_q.shape[:-1])
    except ValueError:
        raise ValueError(f"leading axes do not broadcast: {shapes}") from None
    spread_p, spread_q = (
        jnp.broadcast_to(x, lead + event) for x in (spread_p, spread_q)
    )
    return jnp.broadcast_to(mean_p - mean_q, (*lead, d)), spread_p, spread_q


def _checked(name: str, side: Any, singular: bool) -> tuple[Array, Array]:
    """The mean and the spread of a side that is one."""
    if not isinstance(side, _Side):
        kind = type(side).__name__
        raise TypeError(f"{name} must be a Gaussian or DiagonalGaussian, got {kind}")
    kind, rank = ("cov", 2) if isinstance(side, Gaussian) else ("var", 1)
    mean = floating(f"{name}.mean", side.mean)
    spread = floating(f"{name}.{kind}", getattr(side, kind))
    d = mean.shape[-1:]
    if not d or spread.shape[-rank:] != d * rank:
        raise ValueError(
            f"{name}.mean must be [..., d] and {name}.{kind} end in {rank} axes of d, "
            f"got {mean.shape} and {spread.shape}"
        )
    words, illegal = _SPREADS[kind, singular]
    return mean, legal(f"{name}.{kind}", spread, illegal, words)


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
