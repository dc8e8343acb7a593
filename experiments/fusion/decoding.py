"""Greedy decoding by several models in lockstep, and what every part of it costs."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fusion.batches import Rows, Vocabulary
from kljax.decoding.fusion import solve_weights
from kljax.decoding.fusion_grid import grid_weights
from kljax.decoding.fusion_settings import Fusion
from kljax.decoding.sampling import greedy
from kljax.models.cache import Cache, init_cache
from kljax.models.functional import parameter_count
from kljax.models.transformer import PureTransformer, TransformerConfig, transformer
from kljax.training import Progress
from kljax.typing import Array, Bool, Float, Int, PyTree

__all__ = ["TimingConfig", "answer", "decode", "timed"]

Combine = Callable[[Sequence[Array]], Array]
State = tuple[tuple[Cache, ...], Array]


@dataclasses.dataclass(frozen=True)
class TimingConfig:
    """Shapes whose decoding is timed with random weights; the sizes are 12 to 1."""

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
    """Steps per timed call."""
    repeats: int = 4


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def read(
    models: tuple[PureTransformer, ...],
    params: tuple[PyTree, ...],
    block: tuple[Int[Array, "b t"], Bool[Array, "b t"]],
    slots: int,
    combine: Combine,
) -> State:
    """Caches after the prompts, and the first token."""
    tokens, where = block
    caches, logits = [], []
    for apply, values in zip(models, params, strict=True):
        cache = init_cache(apply.config, len(tokens), slots)
        found, cache = apply(values, tokens, where, cache=cache)
        caches.append(cache)
        logits.append(found[:, -1])
    return tuple(caches), greedy(combine(logits))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def advance(
    models: tuple[PureTransformer, ...],
    params: tuple[PyTree, ...],
    state: State,
    steps: int,
    combine: Combine,
) -> tuple[State, Int[Array, "b n"]]:
    """So many more tokens: the state, and the tokens that were read."""
    out = jnp.zeros((state[1].shape[0], steps), jnp.int32)

    def step(i: Array, carried: tuple[State, Array]) -> tuple[State, Array]:
        (caches, token), out = carried
        found = [
            apply(values, token[:, None], cache=cache)
            for apply, values, cache in zip(models, params, caches, strict=True)
        ]
        fused = combine([logits[:, 0] for logits, _ in found])
        out = jax.lax.dynamic_update_slice(out, token[:, None], (0, i))
        return (tuple(cache for _, cache in found), greedy(fused)), out

    return jax.lax.fori_loop(0, steps, step, (state, out))


def _first(logits: Sequence[Array]) -> Array:
    return logits[0]


def _last(logits: Sequence[Array]) -> Array:
    return logits[-1]


def _static(logits: Sequence[Array]) -> Array:
    return Fusion(rule="static")(logits)[0]


def _dynamic(logits: Sequence[Array]) -> Array:
    return Fusion()(logits)[0]


def _grid(logits: Sequence[Array]) -> Array:
    z, s, expert = logits
    alpha = grid_weights(z, s, expert[..., None, :]).alpha
    return z + alpha * (expert - s)


def decode(
    vocabulary: Vocabulary,
    models: Sequence[tuple[PureTransformer, PyTree]],
    rows: Rows,
) -> list[str]:
    """Greedy answers of dynamic fusion, up to the end token.

    Args:
        vocabulary: of all models.
        models: large, small base, expert.
        rows: whose prompts are read, left-padded.
    """
    prompts = [rows.prompt(i) for i in range(len(rows))]
    width = max(map(len, prompts))
    steps = int(rows.answer.sum(axis=1).max())
    tokens = np.full((len(rows), width), vocabulary.end, np.int32)
    where = np.zeros(tokens.shape, bool)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = prompt
        where[i, width - len(prompt) :] = True
    applies, params = (tuple(part) for part in zip(*models, strict=True))
    state = read(applies, params, (tokens, where), width + steps, _dynamic)
    _, out = advance(applies, params, state, steps, _dynamic)
    return [_until_end(vocabulary, row) for row in np.asarray(out)]


def answer(vocabulary: Vocabulary, rows: Rows, row: int) -> str:
    """The right answer of a row as text."""
    return _until_end(vocabulary, rows.tokens[row][rows.answer[row]])


def _until_end(vocabulary: Vocabulary, ids: Any) -> str:
    return vocabulary.decode(
        list(itertools.takewhile(lambda i: i != vocabulary.end, map(int, ids)))
    )


# ------------------------------------------------------------------ time


def random_weights(config: TransformerConfig, seed: int) -> tuple[PureTransformer, Any]:
    """A model that was never trained: its time is that of a trained one."""
    apply, initial = transformer(config)
    random = np.random.default_rng(seed)

    def leaf(shape: jax.ShapeDtypeStruct) -> Array:
        if len(shape.shape) < 2:
            return jnp.ones(shape.shape, shape.dtype)
        values = random.standard_normal(shape.shape, np.float32)
        return jnp.asarray(0.02 * values)

    return apply, jax.tree.map(leaf, jax.eval_shape(initial, jax.random.key(0)))


def timed(config: TimingConfig, progress: Progress) -> dict[str, Any]:
    """Milliseconds per step of decoding with one model, two and three, in turns.

    Returns:
        Per batch size the least wall and process time of every part, and the weights.
    """
    large = random_weights(
        TransformerConfig(
            vocab_size=config.vocabulary,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            kv_heads=config.kv_heads,
            hidden=config.hidden,
        ),
        0,
    )
    shape = TransformerConfig(
        vocab_size=config.vocabulary,
        width=config.small_width,
        depth=config.small_depth,
        heads=config.small_heads,
    )
    small = [random_weights(shape, seed) for seed in (1, 2)]
    parts = {
        "large alone": ([large], _first),
        "both small ones": (small, _last),
        "static": ([large, *small], _static),
        "dynamic": ([large, *small], _dynamic),
        "grid": ([large, *small], _grid),
    }
    task = progress.task("timing", len(config.batches) * (len(parts) + config.repeats))
    found: dict[str, Any] = {
        "weights": [parameter_count(large[1]), parameter_count(small[0][1])],
        "batches": {},
    }
    done = 0
    for batch in config.batches:
        calls = {}
        for name, (models, combine) in parts.items():
            calls[name] = _call(config, models, combine, batch)
            done += 1
            task.update(done)
        calls["solve alone"] = _solve_call(config, batch, "dynamic")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(config.repeats):
            for name, call in calls.items():
                wall, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(call())
                times[name].append(
                    (time.perf_counter() - wall, time.process_time() - cpu)
                )
            done += 1
            task.update(done)
        scale = 1000 / config.tokens
        found["batches"][str(batch)] = {
            name: {
                "wall_ms": scale * min(w for w, _ in values),
                "cpu_ms": scale * min(c for _, c in values),
            }
            for name, values in times.items()
        }
    task.close()
    return found


def _call(config: TimingConfig, models: Any, combine: Combine, batch: int) -> Any:
    """A compiled call of `config.tokens` steps behind a prompt."""
    applies, params = (tuple(part) for part in zip(*models, strict=True))
    random = np.random.default_rng(3)
    shape = (batch, config.prompt)
    tokens = random.integers(0, config.vocabulary, shape).astype(np.int32)
    block = (tokens, np.ones(shape, bool))
    slots = config.prompt + config.tokens
    state = jax.block_until_ready(read(applies, params, block, slots, combine))

    def call() -> Any:
        return advance(applies, params, state, config.tokens, combine)

    jax.block_until_ready(call())
    return call


def _solve_call(config: TimingConfig, batch: int, rule: str) -> Any:
    """As many solves as there are steps, each on logits of its own."""
    random = np.random.default_rng(4)
    shape = (3, batch, config.vocabulary)
    z, s, change = jnp.asarray(random.standard_normal(shape, np.float32))

    @jax.jit
    def many(z: Array, s: Array, expert: Array) -> Float[Array, ""]:
        def step(i: Array, total: Array) -> Array:
            moved = z + 1e-6 * total  # every solve waits for the one before
            alpha = solve_weights(moved, s, expert[..., None, :], rule=rule).alpha
            return total + alpha.mean()

        return jax.lax.fori_loop(0, config.tokens, step, jnp.float32(0))

    args = (3 * z, 2 * s, 2 * s + change)
    jax.block_until_ready(many(*args))
    return lambda: many(*args)
