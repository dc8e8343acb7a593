"""Batches that are a function of the step alone, and functions applied part by part."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from kljax.arguments import whole
from kljax.typing import Int, PyTree

__all__ = ["in_parts", "passes", "pieces"]


def passes(
    count: int, size: int, *stream: int
) -> Callable[[int], Int[np.ndarray, "b"]]:
    """`rows(n)`: the rows of step n, in an order drawn anew for every pass.

    Within a pass no row comes twice; what does not fill a batch at its end is left out.

    Args:
      count: rows that there are, at least 1.
      size: rows of a batch, at least 1; all of them where there are fewer.
      stream: non-negative integers that seed the orders.

    Returns:
      A function of the step, so that resuming means knowing the step.

    Raises:
      ValueError: no rows, or batches of none.

    Example:
      >>> rows = passes(6, 3, 0)
      >>> sorted([*rows(0).tolist(), *rows(1).tolist()])
      [0, 1, 2, 3, 4, 5]
    """
    size = min(whole("size", size), whole("count", count))
    per_pass = count // size

    def rows(n: int) -> Int[np.ndarray, "b"]:
        turn, place = divmod(n, per_pass)
        order = np.random.default_rng([*stream, turn]).permutation(count)
        return order[place * size : (place + 1) * size]

    return rows


def pieces(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, "b"], int]]:
    """Row numbers in parts of one size, and how many of each part are new.

    The last part is filled up with the first rows: one shape, one program.

    Example:
      >>> [(rows.tolist(), new) for rows, new in pieces(3, 2)]
      [([0, 1], 2), ([2, 0], 1)]
    """
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)


def in_parts(
    function: Callable[..., PyTree],
    size: int,
    *arrays: Any,
    note: Callable[[int], None] = lambda done: None,
) -> PyTree:
    """`function(*arrays)` over the leading axis, `size` rows at a time, on the host.

    Args:
      function: of arrays `[size, ...]`, to a pytree of arrays `[size, ...]`.
      size: rows of a part; every part has it, so that one program is compiled.
      arrays: each `[n, ...]`, n at least 1.
      note: told after every part how many rows are done.

    Returns:
      The pytree of `function`, its leaves NumPy arrays `[n, ...]`.

    Example:
      >>> in_parts(lambda x: 2 * x, 2, np.arange(3)).tolist()
      [0, 2, 4]
    """
    parts, done = [], 0
    for rows, new in pieces(len(arrays[0]), size):
        found = jax.device_get(function(*(np.asarray(a[rows]) for a in arrays)))
        parts.append(jax.tree.map(lambda x, new=new: x[:new], found))
        done += new
        note(done)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
