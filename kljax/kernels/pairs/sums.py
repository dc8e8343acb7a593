"""Sums of Gaussian kernels over all pairs of points, without a matrix of pairs.

Values stream: tiles of pairs and an online log-sum-exp (`kljax.kernels.pairs.tiles`).
Derivatives are analytic and recompute the tiles (`kljax.kernels.pairs.tangents`), of
any order, forward and reverse. Memory grows with the numbers of points alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from kljax.kernels.pairs.tangents import Tangents, change
from kljax.kernels.pairs.tiles import FAR, FEW, Problem, reach, sums
from kljax.typing import Array, Float


def log_sum_exp(x: Float[Array, "*b n"]) -> Float[Array, "*b"]:
    """Log-sum-exp whose gradient is 0, not NaN, where every term is −inf."""
    some = jnp.any(x != -jnp.inf, axis=-1)
    safe = jnp.where(some[..., None], x, 0)
    return jnp.where(some, jax.nn.logsumexp(safe, axis=-1), -jnp.inf)


def squared_distances(
    point: Float[Array, "*#b 1 d"], others: Float[Array, "*#b m d"]
) -> Float[Array, "*b m"]:
    """‖point − other‖², broadcasting."""
    return jnp.sum((others - point) ** 2, axis=-1)


def kernel_sums(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    log_weights: Float[Array, " m"],
    bandwidth: Float[Array, " d"],
    *,
    log: bool,
) -> Float[Array, " n"]:
    """Σ_j w_j exp(−‖(y_i − x_j)/h‖²/2) for each query y_i, or its logarithm.

    The logarithm does not underflow, as the sum does of exponents below about −87; it
    is −inf, with gradient 0, where no point has weight. Log-weights should not exceed 0
    by much, −inf takes a point away whatever it holds.
    """
    return _rows(log, *_problem(queries, points, log_weights, bandwidth))


def kernel_total(
    points: Float[Array, "n d"],
    log_weights: Float[Array, " n"],
    bandwidth: Float[Array, " d"],
    *,
    log: bool,
) -> Float[Array, ""]:
    """Σ_ij w_i w_j exp(−‖(x_i − x_j)/h‖²/2), or its logarithm.

    Over half of the blocks of pairs.
    """
    return _total(log, *_problem(None, points, log_weights, bandwidth)[1:])


def _problem(queries, points, log_weights, bandwidth) -> Problem:
    """`queries` is `None` where they are the points."""
    fixed = lax.stop_gradient((queries, points, log_weights, bandwidth))
    y, x, weights, h = fixed
    some = (weights != -jnp.inf)[:, None]
    count = jnp.maximum(jnp.sum(some), 1).astype(x.dtype)
    center = jnp.sum(jnp.where(some, x, 0), axis=0) / count
    far = jnp.asarray(False)
    if x.shape[-1] > FEW:
        far = _any_far(x, weights, 1 / h, center)
        if y is not None:
            far |= _any_far(y, jnp.zeros_like(y[:, 0]), 1 / h, center)
    return Problem(queries, points, log_weights, 1 / bandwidth, center, far)


def _far(points: Array, log_weights: Array, scale: Array, center: Array) -> Array:
    """Whether a point is too far from the center for a matrix product."""
    return ~(reach(points, log_weights, scale, center) <= FAR)


_any_far = custom_vmap(_far)


@_any_far.def_vmap
def _any_far_of_a_batch(size, batched, *operands):
    del size
    axes = [0 if there else None for there in batched]
    # Every problem of the batch takes one way: a `cond` would run both for each.
    return jnp.any(jax.vmap(_far, axes)(*operands)), False


def _given(tangent):
    return None if isinstance(tangent, SymbolicZero) else tangent


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rows(logarithm, queries, points, log_weights, scale, center, far) -> Array:
    problem = Problem(queries, points, log_weights, scale, center, far)
    return sums(logarithm, problem)


@partial(_rows.defjvp, symbolic_zeros=True)
def _rows_jvp(logarithm, primals, tangents):
    problem = Problem(*primals)
    value = _rows(logarithm, *primals)
    dy, dx, d_weights, d_scale = map(_given, tangents[:4])
    terms = jnp.zeros_like(value)
    if logarithm:
        terms = jnp.where(value == -jnp.inf, -jnp.inf, -value)
    moved = Tangents(None, d_weights, dy, dx, d_scale)
    return value, change(terms, problem, moved)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(logarithm, points, log_weights, scale, center, far) -> Array:
    problem = Problem(points, points, log_weights, scale, center, far)
    rows = sums(logarithm, problem, half=True)
    # The row of a point without weight may be NaN.
    none = log_weights == -jnp.inf
    if logarithm:
        return log_sum_exp(jnp.where(none, -jnp.inf, log_weights + rows))
    return jnp.sum(jnp.where(none, 0, jnp.exp(log_weights) * rows))


@partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(logarithm, primals, tangents):
    points, log_weights = primals[:2]
    value = _total(logarithm, *primals)
    dx, d_weights, d_scale = map(_given, tangents[:3])
    terms = log_weights
    if logarithm:
        terms = jnp.where(value == -jnp.inf, -jnp.inf, log_weights - value)
    # Moving x_i as the query moves the sum by half of what moving it altogether does.
    moved = Tangents(
        of_rows=None if d_weights is None else 2 * d_weights,
        queries=None if dx is None else 2 * dx,
        scale=d_scale,
    )
    return value, jnp.sum(change(terms, Problem(points, *primals), moved))
