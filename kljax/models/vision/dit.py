"""Small diffusion transformer: patches, attention, adaLN-zero.

Reference: Peebles and Xie 2023, "Scalable diffusion models with transformers".
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.embedding import ConditionEmbedding, sinusoidal
from kljax.models.vision.unet import check_images
from kljax.typing import Array, Float, Int

__all__ = ["DiT"]

ZEROS = nnx.initializers.zeros_init()


class DiTBlock(nnx.Module):
    """Attention and MLP, each shifted, scaled and gated by the embedding."""

    def __init__(self, width: int, heads: int, embedding: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.modulation = nnx.Linear(embedding, 6 * width, kernel_init=ZEROS, rngs=rngs)
        self.norm_attention = nnx.LayerNorm(
            width, use_bias=False, use_scale=False, rngs=rngs
        )
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.mixed = nnx.Linear(width, width, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, tokens: Array, embedding: Array) -> Array:
        b, t, width = tokens.shape
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(
            self.modulation(embedding)[:, None], 6, axis=-1
        )
        inner = self.norm_attention(tokens) * (1.0 + scale_a) + shift_a
        qkv = self.qkv(inner).reshape(b, t, 3, self.heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        attended = jax.nn.dot_product_attention(q, k, v).reshape(b, t, width)
        tokens = tokens + gate_a * self.mixed(attended)
        inner = self.norm_mlp(tokens) * (1.0 + scale_m) + shift_m
        return tokens + gate_m * self.mlp_out(jax.nn.gelu(self.mlp_in(inner)))


class DiT(nnx.Module):
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
        if not 1 <= patch <= size // 2:
            raise ValueError(f"patch is {patch}; expected 1 to {size // 2} for {size}")
        if depth < 1 or heads < 1 or width % heads or width % 4:
            raise ValueError(
                f"width is {width}, heads {heads}, depth {depth}; width must be "
                "divisible by heads and by 4, and depth at least 1"
            )
        self.size, self.channels, self.patch = size, channels, patch
        self.side = -(-size // patch)
        self.feature_shapes = ((self.side, self.side, width),) * depth
        self.condition = ConditionEmbedding(width, num_classes, rngs=rngs)
        self.embed = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        self.blocks = nnx.List(
            [DiTBlock(width, heads, width, rngs=rngs) for _ in range(depth)]
        )
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.modulation = nnx.Linear(width, 2 * width, kernel_init=ZEROS, rngs=rngs)
        self.out = nnx.Linear(
            width, patch * patch * channels, kernel_init=ZEROS, rngs=rngs
        )

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

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise_label: Float[Array, " b"],
        class_ids: Int[Array, " b"] | None = None,
        *,
        features: bool = False,
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """Network output, shaped like `x`; with `features` also each block's output.

        Args:
          x: the scaled noisy image.
          noise_label: `ln(sigma) / 4`.
          class_ids: integers in [0, num_classes], or None for "no class".
          features: return `(output, block outputs)`, each `[b, side, side, width]`.
        """
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"x has shape {x.shape}; this model was built for "
                f"[b, {self.size}, {self.size}, {self.channels}]"
            )
        b, p, side, c = x.shape[0], self.patch, self.side, self.channels
        before = (side * p - self.size) // 2
        margin = (before, side * p - self.size - before)
        padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
        patches = padded.reshape(b, side, p, side, p, c).transpose(0, 1, 3, 2, 4, 5)
        flat = patches.reshape(b, side * side, math.prod((p, p, c)))
        tokens = self.embed(flat) + self.positions().astype(x.dtype)
        embedding = jax.nn.silu(self.condition(noise_label, class_ids))
        outputs = []
        for block in self.blocks:
            tokens = block(tokens, embedding)
            outputs.append(tokens.reshape(b, side, side, -1))
        scale, shift = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        out = self.out(self.norm(tokens) * (1.0 + scale) + shift)
        out = out.reshape(b, side, side, p, p, c).transpose(0, 1, 3, 2, 4, 5)
        out = out.reshape(b, side * p, side * p, c)
        out = out[:, before : before + self.size, before : before + self.size]
        return (out, tuple(outputs)) if features else out
