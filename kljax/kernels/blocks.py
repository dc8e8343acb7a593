"""Rows in blocks that stay in the cache on a CPU, all at once elsewhere.

The choice is made when a program is lowered for its platform.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array

_BLOCK = 2**19
"""Elements of one array in a block: a few such arrays are alive at a time."""


def block_rows(rows: int, width: int) -> int:
    """Rows in a block, or `rows` where one block is all.

    At least 8, however wide the row. A divisor of `rows` if one is near, because
    rows that are filled up cost a copy of the inputs.
    """
    most = max(8, _BLOCK // max(width, 1))
    if rows <= most:
        return rows
    fitting = [n for n in range(most, most // 2, -1) if rows % n == 0]
    return fitting[0] if fitting else most


def by_rows(function: Callable[[Any], Any], rows: Any, lead: int) -> Any:
    """``function(rows)``, block by block on a CPU.

    Args:
      function: acts on each row by itself; its results have the leading axes first.
      rows: arrays, the widest of them last, with `lead` leading axes in common.
      lead: number of leading axes.
    """
    arrays, structure = jax.tree.flatten(rows)
    shape = arrays[0].shape[:lead]
    count = math.prod(shape)
    width = max(math.prod(x.shape[lead:]) for x in arrays)
    size = block_rows(count, width)
    if size == count:
        return function(rows)
    blocks = -(-count // size)

    def whole(*arrays):
        return function(structure.unflatten(arrays))

    def one(arrays):
        return whole(*arrays)

    def split(x: Array) -> Array:
        x = x.reshape(count, *x.shape[lead:])
        if blocks * size != count:  # filled up, never made smaller
            x = jnp.pad(x, [(0, blocks * size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(blocks, size, *x.shape[1:])

    def join(x: Array) -> Array:
        x = x.reshape(blocks * size, *x.shape[2:])[:count]
        return x.reshape(*shape, *x.shape[1:])

    def blocked(*arrays):
        body = jax.checkpoint(one, prevent_cse=False)
        return jax.tree.map(join, jax.lax.map(body, [split(x) for x in arrays]))

    return jax.lax.platform_dependent(*arrays, cpu=blocked, default=whole)
