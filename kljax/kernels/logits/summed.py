"""The value of rows from one-pass forms: an accelerator reads the logits twice.

All sums are those of outcomes measured from the sides' maxima. Where the log-ratio
there is far from those that count, a value that is so much smaller is what is left of a
cancellation; such rows are measured once more, from where it is about 0.
"""

import math

import jax
import jax.numpy as jnp

from kljax.generators import FDivergence
from kljax.generators import accurate as el
from kljax.generators.one_pass import Unit
from kljax.kernels.logits.parts import RowState
from kljax.kernels.logits.referenced import (
    masked,
    moved,
    origins,
    quotient,
    sides,
    sums,
    unsound,
)
from kljax.typing import Array


def summed_state(divergence: FDivergence, axis: str | None, rows) -> RowState:
    """The state ``[*b, 1]`` of rows `p`, `q`, `where` and the sharpness ``[*b, 1]``."""
    if divergence.one_pass is None:
        p, q, where, sharpness = rows
        dual = summed_state(divergence.dual, axis, (q, p, where, sharpness))
        return dual.swapped
    p, q, where, sharpness = rows
    a, b = masked(p, q, where)
    zero = jnp.zeros_like(a[..., :1])
    begun = origins(a, b, axis)
    flag = begun.empty.astype(a.dtype)
    state = RowState(zero, zero, zero, zero, begun.p, begun.q, flag)

    def sought(carry):
        return jnp.any(carry[0])

    # A loop that ends where no row is left: under `vmap` as well, where a condition
    # would compute both branches.
    def once_more(carry):
        _, first, state = carry
        # As if the rows changed: what is made of them would be stored beforehand.
        found = _measured(
            divergence, axis, *jax.lax.optimization_barrier((rows, state))
        )
        return _untypical(divergence, found) & first, jnp.zeros_like(first), found

    ones = jnp.ones(zero.shape, bool)
    return jax.lax.while_loop(sought, once_more, (ones, ones, state))[2]


def _untypical(divergence: FDivergence, state: RowState) -> Array:
    far = jnp.abs(state.shift)
    small = state.value < divergence.value(-jnp.minimum(far / 4, 1))
    return (small | (state.value < far / 25)) & (far > 1e-3)


def _measured(divergence, axis, rows, state: RowState) -> RowState:
    p, q, where, sharpness = rows
    a, b = masked(p, q, where)
    origin_p, empty = state.origin_p, state.empty == 1
    moves = _untypical(divergence, state)
    origin_q, _ = moved(state.origin_q, jnp.where(moves, state.shift, 0), sharpness)
    both = sides(a, b, origin_p, origin_q, sharpness)
    # So small a part that a sum over the row does not overflow where no term does.
    width = a.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))
    part = 2.0 ** -(2 * math.ceil(math.log2(width)) + 1)
    unit = _unit(both, part)
    z_p, z_q, gap, *found = sums(
        [unit.e_p, unit.e_q, unit.excess, *divergence.one_pass.summands(unit)], axis
    )
    wrong = unsound(z_p, z_q)
    empty &= ~wrong
    _, shift = quotient(z_p, z_q, gap)
    value = divergence.one_pass.value(z_p, z_q, gap / z_p, shift, *found)
    value = jnp.where(empty, 0, jnp.where(wrong, jnp.nan, value))
    log_zp = jnp.log(z_p / part)
    log_zp, shift = (jnp.where(empty, 0, x) for x in (log_zp, shift))
    flag = empty.astype(a.dtype)
    return RowState(value, log_zp, log_zp + shift, shift, origin_p, origin_q, flag)


def _unit(sides, part: float) -> Unit:
    a, b, d, p_zero, q_zero = sides
    e_p, e_q = part * jnp.exp(a), part * jnp.exp(b)
    near = jnp.abs(d) < el.NEAR
    close = e_p * el.expm1_near(-jnp.where(near, d, 0))
    excess = jnp.where(near, close, e_q - e_p)
    return Unit(e_p, e_q, d, excess, p_zero & ~q_zero, q_zero & ~p_zero)
