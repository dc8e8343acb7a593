"""The divergence of rows whose outcomes are split, for gradients formed on the spot."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kljax.generators import FDivergence
from kljax.kernels.logits.parts import RowState, row_gradient, row_settled, row_terms
from kljax.kernels.logits.referenced import masked, offset, outcomes, sides
from kljax.kernels.logits.rows import row_divergence, row_state
from kljax.typing import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def own_divergence(
    divergence: FDivergence,
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: None,
    sharpness: Float[Array, ""] | None,
    axis: str,
) -> Float[Array, "*b"]:
    """`row_divergence`, for a gradient that is formed inside of `jax.shard_map`.

    Every device is given the same cotangents; nothing is exchanged for them. In the
    logits its gradient is whole, in sharpness and parameters a device's part.
    """
    return row_divergence(divergence, p_logits, q_logits, where, sharpness, axis)


def _own_forward(divergence, p, q, where, sharpness, axis):
    leaves, structure = jax.tree.flatten(
        (p, q, divergence, sharpness), is_leaf=lambda x: hasattr(x, "perturbed")
    )
    parts = leaves[:1], leaves[1:2], leaves[2:]
    moves = [any(x.perturbed for x in part) for part in parts]
    arrays = structure.unflatten([x.value for x in leaves])
    p, q, divergence, sharpness = arrays
    rows = None if sharpness is None else jnp.broadcast_to(sharpness, p.shape[:-1])
    state = row_state(divergence, p, q, where, rows, axis)
    # What is fixed is told by structure: a residual is an array.
    return state.value, (arrays, state, [() if m else None for m in moves])


def _own_backward(axis, kept, cotangent):
    (p, q, divergence, sharpness), state, moves = kept
    p_moves, q_moves, rest_moves = (m is not None for m in moves)
    state = RowState(*(x[..., None] for x in state))
    a, b = masked(p, q, None)
    both = sides(a, b, state.origin_p, state.origin_q, sharpness)
    o = outcomes(both, state.log_zp, state.log_zq, state.shift)
    p_zero, q_zero = both.p_zero, both.q_zero
    in_p: Any = None
    in_q: Any = None
    if p_moves or rest_moves:
        dual = divergence.dual, o.swapped, q_zero, p_zero, state.swapped
        in_p = row_gradient(*dual, axis)
    if q_moves or rest_moves:
        in_q = row_gradient(divergence, o, p_zero, q_zero, state, axis)
    ct = cotangent[..., None]

    def moved(slope, x, moves):
        if not moves:
            return None
        scale = ct if sharpness is None else ct * sharpness
        return row_settled(slope * scale, state, None).astype(x.dtype)

    in_sharpness = in_divergence = None
    if rest_moves:
        leaves, structure = jax.tree.flatten(divergence)

        def total(leaves):
            terms = row_terms(structure.unflatten(leaves), o, p_zero, q_zero)
            other = sum(map(jnp.sum, leaves))
            terms = jnp.where(jnp.isfinite(state.value), terms, other)
            return jnp.sum(row_settled(terms * ct, state, None))

        in_divergence = structure.unflatten(jax.grad(total, allow_int=True)(leaves))
        if sharpness is not None:
            slopes = in_q * offset(b, state.origin_q) + in_p * offset(a, state.origin_p)
            slopes = jnp.where(jnp.isnan(state.value), 1, slopes)
            in_sharpness = jnp.sum(row_settled(slopes * ct, state, None))
    in_logits = moved(in_p, p, p_moves), moved(in_q, q, q_moves)
    return in_divergence, *in_logits, None, in_sharpness


own_divergence.defvjp(_own_forward, _own_backward, symbolic_zeros=True)
