"""Fusion weights: the solve by itself, in a decode step, and in blocks.

Groups: the solve against the published 21-point grid as printed, and against a grid
that takes its KLs from moments; eight fused steps of a large model (the shape of
SmolLM2-135M) with two small ones at 1:12, beside the large model alone; one round of
block verification beside one step. Weights are random: only time is measured. A round
pays where it keeps more tokens than (its time / the time of a fused step).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.decoding.decoders import Reader
from kljax.decoding.fusion.grid import grid_weights
from kljax.decoding.fusion.settings import Fusion, solve_weights
from kljax.decoding.lockstep import Plan, Readers, Values, advance
from kljax.decoding.sampling import Sampling
from kljax.decoding.speculative import Drafting, one_round
from kljax.models.language.transformer import TransformerConfig, transformer

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows and outcomes of the solve; models, batches, cache and draft lengths."""

    solves: tuple[tuple[int, int], ...]
    large: TransformerConfig
    small: TransformerConfig
    batches: tuple[int, ...] = (1, 8)
    slots: int = 192
    steps: int = 8
    drafts: tuple[int, ...] = (4,)
    dtype: str = "float32"


_SMOLLM2 = TransformerConfig(49152, 576, 30, 9, kv_heads=3, hidden=1536)
_SMALL = TransformerConfig(49152, 192, 4, 3, hidden=512)
_BILLION = TransformerConfig(128256, 2048, 16, 32, kv_heads=8, hidden=8192)
PRESETS = {
    "smoke": Sizes(
        ((4, 256),),
        TransformerConfig(256, 32, 2, 2),
        TransformerConfig(256, 16, 1, 2),
        batches=(2,),
        slots=32,
        steps=2,
        drafts=(2,),
    ),
    "cpu": Sizes(((64, 32000), (16, 151936), (1, 49152), (8, 49152)), _SMOLLM2, _SMALL),
    "gpu": Sizes(
        ((64, 128256), (256, 128256)),
        _BILLION,
        TransformerConfig(128256, 512, 6, 8, hidden=1536),
        batches=(1, 64),
        slots=512,
        dtype="bfloat16",
    ),
}
_GREEDY = Sampling(temperature=0)


# ------------------------------------------------------------------ the solve


def _rows(rows: int, width: int) -> tuple[jax.Array, ...]:
    """A sharp large model, small ones that half agree with it, a moderate change."""
    keys = jax.random.split(jax.random.key(0), 4)
    shared, a, b, c = (jax.random.normal(key, (rows, width)) for key in keys)
    base = 2 * shared + a
    return 3 * shared + b, base, (base + 0.7 * c)[:, None]


def _moments_grid(z: jax.Array, s: jax.Array, experts: jax.Array) -> jax.Array:
    """The grid of 21 weights, its KLs from log-partitions and means of the change."""
    d = experts[:, 0] - s
    log_p = jax.nn.log_softmax(z)
    d = d - jnp.sum(jnp.exp(log_p) * d, axis=-1, keepdims=True)

    def moments(l: jax.Array) -> tuple[jax.Array, jax.Array]:
        top = jnp.max(l, axis=-1)
        e = jnp.exp(l - top[:, None])
        total = jnp.sum(e, axis=-1)
        return top + jnp.log(total), jnp.sum(e * d, axis=-1) / total

    at_0, mean_0 = moments(s)
    at_1, mean_1 = moments(s + d)
    a, b = mean_1 - (at_1 - at_0), at_1 - at_0 - mean_0

    def at(i: Any, state: tuple) -> tuple:
        best, alpha = state
        value = 0.1 * i
        psi, mean = moments(log_p + value * d)
        loss = (value * mean - psi - a) ** 2 + (psi - b) ** 2
        return jnp.minimum(loss, best), jnp.where(loss < best, value, alpha)

    start = (jnp.full(len(z), jnp.inf), jnp.zeros(len(z)))
    return jax.lax.fori_loop(0, 21, at, start)[1][:, None]


_PART = "one softmax"


def _solvers() -> dict[str, Callable[..., Any]]:
    def newton(rule: str, iterations: int) -> Callable[..., jax.Array]:
        return lambda z, s, e: (
            solve_weights(z, s, e, Fusion(rule=rule, iterations=iterations)).alpha
        )

    return {
        "kljax": newton("dynamic", 4),
        "kljax, 6 iterations": newton("dynamic", 6),
        "kljax kl_ball": newton("kl_ball", 4),
        "kljax projection": newton("projection", 4),
        "literal grid": lambda z, s, e: grid_weights(z, s, e).alpha,
        "moments grid": _moments_grid,
        _PART: lambda z, s, e: jax.nn.softmax(z),
    }


def _errors(function: Callable, width: int) -> Mapping[str, float]:
    """Worst error of α, and how far the mean objective lies above float64's."""
    arrays = [np.asarray(x) for x in _rows(8, width)]
    alpha = np.asarray(jax.jit(function)(*arrays), np.float64)
    with jax.enable_x64(True):
        exact = [jnp.asarray(x, jnp.float64) for x in arrays]
        exhaustive = functools.partial(solve_weights, fusion=Fusion(iterations=40))
        best = jax.jit(exhaustive)(*exact)
        losses = []
        for i, (z, s, e) in enumerate(zip(*exact, strict=True)):
            static = Fusion(rule="static", weight=alpha[i])
            losses.append(solve_weights(z, s, e, static).loss)
    wrong = np.abs(alpha - np.asarray(best.alpha)).max()
    return {
        "α": float(wrong),
        "J − J*": float(np.mean(losses) - np.mean(np.asarray(best.loss))),
    }


