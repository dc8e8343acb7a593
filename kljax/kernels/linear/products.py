"""The products of a linear loss, and what makes logits of them."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.typing import Array

__all__ = ["dot", "dots", "finish", "possible", "slope_dots", "wide_product"]


def dot(x: Array, y: Array, x_axis: int = 1, y_axis: int = 0) -> Array:
    """A matrix product in the wider input type, accumulated in at least float32."""
    dtype = jnp.promote_types(x.dtype, y.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    axes = (((x_axis,), (y_axis,)), ((), ()))
    x, y = x.astype(dtype), y.astype(dtype)
    return lax.dot_general(x, y, axes, preferred_element_type=wide)


def dots(states: Sequence, heads: Sequence) -> list:
    """The product of each side; None of one that has no head."""
    return [None if x is None else dot(x, y) for x, y in zip(states, heads)]


def slope_dots(
    slopes: Sequence,
    states: Sequence,
    heads: Sequence,
    of_states: Sequence,
    of_heads: Sequence,
) -> tuple[list, list]:
    """From gradients in the logits to those in hidden states and in heads.

    In the type of the forward product; but on a CPU, which multiplies in float32
    whatever it is given, the gradient is not rounded to less. Results are wide, as
    they are yet to be multiplied by a cotangent.

    Args:
      slopes: ``[c, v]`` of each side, None where it has none.
      states, heads: ``[c, d]`` and ``[d, v]`` of each side.
      of_states, of_heads: which of them are wanted; None for the others.
    """

    def rounded(slope, dtype, product):
        if slope.dtype == dtype:
            return product(slope)
        narrow = lambda slope: product(slope.astype(dtype))  # noqa: E731
        return lax.platform_dependent(slope, cpu=product, default=narrow)

    in_states: list = [None] * len(slopes)
    in_heads: list = [None] * len(slopes)
    for i, slope in enumerate(slopes):
        if slope is None:
            continue
        x, y = states[i], heads[i]
        dtype = jnp.result_type(x, y)
        if of_states[i]:
            in_states[i] = rounded(slope, dtype, partial(_dot_with, y))
        if of_heads[i]:
            in_heads[i] = rounded(slope, dtype, partial(dot, x, x_axis=0, y_axis=0))
    return in_states, in_heads


def _dot_with(head: Array, slope: Array) -> Array:
    return dot(slope, head, 1, 1)


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
