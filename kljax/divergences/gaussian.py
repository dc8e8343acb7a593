"""Divergences between Gaussians in closed form, p = N(mean_p, cov_p) first.

Every function comes twice: with full covariances `[..., d, d]`, and as `..._diag` with
variances `[..., d]` (not standard deviations). Leading axes broadcast, values are in
nats, and covariances must be positive definite: a matrix or variance that is not raises
a ValueError, or gives NaN where it is traced. Matrices may differ from their transposes
by a thousandth; their symmetric part is used.

All but the Wasserstein distance come from two numbers, with S = αΣq + (1−α)Σp and
δ = mean_p − mean_q: the Mahalanobis term δᵀS⁻¹δ and the log-determinant gap

    J(α) = (log|S| − (1−α) log|Σp| − α log|Σq|) / (2(1−α)),

which at α = 1 is the covariance part of the KL divergence. It is computed without the
cancellation near p = q, with derivatives of every order.
"""

import jax.numpy as jnp

from kljax.divergences._gaussian_arguments import order, pair
from kljax.kernels.pairs.covariance import (
    log_det_gap,
    log_det_gap_diag,
    mahalanobis,
    squared_bures,
)
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "bhattacharyya",
    "bhattacharyya_diag",
    "cauchy_schwarz",
    "cauchy_schwarz_diag",
    "kl",
    "kl_diag",
    "renyi",
    "renyi_diag",
    "squared_hellinger",
    "squared_hellinger_diag",
    "squared_wasserstein2",
    "squared_wasserstein2_diag",
]


def kl(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
) -> Float[Array, "*b"]:
    """KL(p‖q) of two Gaussians, the expectation under p.

    ½ (tr Σq⁻¹Σp − d + log|Σq| − log|Σp| + δᵀΣq⁻¹δ); the reverse is `kl` with the pairs
    swapped.

    Args: means `[..., d]`, covariances `[..., d, d]`, positive definite.
    Returns: nats `[...]`, ≥ 0. Raises ValueError where shapes do not fit.

    >>> eye = jnp.eye(2)
    >>> round(float(kl(jnp.ones(2), eye, jnp.zeros(2), 2 * eye)), 4)
    0.6931

    Kullback, Information Theory and Statistics (1959), ch. 9.
    """
    gap, distance, _ = _full(mean_p, cov_p, mean_q, cov_q, 1.0)
    return gap + 0.5 * distance


def kl_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
) -> Float[Array, "*b"]:
    """KL(p‖q) of two Gaussians with independent coordinates.

    ½ Σ (r − 1 − log r + δ²/var_q), r = var_p / var_q.

    Args: means and variances `[..., d]`; variances > 0.
    Returns: nats `[...]`, ≥ 0. Raises ValueError where shapes do not fit.

    >>> one = jnp.ones(2)
    >>> round(float(kl_diag(one, one, 0 * one, 2 * one)), 4)
    0.6931

    As `kl`.
    """
    gap, distance, _ = _diag(mean_p, var_p, mean_q, var_q, 1.0)
    return gap + 0.5 * distance


def renyi(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
    *,
    alpha: ArrayLike,
) -> Float[Array, "*b"]:
    """Rényi's divergence of order alpha, log ∫ p^α q^(1−α) / (α − 1).

    J(α) + ½ α δᵀS⁻¹δ with S = αΣq + (1−α)Σp; α = 1 is `kl`. For α > 1 the integral may
    diverge: where S is not positive definite the value is +inf, and its gradient 0.

    Args: as `kl`; alpha > 0, a number or an array that broadcasts to `[...]`, may be
    traced and differentiated.
    Returns: nats `[...]`, ≥ 0. Raises ValueError where shapes do not fit, or for a
    Python alpha ≤ 0.

    >>> one, eye = jnp.ones(1), jnp.eye(1)
    >>> float(renyi(one, 2 * eye, 0 * one, eye, alpha=3.0))
    inf

    Gil, Alajaji, Linder, "Rényi divergence measures for commonly used univariate
    continuous distributions" (2013).
    """
    gap, distance, finite = _full(mean_p, cov_p, mean_q, cov_q, alpha)
    return jnp.where(finite, gap + 0.5 * jnp.asarray(alpha) * distance, jnp.inf)


