"""Divergences from a target that is given by its k likeliest outcomes."""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.divergences._arguments import checked_lists, for_rows
from kljax.divergences._linear_arguments import token_weights
from kljax.divergences.categorical import floating
from kljax.fdivergence import FDivergence
from kljax.generators import get
from kljax.kernels.linear.rows import settled, topk_divergence, weigh
from kljax.typing import Array, ArrayLike, Bool, Float, Int


def topk(
    log_p_topk: Float[ArrayLike, "*b k"],
    ids: Int[ArrayLike, "*b k"],
    q_logits: Float[ArrayLike, "*b v"],
    divergence: str | FDivergence,
    *,
    log_tail: Float[ArrayLike, "*b"] | None = None,
    weights: Float[ArrayLike, "*b"] | Bool[ArrayLike, "*b"] | None = None,
    **parameters: Any,
) -> Float[Array, "*b"]:
    """``D(p‖q)`` over k listed outcomes and one for all the others.

    A sum over the k outcomes alone is no divergence: it can be negative. With the
    tail as outcome k + 1 it is one, and a lower bound on that of the full rows.

    Without `log_tail` the target's tail is one minus what is listed, as the numbers are
    given: of one outcome with log-probability −1e-7 it is 1e-7. Rounding hides a tail
    below about ε Σ p |log p| (ε = 1.2e-7 in float32, 8e-3 in bfloat16). There the tail
    counts as the model's own, but not as more than rounding can hide: the least
    divergence that the list allows, finite whatever the divergence. Give `log_tail`
    where the target's logits are known, and where it is known to have none.

    Args:
      log_p_topk: log-probabilities of the target at `ids`, normalised over the full
        vocabulary.
      ids: outcomes, distinct within a row, in ``[0, v)``.
      q_logits: the model's logits over the full vocabulary.
      divergence: a name of `names()` or an object.
      log_tail: log of the target's mass at all other outcomes, ``-inf`` for none. Not
        looked at if k = v.
      weights: of the rows, or a mask; what has weight 0 may hold anything.
      **parameters: of the divergence; one number, or one for each row.

    Returns:
      One value per leading index, times its weight, in nats. NaN, in value and
      gradient, of a row that counts and whose traced ids are outside or come twice, or
      whose masses sum to more than 1.01 (1.04 in bfloat16).

    Raises:
      ValueError: shapes that differ, or k > v; ids and masses that are known to be
        wrong in one of these ways.
      TypeError: `ids` that are not integers, logits that are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> q = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> value = topk(jnp.log(jnp.array([0.5])), jnp.array([0]), q, "total_variation")
      >>> round(float(value), 4)  # |0.5 − 0.7|
      0.2
    """
    objective = get(divergence, **parameters)
    log_p, q = floating("log_p_topk", log_p_topk), floating("q_logits", q_logits)
    index = jnp.asarray(ids)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"ids must be integers, got {index.dtype}")
    if index.shape != log_p.shape:
        raise ValueError(f"ids {index.shape} and log_p_topk {log_p.shape} differ")
    if log_p.ndim == 0 or log_p.shape[-1] == 0:
        raise ValueError(f"log_p_topk {log_p.shape} lists no outcome on its last axis")
    if q.shape[:-1] != log_p.shape[:-1] or log_p.shape[-1] > q.shape[-1]:
        raise ValueError(
            f"q_logits {q.shape} does not fit log_p_topk {log_p.shape}: leading axes "
            "must agree and k must not exceed the vocabulary"
        )
    rows = log_p.shape[:-1]
    w = None if weights is None else token_weights(weights, rows)
    index, tail = checked_lists(log_p_topk, ids, q.shape[-1], log_tail, weights)
    return _topk(for_rows(objective, rows), log_p, index, q, tail, w)


@jax.jit
def _topk(divergence, log_p, ids, q, log_tail, weights):
    q = q.astype(jnp.promote_types(q.dtype, jnp.float32))
    q = settled(weights, q, impossible=True)
    rows = topk_divergence(divergence, log_p, ids, q, log_tail, weights)
    return rows if weights is None else weigh(weights, rows)
