"""Exact Bayesian mixtures: what universal prediction costs, and what bounds the cost.

The mixture q of models q_s with prior weights w_s predicts every observation by what
the ones before leave of the weights. Beyond the law p of the data it costs the regret

    R_n = E log p(z^n)/q(z^n) = KL(p^n‖q) = Σ_t E KL(p‖q(·|z^{t−1})),

which no count of models or parameters bounds, but the prior weight near p does:

    R_n <= −log Σ_s w_s e^{−n D_s} <= min_ε [n ε − log W(ε)],

with D_s = KL(p‖q_s) and W(ε) the weight of the models with D_s <= ε: `soft_bound` and
`kl_ball_bound`. Bernoulli laws and linear regression with Gaussian noise have their
regret in closed form. For what is supervised read p(y|x); D is then the mean over x.

Values are in nats, in float32 or in float64 where an input is; models, finitely many,
are on the last axis. A continuous prior is a grid, or draws: these are then the class
that the bounds hold for.

References: Feder, Urbanke, Fogel 2025, "The universality lens", arXiv 2506.07661 (its
P, p_θ and w are p, q_s and w_s here; its abstract alone was to be had, and numbers in
parentheses are those of our derivations); Clarke and Barron 1990; Barron and Cover
1991, "Minimum complexity density estimation".
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
    "BallBound",
    "LinearRegret",
    "MixtureRegret",
    "WeightCurve",
    "bernoulli_models",
    "bernoulli_regret",
    "kl_ball_bound",
    "linear_posterior",
    "linear_regret",
    "mixture_regret",
    "samples_needed",
    "soft_bound",
    "weight_curve",
]


def _models(name: str, value: ArrayLike, rank: int) -> Array:
    found = floating(name, value)
    if found.ndim != rank or not found.shape[-1]:
        axes = ("s", "n s")[rank - 1]
        raise ValueError(f"{name} has shape {found.shape}; expected [{axes}]")
    return found


def _log_prior(log_weights: ArrayLike | None, models: Array) -> Array:
    """Log-weights that sum to 1; equal ones where none are given."""
    if log_weights is None:
        return jnp.full(models.shape[-1:], -jnp.log(models.shape[-1]), models.dtype)
    found = floating("log_weights", log_weights)
    if found.shape != models.shape[-1:]:
        raise ValueError(
            f"log_weights has shape {found.shape}; expected one for each of the "
            f"{models.shape[-1]} models"
        )
    return jax.nn.log_softmax(found)


# --------------------------------------------------------------------------- mixtures


class MixtureRegret(NamedTuple):
    """What a mixture of models cost on one sequence of data."""

    regret: Float[Array, "n"]
    """log p(z^t)/q(z^t) after every observation; its mean over data is R_t."""
    one_step: Float[Array, "n"]
    """log p(z_t)/q(z_t|z^{t-1}), of which the regret is the sum."""
    log_posterior: Float[Array, "s"]
    """Log-weights of the models after the last observation."""


def mixture_regret(
    log_q: Float[ArrayLike, "n s"],
    log_p: Float[ArrayLike, "n"],
    log_weights: Float[ArrayLike, "s"] | None = None,
) -> MixtureRegret:
    """The Bayesian mixture along a sequence of observations, (1) and (2).

    The weights are normalized at every step and the sum is compensated, so that in
    float32 no digits are lost to the size of log q(z^n). An observation may be a block
    of several: the regret is then known at the blocks' ends.

    Args:
      log_q: of every observation under every model; −inf rules a model out.
      log_p: of every observation under the law of the data.
      log_weights: of the models, normalized inside; None: all alike.

    Returns:
      `MixtureRegret`. Where all models are ruled out the regret is +inf from there on.

    Raises:
      ValueError: shapes.

    Example:
      >>> coin, sure = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
      >>> heads = jnp.array([0, 0, 0])
      >>> found = mixture_regret(jnp.stack([coin[heads], sure[heads]], 1), sure[heads])
      >>> [round(float(x), 3) for x in found.regret]
      [0.251, 0.424, 0.535]
    """
    models, law = _models("log_q", log_q, 2), floating("log_p", log_p)
    if law.shape != models.shape[:1]:
        raise ValueError(
            f"log_p has shape {law.shape}; expected one for each of the "
            f"{len(models)} observations of log_q"
        )
    prior = _log_prior(log_weights, models)
    dtype = jnp.result_type(models, law, prior)

    def step(carried: tuple, now: tuple) -> tuple[tuple, tuple]:
        weights, total, lost = carried
        of_models, of_law = now
        joint = weights + of_models
        log_mix = jax.nn.logsumexp(joint)
        cost = of_law - log_mix
        more = cost - lost
        summed = total + more
        lost = jnp.where(jnp.abs(summed) == jnp.inf, 0, (summed - total) - more)
        weights = jnp.where(log_mix == -jnp.inf, weights, joint - log_mix)
        return (weights, summed, lost), (summed, cost)

    zero = jnp.zeros((), dtype)
    given = models.astype(dtype), law.astype(dtype)
    start = prior.astype(dtype), zero, zero
    (weights, _, _), (regret, one_step) = jax.lax.scan(step, start, given)
    return MixtureRegret(regret, one_step, weights)


# ----------------------------------------------------------------------------- bounds


class WeightCurve(NamedTuple):
    """Prior weight of the balls in KL around the law of the data."""

    eps: Float[Array, "s"]
    """Radii, ascending: the models' own divergences."""
    log_weight: Float[Array, "s"]
    """log W(ε), of the models as near as that or nearer."""


