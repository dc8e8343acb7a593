"""All sequences of a small vocabulary, and policies whose positions share parameters.

An expectation over sequences is a sum here, so that what an estimator's gradient is on
average can be compared with the derivative of a divergence, to rounding. A policy is a
table of the log-probabilities of the next token after every prefix; the student's is a
recurrent network's, in which the gradients of all positions mix.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kljax.arguments import expect, whole
from kljax.typing import Array, ArrayLike, Bool, Float, Int, Key, PyTree

__all__ = ["Outcomes", "Samples", "Space", "mean"]

MOST = 1_000_000
"""Sequences that are enumerated."""


class Outcomes(NamedTuple):
    """The log-probabilities of all tokens at each position, ``[n, t, v]`` each."""

    log_q: Float[Array, "n t v"]
    log_p: Float[Array, "n t v"]


class Samples(NamedTuple):
    """What a penalty is told of sequences: log-probabilities of their tokens."""

    log_q: Float[Array, "n t"]
    log_p: Float[Array, "n t"]
    log_behavior: Float[Array, "n t"]
    where: Bool[Array, "n t"]


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Every sequence of `t` tokens, a student, a teacher and the policy that samples.

    Tables ``[m, v]`` hold the log-probabilities of the next token after each of the
    ``m = 1 + v + ... + v^(t-1)`` prefixes, the shorter first and then in the order of
    their digits; −inf is legal in the teacher's.

    Attributes:
      tokens: sequences; after an end token there are only more of it.
      where: which tokens count: up to the first end token, itself included.
      prefix: the row of a table that each token was drawn from.
      student: parameters of `table`.
      log_p: the teacher's table.
      log_behavior: the table that sequences are sampled from, never differentiated.
    """

    tokens: Int[np.ndarray, "n t"]
    where: Bool[np.ndarray, "n t"]
    prefix: Int[np.ndarray, "n t"]
    student: PyTree
    log_p: Float[Array, "m v"]
    log_behavior: Float[Array, "m v"]

    @classmethod
    def drawn(
        cls,
        key: Key[Array, ""],
        vocab: int,
        length: int,
        *,
        off: float = 0.1,
        end: int | None = None,
        width: int = 6,
    ) -> "Space":
        """A space with random policies, in the precision that JAX is in.

        Args:
          key: random key.
          vocab: number of tokens, at least 2.
          length: of the sequences, at least 1; ``vocab ** length`` of them are at most
            a million.
          off: how far the sampling policy is from the student, on the line of their
            parameters to a third policy's: 0 for on-policy sampling.
          end: a token after which nothing counts, or None.
          width: of the recurrent state.

        Raises:
          ValueError: a size out of range; TypeError: one that is no int.

        Example:
          >>> space = Space.drawn(jax.random.key(0), 3, 2, end=0)
          >>> len(space.tokens), round(float(space.weights.sum()), 5)
          (7, 1.0)
        """
        whole("vocab", vocab, 2), whole("length", length), whole("width", width)
        expect("off", off, 0 <= off <= 1, "expected 0 to 1")
        count = vocab**length
        expect(
            "vocab ** length", count, count <= MOST, f"at most {MOST} are enumerated"
        )
        if end is not None:
            whole("end", end, 0, vocab - 1)
        tokens, where, prefix = _sequences(vocab, length, end)
        student, teacher, third = (
            _parameters(one, vocab, width) for one in jax.random.split(key, 3)
        )
        behavior = jax.tree.map(lambda a, b: a + off * (b - a), student, third)
        tables = (_table(x, length) for x in (teacher, behavior))
        return cls(tokens, where, prefix, student, *tables)

    def table(self, parameters: PyTree) -> Float[Array, "m v"]:
        """The student's table, of its parameters: a recurrent network on prefixes."""
        return _table(parameters, self.tokens.shape[1])

    @property
    def on_policy(self) -> "Space":
        """The same space, sampled from the student."""
        return dataclasses.replace(self, log_behavior=self.log_q)

    @functools.cached_property
    def log_q(self) -> Float[Array, "m v"]:
        """The student's table."""
        return self.table(self.student)

    @functools.cached_property
    def samples(self) -> Samples:
        """What a penalty is told of every sequence."""
        tables = self.log_q, self.log_p, self.log_behavior
        log_q, log_p, log_b = (
            jnp.where(self.where, x[self.prefix, self.tokens], 0) for x in tables
        )
        return Samples(log_q, log_p, log_b, jnp.asarray(self.where))

    @functools.cached_property
    def outcomes(self) -> Outcomes:
        """The log-probabilities of all tokens at each position of every sequence."""
        return Outcomes(self.log_q[self.prefix], self.log_p[self.prefix])

    @functools.cached_property
    def weights(self) -> Float[np.ndarray, "n"]:
        """The probability of each sequence under the policy that samples; sums to 1."""
        return np.exp(np.asarray(self.samples.log_behavior).sum(axis=-1))

    def gradient(
        self, slopes: Float[ArrayLike, "n t"] | None, of_table: Float[ArrayLike, "m v"]
    ) -> Float[np.ndarray, "d"]:
        """The derivative in the student's `d` parameters, by the chain rule.

        Args:
          slopes: the derivative in the log-probability of each sequence's tokens.
          of_table: that in the student's table, to be added; 0 for none.
        """
        rows, vocab = self.log_q.shape
        taken = np.zeros((rows, vocab))
        if slopes is not None:
            place = (self.prefix * vocab + self.tokens).ravel()
            weight = np.where(self.where, slopes, 0).ravel()
            taken = np.bincount(place, weight, rows * vocab).reshape(rows, vocab)
        return np.tensordot(taken + of_table, self.jacobian, 2)

    def gathered(self, each: Float[ArrayLike, "n t ..."]) -> Float[np.ndarray, "m ..."]:
        """The sum over all positions that count of what belongs to each prefix."""
        each = np.asarray(each)
        total = np.zeros((len(self.log_q), *each.shape[2:]))
        np.add.at(total, self.prefix[self.where], each[self.where])
        return total

    @functools.cached_property
    def jacobian(self) -> Float[np.ndarray, "m v d"]:
        """The derivative of the student's table in its `d` parameters."""
        flat, unravel = ravel_pytree(self.student)
        return np.asarray(jax.jit(jax.jacfwd(lambda x: self.table(unravel(x))))(flat))


