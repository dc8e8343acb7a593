"""What Langevin dynamics ends at with a step that is not small, and the way back.

Where the energy is quadratic, U = ½ (θ−m)ᵀ A (θ−m), steps of size η,

    θ ← θ − η (∇U + g) + √(2η) ξ,     E g = 0, Cov g = C  (of mini-batches; or 0),

end at a Gaussian about m, which is not the posterior N(m, A⁻¹): its covariance S solves
S = M S M + 2η (I + η C / 2) with M = I − η A. Both directions are closed forms.

References: Welling and Teh 2011, "Bayesian learning via stochastic gradient Langevin
dynamics"; number (16) of our derivations for arXiv 2506.07661. The inverse is ours.
"""

import jax.numpy as jnp
import numpy as np

from kljax.arguments import check_positive, floating
from kljax.typing import Array, ArrayLike, Float

__all__ = ["corrected_covariance", "stationary_variance"]


def stationary_variance(
    curvature: ArrayLike, rate: ArrayLike, gradient_noise: ArrayLike = 0.0
) -> Float[Array, "*b"]:
    """``(1 + η c / 2) / (a (1 − η a / 2))`` of one direction (16); 1 / a is wanted.

    Args:
      curvature: a > 0, of the energy.
      rate: η > 0, the step; all arguments broadcast.
      gradient_noise: c >= 0, the variance of the gradient at a given point.

    Returns:
      A variance, +inf where the steps are not stable, η a >= 2.

    Raises:
      ValueError: a curvature or rate that is not positive.

    Example:
      >>> round(float(stationary_variance(4.0, 0.1)), 4)
      0.3125
    """
    check_positive("curvature", curvature)
    check_positive("rate", rate)
    a, eta = floating("curvature", curvature), floating("rate", rate)
    noise = 1 + eta * floating("gradient_noise", gradient_noise) / 2
    left = 1 - eta * a / 2
    # NaN is not unstable: it passes.
    return jnp.where(left <= 0, jnp.inf, noise / (a * jnp.where(left <= 0, 1, left)))


def corrected_covariance(
    covariance: Float[ArrayLike, "d d"],
    rate: float,
    gradient_noise: Float[ArrayLike, "d d"] | None = None,
) -> Float[np.ndarray, "d d"]:
    """The posterior's covariance from that of the dynamics: (16) read backwards.

    With Q = S − 2η (I + η C / 2) it is M = S^{−½} (S^½ Q S^½)^½ S^{−½}, the linear map
    that takes N(0, S) to N(0, Q), and A⁻¹ = η (I − M)⁻¹. Exact for quadratic energies
    whose steps do not overshoot, η A <= I; near the mode of others.

    Args:
      covariance: S, of snapshots.
      rate: η of their dynamics.
      gradient_noise: C, the mean over snapshots of the gradient's covariance at each
        (its mean alone counts, also where it depends on θ); None: the gradient was
        that of all data.

    Returns:
      A⁻¹, in float64.

    Raises:
      ValueError: shapes; a rate that is not positive; an S that is smaller than the
        noise of one step, so that no such dynamics has it (too few snapshots).

    Example:
      >>> corrected_covariance([[0.3125]], 0.1).round(4).tolist()  # curvature 4
      [[0.25]]
    """
    check_positive("rate", rate)
    s = np.asarray(covariance, np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1]:
        raise ValueError(f"covariance has shape {s.shape}; expected [d, d]")
    noise = np.eye(len(s))
    if gradient_noise is not None:
        c = np.asarray(gradient_noise, np.float64)
        if c.shape != s.shape:
            raise ValueError(
                f"gradient_noise has shape {c.shape}; expected that of covariance, "
                f"{s.shape}"
            )
        noise += rate / 2 * c
    values, axes = np.linalg.eigh(s)
    if not values[0] > 0:
        raise ValueError("covariance is not positive definite: take more snapshots")
    root = (axes * np.sqrt(values)) @ axes.T
    back = (axes / np.sqrt(values)) @ axes.T
    kept, turns = np.linalg.eigh(root @ (s - 2 * rate * noise) @ root)
    if kept[0] < 0:
        raise ValueError(
            "covariance is smaller than the noise of one step: take more snapshots, or "
            f"a rate below {rate}"
        )
    moved = back @ ((turns * np.sqrt(kept)) @ turns.T) @ back
    return rate * np.linalg.inv(np.eye(len(s)) - moved)
