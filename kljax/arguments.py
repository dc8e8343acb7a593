"""Arguments that several rooms take, checked alike; a ground that every room stands on.

What a value is can be said only where it is known before a program runs: an illegal one
raises and is named. Of a traced one no check here says anything but what its shape and
type tell; `legal` turns an illegal one into NaN, so that result and gradient show it.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import Array, ArrayLike, PyTree

__all__ = [
    "check_positive",
    "checked_ids",
    "concrete",
    "described",
    "expect",
    "falling",
    "fitting",
    "floating",
    "legal",
    "real",
    "rows_shaped",
    "shadow",
    "text",
    "traced",
    "unlike",
    "whole",
]

LEAST, MOST = 1e-30, 1e30
"""A temperature beyond these, and its reciprocal, leave no digits in float32."""


def described(value: Any) -> str:
    """A value in a few words, for a message.

    Example:
        >>> described([1, 2]), described(np.zeros((2, 3))), described("runs/a")
        ('a list of 2', 'an array of float64 (2, 3)', "the str 'runs/a'")
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str | int | float):
        return f"the {type(value).__name__} {value!r}"
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    if isinstance(value, list | tuple | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    kind = type(value).__name__
    return f"the {kind} {name}" if name else f"a value of type {kind}"


def unlike(name: str, value: Any, words: str, remedy: str = "") -> TypeError:
    """The error of a value of another type, ``name must be words, got ...: remedy``."""
    return TypeError(f"{name} must be {words}, got {described(value)}{remedy}")


def expect(name: str, value: Any, legal: Any, words: str) -> None:
    """Raises the `ValueError` ``name is value; words`` where it is not legal."""
    if not legal:
        raise ValueError(f"{name} is {value!r}; {words}")


def text(name: str, value: Any) -> str:
    """The value, which is text and not empty.

    Raises:
        TypeError: it is something else.
        ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise unlike(name, value, "text")
    if not value:
        raise ValueError(f"{name} must not be empty")
    return value


def whole(name: str, value: Any, least: int | None = 1, most: int | None = None) -> int:
    """The value as an int; None as a bound is none.

    Raises:
        TypeError: it is no whole number (3.0 is none, nor is True).
        ValueError: it is below `least` or above `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise unlike(name, value, "an int")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return number


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
    array = as_array(name, value, "integers") if known is None else known
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
    return floating(name, array)


def check_positive(name: str, value: ArrayLike) -> None:
    """Raises `ValueError` where a number is known that is not within 1e-30 to 1e30."""
    known = concrete(value)
    if known is None:
        return
    if known.dtype.kind in "OSU":
        raise unlike(name, value, "real numbers")
    wrong = known[~((known >= LEAST) & (known <= MOST))]
    if np.size(wrong):
        raise ValueError(
            f"{name} must be positive, got {wrong.flat[0]}; expected {LEAST} to {MOST}"
        )


def fitting(name: str, value: ArrayLike, rows: tuple[int, ...]) -> Array:
    """Real numbers, one or one for each row, as `rows_shaped` has it, of any size."""
    array = real(name, value)
    fits = len(array.shape) in (0, len(rows)) and all(
        mine in (1, row) for mine, row in zip(array.shape, rows)
    )
    if not fits:
        raise ValueError(
            f"{name} must be one number or have the shape of the result's rows, "
            f"{rows}; got {array.shape}"
        )
    return array


def as_array(name: str, value: ArrayLike, words: str = "an array of numbers") -> Array:
    """`value` as an array of whatever type; a TypeError that names it where it is none.

    What is an array already is returned as it is: outside `jit` each call counts.
    """
    if isinstance(value, jax.Array):
        return value
    try:  # JAX takes a string for the name of a type
        made = None if isinstance(value, str | None) else jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        made = None
    if made is None:
        raise unlike(name, value, words)
    return made


def real(name: str, value: ArrayLike) -> Array:
    """An array of real numbers; raises a TypeError for anything else."""
    found = as_array(name, value, "real numbers")
    kinds = jnp.floating, jnp.integer
    if not any(jnp.issubdtype(found.dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be real numbers, got {found.dtype}")
    return found


def floating(name: str, value: ArrayLike) -> Array:
    """An array of real numbers in float32, or float64 if they are."""
    found = real(name, value)
    # Floats of 8 bits promote to nothing.
    return found.astype(jnp.float64 if found.dtype == jnp.float64 else jnp.float32)


def floats(name: str, value: ArrayLike) -> Array:
    """An array of floating-point numbers in their own width, of 16 bits at least."""
    found = as_array(name, value, "floating-point numbers")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating-point numbers, got {found.dtype} "
            f"of shape {found.shape}"
        )
    return found if found.dtype.itemsize > 1 else found.astype(jnp.float32)


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
    values = concrete(x)
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
