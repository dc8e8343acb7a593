"""The one door of `token_divergence`: arguments checked, and made operands once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import (
    as_array,
    check_positive,
    checked_ids,
    described,
    floating,
    floats,
    whole,
)
from kljax.divergences._arguments import checked_lists
from kljax.divergences.sides import Hidden, Logits, Restricted, TopK
from kljax.errors import unknown
from kljax.kernels.linear.operands import Among, Lists, Operands, Side
from kljax.kernels.logits.referenced import sharpness_of
from kljax.typing import Array, ArrayLike

__all__ = ["check_side", "is_number"]

IMPLEMENTATIONS = ("gradient_in_forward", "recompute")
REDUCTIONS = ("mean", "none")
MODELS = (Logits, Hidden)
TARGETS = (Logits, Hidden, TopK, Restricted)


class Tokens(NamedTuple):
    """The tokens of a loss, and how they count."""

    shape: tuple[int, ...]
    labels: Any
    """Integers; None: there are none."""
    weights: Any
    """Floating point, 0 where a label is negative; None: all count alike."""
    normalizer: Array | None
    reduction: str


def tokens_of(
    q: Any, labels: Any, weights: Any, normalizer: Any, reduction: str
) -> Tokens:
    """Those of the model's side."""
    if reduction not in REDUCTIONS:
        raise ValueError(unknown("reduction", reduction, REDUCTIONS))
    if reduction == "none" and normalizer is not None:
        raise ValueError("normalizer needs reduction='mean': it divides a sum")
    if isinstance(normalizer, int | float) and not normalizer > 0:
        raise ValueError(f"normalizer must be positive, got {normalizer}")
    shape = jnp.shape(q[0])[:-1]
    w = None if weights is None else as_array("weights", weights)
    if w is not None and jnp.issubdtype(w.dtype, jnp.complexfloating):
        raise TypeError(f"weights must be real, got {w.dtype}")
    if w is not None and w.shape != shape:
        raise ValueError(f"weights must be {shape}, one per token, got {w.shape}")
    if w is not None and not jnp.issubdtype(w.dtype, jnp.floating):
        w = w.astype(jnp.float32)
    if labels is not None:
        array = as_array("labels", labels, "integers")
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, got {array.dtype}")
        if array.shape != shape:
            raise ValueError(
                f"labels must be {shape}, one per token, got {array.shape}"
            )
        labels = checked_ids("labels", labels, vocabulary(q), weights, negative=True)
        w = jnp.where(labels >= 0, jnp.ones(shape, jnp.float32) if w is None else w, 0)
    if normalizer is not None:
        normalizer = scalar("normalizer", normalizer)
    return Tokens(shape, labels, w, normalizer, reduction)


def check_sides(p: Any, q: Any) -> None:
    """Raises unless both are sides of the same tokens."""
    check_side("p", p, TARGETS)
    check_side("q", q, MODELS)
    if jnp.shape(p[0])[:-1] != jnp.shape(q[0])[:-1]:
        raise ValueError(
            f"p has tokens {jnp.shape(p[0])[:-1]} and q {jnp.shape(q[0])[:-1]}; they "
            "must agree"
        )


def check_side(name: str, side: Any, kinds: tuple[type, ...]) -> None:
    """Raises `TypeError` or `ValueError` unless `side` is one of `kinds`, by token."""
    if not isinstance(side, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{name} must be {names} of kljax.divergences, such as "
            f"{kinds[0].__name__}(...), got {described(side)}"
        )
    if _array(f"{name}.{side._fields[0]}", side[0]).ndim < 2:
        last = "width" if isinstance(side, Hidden) else "n"
        raise ValueError(
            f"{name} must be [..., tokens, {last}], got shape {jnp.shape(side[0])}"
        )


def vocabulary(side: Logits | Hidden) -> int:
    """How many outcomes a side has."""
    name = "head" if isinstance(side, Hidden) else "values"
    return _array(name, getattr(side, name)).shape[-1]


def _array(name: str, x: Any) -> Array:
    """What is one already goes no way round: the kernel is reached file by file."""
    return x if isinstance(x, jax.Array) else as_array(name, x)


def _floats(name: str, x: Any) -> Array:
    known = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return x if known and x.dtype.itemsize > 1 else floats(name, x)


def check_fused(size: Any, implementation: str | None, reduction: str) -> None:
    """Raises for a way to run a fused form that does not exist, or cannot."""
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(unknown("implementation", implementation, IMPLEMENTATIONS))
    if implementation == "gradient_in_forward" and reduction == "none":
        raise ValueError(
            "implementation='gradient_in_forward' needs reduction='mean': the "
            "cotangent of every token is not known in the forward pass; use "
            "'recompute'"
        )
    if size is not None:
        whole("chunk_size", size)


def factors(
    labels: Any, label_weight: Any, divergence_weight: Any
) -> tuple[Array | None, Array | None]:
    """Of the labels' part and of the divergence; None: no such part; or a 1."""
    plain = is_number(label_weight, 0)
    if labels is None and not plain:
        raise ValueError(f"label_weight {label_weight} needs labels, got None")
    hard = None if plain else scalar("label_weight", label_weight)
    if divergence_weight is not None:
        return hard, scalar("divergence_weight", divergence_weight)
    return hard, None if hard is None else 1 - hard


