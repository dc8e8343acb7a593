"""Scores of models and of fusion rules on rows of examples.

One pass over prompt and answer per model gives the exact match (`exact_match`) of
every rule, at a tenth of the cost of decoding; `session.decoded` checks the equality by
decoding. Here alpha is the weight along the right answer, not behind an error.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.data.batching import pieces
from kljax.data.pairs import Rows
from kljax.decoding import Fusion, fuse, solve_weights
from kljax.decoding.fusion.grid import grid_weights
from kljax.metrics import exact_match
from kljax.models.language.transformer import PureTransformer
from kljax.typing import Array, Bool, Float, Int, PyTree

__all__ = [
    "MANY",
    "ONE",
    "STATIC",
    "Answers",
    "Scored",
    "answers",
    "predictions",
    "scored",
    "tuned_weight",
]

STATIC = (0.5, 1.0, 1.5)
"""Fixed weights of proxy-tuning; 1 is its own."""
CANDIDATES = tuple(0.25 * i for i in range(1, 9))
"""Weights that the tuned static rule chooses from, by a validation set."""


def _solved(rule: str) -> Callable[..., Array]:
    def weights(z: Array, s: Array, experts: Array, tuned: Array) -> Array:
        return solve_weights(z, s, experts, Fusion(rule=rule)).alpha

    return weights


def _fixed(weight: float) -> Callable[..., Array]:
    def weights(z: Array, s: Array, experts: Array, tuned: Array) -> Array:
        return jnp.full(experts.shape[:-1], weight, z.dtype)

    return weights


def _tuned(z: Array, s: Array, experts: Array, tuned: Array) -> Array:
    return jnp.full(experts.shape[:-1], tuned, z.dtype)


def _grid(z: Array, s: Array, experts: Array, tuned: Array) -> Array:
    return grid_weights(z, s, experts).alpha


ONE: dict[str, Callable[..., Array]] = {
    **{f"proxy {weight:g}": _fixed(weight) for weight in STATIC},
    "tuned static": _tuned,
    "grid": _grid,
    "dynamic": _solved("dynamic"),
    "KL ball": _solved("kl_ball"),
    "Jeffreys": _solved("jeffreys"),
}
"""Rules of one expert: `(z, s, experts, tuned weight) -> weights [*b, t]`."""
MANY: dict[str, Callable[..., Array]] = {
    "axis": _solved("axis"),
    "projection": _solved("projection"),
}
"""Rules of several experts."""
RULES = ONE | MANY


class Answers(NamedTuple):
    """Where answers are predicted, and what the right tokens are."""

    place: Int[np.ndarray, "n m"]
    target: Int[np.ndarray, "n m"]
    where: Bool[np.ndarray, "n m"]


class Scored(NamedTuple):
    """Per rule and example: exact match, nats per token; per token: the weights."""

    exact: Bool[Array, "n"]
    nats: Float[Array, "n"]
    alpha: Float[Array, "n m t"]


def answers(rows: Rows, length: int = 0) -> Answers:
    """The tokens to be predicted, cut out of the rows.

    Args:
        rows: n examples.
        length: m; 0 is the longest answer's.

    Example:
        >>> tokens = np.array([[0, 5, 6, 7, 0]])
        >>> found = answers(Rows(tokens, np.array([[0, 0, 1, 1, 0]], bool)))
        >>> found.place.tolist(), found.target.tolist()
        ([[1, 2]], [[6, 7]])
    """
    length = length or int(rows.answer.sum(axis=1).max())
    place = rows.answer.argmax(axis=1)[:, None] - 1 + np.arange(length)
    place = np.minimum(place, rows.tokens.shape[1] - 2)
    target = np.take_along_axis(rows.tokens, place + 1, axis=1)
    inside = np.arange(length) < rows.answer.sum(axis=1)[:, None]
    return Answers(place, target, inside)


@functools.partial(jax.jit, static_argnums=0)
def _at(apply: PureTransformer, params: PyTree, tokens: Array, place: Array) -> Array:
    features = apply(params, tokens, features=True)
    picked = jnp.take_along_axis(features, place[..., None], axis=1)
    return apply.logits(params, picked)


def predictions(
    apply: PureTransformer,
    params: PyTree,
    rows: Rows,
    place: Int[np.ndarray, "n m"],
    *,
    chunk: int,
) -> Float[Array, "n m v"]:
    """A model's logits where the answers are predicted.

    Args:
        apply: the model.
        params: its parameters.
        rows: n examples.
        place: of `answers`.
        chunk: rows per forward pass.
    """
    found = [
        _at(apply, params, rows.tokens[picked], place[picked])
        for picked, _ in pieces(len(rows), chunk)
    ]
    return jnp.concatenate(found)[: len(rows)]


@functools.partial(jax.jit, static_argnums=0)
def scored(
    rules: tuple[str, ...],
    z: Float[Array, "n m v"],
    s: Float[Array, "n m v"],
    experts: Float[Array, "n m t v"],
    target: Int[Array, "n m"],
    where: Bool[Array, "n m"],
    tuned: Any,
) -> dict[str, Scored]:
    """All rules on the same logits, in one program.

    Args:
        rules: names of `ONE` or `MANY`.
        z: the large model's logits.
        s: the small base's.
        experts: the experts', stacked on the last axis but one.
        target: right tokens.
        where: which of them count.
        tuned: weight of the rule "tuned static".

    Returns:
        A `Scored` per rule.
    """
    found = {}
    for rule in rules:
        alpha = RULES[rule](z, s, experts, jnp.asarray(tuned, z.dtype))
        fused = fuse(z, s, experts, alpha)
        found[rule] = Scored(*exact_match(target, fused, where=where), alpha)
    return found


@jax.jit
def _of_candidates(
    z: Array, s: Array, experts: Array, target: Array, where: Array
) -> tuple[Array, Array]:
    def one(weight: Array) -> tuple[Array, Array]:
        alpha = jnp.full(experts.shape[:-1], weight, z.dtype)
        fused = fuse(z, s, experts, alpha)
        exact, nats = exact_match(target, fused, where=where)
        return exact.mean(), nats.mean()

    return jax.lax.map(one, jnp.asarray(CANDIDATES, z.dtype))


def tuned_weight(
    z: Array,
    s: Array,
    experts: Array,
    target: Int[np.ndarray, "n m"],
    where: Bool[np.ndarray, "n m"],
    *,
    exact: bool,
) -> float:
    """The candidate of the best exact match, the likelier of equal ones.

    With `exact` False (text without answers) that of the least nats.
    """
    found = _of_candidates(z, s, experts, target, where)
    match, nats = (np.asarray(v) for v in found)
    order = np.lexsort((nats, -match)) if exact else np.argsort(nats)
    return float(CANDIDATES[order[0]])
