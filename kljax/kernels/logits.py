"""Divergence between two rows of logits: value and analytic gradients.

The log-ratio is referenced to the target's mode. With ``d = a − b`` of the logits
shifted by their values there, ``log u = d + log(Z_q/Z_p)``, and the small number
``Z_q/Z_p − 1 = E_p[e^{−d} − 1]`` is computed as such: two separately normalised arrays
would cancel.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from kljax.fdivergence import FDivergence
from kljax.typing import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogProbabilities:
    """Both sides of a row, normalised; `-inf` where an outcome is impossible."""

    log_p: Float[Array, "*b v"]
    log_q: Float[Array, "*b v"]
    log_u: Float[Array, "*b v"]
    empty: Array
    """Rows in which a side has no outcome."""


def reference(
    p_logits: Float[Array, "*b v"], q_logits: Float[Array, "*b v"]
) -> tuple[Float[Array, "*b v"], Float[Array, "*b v"]]:
    """Both sides shifted by their values at the target's mode.

    The mode is taken over the outcomes that are possible on both sides. Divergences
    do not see the shift, so no gradient passes through it.
    """
    joint = (p_logits > -jnp.inf) & (q_logits > -jnp.inf)
    mode = jnp.argmax(jnp.where(joint, p_logits, -jnp.inf), axis=-1, keepdims=True)

    def shift(x):
        at_mode = jnp.take_along_axis(x, mode, axis=-1)
        top = jnp.max(x, axis=-1, keepdims=True)
        origin = jnp.where(jnp.any(joint, axis=-1, keepdims=True), at_mode, top)
        return x - jax.lax.stop_gradient(jnp.where(jnp.isneginf(origin), 0, origin))

    return shift(p_logits), shift(q_logits)


def _normalize(x: Array) -> tuple[Array, Array, Array]:
    """Log-probabilities, log-normaliser and "nothing is possible", by row."""
    empty = jnp.all(x == -jnp.inf, axis=-1, keepdims=True)
    log_z = jax.nn.logsumexp(jnp.where(empty, 0, x), axis=-1, keepdims=True)
    return x - log_z, log_z, empty


def log_probabilities(
    a: Float[Array, "*b v"], b: Float[Array, "*b v"]
) -> LogProbabilities:
    """Normalised sides and their accurate log-ratio, from referenced logits.

    Args:
      a: target logits after `reference`, `-inf` allowed.
      b: model logits likewise, same shape.
    """
    (log_p, log_zp, p_empty), (log_q, log_zq, q_empty) = _normalize(a), _normalize(b)
    p_zero, q_zero = a == -jnp.inf, b == -jnp.inf
    joint = ~p_zero & ~q_zero
    d = jnp.where(joint, a - b, 0)
    p, rest = jnp.exp(log_p), jnp.exp(b - log_zp)
    excess = jnp.where(d < -1, rest - p, p * jnp.expm1(-jnp.maximum(d, -1)))
    outside = jnp.where(p_zero, rest, -p)
    x = jnp.sum(jnp.where(joint, excess, outside), axis=-1, keepdims=True)
    small = jnp.abs(x) < 0.5
    shift = jnp.where(small, jnp.log1p(jnp.where(small, x, 0)), log_zq - log_zp)
    return LogProbabilities(log_p, log_q, d + shift, (p_empty | q_empty)[..., 0])


@jax.custom_jvp
def row_divergence(
    divergence: FDivergence, a: Float[Array, "*b v"], b: Float[Array, "*b v"]
) -> Float[Array, "*b"]:
    """``D(p‖q)`` of each row of referenced logits; 0 where a side is empty.

    Differentiable to any order, forward and reverse, in the logits and in the
    divergence's parameters. A row whose value is infinite has gradient 0.
    """
    rows = log_probabilities(a, b)
    return _total(divergence, rows)


def _total(divergence: FDivergence, rows: LogProbabilities) -> Array:
    terms = divergence.term(rows.log_p, rows.log_q, rows.log_u)
    return jnp.where(rows.empty, 0, jnp.sum(terms, axis=-1))


def _logit_gradient(grad_term: Array, log_mass: Array) -> Array:
    """Through the softmax: ``m ⊙ (g − Σ m g)`` from the product ``m ⊙ g``."""
    mean = jnp.sum(grad_term, axis=-1, keepdims=True)
    return grad_term - jnp.exp(log_mass) * mean


@partial(row_divergence.defjvp, symbolic_zeros=True)
def _row_divergence_jvp(primals, tangents):
    divergence, a, b = primals
    d_divergence, da, db = tangents
    leaves, structure = jax.tree.flatten(divergence)
    d_leaves = jax.tree.leaves(
        d_divergence, is_leaf=lambda x: isinstance(x, SymbolicZero)
    )
    moving = [not isinstance(t, SymbolicZero) for t in d_leaves]

    # Recomputed in the backward pass: nothing but the inputs is kept.
    @jax.checkpoint
    def tangent(leaves, a, b, d_leaves, da, db):
        divergence = structure.unflatten(leaves)
        rows = log_probabilities(a, b)
        value, total = _total(divergence, rows), jnp.zeros(a.shape[:-1], a.dtype)
        finite = jnp.isfinite(value) & ~rows.empty
        if db is not None:
            g = divergence.grad_term(rows.log_p, rows.log_q, rows.log_u)
            gradient = _logit_gradient(g, rows.log_q)
            total += jnp.sum(jnp.where(finite[..., None], gradient, 0) * db, axis=-1)
        if da is not None:
            g = divergence.dual.grad_term(rows.log_q, rows.log_p, -rows.log_u)
            gradient = _logit_gradient(g, rows.log_p)
            total += jnp.sum(jnp.where(finite[..., None], gradient, 0) * da, axis=-1)
        if any(moving):

            def in_parameters(leaves):
                return _total(structure.unflatten(leaves), rows)

            change = jax.jvp(in_parameters, (leaves,), (d_leaves,))[1]
            total += jnp.where(finite, change, 0)
        return total

    def given(t):
        return None if isinstance(t, SymbolicZero) else t

    d_leaves = [
        t
        if moves
        else np.zeros(np.shape(x), jax.dtypes.float0)
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        else jnp.zeros_like(x)
        for x, t, moves in zip(leaves, d_leaves, moving)
    ]
    if not any(moving):
        d_leaves = None
    out = row_divergence(divergence, a, b)
    return out, tangent(leaves, a, b, d_leaves, given(da), given(db)).astype(out.dtype)
