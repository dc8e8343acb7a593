"""The small convolutional classifier whose features judge samples.

It is trained from a fixed seed on real images alone and never takes part in the
training of what it judges. An MLP would not do: in its features a Gaussian per class
passes for real, while it scores ten times the floor in these (measured on 8x8 digits).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import expect, whole
from kljax.models.layers import linear
from kljax.models.vision.images import check_batch, check_images
from kljax.typing import Array, Float, Key

__all__ = ["ConvClassifier", "random_shift"]


class ConvClassifier(nnx.Module):
    """Two convolutions with pooling, 64 ReLU features, logits.

    8x8 images pass two 3x3 convolutions (24, 48 channels) and one 2x2 max pooling,
    images from 16 pixels on pool after both. From 32 pixels on the first convolution
    has a stride (2, or 4 at 64) and a kernel twice as wide, so that it costs the same;
    4 to 7 pixels a side are left in every case.

    Args:
      size: side of the image in pixels, 8 to 64.
      channels: color channels.
      num_classes: logits, at least 2.
      features: length of the feature vector.
      rngs: random streams for the initial values.

    Raises:
      ValueError: an image size, or fewer than two classes.

    Example:
      >>> model = ConvClassifier(8, 1, 10, rngs=nnx.Rngs(0))
      >>> logits, features = model(jnp.ones((2, 8, 8, 1)))
      >>> logits.shape, features.shape
      ((2, 10), (2, 64))
    """

    def __init__(
        self,
        size: int,
        channels: int,
        num_classes: int,
        *,
        features: int = 64,
        rngs: nnx.Rngs,
    ):
        check_images(size, channels)
        whole("num_classes", num_classes, least=2)
        self.size, self.channels = size, channels
        self.pools = 1 if size < 16 else 2
        stride = max(1, size // 16)
        kernel = (3, 3) if stride == 1 else (2 * stride, 2 * stride)
        stem = nnx.Conv(channels, 24, kernel, strides=stride, rngs=rngs)
        self.convs = nnx.List([stem, nnx.Conv(24, 48, (3, 3), rngs=rngs)])
        here, side = 48, -(-size // stride) // 2**self.pools
        self.dense = linear(side * side * here, features, rngs=rngs)
        self.out = linear(features, num_classes, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"]]:
        """Logits and the features (after their ReLU) of images scaled to [-1, 1]."""
        check_batch(x, self.size, self.channels)
        first_pool = len(self.convs) - self.pools
        for i, conv in enumerate(self.convs):
            x = jax.nn.relu(conv(x))
            if i >= first_pool:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        features = jax.nn.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.out(features), features


def random_shift(
    key: Key[Array, ""], images: Float[Array, "b h w c"], *, limit: float = 0.7
) -> Float[Array, "b h w c"]:
    """Shift every image by its own uniform sub-pixel amount, up to `limit` pixels.

    Linear interpolation along each axis; pixels beyond the border repeat the border.

    Args:
      key: random key.
      images: square or not, any channels.
      limit: largest shift per axis in pixels, at least 0.

    Returns:
      The shifted images, same shape.

    Raises:
      ValueError: a negative limit.

    Example:
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> random_shift(jax.random.key(0), images).shape
      (2, 8, 8, 1)
    """
    expect("limit", limit, limit >= 0, "it must be at least 0")
    b, h, w, _ = images.shape
    shifts = jax.random.uniform(key, (2, b), images.dtype, minval=-limit, maxval=limit)

    def interpolation(size: int, shift: Array) -> Array:
        grid = jnp.arange(size, dtype=images.dtype)
        where = jnp.clip(grid + shift[:, None], 0, size - 1)
        return jax.nn.relu(1.0 - jnp.abs(where[:, :, None] - grid))

    rows, columns = interpolation(h, shifts[0]), interpolation(w, shifts[1])
    return jnp.einsum("bij,bjkc,blk->bilc", rows, images, columns)
