"""Divergence between two rows of logits: value and analytic gradients.

The log-ratio is that of `referenced`. On a CPU every divergence is measured in the same
way: maxima, masses, log-ratios, terms, and of the terms' derivatives what makes the
gradient's sum 0. Elsewhere one-pass forms save a visit to the logits (`summed`). Of few
outcomes the gradient is formed with the value; of many it is formed anew in the
backward pass, for which the logits and six numbers a row are kept. See `blocks` for how
rows are taken.

Where the outcomes of a row are split over an axis of a mesh (``axis``, inside
`jax.shard_map`), the devices exchange two maxima and the packed sums of each row, and
nothing else; rows are then taken all at once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from kljax.generators import FDivergence, Outcomes, quick
from kljax.kernels.logits.blocks import by_rows, filled_by_rows
from kljax.kernels.logits.parts import (
    RowState,
    row_gradient,
    row_settled,
    row_sum,
    row_terms,
)
from kljax.kernels.logits.referenced import (
    from_origin,
    masked,
    moved,
    offset,
    once,
    origins,
    outcomes,
    quotient,
    sides,
    stored,
    sums,
    unsound,
)
from kljax.kernels.logits.summed import summed_state
from kljax.typing import Array, Bool, Float

_KEPT = 2**21
"""Outcomes up to which the gradient is formed with the value, and kept.

