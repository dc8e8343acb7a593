"""U-Net with attention, for square images of 8 to 64 pixels, grey or colored.

On a CPU the gradient of a convolution inside `lax.scan`, `while` or `map` is 15 to 30
times slower than outside (measured): step such a model from Python there.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import whole
from kljax.models.attention import SelfAttention
from kljax.models.embedding import Conditioned, ConditionEmbedding
from kljax.models.layers import ZEROS, GroupNorm, linear
from kljax.models.vision.images import check_batch, check_images, cropped, framed
from kljax.typing import Array

__all__ = ["UNet"]


class ConvBlock(nnx.Module):
    """Two 3x3 convolutions, the second modulated by the embedding; residual."""

    def __init__(self, c_in: int, c_out: int, embedding: int, *, rngs: nnx.Rngs):
        self.norm_in = GroupNorm(c_in, rngs=rngs)
        self.conv_in = nnx.Conv(c_in, c_out, (3, 3), rngs=rngs)
        self.modulation = linear(embedding, 2 * c_out, rngs=rngs)
        self.norm_out = GroupNorm(c_out, rngs=rngs)
        self.conv_out = nnx.Conv(c_out, c_out, (3, 3), kernel_init=ZEROS, rngs=rngs)
        same = c_in == c_out
        self.bypass = None if same else nnx.Conv(c_in, c_out, (1, 1), rngs=rngs)

    def __call__(self, x: Array, embedding: Array) -> Array:
        hidden = self.conv_in(jax.nn.silu(self.norm_in(x)))
        scale, shift = jnp.split(self.modulation(embedding)[:, None, None], 2, axis=-1)
        hidden = jax.nn.silu(self.norm_out(hidden) * (1.0 + scale) + shift)
        straight = x if self.bypass is None else self.bypass(x)
        return straight + self.conv_out(hidden)


class AttentionBlock(nnx.Module):
    """Self-attention over the pixels, zero-initialized output, residual."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        heads = max(1, channels // 64)
        heads = 1 if channels % heads else heads
        self.norm = GroupNorm(channels, rngs=rngs)
        self.mix = SelfAttention(channels, heads, init=ZEROS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        return x + self.mix(self.norm(x).reshape(b, h * w, c)).reshape(x.shape)


class Stage(nnx.Module):
    """One block of a level: a `ConvBlock` and, at chosen resolutions, attention."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, attend: bool, *, rngs: nnx.Rngs
    ):
        self.block = ConvBlock(c_in, c_out, embedding, rngs=rngs)
        self.attention = AttentionBlock(c_out, rngs=rngs) if attend else None

    def __call__(self, x: Array, embedding: Array) -> Array:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class UNet(Conditioned):
    """The network `F` of EDM preconditioning for square images.

    Sizes that the levels do not divide are padded with zeros and cropped again.

    Args:
      size: side of the image in pixels, 8 to 64.
      channels: color channels.
      num_classes: classes; 0 for an unconditional model. One more id, `num_classes`,
        means "no class".
      width: channels at the first level, before the multiplier.
      multipliers: channel multiplier of each level; None takes as many levels (at
        most four) as keep the lowest at 4 pixels or more, the first with 1, the
        others with 2.
      blocks: residual blocks per level.
      attention: resolutions (of the padded image) with attention; None means all of
        16 pixels or less.
      embedding: length of the condition vector; None means `4 width`.
      rngs: random streams for the initial values.

    Raises:
      ValueError: an image size, or a level below 2 pixels.

    Example:
      >>> model = UNet(8, 1, 10, width=8, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.arange(2)).shape
      (2, 8, 8, 1)

    Attributes:
      resolutions: side of each level in pixels, highest first.
      feature_shapes: shape of each encoder feature without the batch axis.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        num_classes: int = 0,
        *,
        width: int = 64,
        multipliers: tuple[int, ...] | None = None,
        blocks: int = 2,
        attention: tuple[int, ...] | None = None,
        embedding: int | None = None,
        rngs: nnx.Rngs,
    ):
        check_images(size, channels)
        if multipliers is None:
            levels = min(4, int(math.log2(size / 4)) + 1)
            multipliers = (1,) + (2,) * (levels - 1)
        whole("blocks", blocks)
        whole("width", width)
        whole("the number of multipliers", len(multipliers))
        unit = 2 ** (len(multipliers) - 1)
        padded = -(-size // unit) * unit
        if padded // unit < 2 and len(multipliers) > 1:
            raise ValueError(
                f"multipliers has {len(multipliers)} levels; an image of {size} pixels "
                f"would shrink to {padded // unit} pixel"
            )
        self.size, self.channels, self.padded = size, channels, padded
        self.resolutions = tuple(padded // 2**i for i in range(len(multipliers)))
        if attention is None:
            attention = tuple(r for r in self.resolutions if r <= 16)
        depth = width * 4 if embedding is None else embedding
        self.condition = ConditionEmbedding(depth, num_classes, rngs=rngs)
        self.stem = nnx.Conv(channels, width, (3, 3), rngs=rngs)

        down, shrink, skips, here = [], [], [width], width
        for level, (factor, res) in enumerate(
            zip(multipliers, self.resolutions, strict=True)
        ):
            stages = []
            for _ in range(blocks):
                out = width * factor
                stages.append(Stage(here, out, depth, res in attention, rngs=rngs))
                here = out
                skips.append(here)
            down.append(nnx.List(stages))
            if level + 1 < len(multipliers):
                shrink.append(nnx.Conv(here, here, (3, 3), strides=2, rngs=rngs))
                skips.append(here)
        self.feature_shapes = tuple(
            (res, res, width * factor)
            for factor, res in zip(multipliers, self.resolutions, strict=True)
        )
        self.down, self.shrink = nnx.List(down), nnx.List(shrink)
        self.middle = Stage(here, here, depth, True, rngs=rngs)

        up, grow = [], []
        for level in reversed(range(len(multipliers))):
            stages, res = [], self.resolutions[level]
            for _ in range(blocks + 1):
                out, extra = width * multipliers[level], skips.pop()
                stages.append(
                    Stage(here + extra, out, depth, res in attention, rngs=rngs)
                )
                here = out
            up.append(nnx.List(stages))
            if level:
                grow.append(nnx.Conv(here, here, (3, 3), rngs=rngs))
        self.up, self.grow = nnx.List(up), nnx.List(grow)
        self.norm = GroupNorm(here, rngs=rngs)
        self.out = nnx.Conv(here, channels, (3, 3), kernel_init=ZEROS, rngs=rngs)

    def through(self, x: Array, embedding: Array) -> tuple[Array, Sequence[Array]]:
        check_batch(x, self.size, self.channels)
        embedding = jax.nn.silu(embedding)
        hidden = self.stem(framed(x, self.padded))
        skips, encoded = [hidden], []
        for level, stages in enumerate(self.down):
            for stage in stages:
                hidden = stage(hidden, embedding)
                skips.append(hidden)
            encoded.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
                skips.append(hidden)
        hidden = self.middle(hidden, embedding)
        for level, stages in enumerate(self.up):
            for stage in stages:
                joined = jnp.concatenate([hidden, skips.pop()], axis=-1)
                hidden = stage(joined, embedding)
            if level < len(self.grow):
                doubled = hidden.repeat(2, axis=1).repeat(2, axis=2)
                hidden = self.grow[level](doubled)
        out = cropped(self.out(jax.nn.silu(self.norm(hidden))), self.size)
        return out, encoded
