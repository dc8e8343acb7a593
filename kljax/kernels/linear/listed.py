"""Targets given by k listed outcomes: the tail, and lists that are none.

The tail of a list is one minus what is listed. It is summed from ``expm1`` of the
likeliest outcome and the masses of the others, so a confident target keeps the digits
of a tail of any size; what rounding of the log-probabilities alone could have made is
not taken for a tail.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array, Bool, Float, Int


def excess_allowed(dtype: Any) -> float:
    """By how much the masses of a list of this type may sum to more than 1."""
    return 0.01 + 4 * float(jnp.finfo(dtype).eps)


def repeated(ids: Any, xp: Any = jnp) -> Any:
    """Lists ``[*b, k]`` in which an outcome comes twice; `xp` is their module."""
    ordered = xp.sort(ids, axis=-1)
    return xp.any(ordered[..., 1:] == ordered[..., :-1], axis=-1)


def total_mass(log_p: Any, log_tail: Any, xp: Any = jnp) -> Any:
    """What a list ``[*b, k]`` and its tail, ``[*b]`` or None, sum to."""
    wide = jnp.promote_types(log_p.dtype, jnp.float32)
    total = xp.sum(xp.exp(log_p.astype(wide)), axis=-1)
    return total if log_tail is None else total + xp.exp(log_tail.astype(wide))


def wrong_ids(ids: Int[Array, "*b k"], vocab: int) -> Bool[Array, "*b"]:
    """Lists with an outcome that does not exist, or one that comes twice."""
    outside = jnp.any((ids < 0) | (ids >= vocab), axis=-1)
    return repeated(ids) | outside


def unnormalized(
    log_p: Float[Array, "*b k"], log_tail: Float[Array, "*b"] | None
) -> Bool[Array, "*b"]:
    """Lists whose masses sum to more than 1, as those of logits do."""
    return total_mass(log_p, log_tail) > 1 + excess_allowed(log_p.dtype)


def with_tail(
    log_p: Float[Array, "*b k"],
    ids: Int[Array, "*b k"],
    q: Float[Array, "*b v"],
    log_tail: Float[Array, "*b"] | None = None,
) -> tuple[Float[Array, "*b k1"], Float[Array, "*b k1"]]:
    """Both sides over the listed outcomes and the rest of each as outcome k + 1.

    Without that one if all outcomes are listed.
    """
    picked, given = picked_from(q, ids), log_p.astype(q.dtype)
    if ids.shape[-1] == q.shape[-1]:
        return given, picked
    others = jnp.put_along_axis(
        q, jnp.clip(ids, 0, q.shape[-1] - 1), -jnp.inf, axis=-1, inplace=False
    )
    rest = _log_sum(others)
    if log_tail is None:
        tail = _tail(log_p, rest - jnp.logaddexp(_log_sum(picked), rest))
    else:
        tail = log_tail[..., None]
    p_side = jnp.concatenate([given, tail.astype(q.dtype)], axis=-1)
    return p_side, jnp.concatenate([picked, rest], axis=-1)


def picked_from(q: Float[Array, "*b v"], ids: Int[Array, "*b k"]) -> Array:
    """The listed outcomes; any other in place of one that does not exist."""
    return jnp.take_along_axis(q, jnp.clip(ids, 0, q.shape[-1] - 1), axis=-1)


def _tail(log_p: Array, model: Array) -> Array:
    """The log of what is not listed; of the model's own where nobody can tell."""
    eps = float(jnp.finfo(log_p.dtype).eps)
    x = log_p.astype(jnp.promote_types(log_p.dtype, jnp.float32))
    top = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=bool)
    mass = jnp.where(top, 0, jnp.exp(x))
    missing = -jnp.sum(jnp.where(top, jnp.expm1(x), mass), axis=-1, keepdims=True)
    possible = x > -jnp.inf
    rounding = eps * jnp.sum(
        jnp.where(possible, jnp.exp(x) * jnp.abs(jnp.where(possible, x, 0)), 0),
        axis=-1,
        keepdims=True,
    )
    model, rounding = jax.lax.stop_gradient((model.astype(x.dtype), rounding))
    # Where the model has no other outcome, a sum's own rounding would be infinite.
    least = jnp.where(model == -jnp.inf, jnp.maximum(rounding, 8 * eps), rounding)
    unknown = missing <= least
    most = jnp.log(jnp.maximum(rounding, eps / 2))
    known = jnp.log(jnp.where(unknown, 1, missing))
    return jnp.where(unknown, jnp.minimum(model, most), known)


def _log_sum(x: Array) -> Array:
    """`logsumexp` of a row, also of one that is all ``-inf``."""
    none = jnp.all(x == -jnp.inf, axis=-1, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(none, 0, x), axis=-1, keepdims=True)
    return jnp.where(none, -jnp.inf, total)
