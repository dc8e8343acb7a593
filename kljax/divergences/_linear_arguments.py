"""Arguments of the linear losses: checked, named and handed to the kernel.

Every function here returns a part of the kernel's operands, a flat dict whose names
are explained in `kljax.kernels.linear.fused`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kljax.divergences._arguments import checked_lists
from kljax.kernels.arguments import check_positive, checked_ids
from kljax.kernels.linear import fused as kernel
from kljax.typing import Array, ArrayLike

IMPLEMENTATIONS = ("gradient_in_forward", "recompute")
REDUCTIONS = ("mean", "none")
Operands = dict[str, Array]
Pair = ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None
"""A number for both sides, or one for the target and one for the model."""


def side(
    name: str, hidden: ArrayLike, head: ArrayLike, bias: ArrayLike | None
) -> Operands:
    """Hidden states ``[..., tokens, width]``, head and bias of one side."""
    found = {f"{name}_hidden": jnp.asarray(hidden), f"{name}_head": jnp.asarray(head)}
    if bias is not None:
        found[f"{name}_bias"] = jnp.asarray(bias)
    for argument, x in found.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{argument} must be floating point, got {x.dtype} of shape {x.shape}"
            )
    hidden, head = found[f"{name}_hidden"], found[f"{name}_head"]
    if hidden.ndim < 2:
        raise ValueError(
            f"{name}_hidden must be [..., tokens, width], got shape {hidden.shape}"
        )
    if head.ndim != 2 or 0 in head.shape:
        raise ValueError(
            f"{name}_head must be [width, vocab], neither of them 0, got {head.shape}"
        )
    if hidden.shape[-1] != head.shape[0]:
        raise ValueError(
            f"{name}_hidden has width {hidden.shape[-1]} (shape {hidden.shape}) but "
            f"{name}_head takes {head.shape[0]} (shape {head.shape}, [width, vocab])"
        )
    if bias is not None and found[f"{name}_bias"].shape != head.shape[1:]:
        raise ValueError(
            f"{name}_bias must be [vocab] = {head.shape[1:]}, got "
            f"{found[f'{name}_bias'].shape}"
        )
    return found


def check_vocab(operands: Operands, pad_vocab: bool) -> None:
    """Both heads must speak of the same outcomes."""
    p, q = operands["p_head"].shape, operands["q_head"].shape
    if p[1] != q[1] and not pad_vocab:
        raise ValueError(
            f"p_head {p} has {p[1]} outcomes and q_head {q} has {q[1]}; "
            "pad_vocab=True treats the missing ones as impossible"
        )


def number(
    key: str, argument: str, value: ArrayLike | None, neutral: float | None
) -> Operands:
    """A positive number; left out where it is the neutral one.

    A traced one that is not positive becomes a NaN.
    """
    if value is None or (isinstance(value, int | float) and value == neutral):
        return {}
    found = scalar(key, argument, value)[key]
    check_positive(argument, value)
    return {key: jnp.where(found > 0, found, jnp.nan)}


def positive(key: str, argument: str, value: ArrayLike) -> Operands:
    """A positive number, or a traced one, as an operand of the kernel."""
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f"{argument} must be positive, got {value}")
    return scalar(key, argument, value)


def scalar(key: str, argument: str, value: ArrayLike) -> Operands:
    """A number that may be traced."""
    array = jnp.asarray(value)
    if array.ndim or not (
        jnp.issubdtype(array.dtype, jnp.floating)
        or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise ValueError(
            f"{argument} must be a number, got {array.dtype} of shape {array.shape}"
        )
    return {key: array.astype(jnp.promote_types(array.dtype, jnp.float32))}


def pair(key: str, argument: str, value: Any, neutral: float | None) -> Operands:
    """A pair ``(target, model)``, or one number for both."""
    if not isinstance(value, tuple):
        value = (value, value)
    if len(value) != 2:
        raise ValueError(
            f"{argument} must be one number or a pair (target, model), got "
            f"{len(value)} of them"
        )
    p, q = value
    return {
        **number(f"p_{key}", argument, p, neutral),
        **number(f"q_{key}", argument, q, neutral),
    }


def temperature(value: Any) -> Operands:
    """One for both sides, or a pair."""
    if isinstance(value, tuple):
        return pair("temperature", "temperature", value, 1.0)
    return number("temperature", "temperature", value, 1.0)


def per_token(
    argument: str, value: ArrayLike, shape: tuple[int, ...], kind: Any
) -> Array:
    """An array with the tokens' axes, and perhaps one more."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, kind):
        wanted = "integers" if kind is jnp.integer else "floating point"
        raise TypeError(f"{argument} must be {wanted}, got {array.dtype}")
    if array.shape[: len(shape)] != shape:
        raise ValueError(
            f"{argument} must begin with the tokens' axes {shape}, got {array.shape}"
        )
    return array


