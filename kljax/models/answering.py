"""Policies that answer a question in a few tokens, small enough to be exact.

A policy is a function of parameters, questions and what has been said so far,

    ahead(params, questions [n, s], before [n, i]) -> log-probabilities [n, v]

of the next token. With it answers are drawn and scored; where an answer is the only
right one, its probability is the accuracy, without sampling.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.dense import MLP
from kljax.models.functional import pure
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.typing import Array, Float, Int, Key, PyTree

__all__ = [
    "Policy",
    "answer_log_probs",
    "perceptron_policy",
    "sample_answers",
    "transformer_policy",
]

Policy = Callable[[PyTree, Array, Array], Array]
Initial = Callable[[Key[Array, ""]], PyTree]


def perceptron_policy(
    asked: int, length: int, vocab: int, width: int
) -> tuple[Policy, Initial]:
    """A perceptron with one hidden layer that sees all tokens, and where it is.

    Args:
      asked, length: tokens of a question, and of an answer.
      vocab: of both.
      width: units of the hidden layer.

    Example:
      >>> ahead, initial = perceptron_policy(2, 1, 8, 16)
      >>> nothing = jnp.zeros((3, 0), int)
      >>> ahead(initial(jax.random.key(0)), jnp.zeros((3, 2), int), nothing).shape
      (3, 8)
    """
    seen = vocab * (asked + length - 1)

    def build(rngs: nnx.Rngs) -> MLP:
        return MLP((seen + length, width, vocab), rngs=rngs)

    apply, initial = pure(build)

    def ahead(params: PyTree, questions: Array, before: Array) -> Array:
        known = jnp.concatenate([questions, before], axis=1)
        x = jax.nn.one_hot(known, vocab).reshape(len(known), -1)
        x = jnp.pad(x, ((0, 0), (0, seen + length - x.shape[1])))
        return jax.nn.log_softmax(apply(params, x.at[:, seen + before.shape[1]].set(1)))

    return ahead, initial


def transformer_policy(config: TransformerConfig) -> tuple[Policy, Initial]:
    """A decoder that reads the question and what has been said, anew for every token.

    Example:
      >>> config = TransformerConfig(vocab_size=10, width=8, depth=1, heads=2)
      >>> ahead, initial = transformer_policy(config)
    """
    apply, initial = transformer(config)

    def ahead(params: PyTree, questions: Array, before: Array) -> Array:
        logits: Any = apply(params, jnp.concatenate([questions, before], axis=1))
        return jax.nn.log_softmax(logits[:, -1])

    return ahead, initial


def answer_log_probs(
    ahead: Policy,
    params: PyTree,
    questions: Int[Array, "b s"],
    answers: Int[Array, "b n t"],
) -> Float[Array, "b n t"]:
    """Log-probabilities of the tokens of n answers to each question; differentiable.

    Example:
      >>> ahead = lambda params, asked, before: jnp.log(jnp.full((len(before), 2), 0.5))
      >>> asked, answers = jnp.zeros((1, 1), int), jnp.zeros((1, 3, 2), int)
      >>> log_p = answer_log_probs(ahead, None, asked, answers)
      >>> log_p.shape
      (1, 3, 2)
    """
    return _said(
        ahead, params, questions, answers.shape[1:], lambda i, _: answers[..., i]
    )[1]


def sample_answers(
    ahead: Policy,
    params: PyTree,
    questions: Int[Array, "b s"],
    samples: int,
    length: int,
    *,
    key: Key[Array, ""],
) -> tuple[Int[Array, "b n t"], Float[Array, "b n t"]]:
    """`samples` answers to each question, and the log-probabilities of their tokens.

    These may be differentiated in `params`: a step that samples once and updates once
    needs no second look.
    """
    keys = jax.random.split(key, length)

    def draw(i: int, log_next: Array) -> Array:
        return jax.random.categorical(keys[i], log_next).astype(jnp.int32)

    return _said(ahead, params, questions, (samples, length), draw)


def _said(ahead: Policy, params: PyTree, questions: Array, sizes: tuple, choose: Any):
    """Tokens and their log-probabilities; a question alone is read once for all."""
    samples, length = sizes
    every = jnp.repeat(questions, samples, axis=0)
    tokens, found = jnp.zeros((len(every), 0), jnp.int32), []
    for i in range(length):
        if i:
            log_next = ahead(params, every, tokens)
        else:
            log_next = ahead(params, questions, tokens[: len(questions)])
            log_next = jnp.repeat(log_next, samples, axis=0)
        token = choose(i, log_next.reshape(-1, samples, log_next.shape[-1])).reshape(-1)
        found.append(jnp.take_along_axis(log_next, token[:, None], axis=1))
        tokens = jnp.concatenate([tokens, token[:, None]], axis=1)
    shape = len(questions), samples, length
    return tokens.reshape(shape), jnp.concatenate(found, axis=1).reshape(shape)
