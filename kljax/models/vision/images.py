"""Square images as the models of this room take them: sizes, margins."""

import jax.numpy as jnp

from kljax.arguments import whole
from kljax.typing import Array, Float

__all__ = ["check_batch", "check_images", "cropped", "framed"]

SMALLEST, LARGEST = 8, 64


def check_images(size: int, channels: int) -> None:
    """Refuse image formats that the image models of this room are not made for.

    Args:
      size: side of the square image in pixels.
      channels: color channels.

    Raises:
      ValueError: `size` is outside 8 to 64, or `channels` is not positive.

    Example:
      >>> check_images(28, 1)
    """
    if not SMALLEST <= whole("size", size) <= LARGEST:
        raise ValueError(
            f"size is {size}; square images of {SMALLEST} to {LARGEST} pixels a side "
            "are expected (resize them when loading)"
        )
    whole("channels", channels)


def check_batch(x: Array, size: int, channels: int) -> None:
    """Refuse images of another shape than a model's.

    Raises:
      ValueError: `x` is not `[b, size, size, channels]`.
    """
    if x.shape[1:] != (size, size, channels):
        raise ValueError(
            f"x has shape {x.shape}; this model was built for "
            f"[b, {size}, {size}, {channels}]"
        )


def framed(x: Float[Array, "b h h c"], side: int) -> Float[Array, "b side side c"]:
    """The images in a frame of zeros."""
    before = (side - x.shape[1]) // 2
    margin = (before, side - x.shape[1] - before)
    return jnp.pad(x, ((0, 0), margin, margin, (0, 0)))


def cropped(x: Float[Array, "b h h c"], size: int) -> Float[Array, "b size size c"]:
    """The inverse of `framed`."""
    before = (x.shape[1] - size) // 2
    return x[:, before : before + size, before : before + size]
