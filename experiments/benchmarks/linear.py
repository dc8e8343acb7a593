"""Divergences of linear heads: value, gradient in the model's hidden states and head.

Floors are the matrix products alone: three with the model's head, one with the
target's. Peers in their best documented form: plain JAX that holds all logits, the same
by chunks under `jax.checkpoint`, and Liger's chunked loss at three chunk sizes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import torch_peers
from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.divergences import Hidden, token_divergence

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tokens, vocabulary, widths of target and model; `memory` is compiled only."""

    sizes: tuple[tuple[int, int, int, int], ...]
    memory: tuple[tuple[int, int, int, int], ...] = ()
    dtype: str = "float32"
    error: tuple[int, int, int] = (256, 32000, 1024)
    chunks: tuple[int, ...] = (256, 512, 1024)
    """Of Liger, at the first size; the last alone at the others."""


PRESETS = {
    "smoke": Sizes(((64, 256, 16, 16),), error=(16, 512, 32), chunks=(32,)),
    "cpu": Sizes(
        ((2048, 32768, 512, 512), (512, 32768, 1024, 512), (512, 8192, 256, 256)),
        memory=((8192, 32768, 512, 512), (32768, 32768, 512, 512)),
    ),
    "gpu": Sizes(
        ((8192, 128256, 4096, 2048), (8192, 128256, 4096, 4096)),
        memory=((32768, 128256, 4096, 2048),),
        dtype="bfloat16",
        chunks=(1024, 2048, 4096),
    ),
}


def _rows(name: str, p: jax.Array, q: jax.Array) -> jax.Array:
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    if name == "forward_kl":
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    terms = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
    return 0.5 * jnp.sum(terms, axis=-1)


def _product(hidden: jax.Array, head: jax.Array) -> jax.Array:
    return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


def _plain(name, p_hidden, p_head, q_hidden, q_head):
    p, q = _product(p_hidden, p_head), _product(q_hidden, q_head)
    return jnp.mean(_rows(name, p, q))


def _narrow(name, p_hidden, p_head, q_hidden, q_head):
    """The usual mistake: logits rounded to the type of the weights, then cast back."""
    bits = jnp.finfo(q_hidden.dtype)
    p, q = _product(p_hidden, p_head), _product(q_hidden, q_head)
    # A cast alone is optimised away where excess precision is allowed.
    p, q = (jax.lax.reduce_precision(x, bits.nexp, bits.nmant) for x in (p, q))
    return jnp.mean(_rows(name, p, q))


def _checkpointed(name, p_hidden, p_head, q_hidden, q_head, chunk=256):
    @jax.checkpoint
    def part(total, rows):
        p, q = _product(rows[0], p_head), _product(rows[1], q_head)
        return total + jnp.sum(_rows(name, p, q)), None

    chunk = min(chunk, p_hidden.shape[0])
    rows = (x.reshape(-1, chunk, x.shape[-1]) for x in (p_hidden, q_hidden))
    return jax.lax.scan(part, 0.0, tuple(rows))[0] / p_hidden.shape[0]


def _ours(name, p_hidden, p_head, q_hidden, q_head, **options):
    p, q = Hidden(p_hidden, p_head), Hidden(q_hidden, q_head)
    return token_divergence(p, q, name, **options)


def _gradient(function: Callable) -> Callable:
    def loss(model, target):
        return function(*target, *model)

    def of(p_hidden, p_head, q_hidden, q_head):
        return jax.value_and_grad(loss)((q_hidden, q_head), (p_hidden, p_head))

    return of


def _products(p_hidden, p_head, q_hidden, q_head):
    """The four products, with nothing between them but a sum."""
    p, q = _product(p_hidden, p_head), _product(q_hidden, q_head)
    slope = q.astype(q_hidden.dtype)
    return p[0, 0], _product(slope, q_head.T), _product(q_hidden.T, slope)


