"""Plain descent in one scan, for what is small and comes before a run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Array, Float, Key, PyTree

__all__ = ["descended", "watched"]


def descended(
    loss: Callable[[PyTree, Key[Array, ""]], Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    stops: Sequence[int],
    *,
    key: Key[Array, ""],
) -> list[PyTree]:
    """Parameters after so many steps each: a teacher, or starts of a student.

    A pure function to be compiled and mapped over; what is long or is to survive an
    interruption is for `fit`.

    Args:
        loss: `loss(params, key)`, a number; the key is new for every step.
        params: to start from, and what 0 steps return.
        optimizer: an optax transformation.
        stops: numbers of steps, ascending.
        key: random key.

    Returns:
        Parameters at every stop.

    Example:
        >>> square = lambda x, key: x**2
        >>> given = square, jnp.array(1.0), optax.sgd(0.25), [0, 1, 2]
        >>> found = descended(*given, key=jax.random.key(0))
        >>> [float(x) for x in found]
        [1.0, 0.5, 0.25]
    """
    rule: Any = optimizer

    def step(carried: Any, n: Array) -> tuple[Any, None]:
        params, state = carried
        grads = jax.grad(loss)(params, jax.random.fold_in(key, n))
        updates, state = rule.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carried, found = (params, rule.init(params)), []
    for start, stop in itertools.pairwise([0, *stops]):
        carried, _ = jax.lax.scan(step, carried, jnp.arange(start, stop))
        found.append(carried[0])
    return found


def watched(
    loss: Callable[[PyTree, Key[Array, ""], Array], Float[Array, ""]],
    judge: Callable[[PyTree], PyTree],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    stops: Sequence[int],
    *,
    key: Key[Array, ""],
    averaged: float = 0.1,
) -> PyTree:
    """What `judge` says at every stop, of an average of the last weights: a curve.

    One loop of one program, whatever the stops. The average forgets what is older than
    that share of the steps so far: it does for weights what a learning rate does that
    has come down at each of the stops.

    Args:
        loss: `loss(params, key, n)`, a number, of step n (from 0); the key is its own.
        judge: `judge(params)`, arrays.
        params: to start from.
        optimizer: an optax transformation.
        stops: numbers of steps, ascending.
        key: random key.
        averaged: share of the steps that the average reaches back; 0: the weights.

    Returns:
        What `judge` returns, with a leading axis over the stops.

    Example:
        >>> square = lambda x, key, n: x**2
        >>> given = square, lambda x: x, jnp.array(1.0), optax.sgd(0.25), [1, 2]
        >>> watched(*given, key=jax.random.key(0)).tolist()
        [0.5, 0.25]
    """
    rule: Any = optimizer

    def step(n: Array, carried: Any) -> Any:
        params, mean, state = carried
        grads = jax.grad(loss)(params, jax.random.fold_in(key, n), n)
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        share = 1 / jnp.maximum(1, averaged * (n + 1))
        mean = jax.tree.map(lambda m, p: m + share * (p - m), mean, params)
        return params, mean, state

    def part(carried: Any, ends: Array) -> tuple[Any, Any]:
        carried = jax.lax.fori_loop(ends[0], ends[1], step, carried)
        return carried, judge(carried[1])

    ends = jnp.array(list(itertools.pairwise([0, *stops])))
    start = params, params, rule.init(params)
    return jax.lax.scan(part, start, ends)[1]
