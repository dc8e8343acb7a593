"""The derivative of a sum over pairs, a linear map of tangents that recomputes tiles.

With K_ij = exp(a_i + log w_j − ‖z_ij‖²/2) and z_ij = (x_j − y_i)·scale,

    change_i = Σ_j K_ij (σ_i + τ_j − z_ij · dz_ij).

Tiles stand under `jax.checkpoint`: forward mode, the backward pass and every further
order look at each tile anew, and nothing of the size of the pairs is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kljax.kernels.pairs.tiles import (
    Problem,
    Tile,
    along_coordinates,
    by_distance,
    by_platform,
    exponents,
    present,
    product,
)
from kljax.typing import Array

__all__ = ["Tangents", "change"]


class Tangents(NamedTuple):
    """What moves; `None` is what does not."""

    of_rows: Array | None = None
    """σ, ``[n]``."""
    of_columns: Array | None = None
    """τ, ``[m]``."""
    queries: Array | None = None
    points: Array | None = None
    scale: Array | None = None


def change(row_terms: Array, problem: Problem, tangents: Tangents) -> Array:
    """Σ_j K_ij (σ_i + τ_j − z_ij · dz_ij) of each query; `row_terms` is a."""
    n, dims = problem.queries.shape
    m = problem.points.shape[0]

    def run(tile, row_terms, problem, tangents):
        def exactly(exact, *operands):
            return _change(exact, tile, *operands)

        operands = row_terms, problem, tangents
        return by_distance(exactly, dims, problem.far, *operands)

    @jax.checkpoint
    def whole(*operands):
        return by_platform(run, n, m, *operands)

    return whole(row_terms, problem, tangents)


class _Queries(NamedTuple):
    at: Array
    terms: Array
    of_rows: Array | None
    moved: Array | None


class _Points(NamedTuple):
    at: Array
    log_weights: Array
    of_columns: Array | None
    moved: Array | None


class _Shared(NamedTuple):
    scale: Array
    moved: Array | None
    center: Array


def _change(
    exact: bool, tile: Tile, row_terms: Array, problem: Problem, tangents: Tangents
) -> Array:
    y, x, log_weights, scale, center, _ = problem
    sigma, tau, dy, dx, d_scale = tangents
    x, y = present(x, log_weights, center), present(y, row_terms, center)
    n = y.shape[0]
    # What is filled up weighs nothing.
    queries = _Queries(
        _blocks(y, tile.queries),
        _blocks(row_terms, tile.queries, -jnp.inf),
        _optional(sigma, tile.queries),
        _optional(dy, tile.queries),
    )
    points = _Points(
        _blocks(x, tile.points),
        _blocks(log_weights, tile.points, -jnp.inf),
        _optional(tau, tile.points),
        _optional(dx, tile.points),
    )
    shared = _Shared(scale, d_scale, center)
    of_tile = _of_differences if exact else _of_products

    def of_queries(operands):
        block, points, shared = operands

        @jax.checkpoint
        def one(block, other, shared):
            return of_tile(block, other, shared)

        def add(total, other):
            return total + one(block, other, shared), None

        start = jnp.zeros(tile.queries, y.dtype)
        return lax.scan(add, start, points)[0]

    body = jax.checkpoint(of_queries)
    rows = lax.map(lambda block: body((block, points, shared)), queries)
    return rows.reshape(-1)[:n]


def _optional(array: Array | None, size: int) -> Array | None:
    return None if array is None else _blocks(array, size)


def _blocks(array: Array, size: int, fill: float = 0) -> Array:
    count = array.shape[0]
    blocks = -(-count // size)
    widths = [(0, blocks * size - count)] + [(0, 0)] * (array.ndim - 1)
    if blocks * size != count:
        array = jnp.pad(array, widths, constant_values=fill)
    return array.reshape(blocks, size, *array.shape[1:])


def _masses(exact: bool, block: _Queries, other: _Points, shared: _Shared) -> Array:
    s = exponents(exact, other.at, block.at, shared.scale, shared.center)
    return jnp.exp(s + other.log_weights[:, None] + block.terms)


def _of_differences(block: _Queries, other: _Points, shared: _Shared) -> Array:
    def term(x, y, dx, dy, scale, d_scale):
        gap = x[:, None] - y[None]
        moved = jnp.zeros_like(gap)
        if dx is not None:
            moved += dx[:, None] * scale
        if dy is not None:
            moved -= dy[None] * scale
        if d_scale is not None:
            moved += gap * d_scale
        return -gap * scale * moved

    slope = jnp.zeros((other.at.shape[0], block.at.shape[0]), other.at.dtype)
    if not (other.moved is None and block.moved is None and shared.moved is None):
        sides = other.at, block.at, other.moved, block.moved
        slope += along_coordinates(term, sides, shared.scale, shared.moved)
    if block.of_rows is not None:
        slope += block.of_rows
    if other.of_columns is not None:
        slope += other.of_columns[:, None]
    return jnp.sum(_masses(True, block, other, shared) * slope, axis=0)


def _of_products(block: _Queries, other: _Points, shared: _Shared) -> Array:
    scale, d_scale, center = shared
    masses = _masses(False, block, other, shared)
    x, y = other.at - center, block.at - center
    dx = _scaled(x, other.moved, scale, d_scale)
    dy = _scaled(y, block.moved, scale, d_scale)
    x, y = x * scale, y * scale
    total = jnp.zeros_like(block.terms)
    if not (block.of_rows is None and dy is None):
        level = jnp.zeros_like(block.terms)
        if block.of_rows is not None:
            level += block.of_rows
        if dy is not None:
            pulled = product(masses, x, 0, 0)
            total += jnp.sum(dy * pulled, axis=-1)
            level -= jnp.sum(dy * y, axis=-1)
        total += level * jnp.sum(masses, axis=0)
    columns = other.of_columns
    if dx is not None:
        inner = jnp.sum(dx * x, axis=-1)
        columns = -inner if columns is None else columns - inner
        total += jnp.sum(y * product(masses, dx, 0, 0), axis=-1)
    if columns is not None:
        total += product(columns, masses, 0, 0)
    return total


def _scaled(at: Array, moved, scale: Array, d_scale) -> Array | None:
    if moved is None and d_scale is None:
        return None
    total = jnp.zeros_like(at)
    if moved is not None:
        total += moved * scale
    if d_scale is not None:
        total += at * d_scale
    return total
