"""Gaussian kernels of points against queries, one tile of pairs after the other.

A tile is `[points, queries]`: its sums run over the points, and neighboring queries
lie in neighboring lanes. Exponents −‖(y − x)/h‖²/2 come from differences in few
dimensions and from one matrix product in many, of points centered on the data. The
product loses digits, ε·‖x − center‖²/h² in the exponent: where a point lies further
from the center than √`FAR` bandwidths, differences are taken there too.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kljax.typing import Array, ArrayLike

FEW = 3
"""Up to so many dimensions differences are as fast as a matrix product."""

FAR = 512.0
"""‖x − center‖²/h² from which on the matrix product is not good enough."""


class Tile(NamedTuple):
    """Numbers of queries and points that are looked at together."""

    queries: int
    points: int


CPU = Tile(256, 256)
"""A quarter of a MiB of float32: stays in the second-level cache."""

ACCELERATOR = Tile(8192, 16384)
"""Large enough to hide the launches."""


class Problem(NamedTuple):
    """Who is compared with whom: exponents `log_weights − ‖(y − x)·scale‖²/2`."""

    queries: Array
    """``[n, d]``."""
    points: Array
    """``[m, d]``; what has no weight is never looked at."""
    log_weights: Array
    """``[m]``, −inf takes a point away."""
    scale: Array
    """``[d]``, one over the bandwidths."""
    center: Array
    """``[d]``, no derivative is taken in it."""
    far: Array
    """Whether a matrix product would lose too many digits."""


def fit(tile: Tile, n: int, m: int) -> Tile:
    """A tile for n queries and m points: of the same area where one side is short."""
    area = tile.queries * tile.points
    queries = min(n, area // min(m, tile.points))
    points = min(m, area // queries)
    return Tile(_even(n, queries), _even(m, points))


def _even(count: int, most: int) -> int:
    """Blocks of nearly one size, in whole vectors."""
    size = -(-count // -(-count // most))
    return min(count, most, -(-size // 16) * 16)


def by_platform(
    run: Callable[..., Any], n: int, m: int, *operands: Any, cpu: Tile | None = None
) -> Any:
    """``run(tile, *operands)`` with the tile of the platform it is lowered for."""
    small, large = fit(cpu or CPU, n, m), fit(ACCELERATOR, n, m)
    if small == large:
        return run(small, *operands)
    return lax.platform_dependent(
        *operands, cpu=lambda *x: run(small, *x), default=lambda *x: run(large, *x)
    )


def by_distance(run: Callable[..., Any], dims: int, far: Array, *operands: Any) -> Any:
    """``run(exact, *operands)``: exact differences where they are needed."""
    if dims <= FEW:
        return run(True, *operands)
    return lax.cond(far, lambda *x: run(True, *x), lambda *x: run(False, *x), *operands)


def present(points: Array, log_weights: Array, center: Array) -> Array:
    """The points; the center in place of those without weight, whatever they hold."""
    return jnp.where((log_weights != -jnp.inf)[:, None], points, center)


def reach(points: Array, log_weights: Array, scale: Array, center: Array) -> Array:
    """The largest ‖(x − center)·scale‖² of the points that have a weight."""
    count = points.shape[0]
    size = min(count, CPU.points)

    def farthest(j, largest):
        # Block by block, or a CPU would write out broadcasts as large as the points.
        first = jnp.minimum(j * size, count - size)
        x = lax.dynamic_slice_in_dim(points, first, size)
        w = lax.dynamic_slice_in_dim(log_weights, first, size)
        x = (present(x, w, center) - center) * scale
        return jnp.maximum(largest, jnp.max(jnp.sum(x**2, axis=-1)))

    nearest = jnp.zeros((), points.dtype)
    return lax.fori_loop(0, -(-count // size), farthest, nearest)


def exponents(exact: bool, points, queries, scale, center) -> Array:
    """``−‖(y − x)·scale‖²/2``, ``[points, queries]``."""
    if exact:
        return -0.5 * along_coordinates(_square, (points, queries), scale)
    x, y = (points - center) * scale, (queries - center) * scale
    half = -0.5 * jnp.sum(x**2, axis=-1)[:, None] - 0.5 * jnp.sum(y**2, axis=-1)
    return product(x, y, 1, 1) + half


def product(x: Array, y: Array, axis_x: int, axis_y: int) -> Array:
    """A matrix product in full precision."""
    contracted = (((axis_x,), (axis_y,)), ((), ()))
    return lax.dot_general(x, y, contracted, precision=lax.Precision.HIGHEST)


def _square(x: Array, y: Array, scale: Array) -> Array:
    return ((x[:, None] - y[None]) * scale) ** 2


def along_coordinates(term: Callable[..., Array], sides: Any, *rest: Any) -> Any:
    """Σ_k term(*sides of coordinate k, *rest of coordinate k).

    Arrays of `sides` are ``[size, d]``, those of `rest` ``[d]``; `None` stays `None`.
    """
    columns = jax.tree.map(lambda side: side.T, sides), rest
    dims = jax.tree.leaves(columns)[0].shape[0]
    one = jax.tree.map(lambda column: column[0], columns)
    total = term(*one[0], *one[1])
    if dims <= FEW:
        for k in range(1, dims):
            sides_k, rest_k = jax.tree.map(lambda column, k=k: column[k], columns)
            total = jax.tree.map(jnp.add, total, term(*sides_k, *rest_k))
        return total

    @jax.checkpoint
    def step(total, column):
        sides_k, rest_k = column
        return jax.tree.map(jnp.add, total, term(*sides_k, *rest_k)), None

    others = jax.tree.map(lambda column: column[1:], columns)
    return lax.scan(step, total, others)[0]


def sums(logarithm: bool, problem: Problem, *, half: bool = False) -> Array:
    """Σ_j w_j exp(−‖(y_i − x_j)·scale‖²/2) of each query, or its logarithm.

    `half`: queries are the points, and block J of points counts twice for the queries
    of an earlier block, not at all for those of a later one: summed with the weights of
    the queries, that is the sum over all pairs.
    """
    n, dims = problem.queries.shape
    m = problem.points.shape[0]

    def run(tile, *arrays):
        problem = Problem(*arrays)
        if half:
            side = min(tile)
            tile = Tile(side, side)

        def exactly(exact, *arrays):
            return _sums(logarithm, exact, half, tile, Problem(*arrays))

        return by_distance(exactly, dims, problem.far, *problem)

    return by_platform(run, n, m, *problem)


def _sums(
    logarithm: bool, exact: bool, half: bool, tile: Tile, problem: Problem
) -> Array:
    n, m = problem.queries.shape[0], problem.points.shape[0]
    dtype = problem.queries.dtype
    blocks = -(-m // tile.points)

    def start(i: ArrayLike, size: int, count: int) -> Array:
        # The last block reaches back into the one before it: no copy is filled up.
        return jnp.minimum(i * size, count - size)

    def of_queries(i):
        first = start(i, tile.queries, n)
        y = lax.dynamic_slice_in_dim(problem.queries, first, tile.queries)

        def add(j, state):
            top, total = state
            first = start(j, tile.points, m)
            x = lax.dynamic_slice_in_dim(problem.points, first, tile.points)
            w = lax.dynamic_slice_in_dim(problem.log_weights, first, tile.points)
            counted = first + jnp.arange(tile.points) >= j * tile.points
            w = jnp.where(counted, w, -jnp.inf)
            if half:
                w = w + jnp.where(j > i, jnp.asarray(math.log(2), dtype), 0)
            x = present(x, w, problem.center)
            s = exponents(exact, x, y, problem.scale, problem.center) + w[:, None]
            new = jnp.maximum(top, jnp.max(s, axis=0))
            if not logarithm:
                return new, total + jnp.sum(jnp.exp(s), axis=0)
            grown = jnp.sum(jnp.exp(s - new), axis=0)
            return new, total * jnp.exp(top - new) + grown

        lowest = jnp.full(tile.queries, jnp.finfo(dtype).min, dtype)
        state = lowest, jnp.zeros(tile.queries, dtype)
        if blocks == 1:
            top, total = add(0, state)
        else:
            top, total = lax.fori_loop(i if half else 0, blocks, add, state)
        if not logarithm:
            # Asks for the maximum, which is never that: exponents of which only the sum
            # is wanted are not held, and then a CPU takes half as long again.
            return jnp.where(top == -jnp.inf, 0, total)
        none = total == 0
        return jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, total)))

    steps = -(-n // tile.queries)
    if steps == 1:
        return of_queries(0)
    rows = lax.map(of_queries, jnp.arange(steps))
    last = n - (steps - 1) * tile.queries
    return jnp.concatenate([rows[:-1].reshape(-1), rows[-1, tile.queries - last :]])