def _solve_groups(settings: Sizes) -> Iterator[Group]:
    for i, (rows, width) in enumerate(settings.solves):
        items = rows * width

        def floor(rates: Floors, items=items):
            # Three arrays read; P, Q and Q_t take an exponential each.
            return max(12 * items / rates.read, 3 * items / rates.exp)

        compared = []
        for who, function in _solvers().items():
            looked = i == 0 and who not in (_PART, "kljax kl_ball")
            looked = looked and who != "kljax projection"
            look = functools.partial(_errors, function, width) if looked else None
            compared.append(Contender(who, function, error=look, peer=who != _PART))
        yield Group(
            "solve",
            {"B": rows, "V": width},
            functools.partial(_rows, rows, width),
            compared,
            floor,
        )


# ------------------------------------------------------------------ in a step


def _plan(settings: Sizes, used: Sequence[int], combine: Any) -> Plan:
    configs = [(settings.large, settings.small, settings.small)[i] for i in used]
    dtype = jnp.dtype(settings.dtype)
    readers = [Reader(transformer(x)[0], x.vocab_size, dtype) for x in configs]
    return Plan(tuple(readers), combine, _GREEDY)


def _given(
    settings: Sizes, plan: Plan, batch: int, params: tuple
) -> tuple[Values, Readers]:
    state = Readers(
        caches=tuple(x.empty(batch, settings.slots) for x in plan.readers),
        token=jnp.ones(batch, jnp.int32),
        done=jnp.zeros(batch, bool),
        seen=None,
        keys=jax.random.split(jax.random.key(0), batch),
        made=jnp.zeros((), jnp.int32),
    )
    stop, pad = jnp.zeros(0, jnp.int32), jnp.zeros((), jnp.int32)
    return Values(params, {}, stop, pad), state


def _steps(
    settings: Sizes, batch: int, used: tuple[int, ...], combine: Any, count: int
) -> Callable[..., jax.Array]:
    """`count` tokens of these models, from an empty cache."""
    plan = _plan(settings, used, combine)

    def run(*params: Any) -> jax.Array:
        chosen = tuple(params[i] for i in used)
        values, state = _given(settings, plan, batch, chosen)
        limit = jnp.asarray(count, jnp.int32)
        return advance(plan, values, state, limit, size=count)[1].tokens

    return run


def _one_round(settings: Sizes, batch: int, draft: int) -> Callable[..., Any]:
    plan = _plan(settings, range(3), Fusion())

    def run(*params: Any) -> tuple:
        values, state = _given(settings, plan, batch, params)
        found = one_round(plan, Drafting(draft, 2), values, state)
        return found.block[0], found.count

    return run


def _params(settings: Sizes) -> tuple[Any, ...]:
    key = jax.random.key(0)

    def drawn(config: TransformerConfig) -> Any:
        shapes = jax.eval_shape(transformer(config)[1], key)
        dtype = jnp.dtype(settings.dtype)
        return jax.tree.map(
            lambda x: (0.02 * jax.random.normal(key, x.shape)).astype(dtype), shapes
        )

    return drawn(settings.large), drawn(settings.small), drawn(settings.small)


def _model_groups(settings: Sizes) -> Iterator[Group]:
    arguments = functools.partial(_params, settings)
    shapes = jax.eval_shape(arguments)
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[0]))
    fused, static = Fusion(), Fusion(rule="static")
    n = settings.steps
    for batch in settings.batches:

        def compared(steps: int, batch: int = batch) -> list[Contender]:
            build = functools.partial(_steps, settings, batch)
            return [
                Contender("kljax", build((0, 1, 2), fused, steps)),
                Contender("static fusion", build((0, 1, 2), static, steps), peer=False),
                Contender("large alone", build((0,), None, steps), peer=False),
            ]

        def floor(rates: Floors, steps: int = n) -> float:
            return steps * weights / rates.read

        sizes = {"B": batch, "steps": n, "V": settings.large.vocab_size}
        yield Group("decode", sizes, arguments, compared(n), floor)
    batch = settings.batches[0]
    for draft in settings.drafts:
        contenders = [
            Contender("kljax", _one_round(settings, batch, draft)),
            Contender(
                "one fused step",
                _steps(settings, batch, (0, 1, 2), fused, 1),
                peer=False,
            ),
            Contender(
                "one step, large", _steps(settings, batch, (0,), None, 1), peer=False
            ),
        ]
        sizes = {"B": batch, "draft": draft, "V": settings.large.vocab_size}

        def read_once(rates: Floors) -> float:
            return weights / rates.read

        yield Group("round", sizes, arguments, contenders, read_once)


QUESTIONS = (
    Question("solve", "Weights of a fusion", ("solve",)),
    Question("decode", "Fused steps beside the large model alone", ("decode",)),
    Question("round", "A round of block verification beside one step", ("round",)),
)
REASONS: tuple[Reason, ...] = ()


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    yield from _solve_groups(settings)
    yield from _model_groups(settings)
