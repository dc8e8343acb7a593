"""What one chunk of a linear loss computes per token, from its logits.

Every function is ``rows(divergence, logits, operands) -> [c]``; the names of the
operands are those of `kljax.kernels.linear`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.kernels.logits import row_divergence
from kljax.typing import Array, Float, Int


def divergence_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``D(p‖q)``, temperatures applied; the shorter vocabulary ends in ``-inf``."""
    p, q = _aligned(logits["p"], logits["q"])
    if "temperature" in operands:
        return row_divergence(divergence, p, q, None, 1 / operands["temperature"])
    return row_divergence(
        divergence, _cooled(p, operands, "p"), _cooled(q, operands, "q")
    )


def label_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``−log q`` at the label, temperature applied."""
    del divergence
    return cross_entropy(_cooled(logits["q"], operands, "q"), operands["labels"])


def mixture_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """Cross-entropy at temperature 1 and the divergence, each times its factor."""
    hard = cross_entropy(logits["q"], operands["labels"])
    soft = divergence_rows(divergence, logits, operands)
    return weigh(operands["hard_scale"], hard) + weigh(operands["soft_scale"], soft)


def topk_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``D`` over the listed outcomes and one for all others."""
    q = _cooled(logits["q"], operands, "q")
    p, q = with_tail(operands["log_p_topk"], operands["ids"], q)
    return row_divergence(divergence, p, q)


def renormalized_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``D`` over the listed outcomes alone, both sides normalised over them."""
    q = _cooled(logits["q"], operands, "q")
    q = jnp.take_along_axis(q, operands["ids"], axis=-1)
    p = operands["log_p_topk"].astype(q.dtype)
    return row_divergence(divergence, p, q)


def _cooled(z: Array, operands: dict, side: str) -> Array:
    temperature = operands.get(f"{side}_temperature")
    return z if temperature is None else z / temperature.astype(z.dtype)


def weigh(weights: Array, values: Array) -> Array:
    """``w · value``, 0 where w is 0; an infinite value has no derivative in w."""
    weights = weights.astype(jnp.promote_types(weights.dtype, values.dtype))
    infinite = jnp.isinf(values)
    finite = weights * jnp.where(infinite, 0, values)
    bound = jnp.where(weights == 0, 0, jnp.where(weights < 0, -jnp.inf, jnp.inf))
    return jnp.where(infinite, bound, finite)


def _aligned(p: Array, q: Array) -> tuple[Array, Array]:
    dtype = jnp.promote_types(p.dtype, q.dtype)
    vocab = max(p.shape[-1], q.shape[-1])

    def widen(x):
        short = vocab - x.shape[-1]
        x = x.astype(dtype)
        if not short:
            return x
        return jnp.pad(x, ((0, 0), (0, short)), constant_values=-jnp.inf)

    return widen(p), widen(q)


def cross_entropy(
    logits: Float[Array, "*b v"], labels: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """``−log softmax(logits)[label] = softplus(log Σ_{j≠y} e^{z_j − z_y})``.

    This form keeps the digits of a confident prediction. A label that does not exist
    or is impossible has ``+inf``, and gradient 0.
    """
    vocab = logits.shape[-1]
    chosen = jnp.clip(labels, 0, vocab - 1)[..., None]
    at_label = jnp.take_along_axis(logits, chosen, axis=-1)
    outside = (labels < 0) | (labels >= vocab)
    impossible = (at_label == -jnp.inf) | outside[..., None]
    here = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    skipped = (here == chosen) | (logits == -jnp.inf) | impossible
    # Subtracted before the maximum is known: exact where both are large.
    gap = jnp.where(skipped, -jnp.inf, logits - jnp.where(impossible, 0, at_label))
    lone = jnp.all(skipped, axis=-1)
    rest = jax.nn.logsumexp(jnp.where(lone[..., None], 0, gap), axis=-1)
    value = jnp.where(lone, 0, jax.nn.softplus(jnp.where(lone, 0, rest)))
    return jnp.where(impossible[..., 0], jnp.inf, value)


def with_tail(
    log_p: Float[Array, "*b k"], ids: Int[Array, "*b k"], q: Float[Array, "*b v"]
) -> tuple[Float[Array, "*b k1"], Float[Array, "*b k1"]]:
    """Both sides over the listed outcomes and the rest of each as outcome k + 1."""
    log_p = log_p.astype(q.dtype)
    listed = jax.nn.logsumexp(log_p, axis=-1, keepdims=True)
    # A tail at the level of rounding is none.
    room = listed < -8 * jnp.finfo(log_p.dtype).eps
    tail = jnp.where(room, jnp.log(-jnp.expm1(jnp.where(room, listed, -1))), -jnp.inf)
    picked = jnp.take_along_axis(q, ids, axis=-1)
    others = jnp.put_along_axis(q, ids, -jnp.inf, axis=-1, inplace=False)
    none = jnp.all(others == -jnp.inf, axis=-1, keepdims=True)
    rest = jax.nn.logsumexp(jnp.where(none, 0, others), axis=-1, keepdims=True)
    p_side = jnp.concatenate([log_p, tail], axis=-1)
    q_side = jnp.concatenate([picked, jnp.where(none, -jnp.inf, rest)], axis=-1)
    return p_side, q_side
