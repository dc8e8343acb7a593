"""Arguments of `token_divergence`: checked, and made operands of the kernel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kljax.arguments import check_positive, checked_ids, floating, whole
from kljax.divergences._arguments import checked_lists
from kljax.divergences.sides import Hidden, Restricted, TopK
from kljax.errors import unknown
from kljax.kernels.linear import fused
from kljax.kernels.linear.operands import Among, Lists, Side
from kljax.typing import Array, ArrayLike

IMPLEMENTATIONS = ("gradient_in_forward", "recompute")
REDUCTIONS = ("mean", "none")


def head_side(name: str, given: Hidden, temperature: Array | None = None) -> Side:
    """Hidden states ``[..., tokens, width]``, head and bias of one side."""
    cap = number(f"{name}.soft_cap", given.soft_cap)
    states, head = jnp.asarray(given.states), jnp.asarray(given.head)
    bias = None if given.bias is None else jnp.asarray(given.bias)
    for field, x in zip(("states", "head", "bias"), (states, head, bias)):
        if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{name}.{field} must be floating point, got {x.dtype} of shape "
                f"{x.shape}"
            )
    if states.ndim < 2:
        raise ValueError(
            f"{name}.states must be [..., tokens, width], got shape {states.shape}"
        )
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


def list_side(
    given: TopK | Restricted, shape: tuple[int, ...], vocab: int, weights: Any
) -> Lists | Among:
    """The k listed outcomes of every token."""
    log_p, ids = jnp.asarray(given.log_p), jnp.asarray(given.ids)
    kinds = ("p.log_p", log_p, jnp.floating), ("p.ids", ids, jnp.integer)
    for name, x, kind in kinds:
        if not jnp.issubdtype(x.dtype, kind):
            wanted = "integers" if kind is jnp.integer else "floating point"
            raise TypeError(f"{name} must be {wanted}, got {x.dtype}")
    if log_p.shape[:-1] != shape or log_p.shape != ids.shape:
        raise ValueError(
            f"p.log_p {log_p.shape} and p.ids {ids.shape} must both be the tokens' "
            f"{shape} and k outcomes"
        )
    if not 0 < log_p.shape[-1] <= vocab:
        raise ValueError(
            f"p.log_p {log_p.shape} must list between 1 and {vocab} outcomes"
        )
    if isinstance(given, Restricted):
        index, _ = checked_lists(*given, vocab, None, weights, normalized=False)
        return Among(log_p, index)
    index, tail = checked_lists(*given[:2], vocab, given.log_tail, weights)
    return Lists(log_p, index, tail)


def scalar(name: str, value: ArrayLike) -> Array:
    """A number that may be traced, in float32 or wider."""
    array = jnp.asarray(value)
    real = any(jnp.issubdtype(array.dtype, k) for k in (jnp.floating, jnp.integer))
    if array.ndim or not real:
        raise ValueError(
            f"{name} must be a number, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


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


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """A pair ``(target, model)``, or one number for both."""
    if not isinstance(value, tuple):
        return value, value
    if len(value) != 2:
        raise ValueError(
            f"{name} must be one number or a pair (target, model), got "
            f"{len(value)} of them"
        )
    return value


def labels_and_weights(
    labels: ArrayLike | None, weights: Any, shape: tuple[int, ...], vocab: int
) -> tuple[Any, Any]:
    """Labels, and the weights without the tokens whose label is negative."""
    w = None if weights is None else token_weights(weights, shape)
    if labels is None:
        return None, w
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"labels must be {shape}, one per token, got {array.shape}")
    array = checked_ids("labels", labels, vocab, weights, negative=True)
    given = jnp.ones(shape, jnp.float32) if w is None else floating(w)
    return array, jnp.where(array >= 0, given, 0)


def token_weights(weights: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Weights of the tokens, one each, or a mask."""
    array = jnp.asarray(weights)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"weights must be real, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"weights must be {shape}, one per token, got {array.shape}")
    return array


def weights_and_divisor(
    weights: Array | None, normalizer: ArrayLike | None, shape: tuple, dtype: Any
) -> tuple[Array, Array]:
    """Weights in `dtype` or wider, and what their sum of losses is divided by."""
    w = jnp.ones(shape, dtype) if weights is None else weights
    real = jnp.issubdtype(w.dtype, jnp.floating)
    w = w.astype(jnp.promote_types(w.dtype, dtype) if real else dtype)
    if normalizer is None:
        return w, jnp.sum(w)
    if isinstance(normalizer, int | float) and not normalizer > 0:
        raise ValueError(f"normalizer must be positive, got {normalizer}")
    return w, scalar("normalizer", normalizer).astype(w.dtype)


def check_reduction(
    reduction: str, normalizer: Any, implementation: str | None = None
) -> None:
    """Raises `ValueError` for names that are unknown or do not go together."""
    if reduction not in REDUCTIONS:
        raise ValueError(unknown("reduction", reduction, REDUCTIONS))
    if reduction == "none" and normalizer is not None:
        raise ValueError("normalizer needs reduction='mean': it divides a sum")
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(unknown("implementation", implementation, IMPLEMENTATIONS))
    if implementation == "gradient_in_forward" and reduction == "none":
        raise ValueError(
            "implementation='gradient_in_forward' needs reduction='mean': the "
            "cotangent of every token is not known in the forward pass; use "
            "'recompute'"
        )


def chunk_size(size: int | None, tokens: int, vocab: int) -> int:
    """Tokens per chunk, as asked for or by the kernel's rule."""
    if size is None:
        return fused.default_chunk(tokens, vocab)
    return max(min(whole("chunk_size", size), tokens), 1)


def parameters(divergence: Any) -> tuple[Array, ...]:
    """The leaves of a divergence, each a number: or raises."""
    leaves = jax.tree.leaves(divergence)
    if shapes := [np.shape(x) for x in leaves if np.ndim(x)]:
        raise ValueError(
            f"the parameters of {divergence} must be numbers, got arrays of shapes "
            f"{shapes}; use jax.vmap for several"
        )
    return tuple(map(jnp.asarray, leaves))


def quotient(total: Array, divisor: Array) -> Array:
    """0 where the divisor is; without derivative where the total is infinite."""
    nothing, infinite = divisor == 0, jnp.isinf(total)
    finite = jnp.where(infinite, 0, total) / jnp.where(nothing, 1, divisor)
    bound = lax.stop_gradient(total) * jnp.where(divisor < 0, -1, 1)
    return jnp.where(nothing, 0, jnp.where(infinite, bound, finite))