def _arrays(sizes, dtype: Any) -> tuple[jax.Array, ...]:
    tokens, vocab, d_p, d_q = sizes
    shapes = (tokens, d_p), (d_p, vocab), (tokens, d_q), (d_q, vocab)
    keys = jax.random.split(jax.random.key(0), 4)
    scales = 1.0, d_p**-0.5, 1.0, d_q**-0.5
    return tuple(
        (scale * jax.random.normal(key, shape)).astype(dtype)
        for key, shape, scale in zip(keys, shapes, scales)
    )


def _error(sizes: tuple[int, int, int], gradient: Callable) -> Mapping[str, float]:
    """Of the hidden states' gradient, bfloat16 inputs, by the size of the JS."""
    n, v, d = sizes
    rng = np.random.default_rng(0)
    head = jnp.bfloat16(rng.normal(size=(d, v)) * 2 * d**-0.5)
    q = jnp.bfloat16(rng.normal(size=(n, d)))
    found = {}
    for scale in (0.1, 0.01):
        p = jnp.bfloat16(q + scale * rng.normal(size=q.shape))
        got = np.asarray(gradient(p, head, q, head), np.float64)
        wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (p, q, head)]
        log_p, log_q = (_log_softmax(h @ wide[2]) for h in wide[:2])
        log_m = np.logaddexp(log_p, log_q) - np.log(2)
        gap = log_q - log_m
        divergence = 0.5 * np.exp(log_p) * (log_p - log_m) + 0.5 * np.exp(log_q) * gap
        mean = (np.exp(log_q) * gap).sum(-1, keepdims=True)
        want = 0.5 / n * (np.exp(log_q) * (gap - mean)) @ wide[2].T
        error = np.linalg.norm(got - want)
        label = f"gradient at {divergence.sum(-1).mean():.0e}"
        found[label] = float(error / np.linalg.norm(want))
    return found


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


_NAMES = ("forward_kl", "jensen_shannon")
QUESTIONS = (
    Question("losses", "Losses of linear heads", [f"{n} value+grad" for n in _NAMES]),
)
REASONS: tuple[Reason, ...] = ()


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    dtype = jnp.dtype(settings.dtype)
    sizes = [(s, True) for s in settings.sizes] + [(s, False) for s in settings.memory]
    for name in _NAMES:
        for size, timed in sizes:
            tokens, vocab, d_p, d_q = size
            # Where the errors are looked at: once.
            look = timed and size == settings.sizes[0] and name == "jensen_shannon"
            functions = {
                "kljax": functools.partial(_ours, name),
                "kljax, recompute": functools.partial(
                    _ours, name, implementation="recompute"
                ),
                "plain JAX": functools.partial(_plain, name),
                "plain JAX, narrow logits": functools.partial(_narrow, name),
                "jax.checkpoint, chunks": functools.partial(_checkpointed, name),
            }

            def floor(rates: Floors, size=size):
                tokens, vocab, d_p, d_q = size
                return 2 * tokens * vocab * (3 * d_q + d_p) / rates.gemm

            errors = functools.partial(_error, settings.error)
            compared = [
                Contender(
                    who,
                    _gradient(function),
                    error=functools.partial(
                        errors, jax.jit(jax.grad(function, argnums=2))
                    )
                    if look
                    else None,
                )
                for who, function in functions.items()
            ]
            compared.append(Contender("four products", _products, peer=False))
            made = functools.partial(_arrays, size, dtype)
            if timed and dtype == jnp.float32:
                chunks = settings.chunks[0 if size == settings.sizes[0] else -1 :]
                compared += [
                    torch_peers.liger(name, c, made, errors if look and not i else None)
                    for i, c in enumerate(chunks)
                ]
            yield Group(
                f"{name} value+grad",
                {"N": tokens, "V": vocab, "d_p": d_p, "d_q": d_q, "dtype": dtype.name},
                made,
                compared,
                floor,
                timed,
            )
