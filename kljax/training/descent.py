"""Plain descent in one program, for what is small and comes before a run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Key, PyTree

__all__ = ["descended"]


def descended(
    loss: Callable[..., Any],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    stops: Sequence[int],
    *,
    key: Key[jax.Array, ""],
    memory: PyTree = None,
    watch: Callable[[PyTree], PyTree] = lambda params: params,
) -> PyTree:
    """What there is to see after so many steps each: a teacher, starts, a curve.

    A pure function to be compiled and mapped over, learning rates included; what is
    long or is to survive an interruption is for `fit`. It keeps what is seen at every
    multiple of the stops' common divisor.

    Args:
        loss: `loss(params, key)`, a number; the key is new for every step. With a
            memory `loss(params, memory, key)`, the number and the next memory.
        params: to start from, and what is watched at 0 steps.
        optimizer: an optax transformation.
        stops: numbers of steps, ascending; at least one is above 0.
        key: random key.
        memory: what the loss carries from step to step (a running mean, the step).
        watch: what of the parameters is seen; all of them, unless said.

    Returns:
        Everything seen, stacked: `[stops, ...]`.

    Example:
        >>> square = lambda x, key: x**2
        >>> given = square, jnp.array(1.0), optax.sgd(0.25), [0, 1, 2]
        >>> descended(*given, key=jax.random.key(0)).tolist()
        [1.0, 0.5, 0.25]
    """
    rule: Any = optimizer
    whole = loss if memory is not None else lambda x, _, key: (loss(x, key), None)

    def step(carried: Any, n: Any) -> tuple[Any, None]:
        params, state, memory = carried
        slopes = jax.grad(whole, has_aux=True)
        grads, memory = slopes(params, memory, jax.random.fold_in(key, n))
        updates, state = rule.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, memory), None

    def block(carried: Any, steps: Any) -> tuple[Any, PyTree]:
        carried, _ = jax.lax.scan(step, carried, steps)
        return carried, watch(carried[0])

    often = math.gcd(*stops)
    steps = jnp.arange(stops[-1]).reshape(-1, often)
    _, seen = jax.lax.scan(block, (params, rule.init(params), memory), steps)
    places = jnp.array(stops) // often
    both = watch(params), seen
    every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), *both)
    return jax.tree.map(lambda x: x[places], every)
