"""The products of a linear loss, and what makes logits of them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.typing import Array

__all__ = ["dot", "finish", "possible", "slope_dot", "wide_product"]


def dot(x: Array, y: Array, x_axis: int = 1, y_axis: int = 0) -> Array:
    """A matrix product in the wider input type, accumulated in at least float32."""
    dtype = jnp.promote_types(x.dtype, y.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    axes = (((x_axis,), (y_axis,)), ((), ()))
    x, y = x.astype(dtype), y.astype(dtype)
    return lax.dot_general(x, y, axes, preferred_element_type=wide)


def slope_dot(slope: Array, y: Array, dtype: Any, *, first: bool) -> Array:
    """The product of a gradient in the logits and hidden states or a head.

    In `dtype`, that of the forward product; but on a CPU, which multiplies in float32
    whatever it is given, the gradient is not rounded to less.

    Args:
      slope: ``[c, v]``.
      y: the head ``[d, v]``; or, with `first`, the hidden states ``[c, d]``.
      dtype: what the gradient is rounded to.
      first: whether to sum over the tokens, with `y` on the left.
    """

    def product(slope):
        return dot(y, slope, 0, 0) if first else dot(slope, y, 1, 1)

    if slope.dtype == dtype:
        return product(slope)
    narrow = lambda slope: product(slope.astype(dtype))  # noqa: E731
    return lax.platform_dependent(slope, cpu=product, default=narrow)


def possible(head: Array, bias: Array) -> Array:
    """The head, 0 in columns that the bias takes away: they may hold anything."""
    return jnp.where(bias == -jnp.inf, 0, head)


def finish(raw: Array, bias: Array | None, cap: Array | None) -> Array:
    """Logits from the product: bias, then the soft-cap ``cap · tanh(z/cap)``."""
    z = raw if bias is None else raw + bias.astype(raw.dtype)
    if cap is None:
        return z
    cap, missing = cap.astype(z.dtype), z == -jnp.inf
    return jnp.where(missing, z, cap * jnp.tanh(jnp.where(missing, 0, z) / cap))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def wide_product(dtype, states, head):
    """The product of a chunk whose head is of type `dtype`, but held in a wider one.

    So that the head's cotangents are summed over the chunks in the wide type.
    """
    return dot(states, head.astype(dtype))


@partial(wide_product.defjvp, symbolic_zeros=True)
def _wide_product_jvp(dtype, primals, tangents):
    (states, head), (d_states, d_head) = primals, tangents
    out = wide_product(dtype, states, head)
    tangent = jnp.zeros_like(out)
    if not isinstance(d_states, SymbolicZero):
        tangent += dot(d_states, head.astype(dtype)).astype(out.dtype)
    if not isinstance(d_head, SymbolicZero):
        tangent += dot(states, d_head).astype(out.dtype)
    return out, tangent
