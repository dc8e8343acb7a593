"""Drawing the next token: filters and draw, beside the plain forms that sort.

Plain JAX: the filter as transformers has it (sort, cumulative softmax, mask), then
`jax.random.categorical`, a Gumbel number for each outcome. The floor is what a draw
cannot avoid: the logits read once, an exponential for each.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.decoding.sampling import Sampling, sample

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows and outcomes."""

    sizes: tuple[tuple[int, int], ...]


PRESETS = {
    "smoke": Sizes(((2, 256),)),
    "cpu": Sizes(((8, 32000), (64, 151936))),
    "gpu": Sizes(((64, 128256), (512, 128256))),
}


def _all(x: jax.Array) -> jax.Array:
    return x


def _top_k(x: jax.Array) -> jax.Array:
    return jnp.where(x < jax.lax.top_k(x, 50)[0][:, -1:], -jnp.inf, x)


def _top_p(x: jax.Array) -> jax.Array:
    ordered = jnp.sort(x, axis=-1, descending=True)
    upto = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
    kept = upto - jax.nn.softmax(ordered) < 0.9
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(x < least, -jnp.inf, x)


def _min_p(x: jax.Array) -> jax.Array:
    masses = jax.nn.softmax(x)
    least = 0.05 * jnp.max(masses, axis=-1, keepdims=True)
    return jnp.where(masses < least, -jnp.inf, x)


_KINDS: dict[str, tuple[Sampling, Callable[[jax.Array], jax.Array]]] = {
    "categorical": (Sampling(), _all),
    "top-k": (Sampling(top_k=50), _top_k),
    "top-p": (Sampling(top_p=0.9), _top_p),
    "min-p": (Sampling(min_p=0.05), _min_p),
}
"""Our setting, and the plain filter."""


def _ours(sampling: Sampling, key: jax.Array, x: jax.Array) -> tuple:
    return tuple(sample(key, x, sampling))


def _plain(keep: Callable, key: jax.Array, x: jax.Array) -> tuple:
    x = keep(x)
    token = jax.random.categorical(key, x)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(x), token[:, None], axis=-1)
    return token, chosen[:, 0]


def _logits(rows: int, width: int) -> tuple[jax.Array, jax.Array]:
    key = jax.random.key(0)
    return key, 3 * jax.random.normal(key, (rows, width))


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    for title, (sampling, keep) in _KINDS.items():
        for rows, width in PRESETS[preset].sizes:

            def floor(rates: Floors, items: int = rows * width) -> float:
                return max(4 * items / rates.read, items / rates.exp)

            yield Group(
                title,
                {"B": rows, "V": width},
                functools.partial(_logits, rows, width),
                [
                    Contender("kljax", functools.partial(_ours, sampling)),
                    Contender("plain JAX", functools.partial(_plain, keep)),
                ],
                floor,
            )


QUESTIONS = (Question("draw", "A token and its log-probability", tuple(_KINDS)),)
REASONS: tuple[Reason, ...] = ()
