"""Plain descent in one program, for what is small and comes before a run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Array, Float, Key, PyTree

__all__ = ["Selected", "descended", "selected"]


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


class Selected(NamedTuple):
    """The parameters of the best round, and the score of every round."""

    params: PyTree
    scores: Float[Array, " k"]


def selected(
    loss: Callable[[PyTree, PyTree], Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    batches: Callable[[Array], PyTree],
    score: Callable[[PyTree], Float[Array, ""]],
    *,
    rounds: int,
) -> Selected:
    """Descent of many rounds (passes over data), stopped early by hindsight.

    A pure function to be compiled and mapped over, over seeds and rates say.

    Args:
      loss: `loss(params, batch)`, a number.
      params: to start from.
      optimizer: an optax transformation.
      batches: `batches(n)` are those of round n, stacked: arrays `[steps, ...]`. The
        round is traced.
      score: of parameters, on data that were held out: the lower the better. NaN is
        never chosen.
      rounds: how many; each ends with a score.

    Returns:
      The parameters after the round with the lowest score, those to start from if no
      round has one; and all scores.

    Example:
      >>> square = lambda x, at: (x - at) ** 2
      >>> ends = lambda n: jnp.full(5, n + 1.0)  # after round n it is at n + 1
      >>> given = square, jnp.array(0.0), optax.sgd(0.5), ends, lambda x: (x - 2) ** 2
      >>> found = selected(*given, rounds=3)
      >>> float(found.params), found.scores.tolist()
      (2.0, [1.0, 0.0, 1.0])
    """
    rule: Any = optimizer

    def step(carried: Any, batch: PyTree) -> tuple[Any, None]:
        params, state = carried
        grads = jax.grad(loss)(params, batch)
        updates, state = rule.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def play(carried: Any, n: Array) -> tuple[Any, Array]:
        moving, best, least = carried
        moving, _ = jax.lax.scan(step, moving, batches(n))
        found = score(moving[0])
        better = found < least
        best = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), moving[0], best
        )
        return (moving, best, jnp.where(better, found, least)), found

    start = (params, rule.init(params)), params, jnp.inf
    (_, best, _), scores = jax.lax.scan(play, start, jnp.arange(rounds))
    return Selected(best, scores)
