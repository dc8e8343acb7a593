"""Plain descent in one scan, for what is small and comes before a run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Array, Float, Key, PyTree

__all__ = ["descended", "trajectory"]


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
    found = trajectory(loss, params, optimizer, stops, key=key)
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(stops))]


def trajectory(
    loss: Callable[[PyTree, Key[Array, ""]], Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    stops: Sequence[int],
    *,
    key: Key[Array, ""],
) -> PyTree:
    """The same as one tree with a leading axis: for many stops, one compiled step.

    Args:
        loss, params, optimizer, stops, key: as in `descended`.

    Returns:
        Parameters, each `[stops, ...]`.

    Example:
        >>> square = lambda x, key: x**2
        >>> given = square, jnp.array(1.0), optax.sgd(0.25), range(3)
        >>> trajectory(*given, key=jax.random.key(0)).tolist()
        [1.0, 0.5, 0.25]
    """
    rule: Any = optimizer

    def step(n: Array, carried: Any) -> Any:
        params, state = carried
        grads = jax.grad(loss)(params, jax.random.fold_in(key, n))
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def block(carried: Any, ends: Array) -> tuple[Any, PyTree]:
        carried = jax.lax.fori_loop(ends[0], ends[1], step, carried)
        return carried, carried[0]

    ends = jnp.array([*itertools.pairwise([0, *stops])], jnp.int32)
    return jax.lax.scan(block, (params, rule.init(params)), ends)[1]
