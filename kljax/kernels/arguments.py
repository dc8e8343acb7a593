"""Arguments that several rooms take, checked alike.

What a value is can be said only where it is known before a program runs: of a traced
one no check here says anything but what its shape and type tell.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import Array, ArrayLike, PyTree

__all__ = [
    "check_positive",
    "checked_ids",
    "concrete",
    "fitting",
    "rows_shaped",
    "traced",
]

LEAST, MOST = 1e-30, 1e30
"""A temperature beyond these, and its reciprocal, leave no digits in float32."""


def concrete(value: Any) -> np.ndarray | None:
    """`value` on the host, or None: it is traced, or lies with other processes.

    In its own type: what `jax.numpy` would narrow, ids of 64 bits among them, is seen
    as it was given.
    """
    leaves = jax.tree.leaves(value)
    if traced(leaves):
        return None
    if any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in leaves):
        return None
    return np.asarray(value)


def traced(tree: PyTree) -> bool:
    """Whether any leaf is known only when the program runs."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


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
    array = fitting(name, value, rows)
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


def fitting(name: str, value: ArrayLike, rows: tuple[int, ...]) -> Array:
    """Real numbers, one or one for each row, as `rows_shaped` has it, of any size."""
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
    return array