In 16 bits it always is, rounded: to form it in the backward pass takes a wide array.
"""


class Seen(NamedTuple):
    """The outcomes of rows, ``[*b, v]``, and what is known of the rows, ``[*b, 1]``."""

    outcomes: Outcomes
    p_zero: Array
    q_zero: Array
    state: RowState

    @property
    def swapped(self) -> "Seen":
        """The sides exchanged."""
        o, p_zero, q_zero, state = self
        return Seen(o.swapped, q_zero, p_zero, state.swapped)


def _seen(divergence: FDivergence, axis: str | None, rows, wanted=()) -> Seen:
    """By masses, and log-ratios of outcomes that are known from those."""
    p, q, where, sharpness = rows
    a, b = masked(p, q, where)
    origin_p, origin_q, empty = origins(a, b, axis)
    e_p = quick.exp(from_origin(a, origin_p, sharpness))
    e_q = quick.exp(from_origin(b, origin_q, sharpness))
    z_p, z_q = sums([e_p, e_q], axis)
    wrong = unsound(z_p, z_q)
    empty &= ~wrong
    z_p, z_q = (jnp.where(empty, 1, z) for z in (z_p, z_q))
    # An error of the sums is one of all log-ratios, and counts squared or is measured.
    _, shift = quotient(z_p, z_q, z_q - z_p)
    origin_q, shift = moved(origin_q, shift, sharpness)
    log_zp = jnp.log(z_p)
    log_zp, per_p, per_q, shift = once(log_zp, 1 / z_p, 1 / z_q, shift)
    both = sides(a, b, origin_p, origin_q, sharpness)
    if wanted or not divergence.smooth:
        both = both._replace(d=stored(both.d, e_p))
    masses = e_p * per_p, e_q * per_q
    if not divergence.smooth:
        # An error of all log-ratios counts; it shows in the sum of masses.
        rough = outcomes(both, log_zp, log_zp + shift, shift, *masses)
        error = row_sum(rough.excess, axis)
        (shift,) = once(shift + jnp.log1p(jnp.where(error < 0.5, -error, 0)))
    o = outcomes(both, log_zp, log_zp + shift, shift, *masses)
    # A sum swallows arithmetic that it is given, slowly on a CPU, and no select.
    terms = row_terms(divergence, o, both.p_zero, both.q_zero)
    value = row_sum(jnp.where(empty, 0, terms), axis)
    value = jnp.where(wrong, jnp.nan, value)
    flag = empty.astype(a.dtype)
    state = RowState(value, log_zp, log_zp + shift, shift, origin_p, origin_q, flag)
    return Seen(o, both.p_zero, both.q_zero, state)


def _seen_again(rows, state: RowState) -> Seen:
    """The same from what was kept."""
    p, q, where, sharpness = rows
    a, b = masked(p, q, where)
    both = sides(a, b, state.origin_p, state.origin_q, sharpness)
    o = outcomes(both, state.log_zp, state.log_zq, state.shift)
    return Seen(o, both.p_zero, both.q_zero, state)


def _gradient(divergence: FDivergence, seen: Seen, side: str, axis) -> Array:
    """`row_gradient` in the logits of that side."""
    if side == "p":
        divergence, seen = divergence.dual, seen.swapped
    o, p_zero, q_zero, state = seen
    return row_gradient(divergence, o, p_zero, q_zero, state, axis)


def _gradients(divergence, seen: Seen, rows, wanted, axis) -> tuple[Array, ...]:
    """In the logits of the sides `wanted`, each as wide as those."""
    types = {"p": rows[0].dtype, "q": rows[1].dtype}
    return tuple(_gradient(divergence, seen, s, axis).astype(types[s]) for s in wanted)


def _wide(state: RowState) -> RowState:
    return RowState(*(x[..., None] for x in state))


def _flat(state: RowState) -> RowState:
    return RowState(*(x[..., 0] for x in state))


def _column(sharpness: Array | None) -> Array | None:
    return None if sharpness is None else sharpness[..., None]


def _looked(divergence, rows, axis, wanted: tuple[str, ...] = ()) -> Any:
    """The state, and the gradients in the logits of the sides `wanted`."""
    summable = divergence.one_pass or divergence.dual.one_pass

    def found(seen):
        return _flat(seen.state), _gradients(divergence, seen, rows, wanted, axis)

    def look(rows):
        rows = *rows[:3], _column(rows[3])
        return found(_seen(divergence, axis, rows, wanted))

    def elsewhere(rows):
        rows = *rows[:3], _column(rows[3])
        state = summed_state(divergence, axis, rows)
        return found(_seen_again(rows, state))

    if axis is not None or not _scalar(divergence):
        if summable is None:
            return look(rows)
        return jax.lax.platform_dependent(rows, cpu=look, default=elsewhere)
    other = None if summable is None else elsewhere
    return filled_by_rows(look, rows, rows[0].ndim - 1, other)


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
    return _looked(divergence, (p_logits, q_logits, where, sharpness), axis)[0]


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _with_gradients(divergence, p, q, where, sharpness, wanted):
    """The state and the gradients in the sides `wanted`, from one look."""
    return _looked(divergence, (p, q, where, sharpness), None, wanted)


@_with_gradients.defjvp
def _with_gradients_jvp(wanted, primals, tangents):
    def by_formula(divergence, p, q, where, sharpness):
        state = row_state(divergence, p, q, where, sharpness)

        # Nothing but the inputs and the state is kept.
        @jax.checkpoint
        @jax.jit
        def run(divergence, rows):
            def one(rows):
                *rows, sharpness, state = rows
                seen = _seen_again((*rows, _column(sharpness)), _wide(state))
                return _gradients(divergence, seen, rows, wanted, None)

            return _each_row(divergence, one, rows, p.ndim - 1, None)

        return state, run(divergence, (p, q, where, sharpness, state))

    return jax.jvp(by_formula, primals, tangents)


def _moved(slope, x, where, origin, state, dx, sharpness, d_sharpness) -> Array:
    """``Σ slope · tangent`` of a side in units of the reference, on this device."""
    total = jnp.zeros_like(state.value)
    if dx is not None:
        # What `where` takes away may hold a NaN in a row of NaN.
        dx = dx if where is None else jnp.where(where, dx, 0)
        wide = total.dtype
        change = row_sum(slope.astype(wide) * dx.astype(wide), None)
        total += change if sharpness is None else change * sharpness
    if d_sharpness is not None:
        change = row_sum(slope * offset(x, origin), None)
        total += jnp.where(jnp.isnan(state.value), 1, change) * d_sharpness
    return total


# Compiled, or a gradient outside `jit` would run it operation by operation.
@jax.jit
def _along(gradients, changes, where, sharpness, state: RowState) -> Array:
    """The change of the value from gradients that are at hand."""
    state, sharpness = _wide(state), _column(sharpness)
    total = jnp.zeros_like(state.value)
    for g, dx in zip(gradients, changes, strict=True):
        total += _moved(g, None, where, None, state, dx, sharpness, None)
    return row_settled(total, state, None)[..., 0]


@partial(row_state.defjvp, symbolic_zeros=True)
def _row_state_jvp(axis, primals, tangents):
    divergence, p, q, where, sharpness = primals
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
    sides_moving = tuple(s for s, dx in (("q", dq), ("p", dp)) if dx is not None)
    few = p.size <= _KEPT or max(p.dtype.itemsize, q.dtype.itemsize) == 2
    kept = axis is None and d_sharpness is None and not moving and few
    gradients: Any = ()
    if kept:
        state, gradients = _with_gradients(*primals, sides_moving)
    else:
        state = row_state(*primals, axis)
        # Collected wide: XLA's CPU compiler would widen and narrow all rows of a 16-bit
        # gradient with each block.
        wide = jnp.promote_types(jnp.result_type(p, q), jnp.float32)
        dp, dq = (None if dx is None else dx.astype(wide) for dx in (dp, dq))

    def of_value(shared, rows):
        leaves, d_leaves = shared
        p, q, where, state, dp, dq, sharpness, d_sharpness = rows
        sharpness, d_sharpness = _column(sharpness), _column(d_sharpness)
        divergence = structure.unflatten(leaves)
        state = _wide(state)
        seen = _seen_again((p, q, where, sharpness), state)
        total = jnp.zeros_like(state.value)
        for side, x, dx, origin in (
            ("q", q, dq, state.origin_q),
            ("p", p, dp, state.origin_p),
        ):
            if dx is not None or d_sharpness is not None:
                g = _gradient(divergence, seen, side, axis)
                x = masked(x, x, where)[0].astype(g.dtype)
                total += _moved(g, x, where, origin, state, dx, sharpness, d_sharpness)
        if moving:
            finite = jnp.isfinite(state.value)

            def in_parameters(leaves):
                terms = row_terms(structure.unflatten(leaves), *seen[:3])
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
        mass = jnp.where(jnp.isnan(state.value), 1, quick.exp(side - log_z))
        change = _moved(mass, x, where, origin, state, dx, sharpness, d_sharpness)
        return row_settled(change, state, axis)[..., 0]

    # Recomputed in the backward pass: nothing but the inputs and the state is kept.
    def tangent(function, shared, rows):
        # Compiled, or a gradient outside `jit` would run it operation by operation.
        @jax.checkpoint
        @jax.jit
        def run(shared, rows):
            return _each_row(divergence, partial(function, shared), rows, lead, axis)

        return run(shared, rows)

    if kept:
        changes = tuple(dx for dx in (dq, dp) if dx is not None)
        d_value = _along(gradients, changes, where, sharpness, state)
    else:
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
