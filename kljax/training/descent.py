"""Plain descent in one scan, for what is small and comes before a run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Array, Float, Key, PyTree

__all__ = ["descended"]


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
