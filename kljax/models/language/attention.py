"""The attention of a language model: rotated, grouped, over a block or over a cache."""

from typing import NamedTuple

from flax import nnx

from kljax.models.attention import attend, write
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.rope import rotate
from kljax.models.layers import Dense, RMSNorm, normal
from kljax.typing import Array, Float

__all__ = ["Attention", "Context", "Memory"]

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
            init=normal((2 * config.depth * size) ** -0.5),
            rngs=rngs,
        )
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def __call__(
        self, x: Float[Array, "b t d"], context: Context
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
