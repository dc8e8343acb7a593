"""The law of the best of n samples, exactly, ties included.

Of n independent draws of p the one with the largest reward is kept, by chance among
equals. A reward level L with F the share of p up to it and F⁻ that below is kept with
probability F^n − F⁻^n, and its outcomes in proportion to p.

References: Mukobi et al. 2023, "SuperHF", arXiv 2310.16763; Beirami et al. 2024,
"Theoretical guarantees on the best-of-n alignment policy", arXiv 2401.01879.
"""

import jax
import jax.numpy as jnp

from kljax.arguments import fitting, floating, rows_shaped
from kljax.typing import Array, ArrayLike, Float

__all__ = ["best_of_n", "best_of_n_bound", "best_of_n_round"]


def best_of_n(
    log_p: Float[ArrayLike, "*#b k"], reward: Float[ArrayLike, "*#b k"], n: ArrayLike
) -> Float[Array, "*b k"]:
    """Log-probabilities of the best of n samples.

    Args:
      log_p: log-probabilities of what is sampled from; −inf is legal.
      reward: of every outcome; leading axes broadcast. Equal numbers are ties.
      n: samples, from 1 on, which gives `log_p`; need not be whole, may be traced; one
        number, or one for each row.

    Returns:
      Log-probabilities, exact for shares of any size: nothing is formed as a difference
      of two close powers.

    Raises:
      ValueError: shapes.

    Example:
      >>> p, reward = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.array([0.0, 1.0, 1.0])
      >>> [round(float(x), 4) for x in jnp.exp(best_of_n(p, reward, 2))]
      [0.25, 0.375, 0.375]
    """
    p, r = floating("log_p", log_p), floating("reward", reward)
    if not p.ndim or r.shape[-1:] != p.shape[-1:]:
        raise ValueError(
            f"log_p has shape {p.shape} and reward {r.shape}; expected the same "
            "outcomes on the last axis"
        )
    shape = jnp.broadcast_shapes(p.shape, r.shape)
    n = jnp.broadcast_to(rows_shaped("n", n, shape[:-1]).astype(p.dtype), shape[:-1])
    p, r = (jnp.broadcast_to(x, shape).reshape(-1, shape[-1]) for x in (p, r))
    return jax.vmap(_row)(p, r, n.reshape(-1)).reshape(shape)


def _row(log_p: Array, reward: Array, n: Array) -> Array:
    order = jnp.argsort(reward)
    r, p = reward[order], log_p[order]
    new = jnp.concatenate([jnp.zeros(1, bool), r[1:] != r[:-1]])
    level, count = jnp.cumsum(new), len(r)
    top = jax.ops.segment_max(p, level, count, indices_are_sorted=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    mass = jax.ops.segment_sum(jnp.exp(p - top[level]), level, count)
    own = jnp.log(mass) + top  # of each level; −inf beyond the last one
    up_to = jax.lax.cumlogsumexp(own)
    up_to -= up_to[-1]
    # log of 1 − (F⁻/F)^n, by F⁻/F = 1 − own/F
    share = jnp.where(own == -jnp.inf, 0, jnp.minimum(jnp.exp(own - up_to), 1))
    kept = n * up_to + jnp.log(-jnp.expm1(n * jnp.log1p(-share)))
    gain = jnp.where(own == -jnp.inf, 0, kept - own)
    return log_p + jnp.zeros_like(p).at[order].set(gain[level])


def best_of_n_bound(n: ArrayLike) -> Float[Array, "*b"]:
    """``log n − (n − 1)/n``: KL from the law of the best of n to what is sampled.

    Reached where no two outcomes tie and none has a share that counts (a continuous
    reward), an upper bound otherwise; 1.835 nats at n = 16.

    Example:
      >>> round(float(best_of_n_bound(16.0)), 3)
      1.835

    Reference: Beirami et al. 2024, Theorem 1.
    """
    n = floating("n", n)
    return jnp.log(n) - (n - 1) / n


def best_of_n_round(
    log_p: Float[ArrayLike, "*#b k"],
    log_prior: Float[ArrayLike, "*#b k"],
    reward: Float[ArrayLike, "*#b k"],
    n: ArrayLike,
    coefficient: ArrayLike,
) -> Float[Array, "*b k"]:
    """``(q_n + λ prior)/(1 + λ)``, q_n the best of n: a round of SuperHF, exactly.

    It is the minimizer of ``E_{q_n}[−log q] + λ KL(prior‖q)``. Where one outcome is the
    best, rounds end at about ``1/(1 + λ)`` for it; nothing ever falls below
    ``λ/(1 + λ)`` of its prior.

    Args:
      log_p: log-probabilities of what is sampled from.
      log_prior: of what the policy is to stay near.
      reward, n: as in `best_of_n`.
      coefficient: λ >= 0; one number, or one for each row; 0 is `best_of_n`.

    Returns:
      Log-probabilities.

    Raises:
      ValueError: shapes.

    Example:
      >>> p, reward = jnp.log(jnp.full(4, 0.25)), jnp.arange(4.0)
      >>> q = p
      >>> for _ in range(20):
      ...     q = best_of_n_round(q, p, reward, 16, 1.0)
      >>> [round(float(x), 3) for x in jnp.exp(q)]
      [0.125, 0.125, 0.125, 0.625]

    Reference: derived from the loss of Mukobi et al. 2023, section 3.
    """
    kept, prior = best_of_n(log_p, reward, n), floating("log_prior", log_prior)
    rows = jnp.broadcast_shapes(kept.shape, prior.shape)[:-1]
    weight = jnp.broadcast_to(fitting("coefficient", coefficient, rows), rows)
    weight = floating("coefficient", weight)[..., None]
    with_prior = jnp.where(weight > 0, jnp.log(weight) + prior, -jnp.inf)
    return jnp.logaddexp(kept, with_prior) - jnp.log1p(weight)