def mean(
    losses: Float[Array, "n ..."], where: Bool[Array, "n t"], weights: Float[Array, "n"]
) -> Float[Array, ""]:
    """The weighted sum of losses `[n]`, or `[n, t]` of tokens, summed where they count.

    Raises:
      ValueError: losses of another shape.
    """
    if losses.shape == where.shape:
        losses = jnp.where(where, losses, 0).sum(axis=-1)
    if losses.shape != weights.shape:
        raise ValueError(
            f"a penalty must return one loss for each of the {len(weights)} sequences "
            f"or for each of their {where.shape[1]} tokens, got shape {losses.shape}"
        )
    return weights @ losses


def _sequences(vocab: int, length: int, end: int | None):
    """All sequences, which of their tokens count, and the row of each one's prefix."""
    powers = vocab ** np.arange(length)
    number = np.arange(vocab**length)[:, None]
    tokens = number // powers[::-1] % vocab
    ended = np.zeros_like(tokens, bool)
    if end is not None:
        ended[:, 1:] = np.logical_or.accumulate(tokens == end, axis=1)[:, :-1]
    kept = ((tokens == end) | ~ended).all(axis=1)
    first = np.append(0, np.cumsum(powers)[:-1])  # row of the first prefix of a length
    prefix = first + number // (powers[::-1] * vocab)
    return tokens[kept], ~ended[kept], prefix[kept]


def _parameters(key: Array, vocab: int, width: int) -> dict[str, Array]:
    shapes = {
        "start": (width,),
        "mix": (width, width),
        "tokens": (vocab, width),
        "head": (width, vocab),
        "bias": (vocab,),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(one, shape) * (0.7 if name in ("mix", "bias") else 1.0)
        for one, (name, shape) in zip(keys, shapes.items())
    }


def _table(parameters: PyTree, length: int) -> Array:
    state, rows = parameters["start"][None], []
    for _ in range(length):
        scores = state @ parameters["head"] / 2 + parameters["bias"]
        rows.append(jax.nn.log_softmax(scores))
        mixed = (state @ parameters["mix"])[:, None] + parameters["tokens"]
        state = jnp.tanh(mixed).reshape(-1, state.shape[-1])
    return jnp.concatenate(rows)
