"""Arguments that several divergences take, checked alike."""

import jax.numpy as jnp
import numpy as np

from kljax.concrete import concrete
from kljax.typing import Array, ArrayLike

LEAST, MOST = 1e-30, 1e30
"""A temperature beyond these, and its reciprocal, leave no digits in float32."""


def rows_shaped(name: str, value: ArrayLike, rows: tuple[int, ...]) -> Array:
    """A positive number for all rows, or one for each: of the rows' rank, or raises.

    Args:
      name: the argument, for the message.
      value: real; from 1e-30 to 1e30 where it is known.
      rows: the shape of the result.

    Returns:
      An array that broadcasts against `rows`, float32 or wider.

    Raises:
      ValueError: another shape, or a number that is known to be out of range.
      TypeError: no real numbers.
    """
    array = jnp.asarray(value)
    if not (
        jnp.issubdtype(array.dtype, jnp.floating)
        or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise TypeError(f"{name} must be real numbers, got {array.dtype}")
    fits = len(array.shape) in (0, len(rows)) and all(
        mine in (1, row) for mine, row in zip(array.shape, rows)
    )
    if not fits:
        raise ValueError(
            f"{name} must be one number or have the shape of the result's rows, "
            f"{rows}; got {array.shape}"
        )
    check_positive(name, value)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def check_positive(name: str, value: ArrayLike) -> None:
    """Raises `ValueError` where a number is known that is not within 1e-30 to 1e30."""
    known = concrete(value)
    if known is None:
        return
    wrong = known[~((known >= LEAST) & (known <= MOST))]
    if np.size(wrong):
        raise ValueError(
            f"{name} must be positive, got {wrong.flat[0]}; expected {LEAST} to {MOST}"
        )
