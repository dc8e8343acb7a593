"""Residual multilayer perceptron as a denoiser: digits, or points in the plane.

On a CPU it is the denoiser with the best samples per second at 8x8 pixels, because
its gradient is three matrix products and may stand inside `lax.scan` and `vmap`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import whole
from kljax.models.embedding import Conditioned, ConditionEmbedding
from kljax.models.layers import ZEROS, linear, modulated, standardized
from kljax.typing import Array

__all__ = ["MLPDenoiser"]


class ResidualBlock(nnx.Module):
    """`h + W_2 silu(LN(W_1 h) (1 + scale(e)) + shift(e))`."""

    def __init__(self, width: int, embedding: int, *, rngs: nnx.Rngs):
        self.dense_in = linear(width, width, rngs=rngs)
        self.modulation = linear(embedding, 2 * width, rngs=rngs)
        self.dense_out = linear(width, width, rngs=rngs)

    def __call__(self, hidden: Array, embedding: Array) -> Array:
        scale, shift = jnp.split(self.modulation(embedding), 2, axis=-1)
        inner = modulated(self.dense_in(hidden), scale, shift)
        return hidden + self.dense_out(jax.nn.silu(inner))


class MLPDenoiser(Conditioned):
    """Dense layer in, residual blocks, zero-initialized dense layer out.

    The network `F` of EDM preconditioning, on flattened events.

    Args:
      event_size: numbers per example (64 for 8x8 grey images, 2 for points).
      num_classes: classes; 0 for an unconditional model. One more id, `num_classes`,
        means "no class" (see `ConditionEmbedding`).
      width: units per layer.
      depth: residual blocks.
      embedding: length of the vector of noise level and class.
      rngs: random streams for the initial values.

    Raises:
      ValueError: a size is not positive.

    Example:
      >>> model = MLPDenoiser(64, 10, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((5, 8, 8, 1))
      >>> model(x, jnp.zeros(5), jnp.arange(5)).shape
      (5, 8, 8, 1)

    Attributes:
      feature_shapes: shape of each feature without the batch axis.
    """

    def __init__(
        self,
        event_size: int,
        num_classes: int = 0,
        *,
        width: int = 256,
        depth: int = 3,
        embedding: int = 128,
        rngs: nnx.Rngs,
    ):
        whole("event_size", event_size)
        whole("width", width)
        whole("depth", depth)
        whole("embedding", embedding)
        self.event_size = event_size
        self.feature_shapes = ((width,),) * depth
        self.condition = ConditionEmbedding(embedding, num_classes, rngs=rngs)
        self.dense_in = linear(event_size, width, rngs=rngs)
        self.blocks = nnx.List(
            [ResidualBlock(width, embedding, rngs=rngs) for _ in range(depth)]
        )
        self.dense_out = linear(width, event_size, init=ZEROS, rngs=rngs)

    def through(self, x: Array, embedding: Array) -> tuple[Array, Sequence[Array]]:
        size = math.prod(x.shape[1:])
        if x.ndim < 2 or size != self.event_size:
            raise ValueError(
                f"x has shape {x.shape}, {size} numbers per example; this model was "
                f"built for {self.event_size}"
            )
        hidden = self.dense_in(x.reshape(x.shape[0], size))
        outputs = []
        for block in self.blocks:
            hidden = block(hidden, embedding)
            outputs.append(hidden)
        out = self.dense_out(standardized(hidden)).reshape(x.shape)
        return out, outputs
