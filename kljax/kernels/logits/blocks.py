"""Rows in blocks that stay in the cache on a CPU, all at once elsewhere.

The choice is made when a program is lowered for its platform.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array

_BLOCK = 2**16
"""Elements of one array in a block: a few such arrays are alive at a time."""


def block_rows(rows: int, width: int) -> int:
    """Rows in a block, or `rows` where one block is all.

    At least 2, however wide the row and whatever divides `rows`; blocks are as many as
    the largest size needs, and equal.
    """
    most = max(2, _BLOCK // max(width, 1))
    return rows if rows <= most else -(-rows // -(-rows // most))


def by_rows(
    function: Callable[[Any], Any],
    rows: Any,
    lead: int,
    elsewhere: Callable[[Any], Any] | None = None,
) -> Any:
    """``function(rows)``, block by block on a CPU.

    Args:
      function: acts on each row by itself; its results have the leading axes first.
      rows: arrays, the widest of them last, with `lead` leading axes in common.
      lead: number of leading axes.
      elsewhere: in place of `function` on all other platforms.
    """
    arrays, structure = jax.tree.flatten(rows)
    shape = arrays[0].shape[:lead]
    count = math.prod(shape)
    width = max(math.prod(x.shape[lead:]) for x in arrays)
    size = block_rows(count, width)
    if size == count and elsewhere is None:
        return function(rows)
    blocks = -(-count // size)
    surplus = blocks * size - count

    def whole(*arrays):
        return function(structure.unflatten(arrays))

    def join(x: Array) -> Array:
        tail = x.shape[2:]
        if not surplus:
            return x.reshape(*shape, *tail)
        x = jnp.concatenate([x[:-1].reshape(-1, *tail), x[-1, surplus:]])
        return x.reshape(*shape, *tail)

    def blocked(*arrays):
        flat = [x.reshape(count, *x.shape[lead:]) for x in arrays]

        # The last block begins early where the size does not divide: to fill the arrays
        # up would copy them, and so would cutting them.
        def one(block):
            start = jnp.minimum(block * size, count - size)
            part = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in flat)
            return whole(*part)

        body = jax.checkpoint(one, prevent_cse=False)
        return jax.tree.map(join, jax.lax.map(body, jnp.arange(blocks)))

    def other(*arrays):
        return (elsewhere or function)(structure.unflatten(arrays))

    here = whole if size == count else blocked
    return jax.lax.platform_dependent(*arrays, cpu=here, default=other)
