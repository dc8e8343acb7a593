"""Rows of logits as log-probabilities, for what is no f-divergence.

The log-ratio is referenced to the target's mode, as in `kljax.kernels.logits`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from kljax.typing import Array, Bool, Float


def masked(
    p_logits: Float[Array, "*b v"],
    q_logits: Float[Array, "*b v"],
    where: Bool[Array, "*b v"] | None,
) -> tuple[Float[Array, "*b v"], Float[Array, "*b v"]]:
    """Both sides in one precision, at least float32, `-inf` where `where` is false."""
    dtype = jnp.promote_types(p_logits.dtype, q_logits.dtype)
    dtype = jnp.promote_types(dtype, jnp.float32)
    a, b = p_logits.astype(dtype), q_logits.astype(dtype)
    if where is None:
        return a, b
    return jnp.where(where, a, -jnp.inf), jnp.where(where, b, -jnp.inf)


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
