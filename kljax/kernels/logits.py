"""Divergence between two rows of logits: value and analytic gradients.

The log-ratio is referenced to the target's mode. With ``d = a − b`` of the logits
shifted by their values there, ``log u = d + log(Z_q/Z_p)``, and the small number
``Z_q/Z_p − 1 = E_p[e^{−d} − 1]`` is computed as such: two separately normalised arrays
would cancel. Between the forward and the backward pass only the logits and six numbers
a row are kept; see `kljax.kernels.blocks` for how rows are taken.

Where the outcomes of a row are split over an axis of a mesh (``axis``, inside
`jax.shard_map`), the devices exchange three maxima and the packed sums of each row, and
nothing else; rows are then taken all at once.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from kljax import elementary as el
from kljax.fdivergence import FDivergence, Outcomes
from kljax.kernels.blocks import by_rows
from kljax.kernels.normalized import masked
from kljax.sums import Unit, ratio_excess
from kljax.typing import Array, Bool, Float

_FAR = 60.0
"""Beyond this, exponents are scaled or cut off: float32 overflows at 88."""

_IMPOSSIBLE = -1e30
"""Stands in for ``-inf``: its mass is 0, and no difference of two is a NaN."""


class RowState(NamedTuple):
    """What is known of each row after the forward pass; shapes ``[*b]``."""

    value: Array
    log_zp: Array
    """Log-normaliser of the referenced target."""
    log_zq: Array
    shift: Array
    """``log_zq − log_zp``, accurate where it is small."""
    origin_p: Array
    origin_q: Array
    """The logits at the reference: no gradient passes through them."""
    empty: Array
    """Whether a side has no outcome, as 0 or 1."""


class Sides(NamedTuple):
    """Both sides of a row in units of the reference; ``[*b, v]``."""

    a: Array
    b: Array
    d: Array
    """``a − b``, huge where one side is impossible."""
    p_zero: Array
    q_zero: Array


def _origins(
    a: Array, b: Array, axis: str | None = None
) -> tuple[Array, Array, Array, Array]:
    """Where both sides are measured from, the model's maximum, "a side is empty".

    The target's mode among the outcomes possible on both sides; without any, an
    outcome of each. By maxima alone: an argmax is slow on a CPU, and a gather does
    not shard.
    """
    # What the model lacks comes last, and is still told from what both lack.
    key = jnp.where(b > -jnp.inf, a, a - 1e6)
    top = jnp.max(key, axis=-1, keepdims=True)
    at_top = jnp.max(jnp.where(key == top, b, -jnp.inf), axis=-1, keepdims=True)
    q_top = jnp.max(b, axis=-1, keepdims=True)
    if axis is not None:
        tops = jax.lax.all_gather(jnp.stack([top, at_top, q_top]), axis)
        tops, there, q_tops = jnp.moveaxis(tops, 1, 0)
        top, q_top = jnp.max(tops, axis=0), jnp.max(q_tops, axis=0)
        at_top = jnp.max(jnp.where(tops == top, there, -jnp.inf), axis=0)
    joint = at_top > -jnp.inf
    empty = (top == -jnp.inf) | (q_top == -jnp.inf)
    origin_p = jnp.where(joint, top, top + 1e6)
    origin_q = jnp.where(joint, at_top, q_top)
    found = (jnp.where(empty, 0, x) for x in (origin_p, origin_q, q_top))
    # Numbers of a row are computed once, not again for each of its outcomes.
    return jax.lax.optimization_barrier((*map(jax.lax.stop_gradient, found), empty))


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """``a − b`` and its rounding error (Knuth's two-difference)."""
    h = a - b
    t = h - a
    return h, (a - (h - t)) - (b + t)


def _sides(a, b, origin_p, origin_q, sharpness) -> Sides:
    p_zero, q_zero = a == -jnp.inf, b == -jnp.inf
    a, b = jnp.maximum(a, _IMPOSSIBLE), jnp.maximum(b, _IMPOSSIBLE)
    high, low = _difference(a, b)
    high_0, low_0 = _difference(origin_p, origin_q)
    d = (high - high_0) + (low - low_0)
    scale = 1 if sharpness is None else sharpness.astype(a.dtype)
    a, b = (a - origin_p) * scale, (b - origin_q) * scale
    return Sides(a, b, d * scale, p_zero, q_zero)


def _unit(sides: Sides, lift: Array) -> Unit:
    """Masses in units of the reference; the model's are scaled down by ``e^lift``."""
    a, b, d, p_zero, q_zero = sides
    level = jnp.exp(-lift)
    # Only outcomes that the model lacks can exceed: if they do they are all the mass.
    e_p, e_q = jnp.exp(jnp.minimum(a, _FAR)), jnp.exp(b - lift)
    near = jnp.abs(d) < el.NEAR
    close = level * e_p * el.expm1_near(-jnp.where(near, d, 0))
    excess = jnp.where(near, close, e_q - level * e_p)
    only_q, only_p = p_zero & ~q_zero, q_zero & ~p_zero
    return Unit(e_p, e_q, d, excess, level, only_q, only_p)


def _sums(parts: list[Array], axis: str | None) -> list[Array]:
    """Over each row; one exchange where outcomes are split over devices."""
    sums = [jnp.sum(x, axis=-1, keepdims=True) for x in parts]
    return sums if axis is None else list(jax.lax.psum(sums, axis))


def _sum(x: Array, axis: str | None) -> Array:
    return _sums([x], axis)[0]


def _outcomes(sides: Sides, log_zp, log_zq, shift, p=None, q=None) -> Outcomes:
    """What the generators take; `p` and `q` are the masses, if they are known."""
    log_p, log_q, log_u = sides.a - log_zp, sides.b - log_zq, sides.d + shift
    p = jnp.exp(log_p) if p is None else p
    q = jnp.exp(log_q) if q is None else q
    near = jnp.abs(log_u) < el.NEAR
    close = -p * el.expm1_near(-jnp.where(near, log_u, 0))
    return Outcomes(log_p, log_q, log_u, p, q, jnp.where(near, close, p - q))


def _interior(o: Outcomes, either: Array) -> Outcomes:
    """Finite stand-ins of moderate size where a side is impossible."""
    log_p, log_q, log_u, p, q, excess = o
    log_p, log_q, log_u = (jnp.where(either, 0, x) for x in (log_p, log_q, log_u))
    return Outcomes(log_p, log_q, log_u, p, q, excess)


def _limit(mass: Array, bound: Any) -> Array:
    infinite = jnp.isinf(bound)
    return jnp.where(infinite, jnp.inf, mass * jnp.where(infinite, 0.0, bound))


def _terms(divergence: FDivergence, o: Outcomes, p_zero, q_zero) -> Array:
    """``q f(p/q)`` of each outcome, limits included."""
    bounds = divergence.at_zero, divergence.dual_at_zero
    if divergence.limits_included:
        terms = divergence.mass_term(o)
        for bound, missing, there in zip(bounds, (p_zero, q_zero), (q_zero, p_zero)):
            if not isinstance(bound, float) or math.isinf(bound):
                beyond = missing & ~there & jnp.isinf(bound)
                terms = jnp.where(beyond, jnp.inf, terms)
        return terms
    lone = jnp.where(q_zero, 0, _limit(o.q, bounds[0]))
    lone = jnp.where(p_zero, lone, _limit(o.p, bounds[1]))
    either = p_zero | q_zero
    return jnp.where(either, lone, divergence.mass_term(_interior(o, either)))


def _gradient(
    divergence: FDivergence, o: Outcomes, p_zero, q_zero, finite, axis
) -> Array:
    """In the model's logits: ``q ⊙ (g − Σ q g)`` with ``g = grad_q``.

    Rows that are not `finite` get 0.
    """
    if divergence.limits_included:
        product = divergence.mass_grad(o)
    else:
        either = p_zero | q_zero
        bound = divergence.at_zero
        bound = jnp.where(jnp.isinf(bound), 0.0, bound)
        inside = divergence.mass_grad(_interior(o, either))
        product = jnp.where(either, jnp.where(q_zero, 0, o.q * bound), inside)
    product = jnp.where(finite, product, 0)
    if divergence.centered:
        return product
    # A select at the end keeps the subtraction in the loop that writes the gradient.
    return jnp.where(finite, product - o.q * _sum(product, axis), 0)


def _forward(divergence, p, q, where, sharpness, axis) -> RowState:
    a, b = masked(p, q, where)
    origin_p, origin_q, q_top, empty = _origins(a, b, axis)
    sides = _sides(a, b, origin_p, origin_q, sharpness)
    scale = 1 if sharpness is None else sharpness.astype(a.dtype)
    # A model that is far above the reference elsewhere would overflow.
    excess = (q_top - origin_q) * scale
    lift = jax.lax.optimization_barrier(jnp.where(excess > _FAR, excess, 0))
    unit = _unit(sides, lift)
    one_pass = divergence.one_pass
    parts = [unit.excess] if one_pass is None else one_pass.summands(unit)
    z_p, z_q, *sums = _sums([unit.e_p, unit.e_q, *parts], axis)
    if one_pass is not None:
        value, x = one_pass.value(z_p, z_q, lift, *sums)
    else:
        value, x = None, ratio_excess(sums[0], z_p, lift)
    small = jnp.abs(x) < 0.5
    log_zp, log_zq = jnp.log(z_p), jnp.log(z_q) + lift
    shift = jnp.where(small, jnp.log1p(jnp.where(small, x, 0)), log_zq - log_zp)
    log_zp, log_zq, shift = jax.lax.optimization_barrier((log_zp, log_zq, shift))
    if value is None:
        masses = unit.e_p / z_p, unit.e_q / z_q
        o = _outcomes(sides, log_zp, log_zq, shift, *masses)
        value = _sum(_terms(divergence, o, sides.p_zero, sides.q_zero), axis)
    value = jnp.where(empty, 0, value)
    log_zp, log_zq, shift = (jnp.where(empty, 0, x) for x in (log_zp, log_zq, shift))
    flag = empty.astype(a.dtype)
    state = value, log_zp, log_zq, shift, origin_p, origin_q, flag
    return RowState(*(x[..., 0] for x in state))


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
    sharpness: Float[Array, ""] | None = None,
    axis: str | None = None,
) -> RowState:
    """The divergence of each row, and what its gradient needs.

    Args:
      divergence: the object.
      p_logits: target logits, ``-inf`` allowed, of any floating type.
      q_logits: model logits likewise, same shape.
      where: outcomes that exist, same shape.
      sharpness: one over the temperature.
      axis: inside `jax.shard_map`, the mesh's axis over which outcomes are split.

    Differentiable to any order, forward and reverse, in the logits, the sharpness and
    the divergence's parameters. A row whose value is infinite has gradient 0.
    """

    def forward(rows):
        p, q, where = rows
        swapped = divergence.one_pass is None and divergence.dual.one_pass is not None
        if not swapped:
            return _forward(divergence, p, q, where, sharpness, axis)
        value, log_zq, log_zp, shift, origin_q, origin_p, empty = _forward(
            divergence.dual, q, p, where, sharpness, axis
        )
        return RowState(value, log_zp, log_zq, -shift, origin_p, origin_q, empty)

    rows = p_logits, q_logits, where
    return _each_row(divergence, forward, rows, p_logits.ndim - 1, axis)


