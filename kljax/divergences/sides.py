"""A side of a divergence at every token, as what the caller holds.

`Logits`; `Hidden` states and a head; for a target also lists of outcomes, `TopK` or
`Restricted`. Each is a named tuple of arrays, hence a pytree: it passes through
`jax.jit`, `jax.grad` and a batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import rows_shaped, whole
from kljax.kernels.linear.products import finish, possible
from kljax.kernels.weights import settled
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = [
    "Hidden",
    "Logits",
    "Restricted",
    "TopK",
    "check_side",
    "dense_logits",
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
    """A target's k likeliest outcomes; all others count as one, the tail.

    A sum over the k outcomes alone is no divergence: it can be negative. With the tail
    as outcome k + 1 it is one, and a lower bound on that of the full rows.

    Without `log_tail` the tail is one minus what is listed, as the numbers are given:
    of one outcome with log-probability -1e-7 it is 1e-7. Rounding hides a tail below
    about eps sum p |log p| (eps = 1.2e-7 in float32, 8e-3 in bfloat16). There the tail
    counts as the model's own, but not as more than rounding can hide: the least
    divergence that the list allows, finite whatever the divergence. Give `log_tail`
    where the target's logits are known, and where it is known to have none.

    Fields:
      log_p: log-probabilities at `ids`, normalized over the full vocabulary, at the
        temperature of the loss (`top_outcomes` makes them).
      ids: outcomes, distinct within a token, in ``[0, v)``.
      log_tail: log of what all others have, ``-inf`` for nothing. Not looked at if all
        outcomes are listed.
    """

    log_p: Float[ArrayLike, "*b t k"]
    ids: Int[ArrayLike, "*b t k"]
    log_tail: Float[ArrayLike, "*b t"] | None = None


class Restricted(NamedTuple):
    """A target over k outcomes, and both sides given that it is one of these.

    It does not see how much the model puts elsewhere; `TopK` does.

    Fields:
      log_p: logits or log-probabilities at `ids`.
      ids: outcomes, distinct within a token, in ``[0, v)``.
    """

    log_p: Float[ArrayLike, "*b t k"]
    ids: Int[ArrayLike, "*b t k"]


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
    temperature = rows_shaped("temperature", temperature, ())
    vocab = vocabulary(teacher)
    k = whole("k", k)
    if k > vocab:
        raise ValueError(f"k must be 1 to {vocab}, the vocabulary, got {k}")
    chunk_size = whole("chunk_size", chunk_size)

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
    states, head = jnp.asarray(side.states), jnp.asarray(side.head)
    bias, cap = (None if x is None else jnp.asarray(x) for x in side[2:])
    states = settled(weights, states)
    if states.shape[-1] != head.shape[0]:
        raise ValueError(
            f"head: shape {head.shape} does not take states of width {states.shape[-1]}"
        )
    wide = jnp.promote_types(jnp.promote_types(states.dtype, head.dtype), jnp.float32)
    head = head if bias is None else possible(head, bias)
    z = jnp.einsum("...d,dv->...v", states, head, preferred_element_type=wide)
    return finish(settled(weights, z), bias, cap)


def vocabulary(side: Logits | Hidden) -> int:
    """How many outcomes a side has."""
    return jnp.shape(side.head if isinstance(side, Hidden) else side.values)[-1]


def check_side(name: str, side: Any, kinds: tuple[type, ...]) -> None:
    """Raises `TypeError` or `ValueError` unless `side` is one of `kinds`, by token."""
    if not isinstance(side, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{name} must be {names} of kljax.divergences, got {type(side).__name__}"
        )
    if jnp.ndim(side[0]) < 2:
        last = "width" if isinstance(side, Hidden) else "n"
        raise ValueError(
            f"{name} must be [..., tokens, {last}], got shape {jnp.shape(side[0])}"
        )
