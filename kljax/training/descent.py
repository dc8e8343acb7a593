"""Plain descent in one scan, for what is small and comes before a run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kljax.typing import Array, Float, Key, PyTree

__all__ = ["Selected", "descended", "selected"]


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
