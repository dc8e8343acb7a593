"""All sequences of a small vocabulary, and a policy's log-probabilities of them.

A policy is a function of prefixes. Its vector over all v^t sequences is made length by
length, asking it once for each prefix and never for a sequence: for a million sequences
of two tokens a million times in place of twenty million.

Sequences stand in the order of their digits, the first token most significant.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from kljax.arguments import expect, floating, whole
from kljax.typing import Array, Float, Int

__all__ = ["chained", "sequence_log_probs", "sequences"]

MOST = 2_000_000
"""Sequences; more are not enumerated."""


def _count(vocab: int, length: int) -> int:
    count = whole("vocab", vocab) ** whole("length", length, 0)
    expect("vocab ** length", count, count <= MOST, f"at most {MOST} are enumerated")
    return count


def sequences(vocab: int, length: int) -> Int[Array, "n t"]:
    """All ``n = vocab ** length`` sequences, one a row.

    Args:
      vocab: tokens, at least 1.
      length: at least 0; n is at most two million.

    Raises:
      ValueError: sizes out of range.

    Example:
      >>> sequences(2, 2).tolist()
      [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    count = _count(vocab, length)
    place = vocab ** jnp.arange(length - 1, -1, -1, dtype=jnp.int32)
    return jnp.arange(count, dtype=jnp.int32)[:, None] // place % vocab


def chained(levels: Sequence[Float[Array, "_ v"]]) -> Float[Array, "n"]:
    """Log-probabilities of sequences from those of the next token, by prefix.

    Args:
      levels: for each length t of prefixes, from 0 on, ``[v^t, v]`` log-probabilities
        in the order of `sequences`. A policy with a row for every prefix has these as
        its parameters (after a log-softmax): nothing is asked of any model then.

    Returns:
      ``[v^t]`` for t levels; −inf where a token is impossible.

    Raises:
      ValueError: a level of another shape, or none.

    Example:
      >>> even = jnp.log(jnp.full((2, 2), 0.5))
      >>> jnp.exp(chained([even[:1], even])).tolist()
      [0.25, 0.25, 0.25, 0.25]
    """
    if not levels:
        raise ValueError("levels is empty: expected one per token")
    vocab = jnp.shape(levels[0])[-1]
    total = jnp.zeros(1)
    for t, level in enumerate(levels):
        log_p = floating(f"levels[{t}]", level)
        if log_p.shape != (vocab**t, vocab):
            raise ValueError(
                f"levels[{t}] has shape {log_p.shape}; expected {(vocab**t, vocab)}, "
                "a row for each prefix"
            )
        total = (total[:, None].astype(log_p.dtype) + log_p).reshape(-1)
    return total


def sequence_log_probs(
    log_next: Callable[[Int[Array, "t"]], Float[Array, "v"]],
    vocab: int,
    length: int,
    *,
    chunk_size: int = 1024,
) -> Float[Array, "n"]:
    """Log-probabilities under a policy of all sequences, in the order of `sequences`.

    Args:
      log_next: from one prefix of ids, of any length below `length`, to the
        log-probabilities of the next token, normalized (−inf is legal); it is traced
        once for each length. Close it over parameters, and over a prompt.
      vocab, length: sizes; ``vocab ** length`` is at most two million.
      chunk_size: prefixes that are asked together.

    Returns:
      ``[vocab ** length]`` values whose exponentials sum to 1. Differentiable.

    Raises:
      ValueError: sizes, or a policy that says something of another shape.

    Example:
      >>> even = lambda prefix: jnp.log(jnp.full(3, 1 / 3))
      >>> sequence_log_probs(even, 3, 2).shape
      (9,)
    """
    _count(vocab, length)
    whole("length", length), whole("chunk_size", chunk_size)
    return chained(
        [
            jax.lax.map(log_next, sequences(vocab, t), batch_size=chunk_size)
            for t in range(length)
        ]
    )