def _moved(x: Array, side: Array, dx, sharpness, d_sharpness) -> Array:
    """The tangent of a side in units of the reference."""
    change = jnp.zeros_like(side)
    if dx is not None:
        dx = dx.astype(side.dtype)
        change += dx if sharpness is None else dx * sharpness.astype(side.dtype)
    if d_sharpness is not None:
        possible = jnp.where(jnp.isneginf(x), 0, side)
        change += possible / sharpness.astype(side.dtype) * d_sharpness
    return change


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

    def of_value(shared, rows):
        leaves, d_leaves, sharpness, d_sharpness = shared
        p, q, where, state, dp, dq = rows
        divergence = structure.unflatten(leaves)
        state = RowState(*(x[..., None] for x in state))
        a, b = masked(p, q, where)
        sides = _sides(a, b, state.origin_p, state.origin_q, sharpness)
        o = _outcomes(sides, state.log_zp, state.log_zq, state.shift)
        p_zero, q_zero = sides.p_zero, sides.q_zero
        finite = jnp.isfinite(state.value) & (state.empty == 0)
        total = jnp.zeros_like(state.value)
        if dq is not None or d_sharpness is not None:
            g = _gradient(divergence, o, p_zero, q_zero, finite, axis)
            change = _moved(b, sides.b, dq, sharpness, d_sharpness)
            total += _sum(g * change, axis)
        if dp is not None or d_sharpness is not None:
            dual = divergence.dual
            g = _gradient(dual, o.swapped, q_zero, p_zero, finite, axis)
            change = _moved(a, sides.a, dp, sharpness, d_sharpness)
            total += _sum(g * change, axis)
        if moving:

            def in_parameters(leaves):
                terms = _terms(structure.unflatten(leaves), o, p_zero, q_zero)
                return _sum(terms, axis)

            change = jax.jvp(in_parameters, (leaves,), (d_leaves,))[1]
            total += jnp.where(finite, change, 0)
        return total[..., 0]

    def of_normalizer(shared, rows):
        sharpness, d_sharpness = shared
        x, where, origin, log_z, dx = rows
        x = masked(x, x, where)[0].astype(log_z.dtype)
        side = x - origin[..., None]
        if sharpness is not None:
            side = side * sharpness.astype(side.dtype)
        mass = jnp.exp(side - log_z[..., None])
        moved = _moved(x, side, dx, sharpness, d_sharpness)
        return _sum(mass * moved, axis)[..., 0]

    # Recomputed in the backward pass: nothing but the inputs and the state is kept.
    def tangent(function, shared, rows):
        @jax.checkpoint
        def run(shared, rows):
            return _each_row(divergence, partial(function, shared), rows, lead, axis)

        return run(shared, rows)

    d_value = tangent(
        of_value,
        (leaves, d_leaves if moving else None, sharpness, d_sharpness),
        (p, q, where, state, dp, dq),
    )
    zero = jnp.zeros_like(state.value)
    d_normalizers = []
    for x, dx, origin, log_z in (
        (p, dp, state.origin_p, state.log_zp),
        (q, dq, state.origin_q, state.log_zq),
    ):
        fixed = dx is None and d_sharpness is None
        change = (
            zero
            if fixed
            else tangent(
                of_normalizer,
                (sharpness, d_sharpness),
                (x, where, origin, log_z, dx),
            )
        )
        d_normalizers.append(jnp.where(state.empty == 0, change, 0))
    d_zp, d_zq = d_normalizers
    return state, RowState(d_value, d_zp, d_zq, d_zq - d_zp, zero, zero, zero)


def row_divergence(
    divergence: FDivergence,
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None = None,
    sharpness: Float[Array, ""] | None = None,
    axis: str | None = None,
) -> Float[Array, "*b"]:
    """``D(p‖q)`` of each row of logits; 0 where a side is empty.

    Arguments and derivatives as in `row_state`.
    """
    return row_state(divergence, p_logits, q_logits, where, sharpness, axis).value