def weight_curve(
    divergence: Float[ArrayLike, "s"],
    log_weights: Float[ArrayLike, "s"] | None = None,
) -> WeightCurve:
    """How much prior weight lies how near: what makes a law simple for a class.

    M models alike, m of which are the law itself, have W(0) = m / M (5).

    Args:
      divergence: D_s = KL(p‖q_s) >= 0 of every model, per observation; may be inf.
      log_weights: of the models, normalized inside; None: all alike.

    Returns:
      `WeightCurve`; equal radii are all listed, the last of them holds W(ε).

    Raises:
      ValueError: shapes.

    Example:
      >>> found = weight_curve(jnp.array([0.5, 0.0, 0.0, 0.1]))
      >>> [round(float(w), 2) for w in jnp.exp(found.log_weight)]
      [0.25, 0.5, 0.75, 1.0]
    """
    d = _models("divergence", divergence, 1)
    prior = _log_prior(log_weights, d)
    order = jnp.argsort(d)
    return WeightCurve(d[order], jax.lax.cumlogsumexp(prior[order]))


def _count(n: ArrayLike) -> Array:
    check_positive("n", n)
    return floating("n", n)


def soft_bound(
    divergence: Float[ArrayLike, "s"],
    n: ArrayLike,
    log_weights: Float[ArrayLike, "s"] | None = None,
) -> Float[Array, "*m"]:
    """``R_n <= −log Σ_s w_s e^{−n D_s}`` (3), by Jensen's inequality.

    Args:
      divergence, log_weights: as in `weight_curve`. With draws of a posterior at D this
        is no estimate: they are of the prior.
      n: observations, one number or several.

    Returns:
      Nats for n observations, not per observation, of the shape of n.

    Raises:
      ValueError: shapes, or an n that is not positive.

    Example:
      >>> round(float(soft_bound(jnp.array([0.0, 1.0]), 100)), 4)  # log 2
      0.6931
    """
    d, counts = _models("divergence", divergence, 1), _count(n)
    prior = _log_prior(log_weights, d)
    one = lambda m: -jax.nn.logsumexp(prior - m * d)  # noqa: E731
    return jax.lax.map(one, counts.reshape(-1)).reshape(counts.shape)


class BallBound(NamedTuple):
    """A bound by one ball of models, and the ball."""

    bound: Float[Array, "*m"]
    """In nats, for n observations."""
    eps: Float[Array, "*m"]
    """Its radius, in nats per observation."""


def kl_ball_bound(
    divergence: Float[ArrayLike, "s"],
    n: ArrayLike,
    log_weights: Float[ArrayLike, "s"] | None = None,
) -> BallBound:
    """``R_n <= min_ε [n ε − log W(ε)]`` (4): `soft_bound` by the best single ball.

    Of d smooth parameters the best n ε is d/2.

    Args:
      divergence, n, log_weights: as in `soft_bound`.

    Returns:
      `BallBound`, never below `soft_bound`.

    Raises:
      ValueError: as in `soft_bound`.

    Example:
      >>> found = kl_ball_bound(jnp.array([0.0, 0.001, 1.0, 1.0]), 100)
      >>> round(float(found.bound), 3), round(float(found.eps), 3)  # log 2 + 0.1
      (0.793, 0.001)
    """
    curve, counts = weight_curve(divergence, log_weights), _count(n)

    def one(m: Array) -> tuple[Array, Array]:
        value = m * curve.eps - curve.log_weight
        return value.min(), curve.eps[jnp.argmin(value)]

    bound, eps = jax.lax.map(one, counts.reshape(-1))
    return BallBound(bound.reshape(counts.shape), eps.reshape(counts.shape))


def samples_needed(
    divergence: Float[ArrayLike, "s"],
    excess: ArrayLike,
    log_weights: Float[ArrayLike, "s"] | None = None,
) -> Float[Array, "*m"]:
    """After how many observations the mean regret is surely no more than that (7).

    ``min_{ε < excess} −log W(ε) / (excess − ε)``.

    Args:
      divergence, log_weights: as in `weight_curve`.
      excess: nats per observation, one number or several.

    Returns:
      A number of observations; +inf where no model is that near.

    Raises:
      ValueError: shapes, or an excess that is not positive.

    Example:
      >>> float(samples_needed(jnp.array([0.0, 0.5]), jnp.log(2) / 64))
      64.0
    """
    curve = weight_curve(divergence, log_weights)
    check_positive("excess", excess)
    limits = floating("excess", excess)

    def one(limit: Array) -> Array:
        near = curve.eps < limit
        left = jnp.where(near, limit - curve.eps, 1)
        found = jnp.where(near, -curve.log_weight / left, jnp.inf)
        unknown = jnp.isnan(curve.eps).any() | jnp.isnan(limit)
        return jnp.where(unknown, jnp.nan, found.min())

    return jax.lax.map(one, limits.reshape(-1)).reshape(limits.shape)


# -------------------------------------------------------------------- solvable classes


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
