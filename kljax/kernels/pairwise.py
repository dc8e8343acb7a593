"""Sums over all pairs of points, a block of queries at a time.

Plain forms: a block of about a million pairs is held at once and recomputed in the
backward pass, so memory grows with neither number of points alone nor their product.
Squared distances come from differences, not from |x|² + |y|² − 2xy: they keep their
digits whatever the offset of the data, and their gradient is finite at 0.
"""

import jax
import jax.numpy as jnp

from kljax.typing import Array, Float

# Pairs of points that are looked at together: 4 MiB of float32.
_PAIRS = 2**20


def log_sum_exp(x: Float[Array, "*b n"]) -> Float[Array, "*b"]:
    """Log-sum-exp whose gradient is 0, not NaN, where every term is −inf."""
    some = jnp.any(x != -jnp.inf, axis=-1)
    safe = jnp.where(some[..., None], x, 0)
    return jnp.where(some, jax.nn.logsumexp(safe, axis=-1), -jnp.inf)


def squared_distances(
    point: Float[Array, "*b 1 d"], others: Float[Array, "*b m d"]
) -> Float[Array, "*b m"]:
    """‖point − other‖², broadcasting."""
    return jnp.sum((others - point) ** 2, axis=-1)


def kernel_sums(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    weights: Float[Array, " m"],
) -> Float[Array, " n"]:
    """Σ_j w_j exp(−‖y_i − x_j‖²/2) for each query y_i."""

    def row(y):
        return jnp.sum(weights * jnp.exp(-0.5 * squared_distances(y, points)))

    return _blocks(row, queries, points.shape[0])


def log_kernel_sums(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    log_weights: Float[Array, " m"],
) -> Float[Array, " n"]:
    """log Σ_j w_j exp(−‖y_i − x_j‖²/2) for each query y_i, without underflow."""

    def row(y):
        return log_sum_exp(log_weights - 0.5 * squared_distances(y, points))

    return _blocks(row, queries, points.shape[0])


def kth_squared_distances(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    k: int,
    *,
    skip_own_index: bool = False,
) -> Float[Array, " n"]:
    """Squared distance of each query to its k-th nearest point.

    `skip_own_index` leaves point i out for query i (queries and points are one sample).
    """
    indices = jnp.arange(points.shape[0])

    def row(args):
        y, own = args
        squared = squared_distances(y, points)
        if skip_own_index:
            squared = jnp.where(indices == own, jnp.inf, squared)
        return -jax.lax.top_k(-squared, k)[0][-1]

    return _blocks(row, (queries, jnp.arange(queries.shape[0])), points.shape[0])


def _blocks(row, queries, points: int) -> Array:
    count = jax.tree.leaves(queries)[0].shape[0]
    size = min(max(1, _PAIRS // points), count)
    return jax.lax.map(jax.checkpoint(row), queries, batch_size=size)
