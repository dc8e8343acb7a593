"""Divergences of categorical laws that are known by counts of their outcomes."""

import jax.numpy as jnp

from kljax.arguments import floating, legal
from kljax.divergences._points import log_normalized
from kljax.generators import ForwardKL
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = ["kl"]


def kl(
    counts_p: Int[ArrayLike, "*#b k"] | Float[ArrayLike, "*#b k"],
    counts_q: Int[ArrayLike, "*#b k"] | Float[ArrayLike, "*#b k"],
    *,
    pseudo_count: ArrayLike = 0.5,
) -> Float[Array, "*b"]:
    """KL(p‖q) of two categorical laws known by their counts.

    Σ_i P_i log(P_i/Q_i), P_i = (count + pseudo_count)/(their sum).

    Args:
      counts_p, counts_q: counts or weights ≥ 0 per class, last axis.
      pseudo_count: ≥ 0, added to each class; ½ is the Krichevsky–Trofimov estimate, 0
        the plug-in one, which is +inf where q lacks a class that p has.

    Returns:
      Nats, one per leading index; 0 where a side has no mass at all.

    Raises:
      ValueError: for shapes that do not fit or a negative Python pseudo_count.

    Example:
      >>> round(float(kl(jnp.array([2, 0]), jnp.array([1, 1]))), 4)
      0.2426

    References:
      Krichevsky, Trofimov, "The performance of universal encoding" (1981).
    """
    counts_p = floating("counts_p", counts_p)
    counts_q = floating("counts_q", counts_q)
    if counts_p.ndim == 0 or counts_p.shape[-1:] != counts_q.shape[-1:]:
        raise ValueError(
            "counts_p and counts_q must have the same classes on the last axis, got "
            f"{counts_p.shape} and {counts_q.shape}"
        )
    pseudo_count = floating("pseudo_count", pseudo_count)
    if pseudo_count.shape not in ((), counts_p.shape[-1:]):
        raise ValueError(
            f"pseudo_count must be a number or one per class {counts_p.shape[-1:]}, "
            f"got shape {pseudo_count.shape}"
        )
    pseudo_count, counts_p, counts_q = (
        legal(name, x, lambda x: x < 0, "at least 0")
        for name, x in (
            ("pseudo_count", pseudo_count),
            ("counts_p", counts_p),
            ("counts_q", counts_q),
        )
    )
    p, q = counts_p + pseudo_count, counts_q + pseudo_count
    try:
        jnp.broadcast_shapes(p.shape, q.shape)
    except ValueError:
        raise ValueError(
            "leading axes of counts_p and counts_q do not broadcast: "
            f"{counts_p.shape} and {counts_q.shape}"
        ) from None
    # Without mass there is nothing to compare, but a NaN on the other side counts.
    total_p, total_q = p.sum(-1), q.sum(-1)
    empty = (total_p == 0) & ~jnp.isnan(total_q) | (total_q == 0) & ~jnp.isnan(total_p)
    terms = ForwardKL().term(_log_shares(p), _log_shares(q))
    return jnp.where(empty, 0, jnp.sum(terms, axis=-1))


def _log_shares(mass: Array) -> Array:
    """Logarithm of mass/Σ mass, −inf at 0."""
    empty = mass == 0
    log_mass = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, mass)))
    return log_normalized(log_mass)
