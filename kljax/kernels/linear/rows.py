"""What one chunk of a linear loss computes per token, from its logits.

Every function is ``rows(divergence, logits, operands) -> [c]``; the names of the
operands are those of `kljax.kernels.linear.fused`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.kernels.linear import listed
from kljax.kernels.logits import row_divergence
from kljax.typing import Array, ArrayLike, Float, Int


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
    q = _cooled(logits["q"], operands, "q")
    return cross_entropy(q, operands["labels"], operands["weights"])


def mixture_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """Cross-entropy at temperature 1 and the divergence, each times its factor."""
    hard = cross_entropy(logits["q"], operands["labels"], operands["weights"])
    soft = divergence_rows(divergence, logits, operands)
    return weigh(operands["hard_scale"], hard) + weigh(operands["soft_scale"], soft)


def topk_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``D`` over the listed outcomes and one for all others."""
    q = _cooled(logits["q"], operands, "q")
    return topk_divergence(
        divergence,
        operands["log_p_topk"],
        operands["ids"],
        q,
        operands.get("log_tail"),
        operands["weights"],
    )


def topk_divergence(
    divergence: Any,
    log_p: Float[Array, "*b k"],
    ids: Int[Array, "*b k"],
    q: Float[Array, "*b v"],
    log_tail: Float[Array, "*b"] | None = None,
    weights: Float[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """``D`` over the listed outcomes and one for all others; NaN of a wrong list.

    A list of weight 0 may hold anything.
    """
    log_p = settled(weights, log_p, impossible=True)
    if log_tail is not None:
        log_tail = settled(weights, log_tail, impossible=True)
    wrong = listed.wrong_ids(ids, q.shape[-1])
    wrong |= listed.unnormalized(log_p, log_tail)
    p, q = listed.with_tail(log_p, ids, q, log_tail)
    return shown(row_divergence(divergence, p, q), counted(weights, wrong))


def renormalized_rows(divergence: Any, logits: dict, operands: dict) -> Array:
    """``D`` over the listed outcomes alone, both sides normalised over them."""
    q = _cooled(logits["q"], operands, "q")
    ids, weights = operands["ids"], operands["weights"]
    wrong = listed.wrong_ids(ids, q.shape[-1])
    q = listed.picked_from(q, ids)
    p = settled(weights, operands["log_p_topk"], impossible=True).astype(q.dtype)
    return shown(row_divergence(divergence, p, q), counted(weights, wrong))


def _cooled(z: Array, operands: dict, side: str) -> Array:
    temperature = operands.get(f"{side}_temperature")
    return z if temperature is None else z / temperature.astype(z.dtype)


def weigh(weights: Array, values: Array) -> Array:
    """``w · value``, 0 where w is 0; an infinite value has no derivative in w."""
    weights = weights.astype(jnp.promote_types(weights.dtype, values.dtype))
    infinite = jnp.isinf(values)
    finite = weights * slope_in_weight(weights, values)
    bound = jnp.where(weights == 0, 0, jnp.where(weights < 0, -jnp.inf, jnp.inf))
    return jnp.where(infinite, bound, finite)


def slope_in_weight(weights: Array, values: Array) -> Array:
    """The value; 0 if that is infinite, or a NaN that does not count."""
    nothing = jnp.isinf(values) | (jnp.isnan(values) & (weights == 0))
    return jnp.where(nothing, 0, values)


_HUGE = 1e30
"""Beyond this, differences of two numbers overflow."""


def settled(weights: Array | None, x: Array, *, impossible: bool = False) -> Array:
    """0 in place of what is not finite, in rows of weight 0.

    So that what does not count reaches no sum, as NaN times 0 would; the derivative in
    the weight of a row that is finite stays. `impossible`: ``-inf`` is legal.
    """
    if weights is None:
        return x
    size = x if impossible else jnp.abs(x)
    skipped = (weights == 0).reshape(*weights.shape, *(1,) * (x.ndim - weights.ndim))
    return jnp.where(skipped & ~(size < _HUGE), 0, x)


def counted(weights: Array | None, wrong: Array) -> Array:
    """Which of the wrong rows have a weight."""
    return wrong if weights is None else wrong & (weights != 0)


def shown(values: Array, wrong: ArrayLike = False) -> Array:
    """NaN where a row is wrong; a NaN is one in the gradient too."""
    return values * jnp.where(jnp.isnan(values) | wrong, jnp.nan, 1)


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
    logits: Float[Array, "*b v"],
    labels: Int[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """``−log softmax(logits)[label] = softplus(log Σ_{j≠y} e^{z_j − z_y})``.

    This form keeps the digits of a confident prediction. An impossible label has
    ``+inf``, and gradient 0; one that does not exist NaN, unless its weight is 0.
    """
    vocab = logits.shape[-1]
    chosen = jnp.clip(labels, 0, vocab - 1)[..., None]
    at_label = jnp.take_along_axis(logits, chosen, axis=-1)
    impossible = at_label == -jnp.inf
    here = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    skipped = (here == chosen) | (logits == -jnp.inf) | impossible
    # Subtracted before the maximum is known: exact where both are large.
    gap = jnp.where(skipped, -jnp.inf, logits - jnp.where(impossible, 0, at_label))
    lone = jnp.all(skipped, axis=-1)
    rest = jax.nn.logsumexp(jnp.where(lone[..., None], 0, gap), axis=-1)
    value = jnp.where(lone, 0, jax.nn.softplus(jnp.where(lone, 0, rest)))
    value = jnp.where(impossible[..., 0], jnp.inf, value)
    return shown(value, counted(weights, (labels < 0) | (labels >= vocab)))