def renyi_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
    *,
    alpha: ArrayLike,
) -> Float[Array, "*b"]:
    """Rényi's divergence of order alpha, independent coordinates.

    Σ over coordinates of the one-dimensional form of `renyi`; +inf where
    α var_q + (1−α) var_p ≤ 0 in any of them.

    Args: as `kl_diag`; alpha as in `renyi`.
    Returns: nats `[...]`, ≥ 0. Raises as `renyi`.

    >>> one = jnp.ones(1)
    >>> round(float(renyi_diag(one, one, 0 * one, one, alpha=3.0)), 4)
    1.5

    As `renyi`.
    """
    gap, distance, finite = _diag(mean_p, var_p, mean_q, var_q, alpha)
    return jnp.where(finite, gap + 0.5 * jnp.asarray(alpha) * distance, jnp.inf)


def bhattacharyya(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
) -> Float[Array, "*b"]:
    """Bhattacharyya's distance, −log ∫ √(pq): half of Rényi's divergence at ½.

    ½ log(|S| / √(|Σp||Σq|)) + ⅛ δᵀS⁻¹δ, S = (Σp + Σq)/2.

    Args: as `kl`.
    Returns: nats `[...]`, ≥ 0, symmetric. Raises ValueError where shapes do not fit.

    >>> one, eye = jnp.ones(2), jnp.eye(2)
    >>> float(bhattacharyya(one, eye, 0 * one, eye))
    0.25

    Kailath, "The divergence and Bhattacharyya distance measures in signal selection"
    (1967).
    """
    gap, distance, _ = _full(mean_p, cov_p, mean_q, cov_q, 0.5)
    return 0.5 * gap + 0.125 * distance


def bhattacharyya_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
) -> Float[Array, "*b"]:
    """Bhattacharyya's distance, −log ∫ √(pq), independent coordinates.

    Σ ½ log(v / √(var_p var_q)) + δ²/(8v), v = (var_p + var_q)/2.

    Args: as `kl_diag`.
    Returns: nats `[...]`, ≥ 0, symmetric. Raises ValueError where shapes do not fit.

    >>> one = jnp.ones(2)
    >>> float(bhattacharyya_diag(one, one, 0 * one, one))
    0.25

    As `bhattacharyya`.
    """
    gap, distance, _ = _diag(mean_p, var_p, mean_q, var_q, 0.5)
    return 0.5 * gap + 0.125 * distance


def squared_hellinger(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
) -> Float[Array, "*b"]:
    """Squared Hellinger distance, 1 − ∫ √(pq), in [0, 1].

    1 − e^(−B) with B = `bhattacharyya`; some authors use twice this.

    Args: as `kl`.
    Returns: `[...]`, symmetric. Raises ValueError where shapes do not fit.

    >>> one, eye = jnp.ones(2), jnp.eye(2)
    >>> round(float(squared_hellinger(one, eye, 0 * one, eye)), 4)
    0.2212

    As `bhattacharyya`.
    """
    return -jnp.expm1(-bhattacharyya(mean_p, cov_p, mean_q, cov_q))


def squared_hellinger_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
) -> Float[Array, "*b"]:
    """Squared Hellinger distance, 1 − ∫ √(pq), in [0, 1], independent coordinates.

    1 − e^(−B) with B = `bhattacharyya_diag`.

    Args: as `kl_diag`.
    Returns: `[...]`, symmetric. Raises ValueError where shapes do not fit.

    >>> one = jnp.ones(2)
    >>> round(float(squared_hellinger_diag(one, one, 0 * one, one)), 4)
    0.2212

    As `bhattacharyya`.
    """
    return -jnp.expm1(-bhattacharyya_diag(mean_p, var_p, mean_q, var_q))


def cauchy_schwarz(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
) -> Float[Array, "*b"]:
    """Cauchy–Schwarz divergence, log ∫ p² + log ∫ q² − 2 log ∫ pq.

    log(|S| / √(|Σp||Σq|)) + ½ δᵀS⁻¹δ, S = (Σp + Σq)/2; some authors use half of this.

    Args: as `kl`.
    Returns: nats `[...]`, ≥ 0, symmetric. Raises ValueError where shapes do not fit.

    >>> one, eye = jnp.ones(2), jnp.eye(2)
    >>> float(cauchy_schwarz(one, eye, 0 * one, eye))
    1.0

    Kampa, Hasanbelliu, Principe, "Closed-form Cauchy–Schwarz pdf divergence for
    mixture of Gaussians" (2011), for one component.
    """
    gap, distance, _ = _full(mean_p, cov_p, mean_q, cov_q, 0.5)
    return gap + 0.5 * distance


