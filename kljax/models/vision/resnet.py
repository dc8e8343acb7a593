"""Residual networks for small images: the classifiers of CIFAR's literature.

Widths (16, 32, 64) with 3, 5 or 9 blocks each are ResNet-20, -32 and -56; widths (64,
128, 256, 512) with 2 blocks each ResNet-18 with a stem of one 3x3 convolution.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.batch_norm import BatchNorm
from kljax.typing import Array, ArrayLike, Float

__all__ = ["ResNet"]


def _conv(before: int, features: int, size: int, stride: int, rngs: nnx.Rngs):
    # Padded alike on both sides, as PyTorch has it; "SAME" would not be at a stride.
    margin = size // 2
    return nnx.Conv(
        before,
        features,
        (size, size),
        strides=stride,
        padding=((margin, margin),) * 2,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


class Block(nnx.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + x), the skip by a 1x1 where shapes differ."""

    def __init__(self, before: int, features: int, stride: int, *, rngs: nnx.Rngs):
        self.conv_in = _conv(before, features, 3, stride, rngs)
        self.norm_in = BatchNorm(features, rngs=rngs)
        self.conv_out = _conv(features, features, 3, 1, rngs)
        self.norm_out = BatchNorm(features, rngs=rngs)
        self.projects = stride > 1 or before != features
        if self.projects:
            self.skip = _conv(before, features, 1, stride, rngs)
            self.norm_skip = BatchNorm(features, rngs=rngs)

    def __call__(self, x: Array, **how) -> Array:
        y = jax.nn.relu(self.norm_in(self.conv_in(x), **how))
        y = self.norm_out(self.conv_out(y), **how)
        if self.projects:
            x = self.norm_skip(self.skip(x), **how)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """A 3x3 convolution, stages of residual blocks, the mean over pixels, logits.

    Every stage but the first halves the side. Its running statistics need
    `pure(..., stateful=True)`.

    Args:
      channels: of the images.
      num_classes: logits.
      widths: features of the stages.
      blocks: of every stage.
      rngs: random streams for the initial values.

    Raises:
      ValueError: no stage, as many widths as blocks are not there, or one below 1.

    Example:
      >>> from kljax.models.functional import pure
      >>> build = lambda rngs: ResNet(1, 10, widths=(4, 8), blocks=(1, 1), rngs=rngs)
      >>> apply, initial = pure(build, stateful=True)
      >>> x = jnp.ones((2, 8, 8, 1))
      >>> logits, statistics = apply(*initial(jax.random.key(0)), x, train=True)
      >>> logits.shape
      (2, 10)

    References:
      He et al., "Deep residual learning for image recognition" (2016), section 4.2,
      with projections where shapes differ (option B).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        rngs: nnx.Rngs,
    ):
        if not widths or len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ValueError(
                f"a width and a number of blocks per stage, got widths {widths} and "
                f"blocks {blocks}"
            )
        self.stem = _conv(channels, widths[0], 3, 1, rngs)
        self.norm = BatchNorm(widths[0], rngs=rngs)
        made, before = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks)):
            for place in range(count):
                stride = 2 if stage and not place else 1
                made.append(Block(before, width, stride, rngs=rngs))
                before = width
        self.blocks = nnx.List(made)
        self.head = nnx.Linear(before, num_classes, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        where: ArrayLike | None = None,
        features: bool = False,
    ) -> Any:
        """Logits; `train` and `where` as in `kljax.models.batch_norm.BatchNorm`.

        With `features` `(logits, features)`, those of the stem and of every block.
        """
        how = {"train": train, "where": where}
        x = jax.nn.relu(self.norm(self.stem(x), **how))
        inside = [x]
        for block in self.blocks:
            inside.append(block(inside[-1], **how))
        logits = self.head(jnp.mean(inside[-1], axis=(1, 2)))
        return (logits, tuple(inside)) if features else logits