def linear(
    p: Hidden | TopK | Restricted,
    q: Hidden,
    tokens: Tokens,
    temperature: Any,
    pad_vocab: bool,
) -> Operands:
    """Both sides as the fused kernels take them."""
    count = len(tokens.shape)
    flat = None if tokens.weights is None else tokens.weights.reshape(-1)
    if not isinstance(p, Hidden):
        model = head_side("q", q, number("temperature", temperature, 1.0))
        lists = list_side(p, tokens, vocabulary(q))
        lists = jax.tree.map(lambda x: x.reshape(-1, *x.shape[count:]), lists)
        return Operands(model, lists, flat)
    target, model = head_side("p", p), head_side("q", q)
    sharpness = None
    if isinstance(temperature, tuple):
        of_p, of_q = temperatures(temperature)
        target = target._replace(temperature=of_p)
        model = model._replace(temperature=of_q)
    elif (t := number("temperature", temperature, 1.0)) is not None:
        sharpness = sharpness_of(t)
    if vocabulary(p) != vocabulary(q) and not pad_vocab:
        raise ValueError(
            f"p.head {target.head.shape} has {vocabulary(p)} outcomes and q.head "
            f"{model.head.shape} has {vocabulary(q)}; pad_vocab=True treats the "
            "missing ones as impossible"
        )
    return Operands(model, target, flat, sharpness=sharpness)


def head_side(name: str, given: Hidden, temperature: Array | None = None) -> Side:
    """Hidden states ``[..., tokens, width]``, head and bias of one side."""
    cap = number(f"{name}.soft_cap", given.soft_cap)
    states = _floats(f"{name}.states", given.states)
    head = _floats(f"{name}.head", given.head)
    bias = None if given.bias is None else _floats(f"{name}.bias", given.bias)
    if head.ndim != 2 or 0 in head.shape:
        raise ValueError(
            f"{name}.head must be [width, vocab], neither of them 0, got {head.shape}"
        )
    if states.shape[-1] != head.shape[0]:
        raise ValueError(
            f"{name}.states has width {states.shape[-1]} (shape {states.shape}) but "
            f"{name}.head takes {head.shape[0]} (shape {head.shape}, [width, vocab])"
        )
    if bias is not None and bias.shape != head.shape[1:]:
        raise ValueError(
            f"{name}.bias must be [vocab] = {head.shape[1:]}, got {bias.shape}"
        )
    states = states.reshape(-1, states.shape[-1])
    return Side(states, head, bias, cap, temperature)


def list_side(given: TopK | Restricted, tokens: Tokens, vocab: int) -> Lists | Among:
    """The k listed outcomes of every token."""
    log_p, ids = floats("p.log_p", given.log_p), as_array("p.ids", given.ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"p.ids must be integers, got {ids.dtype}")
    if log_p.shape[:-1] != tokens.shape or log_p.shape != ids.shape:
        raise ValueError(
            f"p.log_p {log_p.shape} and p.ids {ids.shape} must both be the tokens' "
            f"{tokens.shape} and k outcomes"
        )
    if not 0 < log_p.shape[-1] <= vocab:
        raise ValueError(
            f"p.log_p {log_p.shape} must list between 1 and {vocab} outcomes"
        )
    if isinstance(given, Restricted):
        index, _ = checked_lists(*given, vocab, None, tokens.weights, normalized=False)
        return Among(log_p, index)
    index, tail = checked_lists(*given[:2], vocab, given.log_tail, tokens.weights)
    return Lists(log_p, index, tail)


def scalar(name: str, value: ArrayLike) -> Array:
    """A number that may be traced, in float32 or wider."""
    array = floating(name, value)
    if array.ndim:
        raise ValueError(f"{name} must be a number, got shape {array.shape}")
    return array


def number(name: str, value: ArrayLike | None, neutral: Any = None) -> Array | None:
    """A positive number, or None where it is the neutral one.

    A traced one that is not positive becomes a NaN.
    """
    if value is None or is_number(value, neutral):
        return None
    found = scalar(name, value)
    check_positive(name, value)
    return found * jnp.where(found > 0, 1, jnp.nan)


def is_number(value: Any, number: Any) -> bool:
    """Whether it is this Python number, known before anything is traced."""
    return isinstance(value, int | float) and value == number


def temperatures(value: tuple) -> tuple[Array | None, Array | None]:
    """Of a pair ``(target, model)``, each None where it is 1."""
    if len(value) != 2:
        raise ValueError(
            "temperature must be one number or a pair (target, model), got "
            f"{len(value)} of them"
        )
    of_p, of_q = value
    return number("temperature", of_p, 1.0), number("temperature", of_q, 1.0)


def numbers(divergence: Any, leaves: list) -> tuple[Array, ...]:
    """The leaves of a divergence, each a number: or raises."""
    if shapes := [np.shape(x) for x in leaves if np.ndim(x)]:
        raise ValueError(
            f"the parameters of {divergence} must be numbers, got arrays of shapes "
            f"{shapes}; use jax.vmap for several"
        )
    return tuple(map(jnp.asarray, leaves))
