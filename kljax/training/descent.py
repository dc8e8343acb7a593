"""Plain descent in one program, for what is small and comes before a run."""

import itertools
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
    watch: Callable[..., PyTree] = lambda params, *_: params,
) -> PyTree:
    """What there is to see after so many steps each: a teacher, starts, a curve.

    A pure function to be compiled and mapped over, learning rates included; what is
    long or is to survive an interruption is for `fit`. However many stops there are,
    one step is compiled.

    Args:
        loss: `loss(params, key)`, a number; the key is new for every step. With a
            memory `loss(params, memory, key)`, the number and the next memory.
        params: to start from, and what is watched at 0 steps.
        optimizer: an optax transformation.
        stops: numbers of steps, ascending.
        key: random key.
        memory: what the loss carries from step to step (the step's number, a running
            mean of the weights).
        watch: what is seen of the parameters, `watch(params)`, with a memory
            `watch(params, memory)`; the parameters, unless said.

    Returns:
        Everything seen, stacked: `[stops, ...]`.

    Example:
        >>> square = lambda x, key: x**2
        >>> given = square, jnp.array(1.0), optax.sgd(0.25), [0, 1, 2]
        >>> descended(*given, key=jax.random.key(0)).tolist()
        [1.0, 0.5, 0.25]
    """
    rule: Any = optimizer
    with_memory = memory is not None
    whole = loss if with_memory else lambda x, _, key: (loss(x, key), None)

    def step(n: Any, carried: Any) -> Any:
        params, state, memory = carried
        slopes = jax.grad(whole, has_aux=True)
        grads, memory = slopes(params, memory, jax.random.fold_in(key, n))
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, memory

    def stretch(carried: Any, ends: Any) -> tuple[Any, PyTree]:
        carried = jax.lax.fori_loop(ends[0], ends[1], step, carried)
        params, _, memory = carried
        return carried, watch(params, memory) if with_memory else watch(params)

    ends = jnp.array([*itertools.pairwise([0, *stops])], jnp.int32)
    return jax.lax.scan(stretch, (params, rule.init(params), memory), ends)[1]
