"""Exact posteriors on enumerable spaces: what KL-regularized alignment ends at.

    J(q) = E_q r − β KL(q‖prior) = β log Z − β KL(q‖p),  p = prior · e^{r/β} / Z

Laws are vectors of log-probabilities over all n outcomes, on the last axis; axes before
it are prompts. The prior is normalized; −inf is an impossible outcome. Values are in
nats, per prompt, in float32 or in float64 where an input is. Differences that are small
against their terms (budgets at large β, the gap near the optimum) are not formed as
differences.

References: Korbak, Perez, Buckley 2022, "RL with KL penalties is better viewed as
Bayesian inference", arXiv 2205.11275 (π_0 there is the prior, π* the posterior);
numbers in parentheses are those of the formulas in its section 2 and our derivations.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import floating, rows_shaped
from kljax.divergences import divergence, reverse_kl
from kljax.generators import names
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = [
    "conditioned",
    "distances",
    "elbo_gap",
    "expected",
    "log_partition",
    "log_success",
    "objective",
    "posterior",
]


def _law(name: str, value: ArrayLike) -> Array:
    law = floating(name, value)
    if not law.ndim or not law.shape[-1]:
        raise ValueError(
            f"{name} has shape {law.shape}; expected [*b, n], outcomes last"
        )
    return law


def _beside(law: Array, **others: ArrayLike) -> list[Array]:
    """Arrays whose last axis is the law's and which broadcast against it."""
    found = [floating(name, value) for name, value in others.items()]
    for name, x in zip(others, found):
        try:
            fits = x.shape[-1:] == law.shape[-1:]
            jnp.broadcast_shapes(x.shape, law.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} has shape {x.shape} and the prior {law.shape}; expected the "
                "same outcomes on the last axis, and prompts that broadcast"
            )
    return found


def _rows(beta: ArrayLike, *arrays: Array) -> Array:
    """β beside the outcomes: one number, or one for each prompt."""
    rows = jnp.broadcast_shapes(*(x.shape for x in arrays))[:-1]
    found = rows_shaped("beta", beta, rows)
    return found[..., None] if found.ndim else found