def labels(
    value: ArrayLike, hidden: Array, vocab: int, weights: ArrayLike | None
) -> tuple[Operands, Array]:
    """Labels, and the weights without the tokens whose label is negative."""
    shape = hidden.shape[:-1]
    array = per_token("labels", value, shape, jnp.integer)
    if array.shape != shape:
        raise ValueError(f"labels must be {shape}, one per token, got {array.shape}")
    given = jnp.ones(shape, bool) if weights is None else token_weights(weights, shape)
    array = checked_ids("labels", value, vocab, weights, negative=True)
    kept = jnp.where(array >= 0, given, jnp.zeros((), given.dtype))
    return {"labels": array}, kept


def token_weights(weights: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Weights of the tokens, broadcast to their shape; complex ones raise."""
    array = jnp.asarray(weights)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"weights must be real, got {array.dtype}")
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"weights of shape {array.shape} do not broadcast to the tokens' {shape}"
        ) from None


def topk(
    log_p_topk: ArrayLike,
    ids: ArrayLike,
    hidden: Array,
    vocab: int,
    weights: ArrayLike | None,
    log_tail: ArrayLike | None = None,
    *,
    normalized: bool = True,
) -> Operands:
    """The k listed outcomes of every token."""
    shape = hidden.shape[:-1]
    log_p = per_token("log_p_topk", log_p_topk, shape, jnp.floating)
    index = per_token("ids", ids, shape, jnp.integer)
    if log_p.ndim != len(shape) + 1 or log_p.shape != index.shape:
        raise ValueError(
            f"log_p_topk {log_p.shape} and ids {index.shape} must both be the tokens' "
            f"{shape} and k outcomes"
        )
    if not 0 < log_p.shape[-1] <= vocab:
        raise ValueError(
            f"log_p_topk {log_p.shape} must list between 1 and {vocab} outcomes"
        )
    if weights is not None:
        token_weights(weights, shape)
    index, tail = checked_lists(
        log_p_topk, ids, vocab, log_tail, weights, normalized=normalized
    )
    found = {"log_p_topk": log_p, "ids": index}
    return found if tail is None else {**found, "log_tail": tail}


def _choose(reduction: str, implementation: str | None) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; known: {REDUCTIONS}")
    if implementation is None:
        return "gradient_in_forward" if reduction == "mean" else "recompute"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown implementation {implementation!r}; known: {IMPLEMENTATIONS}"
        )
    if implementation == "gradient_in_forward" and reduction == "none":
        raise ValueError(
            "implementation='gradient_in_forward' needs reduction='mean': the "
            "cotangent of every token is not known in the forward pass; use "
            "'recompute'"
        )
    return implementation


def chunk_size(size: int | None, tokens: int, vocab: int) -> int:
    """Tokens per chunk, as asked for or by the kernel's rule."""
    if size is None:
        return kernel.default_chunk(tokens, vocab)
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"chunk_size must be an integer, got {size!r}")
    if size < 1:
        raise ValueError(f"chunk_size must be at least 1 token, got {size}")
    return max(min(size, tokens), 1)


