"""Points, their weights and bandwidths, as `kljax.divergences.samples` takes them."""

import math

import jax
import jax.numpy as jnp

from kljax.arguments import floating, legal, real
from kljax.typing import Array, ArrayLike


def points_of(name_x: str, x: ArrayLike, name_y: str, y: ArrayLike) -> list[Array]:
    """Two samples, `[n, d]` and `[m, d]`, of one type."""
    x, y = floating(name_x, x), floating(name_y, y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in x.shape + y.shape:
        raise ValueError(
            f"{name_x} and {name_y} must be [n, d] and [m, d] with one d and at least "
            f"one point each, got {x.shape} and {y.shape}"
        )
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return [x.astype(dtype), y.astype(dtype)]


def bandwidth_of(bandwidth: ArrayLike, points: Array, name: str = "bandwidth") -> Array:
    """One bandwidth per coordinate, all > 0."""
    h = real(name, bandwidth).astype(points.dtype)
    h = legal(name, h, lambda x: (x <= 0) | (x == jnp.inf), "positive, finite")
    if h.shape not in ((), points.shape[1:]):
        raise ValueError(
            f"{name} must be a number or one per coordinate {points.shape[1:]}, "
            f"got shape {h.shape}"
        )
    return jnp.broadcast_to(h, points.shape[1:])


def weighted(
    name: str, log_weights: ArrayLike | None, points: Array
) -> tuple[Array, Array]:
    """Points, those without weight moved onto the mean of the others, and log-weights
    that sum to 1; all −inf where there is no weight."""
    n = points.shape[0]
    if log_weights is None:
        return points, jnp.full(n, -math.log(n), points.dtype)
    log_w = floating(name, log_weights).astype(points.dtype)
    if log_w.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {log_w.shape}")
    log_w = legal(name, log_w, lambda x: x == jnp.inf, "below infinity")
    some = (log_w != -jnp.inf)[:, None]
    count = jnp.maximum(jnp.sum(some), 1)
    center = jnp.sum(jnp.where(some, points, 0), axis=0) / count
    present = jnp.where(some, points, jax.lax.stop_gradient(center))
    return present, log_normalized(log_w)


def not_negative(x: Array) -> Array:
    """Without what rounding left below 0; NaN stays, in the derivative too."""
    return jnp.where(x < 0, 0, x)


def log_normalized(log_w: Array) -> Array:
    """Log-weights that sum to 1; all −inf where there is no weight at all."""
    some = jnp.any(log_w != -jnp.inf, axis=-1, keepdims=True)
    return jnp.where(some, jax.nn.log_softmax(jnp.where(some, log_w, 0)), -jnp.inf)