def _tilted(log_prior: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Array:
    prior = _law("log_prior", log_prior)
    (r,) = _beside(prior, reward=reward)
    return prior + r / _rows(beta, prior, r)


def _normalized(score: Array) -> Array:
    """Log-probabilities; a row without any outcome stays −inf."""
    empty = jnp.max(score, axis=-1, keepdims=True) == -jnp.inf
    return jnp.where(empty, score, jax.nn.log_softmax(jnp.where(empty, 0, score)))


def expected(
    log_q: Float[ArrayLike, "*#b n"], value: Float[ArrayLike, "*#b n"]
) -> Float[Array, "*b"]:
    """``E_q value``; what is impossible under q may have any value.

    Args:
      log_q: log-probabilities.
      value: of every outcome; leading axes broadcast.

    Raises:
      ValueError: shapes.

    Example:
      >>> float(expected(jnp.log(jnp.array([0.25, 0.75])), jnp.array([0.0, 4.0])))
      3.0
    """
    q = _law("log_q", log_q)
    (x,) = _beside(q, value=value)
    return jnp.sum(jnp.where(q == -jnp.inf, 0, jnp.exp(q) * x), axis=-1)


def log_partition(
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> Float[Array, "*b"]:
    """``log Z = log Σ prior e^{r/β}`` (3), finite for r/β of any size.

    Args:
      log_prior: log-probabilities of all outcomes.
      reward: r of each, any scale; leading axes broadcast.
      beta: positive; one number, or one for each prompt.

    Returns:
      One value per prompt; β times it is the largest objective that there is.

    Raises:
      ValueError: shapes, or a β that is not positive. TypeError: no real numbers.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 300.0])
      >>> round(float(log_partition(prior, reward, 1.0)), 4)  # 300 - log 2
      299.3069
    """
    return jax.nn.logsumexp(_tilted(log_prior, reward, beta), axis=-1)


def posterior(
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> Float[Array, "*b n"]:
    """Log-probabilities of ``p = prior · e^{r/β} / Z`` (3).

    Tilting by r_1/β_1 and its result by r_2/β_2 is tilting by the sum (9). Arguments
    and errors as in `log_partition`.

    Example:
      >>> prior, reward = jnp.log(jnp.array([0.9, 0.1])), jnp.array([0.0, 1.0])
      >>> beta = 1 / jnp.log(3.0)
      >>> [round(float(x), 4) for x in jnp.exp(posterior(prior, reward, beta))]
      [0.75, 0.25]

    Reference: Korbak et al. 2022, Eq. 5.
    """
    return _normalized(_tilted(log_prior, reward, beta))


def objective(
    log_q: Float[ArrayLike, "*#b n"],
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> Float[Array, "*b"]:
    """``J(q) = E_q r − β KL(q‖prior)`` (2), exactly; differentiable in all arguments.

    Args:
      log_q: the policy's log-probabilities.
      log_prior, reward: as in `log_partition`.
      beta: not negative; 0 is plain reinforcement learning (1). One number, or one for
        each prompt.

    Returns:
      J per prompt, at most ``beta * log_partition(...)``; −inf for a policy that does
      what the prior cannot, where β > 0.

    Raises:
      ValueError: shapes.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> float(objective(prior, prior, reward, 2.0))
      0.5

    Reference: Korbak et al. 2022, Eq. 7.
    """
    q, prior = _law("log_q", log_q), _law("log_prior", log_prior)
    _beside(prior, log_q=q, reward=reward)
    beta = floating("beta", beta)
    cost = jnp.where(beta == 0, 0, beta * reverse_kl(prior, q))
    return expected(q, reward) - cost


def elbo_gap(
    log_q: Float[ArrayLike, "*#b n"],
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> Float[Array, "*b"]:
    """``log Z − J(q)/β = KL(q‖p)`` (4), (5): what the policy lacks of the evidence.

    Taken as the divergence, so that it is right near 0. Arguments and errors as in
    `objective`, with β positive.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> float(elbo_gap(posterior(prior, reward, 0.1), prior, reward, 0.1))
      0.0

    Reference: Korbak et al. 2022, Eq. 7 and appendix.
    """
    return reverse_kl(posterior(log_prior, reward, beta), _law("log_q", log_q))


def distances(
    log_q: Float[ArrayLike, "*#b n"],
    log_prior: Float[ArrayLike, "*#b n"],
    reward: Float[ArrayLike, "*#b n"],
    beta: ArrayLike,
) -> dict[str, Float[Array, "*b"]]:
    """Every divergence of `kljax.divergences.names` from the posterior to the policy.

    Target first: "reverse_kl" is `elbo_gap`, "forward_kl" what maximum likelihood on
    samples of the posterior minimizes. Arguments and errors as in `elbo_gap`.

    Example:
      >>> prior, reward = jnp.log(jnp.full(2, 0.5)), jnp.array([0.0, 1.0])
      >>> round(float(distances(prior, prior, reward, 1.0)["total_variation"]), 4)
      0.2311
    """
    p, q = posterior(log_prior, reward, beta), _law("log_q", log_q)
    return {name: divergence(p, q, name) for name in names()}


# ------------------------------------------------------------------- hard constraints


def _allowed(log_prior: ArrayLike, allowed: ArrayLike) -> Array:
    prior = _law("log_prior", log_prior)
    mask = jnp.asarray(allowed)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"allowed must be boolean, got {mask.dtype}")
    _beside(prior, allowed=mask.astype(prior.dtype))
    return jnp.where(mask, prior, -jnp.inf)


def log_success(
    log_prior: Float[ArrayLike, "*#b n"], allowed: Bool[ArrayLike, "*#b n"]
) -> Float[Array, "*b"]:
    """``log prior(S)``, the log-probability that the prior satisfies a constraint (6).

    Minus it bounds ``KL(p‖prior)`` of the binary reward at every β (10).

    Args:
      log_prior: log-probabilities of all outcomes.
      allowed: which of them satisfy it.

    Raises:
      ValueError: shapes. TypeError: a constraint that is not boolean.

    Example:
      >>> prior = jnp.log(jnp.array([0.5, 0.25, 0.25]))
      >>> round(float(jnp.exp(log_success(prior, jnp.array([False, True, True])))), 4)
      0.5
    """
    return jax.nn.logsumexp(_allowed(log_prior, allowed), axis=-1)


def conditioned(
    log_prior: Float[ArrayLike, "*#b n"], allowed: Bool[ArrayLike, "*#b n"]
) -> Float[Array, "*b n"]:
    """Log-probabilities of the prior given the constraint (6), the limit of β → 0.

    It is the I-projection of the prior on the laws supported there: for each such q
    ``KL(q‖prior) = KL(q‖conditioned) − log prior(S)`` (13). Arguments and errors as in
    `log_success`; a row in which nothing is allowed is −inf throughout.

    Example:
      >>> prior = jnp.log(jnp.array([0.5, 0.3, 0.2]))
      >>> given = conditioned(prior, jnp.array([False, True, True]))
      >>> [round(float(x), 4) for x in jnp.exp(given)]
      [0.0, 0.6, 0.4]
    """
    return _normalized(_allowed(log_prior, allowed))
