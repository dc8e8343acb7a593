"""Divergences of logits: value, and value with the gradient in the model's logits.

Peers in their best documented form, both sides as arguments: optax with probability and
with log targets, distrax, torch (eager and compiled, with log targets), the generalized
JS formula of GKD in JAX and in torch, and plain JAX.
"""

import dataclasses
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import torch_peers
from experiments.benchmarks.measuring import Contender, Floors, Group
from kljax.divergences import divergence

__all__ = ["PRESETS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows and outcomes; `memory_rows` are compiled, not run."""

    sizes: tuple[tuple[int, int], ...]
    memory_rows: tuple[int, ...] = ()
    dtype: str = "float32"
    error_width: int = 32768
    torch: tuple[bool, ...] = (False, True)
    """Eager, compiled: the latter takes half a minute to compile."""


_CPU = ((64, 32768), (256, 32768), (512, 32768))
_WIDTHS = ((256, 2048), (256, 8192), (256, 131072))
PRESETS = {
    "smoke": Sizes(((32, 256), (64, 256)), error_width=256, torch=(False,)),
    "cpu": Sizes(_CPU + _WIDTHS, memory_rows=(2048, 8192)),
    "gpu": Sizes(
        ((1024, 128256), (8192, 128256)), memory_rows=(32768,), dtype="bfloat16"
    ),
}


def _plain_kl(p, q):
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _gkd(p, q, beta=0.5):
    """Generalized JS as in GKD: mixture by logaddexp, two KLs with log targets."""
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    log_m = jnp.logaddexp(log_q + jnp.log(1 - beta), log_p + jnp.log(beta))
    from_p = jnp.exp(log_p) * (log_p - log_m)
    from_q = jnp.exp(log_q) * (log_q - log_m)
    return jnp.sum(beta * from_p + (1 - beta) * from_q, axis=-1)


def _optax(log_targets: bool) -> Callable | None:
    if importlib.util.find_spec("optax") is None:
        return None
    import optax

    def of(p, q):
        predictions = jax.nn.log_softmax(q)
        if log_targets:
            target = jax.nn.log_softmax(p)
            return optax.losses.kl_divergence_with_log_targets(predictions, target)
        return optax.losses.kl_divergence(predictions, jax.nn.softmax(p))

    return of


def _distrax() -> Callable | None:
    if importlib.util.find_spec("distrax") is None:
        return None
    with warnings.catch_warnings():  # what it imports is deprecated here and there
        warnings.simplefilter("ignore")
        import distrax  # pyrefly: ignore[missing-import]

    return lambda p, q: distrax.Categorical(p).kl_divergence(distrax.Categorical(q))


def _contenders(name: str) -> dict[str, Callable | None]:
    ours = functools.partial(divergence, divergence=name)
    if name == "forward_kl":
        return {
            "kljax": ours,
            "plain JAX": _plain_kl,
            "optax": _optax(False),
            "optax, log targets": _optax(True),
            "distrax": _distrax(),
        }
    if name == "jensen_shannon":
        return {"kljax": ours, "GKD formula": _gkd}
    return {"kljax": ours}


def _exact(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Float64, from the definition."""
    p, q = (np.float64(x) - np.float64(x).max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    if name == "forward_kl":
        return (np.exp(p) * (p - q)).sum(-1)
    m = np.logaddexp(p, q) - np.log(2)
    return 0.5 * (np.exp(p) * (p - m) + np.exp(q) * (q - m)).sum(-1)


def _errors(name: str, width: int, function: Callable) -> Mapping[str, float]:
    """Worst relative error of 8 rows, by the size of the divergence."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, width)) * 2
    noise = rng.normal(size=base.shape)
    found = {}
    for scale in (1.0, 1e-2, 1e-3):
        for offset in (0.0, 1e4):
            p = base.astype(np.float32)
            q = (base + scale * noise + offset).astype(np.float32)
            want = _exact(name, p, q)
            got = np.asarray(function(p, q), np.float64)
            label = f"{np.median(want):.0e}" + (" at 1e4" if offset else "")
            found[label] = float(np.max(np.abs(got / want - 1)))
    return found


def _gradient(function: Callable) -> Callable:
    def total(q, p):
        return jnp.sum(function(p, q))

    def of(p, q):
        return jax.value_and_grad(total)(q, p)

    return of


def _total(function: Callable) -> Callable:
    return lambda p, q: jnp.sum(function(p, q))


def _logits(rows: int, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    p = 2 * jax.random.normal(keys[0], (rows, width))
    q = p + jax.random.normal(keys[1], (rows, width))
    return p.astype(dtype), q.astype(dtype)


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    dtype = jnp.dtype(settings.dtype)
    width = settings.sizes[0][1]
    sizes = [(n, v, True) for n, v in settings.sizes]
    sizes += [(n, width, False) for n in settings.memory_rows]
    looked_at = set()
    for name in ("forward_kl", "jensen_shannon", "alpha"):
        functions = _contenders(name)
        for title, form, reads, writes in (
            ("value", _total, 2, 0),
            ("value+grad", _gradient, 4, 1),
        ):
            for rows, width, timed in sizes:
                items = rows * width

                def floor(rates: Floors, items=items, reads=reads, writes=writes):
                    # Both sides read, and two exponentials an element, each way; on
                    # an accelerator the exponentials hide behind the bytes.
                    size = items * dtype.itemsize
                    moved = reads * size / rates.read + writes * size / rates.write
                    return max(moved, reads * items / rates.exp)

                first = name not in looked_at and name != "alpha"
                looked_at.add(name)
                errors = functools.partial(_errors, name, settings.error_width)
                compared = []
                for who, function in functions.items():
                    look = None
                    if first and function is not None:
                        look = functools.partial(errors, jax.jit(function))
                    built = None if function is None else form(function)
                    compared.append(Contender(who, built, error=look))
                made = functools.partial(_logits, rows, width, dtype)
                if name != "alpha" and timed and dtype == jnp.float32:
                    compared += [
                        torch_peers.logits(
                            name,
                            made,
                            gradient=form is _gradient,
                            compiled=compiled,
                            errors=errors if first else None,
                        )
                        for compiled in settings.torch
                    ]
                yield Group(
                    f"{name} {title}",
                    {"N": rows, "V": width, "dtype": dtype.name},
                    made,
                    compared,
                    floor,
                    timed,
                )
