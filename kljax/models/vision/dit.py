"""Small diffusion transformer: patches, attention, adaLN-zero.

Reference: Peebles and Xie 2023, "Scalable diffusion models with transformers".
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import whole
from kljax.models.attention import SelfAttention
from kljax.models.embedding import Conditioned, ConditionEmbedding, sinusoidal
from kljax.models.layers import LECUN, MLP, ZEROS, linear, modulated
from kljax.models.vision.images import check_batch, check_images, cropped, framed
from kljax.typing import Array, Float

__all__ = ["DiT"]


class DiTBlock(nnx.Module):
    """Attention and MLP, each shifted, scaled and gated by the embedding."""

    def __init__(self, width: int, heads: int, embedding: int, *, rngs: nnx.Rngs):
        self.modulation = linear(embedding, 6 * width, init=ZEROS, rngs=rngs)
        self.attention = SelfAttention(width, heads, rngs=rngs)
        plain = {"bias": True, "init": LECUN}
        self.mlp = MLP(width, 4 * width, "plain", "gelu_tanh", **plain, rngs=rngs)

    def __call__(self, tokens: Array, embedding: Array) -> Array:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(
            self.modulation(embedding)[:, None], 6, axis=-1
        )
        inner = modulated(tokens, scale_a, shift_a)
        tokens = tokens + gate_a * self.attention(inner)
        return tokens + gate_m * self.mlp(modulated(tokens, scale_m, shift_m))


class DiT(Conditioned):
    """The network `F` of EDM preconditioning as a transformer over patches.

    Images that the patch does not divide are padded with zeros and cropped again.

    Args:
      size: side of the image in pixels, 8 to 64.
      channels: color channels.
      num_classes: classes; 0 for an unconditional model. One more id, `num_classes`,
        means "no class".
      patch: side of a patch in pixels.
      width: units per token, divisible by `heads` and by 4.
      depth: blocks.
      heads: attention heads.
      rngs: random streams for the initial values.

    Raises:
      ValueError: an image size, a patch above it, or a width that does not divide.

    Example:
      >>> model = DiT(8, 1, 10, width=32, depth=1, heads=2, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.arange(2)).shape
      (2, 8, 8, 1)

    Attributes:
      feature_shapes: shape of each block's output, laid out as a map, without the
        batch axis.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        num_classes: int = 0,
        *,
        patch: int = 2,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        check_images(size, channels)
        whole("patch", patch, most=size // 2)
        whole("depth", depth)
        if whole("width", width) % whole("heads", heads) or width % 4:
            raise ValueError(f"width is {width}; heads, {heads}, and 4 must divide it")
        self.size, self.channels, self.patch = size, channels, patch
        self.side = -(-size // patch)
        self.feature_shapes = ((self.side, self.side, width),) * depth
        self.condition = ConditionEmbedding(width, num_classes, rngs=rngs)
        self.embed = linear(patch * patch * channels, width, rngs=rngs)
        self.blocks = nnx.List(
            [DiTBlock(width, heads, width, rngs=rngs) for _ in range(depth)]
        )
        self.modulation = linear(width, 2 * width, init=ZEROS, rngs=rngs)
        self.out = linear(width, patch * patch * channels, init=ZEROS, rngs=rngs)

    def positions(self) -> Float[Array, "t d"]:
        """Fixed two-dimensional sinusoids, half of the numbers per axis."""
        width = self.feature_shapes[0][-1]
        line = sinusoidal(
            jnp.arange(self.side, dtype=jnp.float32),
            width // 2,
            low=1.0,
            high=1.0 / max(8, self.side),
        )
        rows = jnp.repeat(line, self.side, axis=0)
        columns = jnp.tile(line, (self.side, 1))
        return jnp.concatenate([rows, columns], axis=-1)

    def through(self, x: Array, embedding: Array) -> tuple[Array, Sequence[Array]]:
        check_batch(x, self.size, self.channels)
        b, p, side, c = x.shape[0], self.patch, self.side, self.channels
        patches = (
            framed(x, side * p)
            .reshape(b, side, p, side, p, c)
            .transpose(0, 1, 3, 2, 4, 5)
        )
        flat = patches.reshape(b, side * side, math.prod((p, p, c)))
        tokens = self.embed(flat) + self.positions().astype(x.dtype)
        embedding = jax.nn.silu(embedding)
        outputs = []
        for block in self.blocks:
            tokens = block(tokens, embedding)
            outputs.append(tokens.reshape(b, side, side, -1))
        scale, shift = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        out = self.out(modulated(tokens, scale, shift))
        out = out.reshape(b, side, side, p, p, c).transpose(0, 1, 3, 2, 4, 5)
        out = cropped(out.reshape(b, side * p, side * p, c), self.size)
        return out, outputs
