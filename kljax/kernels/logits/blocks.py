"""Rows in blocks that stay in the cache on a CPU, all at once elsewhere.

The choice is made when a program is lowered for its platform, for as many cores as the
process may use then. XLA's CPU runtime starts an operation on a block in a few
microseconds on its own core, and in ten or more on others: with several cores blocks
are larger, and several are worked on in one turn of the loop, as chains of operations
that do not wait for each other.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array

_BLOCK = 2**16
"""Elements of one array in a block: a few such arrays are alive at a time."""
_TURN = 2**18
"""The same of all blocks of a turn, where there are several cores."""
_CHAINS = 4
"""Blocks in a turn, at most, as each takes compiling: XLA gives an operation several
cores where there are more."""


def cores() -> int:
    """How many of them this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chains(width: int) -> int:
    """Blocks in a turn: as many as there are cores, of at least 2 rows each."""
    return max(1, min(cores(), _CHAINS, _TURN // (2 * max(width, 1))))


def block_rows(rows: int, width: int, together: int = 1) -> int:
    """Rows in a block, or `rows` where one block is all.

    At least 2, however wide the row and whatever divides `rows`; blocks are as many as
    the largest size needs, in whole turns, and equal.

    Args:
      rows: how many there are.
      width: elements of one.
      together: blocks in a turn.
    """
    block = _BLOCK if cores() == 1 else _TURN // together
    most = max(2, block // max(width, 1))
    if rows <= most:
        return rows
    turns = -(-rows // (most * together))
    return max(2, -(-rows // (turns * together)))


def by_rows(function: Callable[[Any], Any], rows: Any, lead: int) -> Any:
    """``function(rows)``, block by block on a CPU; differentiable.

    Args:
      function: acts on each row by itself; its results have the leading axes first.
      rows: arrays, the widest of them last, with `lead` leading axes in common.
      lead: number of leading axes.
    """
    split = _Split(function, rows, lead)
    if split.size == split.count:
        return function(rows)
    return jax.lax.platform_dependent(rows, cpu=split.stacked, default=function)


def filled_by_rows(
    function: Callable[[Any], Any],
    rows: Any,
    lead: int,
    elsewhere: Callable[[Any], Any] | None = None,
) -> Any:
    """`by_rows` without derivatives: results are written where they stay.

    With a function of its own for all other platforms.
    """
    split = _Split(function, rows, lead, chained=True)
    whole = split.size == split.count
    if whole and elsewhere is None:
        return function(rows)
    here = function if whole else split.filled
    return jax.lax.platform_dependent(rows, cpu=here, default=elsewhere or function)


class _Split:
    """Rows in blocks of `size`, of `count` in all, some of them `together`.

    But one by one where they are differentiated: the transpose of several cuts of an
    array would add up arrays as large as that.
    """

    def __init__(
        self, function: Callable[[Any], Any], rows: Any, lead: int, *, chained=False
    ):
        arrays = jax.tree.leaves(rows)
        self.function, self.lead = function, lead
        self.shape = arrays[0].shape[:lead]
        self.count = math.prod(self.shape)
        width = max(math.prod(x.shape[lead:]) for x in arrays)
        together = chains(width) if chained else 1
        self.size = block_rows(self.count, width, together)
        self.blocks = -(-self.count // self.size)
        self.together = min(together, self.blocks)

    def _cut(self, rows: Any) -> Callable[[Array], Any]:
        flat = self._reshaped(rows, self.lead, (self.count,))

        def part(x: Array, start: Array) -> Array:
            if _narrow(x):
                # As if it changed with the block: XLA's CPU compiler widens what it
                # cuts, and would do so with all rows before the loop.
                x, start = jax.lax.optimization_barrier((x, start))
            return jax.lax.dynamic_slice_in_dim(x, start, self.size)

        return lambda start: jax.tree.map(lambda x: part(x, start), flat)

    def _reshaped(self, tree: Any, lead: int, shape: tuple[int, ...]) -> Any:
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[lead:]), tree)

    def _start(self, block: Array) -> Array:
        # The last block begins early where the size does not divide: to fill the arrays
        # up would copy them, and so would cutting them.
        return jnp.minimum(block * self.size, self.count - self.size)

    def stacked(self, rows: Any) -> Any:
        cut = self._cut(rows)
        surplus = self.blocks * self.size - self.count

        def join(x: Array) -> Array:
            if surplus:
                tail = x.shape[2:]
                x = jnp.concatenate([x[:-1].reshape(-1, *tail), x[-1, surplus:]])
                return x.reshape(*self.shape, *tail)
            return x.reshape(*self.shape, *x.shape[2:])

        def one(block):
            return self.function(cut(self._start(block)))

        body = jax.checkpoint(one, prevent_cse=False)
        return jax.tree.map(join, jax.lax.map(body, jnp.arange(self.blocks)))

    def filled(self, rows: Any) -> Any:
        cut = self._cut(rows)
        types = jax.eval_shape(self.function, jax.eval_shape(cut, 0))
        results = jax.tree.map(
            lambda x: _as_bits(jnp.zeros((self.count, *x.shape[1:]), x.dtype)), types
        )

        def put(start, results, new):
            return jax.tree.map(
                lambda x, new: jax.lax.dynamic_update_slice_in_dim(
                    x, _as_bits(new), start, 0
                ),
                results,
                new,
            )

        def turn(index, results):
            first, some = index * self.together, range(self.together)
            starts = [self._start(first + i) for i in some]
            # All of them before any is written, which would have the others wait.
            found = [self.function(cut(start)) for start in starts]
            for start, new in zip(starts, found):
                results = put(start, results, new)
            return results

        turns = -(-self.blocks // self.together)
        results = jax.lax.fori_loop(0, turns, turn, results)
        results = jax.tree.map(
            lambda x, like: (
                jax.lax.bitcast_convert_type(x, like.dtype) if _narrow(like) else x
            ),
            results,
            types,
        )
        return self._reshaped(results, 1, self.shape)


def _narrow(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2


def _as_bits(x: Array) -> Array:
    """16-bit floats as integers: XLA's CPU compiler would widen all rows with each."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if _narrow(x) else x
