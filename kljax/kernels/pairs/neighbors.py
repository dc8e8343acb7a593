"""Distances to the k-th nearest point: tiles of pairs and a running list of k.

Squared distances come from differences, so that near points keep their digits; the
search for neighbors is not differentiated, the distance to the one found is.
"""

import jax
import jax.numpy as jnp
from jax import lax

from kljax.kernels.pairs.tiles import Tile, along_coordinates, by_platform
from kljax.typing import Array, Float

_CPU = Tile(64, 4096)
"""Long rows: the selection takes as long for a short one."""


def of_size_one(x: Array, y: Array) -> list[Array]:
    """Multiplied by the power of two that brings their spread to about 1: exactly.

    Twice, as the spread of large numbers would overflow. All NaN where one is not
    finite.
    """

    def scaled(x, y, origin):
        sides = jnp.abs(x - origin), jnp.abs(y - origin)
        size = jax.lax.stop_gradient(jnp.maximum(*map(jnp.max, sides)))
        exponent = jnp.clip(jnp.frexp(size)[1], -120, 120)
        scale = jnp.ldexp(jnp.ones_like(size), -exponent)
        scale = jnp.where(jnp.isfinite(size), scale, jnp.nan)
        return [x * scale, y * scale]

    x, y = scaled(x, y, 0)
    return scaled(x, y, x[0])


def kth_squared_distances(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    k: int,
    *,
    skip_own_index: bool = False,
) -> Float[Array, " n"]:
    """Squared distance of each query to its k-th nearest point.

    `skip_own_index` leaves point i out for query i (queries and points are one sample).
    Differentiable to any order where neighbors do not change.
    """
    n, m = queries.shape[0], points.shape[0]

    def run(tile, queries, points):
        return _kth(queries, points, k, skip_own_index, tile)

    fixed = lax.stop_gradient((queries, points))
    chosen = by_platform(run, n, m, *fixed, cpu=_CPU)
    return jnp.sum((queries - points[chosen]) ** 2, axis=-1)


def _kth(queries: Array, points: Array, k: int, skip_own: bool, tile: Tile) -> Array:
    """The index of the k-th nearest point of each query."""
    n, m = queries.shape[0], points.shape[0]

    def gap(x, y):
        return (y[:, None] - x[None]) ** 2

    def of_queries(i):
        first = jnp.minimum(i * tile.queries, n - tile.queries)
        y = lax.dynamic_slice_in_dim(queries, first, tile.queries)
        own = first + jnp.arange(tile.queries)

        def add(j, state):
            nearest, indices = state
            first = jnp.minimum(j * tile.points, m - tile.points)
            x = lax.dynamic_slice_in_dim(points, first, tile.points)
            here = first + jnp.arange(tile.points)
            squared = along_coordinates(gap, (x, y))
            squared = jnp.where(here >= j * tile.points, squared, jnp.inf)
            if skip_own:
                squared = jnp.where(here == own[:, None], jnp.inf, squared)
            # Those found before come first: of equals the earlier one stays.
            together = jnp.concatenate([nearest, squared], axis=1)
            here = jnp.broadcast_to(here.astype(indices.dtype), squared.shape)
            every = jnp.concatenate([indices, here], axis=1)
            found, at = lax.top_k(-together, k)
            return -found, jnp.take_along_axis(every, at, axis=1)

        shape = tile.queries, k
        state = jnp.full(shape, jnp.inf, queries.dtype), jnp.zeros(shape, jnp.int32)
        return lax.fori_loop(0, -(-m // tile.points), add, state)[1][:, -1]

    steps = -(-n // tile.queries)
    rows = lax.map(of_queries, jnp.arange(steps))
    last = n - (steps - 1) * tile.queries
    return jnp.concatenate([rows[:-1].reshape(-1), rows[-1, tile.queries - last :]])
