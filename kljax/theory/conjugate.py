"""Mixtures in closed form: Bernoulli laws, linear regression with Gaussian noise.

What they cost beyond the law of the data is the regret of `kljax.theory.universal`, in
nats; references and numbers in parentheses are as there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import check_positive, floating, whole
from kljax.divergences import forward_kl
from kljax.divergences.gaussian import Gaussian
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "LinearRegret",
    "bernoulli_models",
    "bernoulli_regret",
    "linear_posterior",
    "linear_regret",
]


def bernoulli_regret(theta: float, n: int) -> float:
    """R_n of the uniform mixture of Bernoulli laws on data of one of them, exactly.

    All orders of k ones cost alike, and k is uniform under the mixture, so that R_n is
    ``log(n + 1) − H(Binomial(n, θ))``, about ``½ log(n / (2πe)) − ½ log θ(1−θ)`` (11).

    Args:
      theta: probability of a one, in (0, 1).
      n: observations.

    Returns:
      Nats, in float64.

    Raises:
      ValueError: a number out of range. TypeError: an n that is none.

    Example:
      >>> round(bernoulli_regret(0.5, 100), 4)
      1.5868
    """
    n = whole("n", n)
    if not 0 < theta < 1:
        raise ValueError(f"theta must lie in (0, 1), got {theta}")
    logs = np.append(0, np.cumsum(np.log(np.arange(1, n + 1))))
    k = np.arange(n + 1)
    log_p = logs[n] - logs - logs[::-1] + k * np.log(theta) + (n - k) * np.log1p(-theta)
    return float(np.log(n + 1) + np.exp(log_p) @ log_p)


def bernoulli_models(
    theta: ArrayLike, points: int = 100_000, *, limit: float = 20.0
) -> tuple[Float[Array, "s"], Float[Array, "s"]]:
    """Bernoulli laws under the uniform prior as a fine class, for the bounds above.

    Evenly spaced in the logit up to ± `limit`, which leaves out a prior mass of twice
    ``e^{−limit}``. Bounds are right to 1e-3 where a standard deviation, about
    ``(n θ (1−θ))^{−½}`` in the logit, is a thousand cells wide; use float64.

    Args:
      theta: probability of a one under the law of the data, in (0, 1).
      points: models.
      limit: largest logit.

    Returns:
      Divergences from the law to every model, and log-weights.

    Raises:
      ValueError, TypeError: numbers out of range.

    Example:
      >>> divergence, log_weights = bernoulli_models(0.5)
      >>> from kljax.theory.universal import soft_bound
      >>> round(float(soft_bound(divergence, 100, log_weights)), 3)
      2.084
    """
    whole("points", points, least=2)
    law = jax.scipy.special.logit(floating("theta", theta))
    logits = jnp.linspace(-limit, limit, points, dtype=law.dtype)
    with_zero = lambda x: jnp.stack([x, jnp.zeros_like(x)], axis=-1)  # noqa: E731
    of_law = jnp.broadcast_to(with_zero(law), (points, 2))
    log_weights = jax.nn.log_sigmoid(logits) + jax.nn.log_sigmoid(-logits)
    return forward_kl(of_law, with_zero(logits)), log_weights


class LinearRegret(NamedTuple):
    """Cost of Bayesian linear regression, with its soft bound."""

    regret: Float[Array, ""]
    """R_n in nats, exactly (13)."""
    soft_bound: Float[Array, ""]
    """(14), above the regret by half of `dimensions`."""
    dimensions: Float[Array, ""]
    """Effective number of parameters, tr(τ² X Xᵀ M⁻¹) <= min(n, d)."""


def _variances(noise: ArrayLike, prior: ArrayLike) -> tuple[Array, Array]:
    check_positive("noise", noise)
    check_positive("prior", prior)
    return floating("noise", noise), floating("prior", prior)


def _features(x: ArrayLike, name: str, value: ArrayLike) -> tuple[Array, Array]:
    found, other = floating("x", x), floating(name, value)
    if found.ndim != 2 or other.shape != found.shape[:1]:
        raise ValueError(
            f"x has shape {found.shape} and {name} {other.shape}; expected [n, d], [n]"
        )
    return found, other


def linear_regret(
    x: Float[ArrayLike, "n d"],
    mean: Float[ArrayLike, "n"],
    noise: ArrayLike,
    prior: ArrayLike,
) -> LinearRegret:
    """R_n of ``y = X θ + noise`` under a Gaussian prior, with any number of parameters.

    With M = σ² I + τ² X Xᵀ and f the mean of the data, in the model or not,

        R_n = ½ [σ² tr M⁻¹ − n + log det(M/σ²) + fᵀ M⁻¹ f],

    which knows of d through X Xᵀ alone, n x n numbers.

    Args:
      x: features.
      mean: f, what the data are noise about.
      noise: σ², a variance.
      prior: τ², the variance of each parameter under the prior N(0, τ² I).

    Returns:
      `LinearRegret`.

    Raises:
      ValueError: shapes, or a variance that is not positive.

    Example:
      >>> found = linear_regret(jnp.ones((3, 1000)), jnp.zeros(3), 1.0, 1.0)
      >>> round(float(found.dimensions), 3)  # a thousand parameters say the same
      1.0
    """
    features, f = _features(x, "mean", mean)
    noise, prior = _variances(noise, prior)
    gram = jnp.matmul(features, features.T, precision=jax.lax.Precision.HIGHEST)
    values, axes = jnp.linalg.eigh(gram)
    ratio = jnp.maximum(values, 0) * prior / noise
    shared = ratio / (1 + ratio)
    along = axes.T @ f
    fit = along**2 / (noise * (1 + ratio))
    soft = 0.5 * jnp.sum(jnp.log1p(ratio) + fit)
    size = jnp.sum(shared)
    return LinearRegret(soft - size / 2, soft, size)


def linear_posterior(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "n"],
    noise: ArrayLike,
    prior: ArrayLike,
) -> Gaussian:
    """Parameters of the same model given data: what a sampler is held against.

    Args:
      x: features.
      y: data.
      noise, prior: variances, as in `linear_regret`.

    Returns:
      A `Gaussian` over R^d; its covariance is (XᵀX/σ² + I/τ²)⁻¹.

    Raises:
      ValueError: shapes, or a variance that is not positive.

    Example:
      >>> found = linear_posterior([[1.0], [1.0]], [1.0, 2.0], 1.0, 1.0)
      >>> float(found.mean[0]), round(float(found.cov[0, 0]), 4)
      (1.0, 0.3333)
    """
    features, data = _features(x, "y", y)
    noise, prior = _variances(noise, prior)
    product = lambda a: jnp.matmul(features.T, a, precision="highest")  # noqa: E731
    precision = product(features) / noise + jnp.eye(features.shape[1]) / prior
    cov = jnp.linalg.inv(precision)
    return Gaussian(cov @ product(data) / noise, cov)
