"""What a language model's predictions are judged by, token by token."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax import divergences
from kljax.typing import Array, Bool, Float, Int

__all__ = ["ExactMatch", "exact_match", "token_measures"]


def token_measures(
    labels: Int[Array, "*b"],
    q_logits: Float[Array, "*b v"],
    *,
    p_logits: Float[Array, "*b v"] | None = None,
    distances: Sequence[str] = (),
) -> dict[str, Float[Array, "*b"]]:
    """Likelihood, entropy and first choices per token; with a teacher, distances to it.

    "nats" is `-log q(label)`, "entropy" that of q, "accuracy" whether q's first choice
    is the label, "confidence" the probability of that choice; with `p_logits`
    "agreement" is whether both sides' first choices are the same, and each of
    `distances` is D(p‖q) under its name.

    Args:
      labels: the text's tokens, `[*b]`.
      q_logits: the model's, `[*b, v]`.
      p_logits: the teacher's, `[*b, v]`; None: of the text alone.
      distances: names of divergences, nothing without a teacher.

    Returns:
      float32 `[*b]` per measure, in nats or in [0, 1]. It can be jitted.

    Example:
      >>> found = token_measures(jnp.array(1), jnp.log(jnp.array([0.5, 0.25, 0.25])))
      >>> round(float(found["nats"]), 4), float(found["accuracy"])
      (1.3863, 0.0)
    """
    log_q = jax.nn.log_softmax(q_logits, axis=-1)
    first = jnp.argmax(q_logits, axis=-1)
    found = {
        "nats": -jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0],
        "entropy": divergences.entropy(q_logits),
        "accuracy": (first == labels).astype(jnp.float32),
        "confidence": jnp.exp(jnp.max(log_q, axis=-1)),
    }
    if p_logits is not None:
        found |= {
            name: divergences.divergence(p_logits, q_logits, name) for name in distances
        }
        same = first == jnp.argmax(p_logits, axis=-1)
        found["agreement"] = same.astype(jnp.float32)
    return found


class ExactMatch(NamedTuple):
    """Whether an answer comes out exactly, and its nats per token."""

    exact: Bool[Array, "*b"]
    nats: Float[Array, "*b"]


def exact_match(
    labels: Int[Array, "*b n"],
    q_logits: Float[Array, "*b n v"],
    *,
    where: Bool[Array, "*b n"],
) -> ExactMatch:
    """What greedy decoding would make of an answer, without decoding it.

    It writes the answer exactly when every token is the likeliest one behind the true
    tokens before it: up to its first error a greedy text is the answer itself. So one
    pass over prompt and answer gives the exact match, at a fraction of the cost.

    Args:
      labels: the answers' tokens.
      q_logits: the model's logits at the places before them.
      where: which of them count; at least one per answer.

    Returns:
      For every answer whether it is written exactly, and the mean of -log q(token).

    Example:
      >>> q = jnp.log(jnp.array([[[0.9, 0.1], [0.2, 0.8]]]))
      >>> counts = jnp.array([[True, True]])
      >>> found = exact_match(jnp.array([[0, 1]]), q, where=counts)
      >>> found.exact.tolist(), round(float(found.nats[0]), 3)
      ([True], 0.164)
    """
    log_q = jax.nn.log_softmax(q_logits)
    nats = -jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(q_logits, axis=-1) == labels) | ~where
    nats = jnp.where(where, nats, 0).sum(axis=-1) / where.sum(axis=-1)
    return ExactMatch(right.all(axis=-1), nats)
