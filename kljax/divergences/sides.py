"""A side of a divergence at every token, as what the caller holds.

`Logits`; `Hidden` states and a head; for a target also lists of outcomes, `TopK` or
`Restricted`. Each is a named tuple of arrays, hence a pytree: it passes through
`jax.jit`, `jax.grad` and a batch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from kljax.kernels.linear.products import finish, possible
from kljax.kernels.weights import settled
from kljax.typing import Array, ArrayLike, Float, Int

__all__ = ["Hidden", "Logits", "Restricted", "TopK", "dense_logits"]


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
