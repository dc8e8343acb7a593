"""Exact Bayesian mixtures: what universal prediction costs, and what bounds the cost.

The mixture q of models q_s with prior weights w_s predicts every observation by what
the ones before leave of the weights. Beyond the law p of the data it costs the regret

    R_n = E log p(z^n)/q(z^n) = KL(p^n‖q) = Σ_t E KL(p‖q(·|z^{t−1})),

which no count of models or parameters bounds, but the prior weight near p does:

    R_n <= −log Σ_s w_s e^{−n D_s} <= min_ε [n ε − log W(ε)],

with D_s = KL(p‖q_s) and W(ε) the weight of the models with D_s <= ε: `soft_bound` and
`kl_ball_bound`. For what is supervised read p(y|x); D is then the mean over x. Classes
whose regret has a closed form stand in `kljax.theory.conjugate`.

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

from kljax.arguments import check_positive, floating
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "BallBound",
    "MixtureRegret",
    "WeightCurve",
    "kl_ball_bound",
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
