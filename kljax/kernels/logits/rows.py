"""Divergence between two rows of logits: value and analytic gradients.

The log-ratio is that of `referenced`. Between the forward and the backward pass only
the logits and six numbers a row are kept; see `blocks` for how rows are taken.

Where the outcomes of a row are split over an axis of a mesh (``axis``, inside
`jax.shard_map`), the devices exchange three maxima and the packed sums of each row, and
nothing else; rows are then taken all at once.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from kljax.generators import FDivergence
from kljax.kernels.logits.blocks import by_rows, twice_where
from kljax.kernels.logits.parts import (
    RowState,
    recentered,
    row_gradient,
    row_settled,
    row_sum,
    row_terms,
    untypical,
)
from kljax.kernels.logits.referenced import (
    FAR,
    masked,
    normalizers,
    offset,
    origins,
    outcomes,
    sides,
    sums,
    unit,
    unsound,
)
from kljax.typing import Array, Bool, Float


def _begun(axis, rows) -> RowState:
    """Nothing of each row but from where it is measured first."""
    p, q, where, sharpness = rows
    a, b = masked(p, q, where)
    origin_p, origin_q, empty = origins(a, b, _column(sharpness), axis)
    zero = jnp.zeros_like(origin_p)
    flag = empty.astype(a.dtype)
    return _flat(RowState(zero, zero, zero, zero, origin_p, origin_q, flag))


def _measured(divergence, axis, rows, state: RowState) -> RowState:
    """The state, from a better reference if that of the one before was untypical."""
    p, q, where, sharpness = rows
    sharpness = _column(sharpness)
    a, b = masked(p, q, where)
    state = _wide(state)
    origin_p, origin_q = state.origin_p, recentered(divergence, state, sharpness)
    empty = state.empty == 1
    both = sides(a, b, origin_p, origin_q, sharpness)
    units = unit(both)
    one_pass = divergence.one_pass
    # So small a part that a sum over the row does not overflow where no term does.
    width = a.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))
    most = math.ceil(math.log2(width) + FAR / math.log(2))
    part = 1.0 if one_pass is None else 2.0**-most
    e_p, e_q, excess = units.e_p * part, units.e_q * part, units.excess * part
    parts = []
    if one_pass is not None:
        scaled = units._replace(e_p=e_p, e_q=e_q, excess=excess)
        parts = one_pass.summands(scaled)
    z_p, z_q, gap, *found = sums([e_p, e_q, excess, *parts], axis)
    x = gap / z_p
    log_zp, log_zq, shift = jax.lax.optimization_barrier(
        normalizers(z_p / part, z_q / part, x)
    )
    if one_pass is not None:
        value = one_pass.value(z_p, z_q, x, shift, *found)
    else:
        o = outcomes(both, log_zp, log_zq, shift, e_p / z_p, e_q / z_q)
        value = row_sum(row_terms(divergence, o, both.p_zero, both.q_zero), axis)
    wrong = unsound(z_p, z_q)
    empty &= ~wrong
    value = jnp.where(empty, 0, jnp.where(wrong, jnp.nan, value))
    log_zp, log_zq, shift = (jnp.where(empty, 0, x) for x in (log_zp, log_zq, shift))
    flag = empty.astype(a.dtype)
    return _flat(RowState(value, log_zp, log_zq, shift, origin_p, origin_q, flag))


def _wide(state: RowState) -> RowState:
    return RowState(*(x[..., None] for x in state))


def _flat(state: RowState) -> RowState:
    return RowState(*(x[..., 0] for x in state))


def _state(divergence, rows, axis) -> RowState:
    def hard(state):
        return untypical(divergence, _wide(state))[..., 0]

    begin, measure = partial(_begun, axis), partial(_measured, divergence, axis)
    together = axis is not None or not _scalar(divergence)
    return twice_where(begin, measure, hard, rows, rows[0].ndim - 1, together)


def _scalar(divergence: FDivergence) -> bool:
    """Whether no parameter varies along rows, so that rows can be regrouped."""
    return all(np.ndim(x) == 0 for x in jax.tree.leaves(divergence))


def _each_row(divergence, function, rows, lead: int, axis: str | None):
    if axis is not None or not _scalar(divergence):
        return function(rows)
    return by_rows(function, rows, lead)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def row_state(
    divergence: FDivergence,
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None = None,
    sharpness: Float[Array, "*b"] | None = None,
    axis: str | None = None,
) -> RowState:
    """The divergence of each row, and what its gradient needs.

    Args:
      divergence: the object.
      p_logits: target logits, ``-inf`` allowed, of any floating type.
      q_logits: model logits likewise, same shape.
      where: outcomes that exist, same shape.
      sharpness: one over the temperature, of each row.
      axis: inside `jax.shard_map`, the mesh's axis over which outcomes are split.

    Differentiable to any order, forward and reverse, in the logits, the sharpness and
    the divergence's parameters. A row whose value is infinite has gradient 0. A NaN or
    ``+inf`` among the logits, and a NaN elsewhere, makes value and gradient NaN.
    """

    if divergence.one_pass is None and divergence.dual.one_pass is not None:
        rows = q_logits, p_logits, where, sharpness
        return _state(divergence.dual, rows, axis).swapped
    return _state(divergence, (p_logits, q_logits, where, sharpness), axis)


def _column(sharpness: Array | None) -> Array | None:
    return None if sharpness is None else sharpness[..., None]


def _moved(slope, x, where, origin, state, dx, sharpness, d_sharpness) -> Array:
    """``Σ slope · tangent`` of a side in units of the reference, on this device."""
    total = jnp.zeros_like(origin)
    if dx is not None:
        # What `where` takes away may hold a NaN in a row of NaN.
        dx = dx if where is None else jnp.where(where, dx, 0)
        change = row_sum(slope * dx.astype(slope.dtype), None)
        total += change if sharpness is None else change * sharpness
    if d_sharpness is not None:
        change = row_sum(slope * offset(x, origin), None)
        total += jnp.where(jnp.isnan(state.value), 1, change) * d_sharpness
    return total


@partial(row_state.defjvp, symbolic_zeros=True)
def _row_state_jvp(axis, primals, tangents):
    divergence, p, q, where, sharpness = primals
    state = row_state(*primals, axis)
    lead = p.ndim - 1

    def given(t):
        return None if t is None or isinstance(t, SymbolicZero) else t

    d_leaves = jax.tree.leaves(
        tangents[0], is_leaf=lambda x: isinstance(x, SymbolicZero)
    )
    leaves, structure = jax.tree.flatten(divergence)
    moving = any(given(t) is not None for t in d_leaves)
    d_leaves = [
        t
        if given(t) is not None
        else np.zeros(np.shape(x), jax.dtypes.float0)
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        else jnp.zeros_like(x)
        for x, t in zip(leaves, d_leaves)
    ]
    dp, dq, d_sharpness = given(tangents[1]), given(tangents[2]), given(tangents[4])
    # 16-bit gradients are collected wide: XLA's CPU compiler would widen and narrow all
    # rows with each block.
    wide = jnp.promote_types(jnp.result_type(p, q), jnp.float32)
    dp, dq = (None if dx is None else dx.astype(wide) for dx in (dp, dq))

    def of_value(shared, rows):
        leaves, d_leaves = shared
        p, q, where, state, dp, dq, sharpness, d_sharpness = rows
        sharpness, d_sharpness = _column(sharpness), _column(d_sharpness)
        divergence = structure.unflatten(leaves)
        state = _wide(state)
        a, b = masked(p, q, where)
        both = sides(a, b, state.origin_p, state.origin_q, sharpness)
        o = outcomes(both, state.log_zp, state.log_zq, state.shift)
        p_zero, q_zero = both.p_zero, both.q_zero
        total = jnp.zeros_like(state.value)
        if dq is not None or d_sharpness is not None:
            g = row_gradient(divergence, o, p_zero, q_zero, state, axis)
            moved = where, state.origin_q, state, dq, sharpness, d_sharpness
            total += _moved(g, b, *moved)
        if dp is not None or d_sharpness is not None:
            dual = divergence.dual, o.swapped, q_zero, p_zero, state.swapped
            g = row_gradient(*dual, axis)
            moved = where, state.origin_p, state, dp, sharpness, d_sharpness
            total += _moved(g, a, *moved)
        if moving:
            finite = jnp.isfinite(state.value)

            def in_parameters(leaves):
                terms = row_terms(structure.unflatten(leaves), o, p_zero, q_zero)
                return row_sum(
                    jnp.where(finite, terms, sum(map(jnp.sum, leaves))), None
                )

            total += jax.jvp(in_parameters, (leaves,), (d_leaves,))[1]
        return row_settled(total, state, axis)[..., 0]

    def of_normalizer(shared, rows):
        x, where, state, origin, log_z, dx, sharpness, d_sharpness = rows
        sharpness, d_sharpness = _column(sharpness), _column(d_sharpness)
        state = _wide(state)
        x = masked(x, x, where)[0].astype(log_z.dtype)
        origin, log_z = origin[..., None], log_z[..., None]
        side = x - origin
        if sharpness is not None:
            side = jnp.where(jnp.isneginf(x), x, side * sharpness)
        mass = jnp.where(jnp.isnan(state.value), 1, jnp.exp(side - log_z))
        moved = where, origin, state, dx, sharpness, d_sharpness
        return row_settled(_moved(mass, x, *moved), state, axis)[..., 0]

    # Recomputed in the backward pass: nothing but the inputs and the state is kept.
    def tangent(function, shared, rows):
        # Compiled, or a gradient outside `jit` would run it operation by operation.
        @jax.checkpoint
        @jax.jit
        def run(shared, rows):
            return _each_row(divergence, partial(function, shared), rows, lead, axis)

        return run(shared, rows)

    d_value = tangent(
        of_value,
        (leaves, d_leaves if moving else None),
        (p, q, where, state, dp, dq, sharpness, d_sharpness),
    )
    zero = jnp.zeros_like(state.value)

    def normalizer(x, dx, origin, log_z):
        if dx is None and d_sharpness is None:
            return zero
        rows = x, where, state, origin, log_z, dx, sharpness, d_sharpness
        return tangent(of_normalizer, (), rows)

    d_zp = normalizer(p, dp, state.origin_p, state.log_zp)
    d_zq = normalizer(q, dq, state.origin_q, state.log_zq)
    return state, RowState(d_value, d_zp, d_zq, d_zq - d_zp, zero, zero, zero)


def row_divergence(
    divergence: FDivergence,
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None = None,
    sharpness: Float[Array, "..."] | None = None,
    axis: str | None = None,
) -> Float[Array, "*b"]:
    """``D(p‖q)`` of each row of logits; 0 where a side is empty.

    Arguments and derivatives as in `row_state`; the sharpness may be one for all rows.
    """
    if sharpness is not None:
        dtype = jnp.result_type(p_logits, q_logits, jnp.float32)
        sharpness = jnp.broadcast_to(sharpness.astype(dtype), p_logits.shape[:-1])
    return row_state(divergence, p_logits, q_logits, where, sharpness, axis).value
