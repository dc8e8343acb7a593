"""Rows in blocks that stay in the cache on a CPU, all at once elsewhere.

The choice is made when a program is lowered for its platform.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array

_BLOCK = 2**17
"""Elements of one array in a block: a few such arrays are alive at a time."""


def block_rows(rows: int, width: int) -> int:
    """Rows in a block, or `rows` where one block is all.

    At least 2, however wide the row and whatever divides `rows`; blocks are as many as
    the largest size needs, and equal.
    """
    most = max(2, _BLOCK // max(width, 1))
    return rows if rows <= most else -(-rows // -(-rows // most))


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

    return jax.lax.platform_dependent(*arrays, cpu=blocked, default=whole)


def twice_where(
    begin: Callable[[Any], Any],
    measure: Callable[[Any, Any], Any],
    hard: Callable[[Any], Array],
    rows: Any,
    lead: int,
    together: bool,
) -> Any:
    """``measure(rows, begin(rows))``, and of hard rows `measure` of what was found.

    By loops that end where no row is hard: under `vmap` as well, where a condition
    would compute both branches.

    Args:
      begin: numbers of each row, from the rows.
      measure: better ones, from the rows and those before; acts on each row by itself.
      hard: whether to measure a row again, from its numbers.
      rows: as in `by_rows`.
      lead: number of leading axes.
      together: rows are never taken in blocks.
    """
    shape = jax.tree.leaves(rows)[0].shape[:lead]
    count = math.prod(shape)
    width = max(math.prod(x.shape[lead:]) for x in jax.tree.leaves(rows))
    size = block_rows(count, width)

    def sought(carry):
        return jnp.any(carry[0])

    def whole(rows):
        def once_more(carry):
            _, first, found = carry
            # As if the rows changed: what is made of them would be stored beforehand.
            found = measure(*jax.lax.optimization_barrier((rows, found)))
            return hard(found) & first, jnp.zeros_like(first), found

        ones = jnp.ones(shape, bool)
        return jax.lax.while_loop(sought, once_more, (ones, ones, begin(rows)))[2]

    def blocked(rows):
        found = by_rows(lambda rows: measure(rows, begin(rows)), rows, lead)
        which = hard(found).reshape(count)
        flat, found = (
            jax.tree.map(lambda x: x.reshape(count, *x.shape[lead:]), x)
            for x in (rows, found)
        )

        def next_block(carry):
            # Begun earlier where it would end beyond the last row.
            start = jnp.minimum(jnp.argmax(carry[0]), count - size)
            part, old = (
                jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), x)
                for x in (flat, carry[1])
            )
            done = jnp.zeros(size, bool), measure(part, old)
            return jax.tree.map(
                lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0),
                carry,
                done,
            )

        found = jax.lax.while_loop(sought, next_block, (which, found))[1]
        return jax.tree.map(lambda x: x.reshape(shape), found)

    if together or size == count:
        return whole(rows)
    return jax.lax.platform_dependent(rows, cpu=blocked, default=whole)
