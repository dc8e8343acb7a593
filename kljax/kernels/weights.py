"""What a weight of 0 takes away may hold anything; what counts shows its NaN."""

import jax.numpy as jnp

from kljax.typing import Array, ArrayLike

__all__ = ["counted", "settled", "shown", "slope_in_weight", "weigh"]

_HUGE = 1e30
"""Beyond this, differences of two numbers overflow."""


def weigh(weights: Array, values: Array) -> Array:
    """``w · value``, 0 where w is 0; an infinite value has no derivative in w."""
    weights = weights.astype(jnp.promote_types(weights.dtype, values.dtype))
    infinite = jnp.isinf(values)
    finite = weights * slope_in_weight(weights, values)
    bound = jnp.where(weights == 0, 0, jnp.where(weights < 0, -jnp.inf, jnp.inf))
    return jnp.where(infinite, bound, finite)


def slope_in_weight(weights: Array, values: Array) -> Array:
    """The value; 0 if that is infinite, or a NaN that does not count."""
    nothing = jnp.isinf(values) | (jnp.isnan(values) & (weights == 0))
    return jnp.where(nothing, 0, values)


def settled(weights: Array | None, x: Array, *, impossible: bool = False) -> Array:
    """0 in place of what is not finite, in rows of weight 0.

    So that what does not count reaches no sum, as NaN times 0 would; the derivative in
    the weight of a row that is finite stays. `impossible`: ``-inf`` is legal.
    """
    if weights is None:
        return x
    size = x if impossible else jnp.abs(x)
    skipped = (weights == 0).reshape(*weights.shape, *(1,) * (x.ndim - weights.ndim))
    most = min(_HUGE, float(jnp.finfo(x.dtype).max))
    return jnp.where(skipped & ~(size <= most), 0, x)


def counted(weights: Array | None, wrong: Array) -> Array:
    """Which of the wrong rows have a weight."""
    return wrong if weights is None else wrong & (weights != 0)


def shown(values: Array, wrong: ArrayLike = False) -> Array:
    """NaN where a row is wrong; a NaN is one in the gradient too."""
    return values * jnp.where(jnp.isnan(values) | wrong, jnp.nan, 1)