@partial(jax.jit, static_argnums=0)
def _sum(plan: kernel.Plan, operands: Operands) -> Array:
    return kernel.weighted_sum(plan, operands)


@partial(jax.jit, static_argnums=0)
def _rows(plan: kernel.Plan, operands: Operands) -> Array:
    return kernel.weighted_rows(plan, operands)


def run(
    rows: Callable[..., Array],
    divergence: Any,
    operands: Operands,
    weights: ArrayLike | None,
    normalizer: ArrayLike | None,
    reduction: str,
    size: int | None,
    implementation: str | None,
) -> Array:
    """The loss from checked operands and the options that all losses share."""
    chosen = _choose(reduction, implementation)
    if reduction == "none" and normalizer is not None:
        raise ValueError("normalizer needs reduction='mean': it divides a sum")
    shape = operands["q_hidden"].shape[:-1]
    flat, divisor = flatten(divergence, operands, weights, normalizer)
    tokens = flat["weights"].shape[0]
    vocab = max(x.shape[1] for k, x in operands.items() if k.endswith("_head"))
    chunk = chunk_size(size, tokens, vocab)
    if tokens == 0:
        return jnp.zeros(() if reduction == "mean" else shape, divisor.dtype)
    structure = jax.tree.structure(divergence)
    plan = kernel.make_plan(rows, structure, chunk, vocab, weights is not None)
    if reduction == "none":
        return _rows(plan, flat).reshape(shape)
    total = (
        _sum(plan, flat)
        if chosen == "gradient_in_forward"
        else jnp.sum(_rows(plan, flat))
    )
    return quotient(total, divisor)


def flatten(
    divergence: Any,
    operands: Operands,
    weights: ArrayLike | None,
    normalizer: ArrayLike | None,
) -> tuple[Operands, Array]:
    """All operands of the kernel, the tokens on one axis; and what the sum is over."""
    shape = operands["q_hidden"].shape[:-1]
    if "p_hidden" in operands and operands["p_hidden"].shape[:-1] != shape:
        raise ValueError(
            f"p_hidden {operands['p_hidden'].shape} and q_hidden "
            f"{operands['q_hidden'].shape} must agree but for the width"
        )
    floats = (x for x in operands.values() if jnp.issubdtype(x.dtype, jnp.floating))
    dtype = jnp.result_type(jnp.float32, *floats)
    w = jnp.ones(shape, dtype) if weights is None else token_weights(weights, shape)
    real = jnp.issubdtype(w.dtype, jnp.floating)
    w = w.astype(jnp.promote_types(w.dtype, dtype) if real else dtype)
    if normalizer is None:
        divisor = jnp.sum(w)
    else:
        divisor = positive("", "normalizer", normalizer)[""].astype(w.dtype)
    flat = {
        k: x.reshape(w.size, *x.shape[len(shape) :]) if k in kernel.PER_TOKEN else x
        for k, x in {**operands, "weights": w}.items()
    }
    leaves = jax.tree.leaves(divergence)
    if shapes := [jnp.shape(x) for x in leaves if jnp.ndim(x)]:
        raise ValueError(
            f"the parameters of {divergence} must be numbers, got arrays of shapes "
            f"{shapes}; use jax.vmap for several"
        )
    return flat | {f"leaf_{i}": jnp.asarray(x) for i, x in enumerate(leaves)}, divisor


def quotient(total: Array, divisor: Array) -> Array:
    """0 where the divisor is; without derivative where the total is infinite."""
    nothing, infinite = divisor == 0, jnp.isinf(total)
    finite = jnp.where(infinite, 0, total) / jnp.where(nothing, 1, divisor)
    bound = lax.stop_gradient(total) * jnp.where(divisor < 0, -1, 1)
    return jnp.where(nothing, 0, jnp.where(infinite, bound, finite))
