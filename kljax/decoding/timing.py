"""What a token costs: with one model, with several, and the solve by itself.

Times are taken in turns, so that a machine that is busy for a while is busy for all,
and the least of every call counts.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.decoding.decoders import Combine, Model
from kljax.decoding.fusion import Fusion, fuse, grid_weights, solve_weights
from kljax.decoding.generation import generate
from kljax.decoding.sampling import Sampling
from kljax.decoding.settings import Decoding
from kljax.errors import unknown
from kljax.models.functional import parameter_count, random_params
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.typing import Array, Float, Int

__all__ = [
    "ALONE",
    "PARTS",
    "SOLVE",
    "FusionTimes",
    "TimingConfig",
    "decoding_call",
    "fusion_times",
    "solving_call",
    "timed",
]

ALONE, SOLVE = "large alone", "solve alone"
"""The large model's own step, and the weights of a fusion without any model."""
PARTS: dict[str, tuple[slice, Combine]] = {
    "both small ones": (slice(1, 3), lambda logits: (logits[0], {})),
    "static": (slice(3), Fusion(rule="static")),
    "dynamic": (slice(3), Fusion()),
    "grid": (slice(3), lambda logits: _grid(*logits)),
}
"""Which of large, base and expert read a token, and how they are combined."""


def _grid(z: Array, s: Array, expert: Array) -> tuple[Array, dict[str, Array]]:
    experts = expert[..., None, :]
    alpha = grid_weights(z, s, experts).alpha
    return fuse(z, s, experts, alpha), {"alpha": alpha}


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


@dataclasses.dataclass(frozen=True)
class TimingConfig:
    """Shapes of which a fused decoding is timed, with random weights; 12 to 1 here."""

    vocabulary: int = 49152
    width: int = 576
    depth: int = 30
    heads: int = 9
    kv_heads: int = 3
    hidden: int = 1536
    small_width: int = 192
    small_depth: int = 4
    small_heads: int = 3
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 16
    tokens: int = 24
    """New tokens per timed call, whose time holds the reading of the prompt."""
    repeats: int = 3
    parts: tuple[str, ...] = tuple(PARTS)
    """What is timed beside `ALONE` and `SOLVE`."""

    def __post_init__(self):
        """Checks the names."""
        for name in self.parts:
            if name not in PARTS:
                raise ValueError(unknown("name in parts:", name, PARTS))

    def turns(self) -> int:
        """How often `fusion_times` says that it has got on."""
        return len(self.batches) * (1 + len(self.parts) + self.repeats)

    def shapes(self) -> tuple[TransformerConfig, TransformerConfig]:
        """Of the large and of the small models."""
        build = functools.partial(TransformerConfig, self.vocabulary)
        small = build(self.small_width, self.small_depth, self.small_heads)
        own = {"kv_heads": self.kv_heads, "hidden": self.hidden}
        return build(self.width, self.depth, self.heads, **own), small


class FusionTimes(NamedTuple):
    """Times of a decoding step, by size of the batch and part."""

    parameters: tuple[int, int]
    """Of the large model and of a small one."""
    batches: dict[int, dict[str, dict[str, float]]]
    """Per part "wall_ms" and "cpu_ms" per token, as in `timed`."""


def fusion_times(
    config: TimingConfig, *, after: Callable[[], Any] = lambda: None
) -> FusionTimes:
    """What a greedy step of logit fusion costs, part by part, compared in turns.

    Args:
      config: shapes, batches and parts.
      after: called after every compilation and every turn, as for a progress bar.
    """
    large, small = map(transformer, config.shapes())
    models = [
        (apply, random_params(initial, seed))
        for seed, (apply, initial) in enumerate((large, small, small))
    ]
    chosen: dict[str, tuple[slice, Combine | None]] = {ALONE: (slice(1), None)}
    chosen |= {name: PARTS[name] for name in config.parts}
    found, greedy = {}, Sampling(temperature=0.0)
    for batch in config.batches:
        random, shape = np.random.default_rng(3), (batch, config.prompt)
        prompt = jnp.asarray(random.integers(0, config.vocabulary, shape), jnp.int32)
        calls = {}
        for name, (who, combine) in chosen.items():
            settings = Decoding(config.tokens, greedy, combine=combine)
            calls[name] = decoding_call(models[who], prompt, settings)
            after()
        solve = solving_call(batch, config.vocabulary, Fusion(), config.tokens)
        found[batch] = timed(
            calls | {SOLVE: solve},
            per=config.tokens,
            repeats=config.repeats,
            after=after,
        )
    one, other = (parameter_count(params) for _, params in models[:2])
    return FusionTimes((one, other), found)
