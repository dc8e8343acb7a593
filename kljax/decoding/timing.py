"""What a token costs: with one model, with several, and the solve by itself.

Times are taken in turns, so that a machine that is busy for a while is busy for all,
and the least of every call counts.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.decoding.decoders import Model
from kljax.decoding.fusion import Fusion, solve_weights
from kljax.decoding.generation import generate
from kljax.decoding.settings import Decoding
from kljax.typing import Array, Float, Int

__all__ = ["decoding_call", "solving_call", "timed"]


def decoding_call(
    models: Sequence[Model], prompt: Int[Array, "b t"], settings: Decoding
) -> Callable[[], Array]:
    """A generation that is compiled already, reading of the prompt included."""

    def call() -> Array:
        return generate(models, prompt, settings).tokens

    jax.block_until_ready(call())
    return call


def solving_call(
    rows: int, vocabulary: int, fusion: Fusion, count: int
) -> Callable[[], Array]:
    """`count` solves, compiled already, one after the other, on logits drawn once."""
    random = np.random.default_rng(4)
    shape = (3, rows, vocabulary)
    z, s, change = jnp.asarray(random.standard_normal(shape, np.float32))

    @jax.jit
    def many(z: Array, s: Array, expert: Array) -> Float[Array, ""]:
        def step(i: Array, total: Array) -> Array:
            moved = z + 1e-6 * total  # every solve waits for the one before
            alpha = solve_weights(moved, s, expert[..., None, :], fusion).alpha
            return total + alpha.mean()

        return jax.lax.fori_loop(0, count, step, jnp.float32(0))

    given = (3 * z, 2 * s, 2 * s + change)
    jax.block_until_ready(many(*given))
    return lambda: many(*given)


def timed(
    calls: Mapping[str, Callable[[], Any]],
    *,
    per: int = 1,
    repeats: int = 3,
    after: Callable[[], Any] = lambda: None,
) -> dict[str, dict[str, float]]:
    """The least wall and process time of every call, in milliseconds.

    Args:
      calls: by name, compiled already.
      per: what one call makes, as tokens; times are divided by it.
      repeats: how often all are called, in turns.
      after: called after every turn, as for a progress bar.

    Returns:
      Per name "wall_ms" and "cpu_ms".

    Example:
      >>> found = timed({"nothing": lambda: None}, repeats=2)
      >>> sorted(found["nothing"])
      ['cpu_ms', 'wall_ms']
    """
    least = {name: (float("inf"), float("inf")) for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            spent = time.perf_counter() - wall, time.process_time() - cpu
            least[name] = min(least[name][0], spent[0]), min(least[name][1], spent[1])
        after()
    scale = 1000 / per
    return {
        name: {"wall_ms": scale * wall, "cpu_ms": scale * cpu}
        for name, (wall, cpu) in least.items()
    }