def cauchy_schwarz_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
) -> Float[Array, "*b"]:
    """Cauchy–Schwarz divergence, independent coordinates.

    Σ log(v / √(var_p var_q)) + δ²/(2v), v = (var_p + var_q)/2.

    Args: as `kl_diag`.
    Returns: nats `[...]`, ≥ 0, symmetric. Raises ValueError where shapes do not fit.

    >>> one = jnp.ones(2)
    >>> float(cauchy_schwarz_diag(one, one, 0 * one, one))
    1.0

    As `cauchy_schwarz`.
    """
    gap, distance, _ = _diag(mean_p, var_p, mean_q, var_q, 0.5)
    return gap + 0.5 * distance


def squared_wasserstein2(
    mean_p: Float[ArrayLike, "*b d"],
    cov_p: Float[ArrayLike, "*b d d"],
    mean_q: Float[ArrayLike, "*b d"],
    cov_q: Float[ArrayLike, "*b d d"],
) -> Float[Array, "*b"]:
    """W₂², the square of the 2-Wasserstein distance (Fréchet's) of two Gaussians.

    |δ|² + tr(Σp + Σq − 2(Σp^½ Σq Σp^½)^½). The square, as the distance itself has no
    gradient at p = q. Near p = q it is tr(XΣpX) with X = T − I, T the optimal map.

    Args: as `kl`, but singular (positive semi-definite) covariances are legal too; the
    error is then of the order of the rounding of tr(Σp + Σq), and the gradient, in
    truth infinite, is taken on the range of Σp.
    Returns: `[...]`, squared units of the data, ≥ 0, symmetric. Raises ValueError where
    shapes do not fit.

    >>> one, eye = jnp.ones(2), jnp.eye(2)
    >>> float(squared_wasserstein2(one, 4 * eye, 0 * one, eye))
    4.0

    Dowson, Landau, "The Fréchet distance between multivariate normal distributions"
    (1982).
    """
    mean_p, cov_p, mean_q, cov_q = pair(
        mean_p, cov_p, mean_q, cov_q, "cov", 2, singular=True
    )
    delta = mean_p - mean_q
    return jnp.sum(delta**2, axis=-1) + squared_bures(cov_p, cov_q)


def squared_wasserstein2_diag(
    mean_p: Float[ArrayLike, "*b d"],
    var_p: Float[ArrayLike, "*b d"],
    mean_q: Float[ArrayLike, "*b d"],
    var_q: Float[ArrayLike, "*b d"],
) -> Float[Array, "*b"]:
    """W₂², the square of the 2-Wasserstein distance, independent coordinates.

    Σ δ² + (√var_p − √var_q)².

    Args: as `kl_diag`, but variances of 0 are legal; the derivative in such a variance,
    in truth infinite, is finite here.
    Returns: `[...]`, squared units of the data, ≥ 0, symmetric. Raises ValueError where
    shapes do not fit.

    >>> one = jnp.ones(2)
    >>> float(squared_wasserstein2_diag(one, 4 * one, 0 * one, one))
    4.0

    As `squared_wasserstein2`.
    """
    mean_p, var_p, mean_q, var_q = pair(
        mean_p, var_p, mean_q, var_q, "var", 1, singular=True
    )
    # √a − √b as (a − b)/(√a + √b), which does not cancel.
    total = _root(var_p) + _root(var_q)
    gap = (var_p - var_q) / jnp.where(total == 0, 1, total)
    return jnp.sum((mean_p - mean_q) ** 2 + gap**2, axis=-1)


def _root(var: Array) -> Array:
    """√var whose derivative at 0 is 0."""
    return jnp.where(var == 0, 0, jnp.sqrt(jnp.where(var == 0, 1, var)))


def _full(mean_p, cov_p, mean_q, cov_q, alpha) -> tuple[Array, Array, Array]:
    """J(alpha), δᵀS⁻¹δ, and whether S is positive definite (else both are 0)."""
    mean_p, cov_p, mean_q, cov_q = pair(mean_p, cov_p, mean_q, cov_q, "cov", 2)
    alpha = order(alpha, mean_p)
    gap, mixture, finite = log_det_gap(cov_p, cov_q, alpha)
    distance = mahalanobis(mean_p - mean_q, mixture)
    return gap, jnp.where(finite, distance, 0), finite


def _diag(mean_p, var_p, mean_q, var_q, alpha) -> tuple[Array, Array, Array]:
    """As `_full`, for variances."""
    mean_p, var_p, mean_q, var_q = pair(mean_p, var_p, mean_q, var_q, "var", 1)
    alpha = order(alpha, mean_p)
    gap, mixture, finite = log_det_gap_diag(var_p, var_q, alpha)
    distance = jnp.sum((mean_p - mean_q) ** 2 / mixture, axis=-1)
    return gap, jnp.where(finite, distance, 0), finite
