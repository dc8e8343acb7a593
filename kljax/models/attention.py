"""Causal attention with shared key heads, over a block of tokens or over a cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.rope import rotate
from kljax.models.layers import Dense, RMSNorm, wide
from kljax.typing import Array, Bool, Float, Int

__all__ = ["Attention", "attend", "causal", "nearest"]

Memory = tuple[Array, Array, Array]
"""One layer's keys and values `[b, kv_heads, slots, head_dim]`, and the next slot."""


class Context(NamedTuple):
    """What the tokens of a block are to each other, for the layers that read them.

    Attributes:
      visible: which slots a token reads, `[b or 1, t, s]`.
      turn: cosines and sines of the tokens' positions; None without rotation.
      where: which tokens count; None: all.
      memory: what this layer read before.
    """

    visible: Array
    turn: tuple[Array, Array] | None = None
    where: Array | None = None
    memory: Memory | None = None


def attend(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b k s d"],
    value: Float[Array, "b k s d"],
    visible: Bool[Array, "#b t s"],
) -> Float[Array, "b t h d"]:
    """Softmax attention; query head `i` reads key head `i // (h / k)`.

    `out_t = sum_s softmax_s(query_t . key_s / sqrt(d)) value_s` over visible `s`.

    Args:
      query: one vector per token and head.
      key: one vector per slot and key head.
      value: likewise.
      visible: which slots a token reads. A token that sees none reads the mean of all
        of them; its output is finite and means nothing.

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
        weights = jax.nn.softmax(jnp.where(visible[0], scores, hidden), axis=-1)
        weights = weights.astype(value.dtype)[..., None]
        out = jnp.sum(weights * value[0, :, None], axis=-2, dtype=dtype)
        return out.reshape(b, t, h, d).astype(query.dtype)
    # Heads that share a key are rows of one matrix product.
    rows = query.transpose(0, 2, 3, 1, 4).reshape(b, k, -1, d)
    scores = jnp.einsum("bknd,bksd->bkns", rows, key, preferred_element_type=dtype)
    scores = scores.reshape(b, k, h // k, t, -1)
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


class Attention(nnx.Module):
    """Queries, keys and values of every head, attention, and the output map."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.head_dim = config.head_dim
        size = config.heads * config.head_dim
        shared, bias = config.kv_heads * config.head_dim, config.qkv_bias
        self.query = Dense(config.width, size, bias=bias, rngs=rngs)
        self.key = Dense(config.width, shared, bias=bias, rngs=rngs)
        self.value = Dense(config.width, shared, bias=bias, rngs=rngs)
        self.output = Dense(
            size,
            config.width,
            bias=config.output_bias,
            deviation=(2 * config.depth * size) ** -0.5,
            rngs=rngs,
        )
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        context: Context,
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array]]:
        """The layer's output, and its keys and values (with a memory: all slots)."""
        b, t, _ = x.shape
        turn, visible, memory = context.turn, context.visible, context.memory
        q, k, v = (
            part(x).reshape(b, t, -1, self.head_dim)
            for part in (self.query, self.key, self.value)
        )
        if hasattr(self, "query_norm"):
            q, k = self.query_norm(q), self.key_norm(k)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if memory is not None:
            keys, values, cursor = memory
            k = write(keys, k, cursor, axis=2)
            v = write(values, v, cursor, axis=2)
        out = attend(q, k.astype(x.dtype), v.astype(x.dtype), visible)
        return self.output(out.reshape(b, t, -1)), (k, v)


def write(slots: Array, block: Array, cursor: Array, axis: int) -> Array:
    """The block in the slots from `cursor` on, the same in all rows."""
    block = block.astype(slots.dtype)
    return jax.lax.dynamic_update_slice_in_dim(slots, block, cursor, axis)
