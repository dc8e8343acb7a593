"""Softmax attention, of words and of pixels, and what a token sees."""

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.layers import LECUN, Draw, linear, wide
from kljax.typing import Array, Bool, Float, Int

__all__ = ["SelfAttention", "attend", "causal", "nearest", "write"]


def attend(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b k s d"],
    value: Float[Array, "b k s d"],
    visible: Bool[Array, "#b t s"] | None = None,
    bias: Float[Array, "h t s"] | None = None,
) -> Float[Array, "b t h d"]:
    """Softmax attention; query head `i` reads key head `i // (h / k)`.

    `out_t = sum_s softmax_s(query_t . key_s / sqrt(d) + bias) value_s` over visible
    `s`; a window is a `visible` of the `nearest`.

    Args:
      query: one vector per token and head.
      key: one vector per slot and key head.
      value: likewise.
      visible: which slots a token reads; None: all. A token that sees none reads the
        mean of all of them; its output is finite and means nothing.
      bias: added to every head's scores.

    Returns:
      One vector per token and head, in the dtype of `query`.

    Example:
      >>> query, key = jnp.ones((1, 2, 6, 4)), jnp.ones((1, 3, 2, 4))
      >>> attend(query, key, key, jnp.ones((1, 2, 2), bool)).shape
      (1, 2, 6, 4)
    """
    b, t, h, d = query.shape
    k = key.shape[1]
    dtype = wide(query.dtype)
    query = (query * d**-0.5).reshape(b, t, k, h // k, d)
    hidden = jnp.finfo(dtype).min
    if b * t == 1:
        # A product and a sum fuse into one pass over the cache, which stays in place;
        # an einsum of one row makes XLA's CPU compiler copy keys and values twice.
        row = query.reshape(k, h // k, 1, d)
        scores = jnp.sum(row * key[0, :, None], axis=-1, dtype=dtype)
        if bias is not None:
            scores = scores + bias.reshape(scores.shape)
        if visible is not None:
            scores = jnp.where(visible[0], scores, hidden)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)[..., None]
        out = jnp.sum(weights * value[0, :, None], axis=-2, dtype=dtype)
        return out.reshape(b, t, h, d).astype(query.dtype)
    # Heads that share a key are rows of one matrix product.
    rows = query.transpose(0, 2, 3, 1, 4).reshape(b, k, -1, d)
    scores = jnp.einsum("bknd,bksd->bkns", rows, key, preferred_element_type=dtype)
    scores = scores.reshape(b, k, h // k, t, -1)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape[1:])
    if visible is not None:
        scores = jnp.where(visible[:, None, None], scores, hidden)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights.reshape(b, k, (h // k) * t, -1)
    out = jnp.einsum("bkns,bksd->bknd", weights, value)
    out = out.reshape(b, h, t, d).swapaxes(1, 2)
    return out.astype(query.dtype)


def causal(
    t: int, where: Bool[Array, "b t"] | None
) -> tuple[Bool[Array, "#b t t"], Int[Array, "*b t"]]:
    """What every token of a block of `t` sees, and the tokens' positions."""
    visible = jnp.tril(jnp.ones((t, t), bool))[None]
    if where is None:
        return visible, jnp.arange(t, dtype=jnp.int32)
    count = jnp.cumsum(where.astype(jnp.int32), axis=1)
    return visible & where[:, None], jnp.maximum(count - 1, 0)


def nearest(visible: Bool[Array, "#b t s"], window: int) -> Bool[Array, "#b t s"]:
    """Of the slots that a token sees, the last `window`; holes are not counted.

    Args:
      visible: which slots a token may read.
      window: how many of them it does read, its own included.

    Example:
      >>> nearest(jnp.array([[[True, True, False, True]]]), 2)[0, 0].tolist()
      [False, True, False, True]
    """
    if window >= visible.shape[-1]:
        return visible
    behind = jnp.cumsum(visible[..., ::-1], axis=-1, dtype=jnp.int32)[..., ::-1]
    return visible & (behind <= window)


def write(slots: Array, block: Array, cursor: Array, axis: int) -> Array:
    """The block in the slots from `cursor` on, the same in all rows."""
    block = block.astype(slots.dtype)
    return jax.lax.dynamic_update_slice_in_dim(slots, block, cursor, axis)


class SelfAttention(nnx.Module):
    """Every token or pixel reads all of them.

    Args:
      width: numbers per token.
      heads: a divisor of `width`.
      init: initial values of the output map.
      rngs: random streams for the initial values.
    """

    def __init__(self, width: int, heads: int, *, init: Draw = LECUN, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.out = linear(width, width, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = jnp.moveaxis(parts, 2, 0)
        mixed = attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2))
        return self.out(mixed.reshape(x.shape))
