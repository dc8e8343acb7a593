"""What can be said of values that are known before a program runs.

A traced value is not known, and no check here looks at one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import Array, ArrayLike

__all__ = ["checked_ids", "concrete"]


def concrete(value: Any) -> np.ndarray | None:
    """`value` on the host, or None: it is traced, or lies with other processes.

    In its own type: what `jax.numpy` would narrow, ids of 64 bits among them, is seen
    as it was given.
    """
    leaves = jax.tree.leaves(value)
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return None
    if any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in leaves):
        return None
    return np.asarray(value)


def checked_ids(
    name: str,
    value: ArrayLike,
    size: int,
    counts: ArrayLike | None = None,
    *,
    negative: bool = False,
) -> Array:
    """Ids in int32; one that counts and is known to be no outcome raises.

    Args:
      name: the argument, for the message.
      value: integers of any width.
      size: of the vocabulary.
      counts: which ids do, broadcast to their shape, by numbers that are not 0; None:
        all. Nothing is said of ids where this is traced.
      negative: whether ids below 0 are legal, as they have a meaning of their own.

    Returns:
      The ids, -1 in place of all below 0, and `size` in place of all from there on.

    Raises:
      ValueError: an id outside the vocabulary; names it and its place.
      TypeError: no integers.
    """
    known = concrete(value)
    array = jnp.asarray(value) if known is None else known
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    mask = np.True_ if counts is None else concrete(counts)
    if known is None or mask is None:
        return _narrowed(array, size)
    wrong = (known >= size) if negative else (known >= size) | (known < 0)
    wrong &= np.broadcast_to(mask, known.shape) != 0
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} holds {known[place]} at {list(place)}: expected 0 to {size - 1}, "
            f"an outcome of the {size} in the vocabulary; only what has weight 0 or is "
            "masked may be another"
        )
    return _narrowed(array, size)


def _narrowed(ids: Any, size: int) -> Array:
    """In int32, compared before it is narrowed: 2^32 is no 0."""
    if ids.dtype.itemsize < 4:
        ids = ids.astype(np.int32)
    if jnp.issubdtype(ids.dtype, jnp.signedinteger):
        ids = ids.clip(-1, size)
    else:
        ids = ids.clip(0, size)
    return jnp.asarray(ids.astype(np.int32))
