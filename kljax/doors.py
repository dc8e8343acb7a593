"""What becomes of illegal values and of NaN where arrays come in.

An illegal value that is known raises and is named. One that is traced cannot: it turns
into NaN there, so that the result and its gradient show it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import Array, ArrayLike

__all__ = ["falling", "floating", "known", "legal", "shadow"]


def known(x: ArrayLike) -> np.ndarray | None:
    """The values, or None while they are traced."""
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def floating(value: ArrayLike) -> Array:
    """An array of float32 at least."""
    array = jnp.asarray(value)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def legal(name: str, x: Array, illegal: Callable, words: str) -> Array:
    """`x` where it is legal; NaN passes, as a comparison with it is False.

    Args:
      name, words: for the message, ``name must be words``.
      x: a floating array.
      illegal: from an array, NumPy's or JAX's, to where it is not legal; it may reduce
        axes that it keeps with size 1.

    Raises:
      ValueError: an illegal value that is known; names it.
    """
    values = known(x)
    if values is None:
        return x * jnp.where(illegal(x), jnp.nan, 1).astype(x.dtype)
    found = np.asarray(illegal(values))
    if found.any():
        first = zip(np.argwhere(found)[0], found.shape, values.shape)
        at = tuple(slice(None) if few < size else i for i, few, size in first)
        raise ValueError(f"{name} must be {words}, got {values[at].tolist()}")
    return x


def shadow(x: Array) -> Array:
    """0, elementwise; NaN, in value and derivative, where `x` is NaN."""
    return jnp.where(jnp.isnan(x), x * x, 0)


def falling(edges):
    """Where an edge lies below the one before it."""
    below = edges[1:] < edges[:-1]
    return (np if isinstance(below, np.ndarray) else jnp).append(False, below)
