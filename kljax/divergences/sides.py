"""The two sides of a distillation, as what the caller holds.

`Logits`; `Hidden` states and a head; for a teacher also `TopK` lists. Each is a named
tuple of arrays, hence a pytree: it passes through `jax.jit`, `jax.grad` and a batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.kernels.arguments import checked_ids, rows_shaped
from kljax.kernels.linear.rows import settled
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = [
    "Hidden",
    "Logits",
    "TopK",
    "check_side",
    "dense_logits",
    "token_labels",
    "token_weights",
    "top_outcomes",
    "vocabulary",
]


class Logits(NamedTuple):
    """A side given by its logits, unnormalized, ``-inf`` for impossible outcomes."""

    values: Float[ArrayLike, "*b t v"]


class Hidden(NamedTuple):
    """A side given by final hidden states and a head; 16-bit ones are fine.

    Fields:
      states: what the head is applied to, `[*b, t, width]`.
      head: matrix `[width, vocab]`.
      bias: added to the logits; ``-inf`` takes an outcome away.
      soft_cap: c of ``c tanh(z / c)``, applied after the bias.
    """

    states: Float[ArrayLike, "*b t d"]
    head: Float[ArrayLike, "d v"]
    bias: Float[ArrayLike, "v"] | None = None
    soft_cap: ArrayLike | None = None


class TopK(NamedTuple):
    """A teacher's k likeliest outcomes; all others count as one, the tail.

    Fields:
      log_p: log-probabilities at `ids`, normalized over the full vocabulary, at the
        temperature of the loss (`top_outcomes` makes them).
      ids: distinct outcomes of a token.
      log_tail: log of what all others have; None: one minus the list, which hides
        tails at the level of rounding.
    """

    log_p: Float[ArrayLike, "*b t k"]
    ids: Int[ArrayLike, "*b t k"]
    log_tail: Float[ArrayLike, "*b t"] | None = None


def top_outcomes(
    teacher: Logits | Hidden,
    k: int,
    *,
    temperature: ArrayLike = 1.0,
    chunk_size: int = 256,
) -> TopK:
    """The k likeliest outcomes of a teacher: what to store of a large one.

    Args:
      teacher: logits, or hidden states and head (then chunk by chunk).
      k: how many, from 1 to the vocabulary.
      temperature: of the loss that will use them; divides the logits.
      chunk_size: tokens whose logits exist at a time.

    Returns:
      `TopK` with log-probabilities normalized over the full vocabulary, descending,
      float32 or wider, ids in int32, and the log of what all others have, which keeps
      its digits however confident the teacher is.

    Raises:
      ValueError: `k` or the temperature out of range.
      TypeError: a teacher that is neither form.

    Example:
      >>> listed = top_outcomes(Logits(jnp.log(jnp.array([[0.2, 0.5, 0.3]]))), 2)
      >>> listed.ids.tolist(), jnp.exp(listed.log_p).round(3).tolist()
      ([[1, 2]], [[0.5, 0.30000001192092896]])
    """
    check_side("teacher", teacher, (Logits, Hidden))
    temperature = rows_shaped("temperature:", temperature, ())
    vocab = vocabulary(teacher)
    if not 1 <= k <= vocab:
        raise ValueError(f"k: expected 1 to {vocab}, the vocabulary, got {k}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1 token, got {chunk_size}")

    def listed(part: Array) -> TopK:
        side = teacher._replace(**{teacher._fields[0]: part})
        z = dense_logits(side)
        z = jax.nn.log_softmax(z / temperature.astype(z.dtype), axis=-1)
        log_p, ids = jax.lax.top_k(z, k)
        others = jnp.put_along_axis(z, ids, -jnp.inf, axis=-1, inplace=False)
        return TopK(log_p, ids, jax.nn.logsumexp(others, axis=-1))

    given = jnp.asarray(teacher[0])
    flat = given.reshape(-1, given.shape[-1])
    size = max(1, min(chunk_size, len(flat)))
    padded = jnp.pad(flat, ((0, -len(flat) % size), (0, 0)))
    found = jax.lax.map(listed, padded.reshape(-1, size, flat.shape[-1]))
    lead = given.shape[:-1]

    def joined(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])[: len(flat)].reshape(*lead, *x.shape[2:])

    return TopK(*map(joined, found))


def dense_logits(
    side: Logits | Hidden, weights: Float[Array, "*b t"] | None = None
) -> Float[Array, "*b t v"]:
    """Logits in float32 or wider, whichever form the side has.

    ``softcap(states @ head + bias)`` for `Hidden`.

    Args:
      side: `Logits` or `Hidden`.
      weights: of the tokens; what has weight 0 may hold anything.

    Returns:
      Logits `[*b, t, vocab]`, no NaN where the weight is 0.

    Raises:
      ValueError: a head that does not take the states.

    Example:
      >>> dense_logits(Hidden(jnp.ones((1, 2)), jnp.eye(2, 3))).tolist()
      [[1.0, 1.0, 0.0]]
    """
    if isinstance(side, Logits):
        values = settled(weights, jnp.asarray(side.values), impossible=True)
        return values.astype(jnp.promote_types(values.dtype, jnp.float32))
    states, head = settled(weights, jnp.asarray(side.states)), jnp.asarray(side.head)
    if states.shape[-1] != head.shape[0]:
        raise ValueError(
            f"head: shape {head.shape} does not take states of width {states.shape[-1]}"
        )
    wide = jnp.promote_types(jnp.promote_types(states.dtype, head.dtype), jnp.float32)
    z = jnp.einsum("...d,dv->...v", states, head, preferred_element_type=wide)
    z = settled(weights, z)
    z = z if side.bias is None else z + jnp.asarray(side.bias, wide)
    if side.soft_cap is None:
        return z
    missing = z == -jnp.inf
    capped = side.soft_cap * jnp.tanh(jnp.where(missing, 0, z) / side.soft_cap)
    return jnp.where(missing, z, capped)


def vocabulary(side: Logits | Hidden) -> int:
    """How many outcomes a side has."""
    return jnp.shape(side.head if isinstance(side, Hidden) else side.values)[-1]


def check_side(name: str, side: Any, kinds: tuple[type, ...]) -> None:
    """Raises `TypeError` or `ValueError` unless `side` is one of `kinds`, by token."""
    if not isinstance(side, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{name}: expected {names} of kljax.objectives.distillation, got "
            f"{type(side).__name__}"
        )
    if jnp.ndim(side[0]) < 2:
        last = "width" if isinstance(side, Hidden) else "n"
        raise ValueError(
            f"{name}: expected [..., tokens, {last}], got shape {jnp.shape(side[0])}"
        )


def token_labels(
    labels: ArrayLike | None,
    weights: ArrayLike | None,
    shape: tuple[int, ...],
    vocab: int,
) -> tuple[Array | None, Array | None]:
    """Labels, and the weights without the tokens whose label is negative."""
    if labels is None:
        return None, None if weights is None else token_weights(weights, shape)
    known = jnp.asarray(labels)
    if not jnp.issubdtype(known.dtype, jnp.integer):
        raise TypeError(f"labels: expected integers, got {known.dtype}")
    if known.shape != shape:
        raise ValueError(f"labels: expected {shape}, one per token, got {known.shape}")
    w = token_weights(weights, shape)
    known = checked_ids("labels:", labels, vocab, weights, negative=True)
    return known, jnp.where(known >= 0, w, 0)


def token_weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Weights in float32 or wider, one per token; ones for None."""
    if weights is None:
        return jnp.ones(shape, jnp.float32)
    w = jnp.asarray(weights)
    if w.shape != shape:
        raise ValueError(f"weights: expected {shape}, one per token, got {w.shape}")
    real = jnp.issubdtype(w.dtype, jnp.floating)
    return w.astype(jnp.promote_types(w.dtype, jnp.float32) if real else jnp.float32)
