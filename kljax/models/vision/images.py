"""Square images as the models of this room take them: sizes, margins."""

import jax
import jax.numpy as jnp

from kljax.arguments import expect, whole
from kljax.typing import Array, Float, Key

__all__ = ["check_batch", "check_images", "cropped", "framed", "random_crop"]

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


def random_crop(
    key: Key[Array, ""],
    images: Float[Array, "b h w c"],
    *,
    margin: int = 4,
    mirror: bool = True,
) -> Float[Array, "b h w c"]:
    """Each image moved by up to `margin` whole pixels, and half of them mirrored.

    What comes in from outside is 0. The usual augmentation of CIFAR (He et al. 2016,
    section 4.2).

    Args:
      key: random key.
      images: in [-1, 1].
      margin: the largest shift per axis in pixels, at least 0.
      mirror: whether left and right are exchanged in half of the images.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: a negative margin.

    Example:
      >>> random_crop(jax.random.key(0), jnp.ones((2, 8, 8, 1))).shape
      (2, 8, 8, 1)
    """
    expect("margin", margin, margin >= 0, "it must be at least 0")
    b, *shape = images.shape
    places, turns = jax.random.split(key)
    corners = jax.random.randint(places, (b, 2), 0, 2 * margin + 1)
    frame = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    wide = jnp.pad(images, frame)
    cut = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (*at, 0), shape))
    out = cut(wide, corners)
    turned = jax.random.bernoulli(turns, 0.5 * mirror, (b, 1, 1, 1))
    return jnp.where(turned, out[:, :, ::-1], out)
