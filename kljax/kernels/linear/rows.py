"""What a chunk of a linear loss, or a dense one, computes per token from its logits."""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.kernels.linear import listed
from kljax.kernels.linear.operands import Among, Lists, Operands
from kljax.kernels.logits import row_divergence
from kljax.kernels.weights import counted, settled, shown, weigh
from kljax.typing import Array, Float, Int

__all__ = ["cross_entropy", "list_divergence", "token_values"]


def token_values(
    divergence: Any, p: Array | None, q: Array, o: Operands, row_divergence: Any
) -> Float[Array, "c"]:
    """The loss of each token: cross-entropy, divergence, or both times their factors.

    Args:
      divergence: the object; None for a cross-entropy alone.
      p: logits of the target, ``[c, v]``, if it has a head.
      q: logits of the model.
      o: the chunk's operands.
      row_divergence: computes the divergence of rows of logits.
    """
    if divergence is None:
        cold = _cooled(q, o.q.temperature)
        return shown(cross_entropy(cold, o.labels, o.weights))
    values = _divergence(divergence, p, q, o, row_divergence)
    if o.divergence_scale is not None:
        values = weigh(o.divergence_scale, values)
    if o.labels is None:
        return shown(values)
    hard = weigh(o.label_scale, cross_entropy(q, o.labels, o.weights))
    return shown(hard + values)


def _divergence(divergence, p, q, o: Operands, row_divergence) -> Array:
    cold = _cooled(q, o.q.temperature)
    if isinstance(o.p, Lists | Among):
        return list_divergence(divergence, o.p, cold, o.weights)
    p, cold = _aligned(_cooled(p, o.p.temperature), cold)
    return row_divergence(divergence, p, cold, None, o.sharpness)


def list_divergence(
    divergence: Any,
    lists: Lists | Among,
    q: Float[Array, "*b v"],
    weights: Float[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """``D`` over the listed outcomes, and one for all others; NaN of a wrong list.

    A list of weight 0 may hold anything.
    """
    ids, wrong = lists.ids, listed.wrong_ids(lists.ids, q.shape[-1])
    log_p = settled(weights, lists.log_p, impossible=True)
    if isinstance(lists, Among):
        p, q = log_p.astype(q.dtype), listed.picked_from(q, ids)
    else:
        tail = lists.log_tail
        tail = None if tail is None else settled(weights, tail, impossible=True)
        wrong |= listed.unnormalized(log_p, tail)
        p, q = listed.with_tail(log_p, ids, q, tail)
    return shown(row_divergence(divergence, p, q), counted(weights, wrong))


def _cooled(z: Array, temperature: Array | None) -> Array:
    return z if temperature is None else z / temperature.astype(z.dtype)


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
