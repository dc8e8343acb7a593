"""Probabilities given for logits: legal numbers, another question's answer."""

import functools
import warnings
from typing import Any

import jax
import numpy as np

_GLANCE = 64
_SMALL = 2**16


def warn_of_probabilities(p_logits: Any, q_logits: Any) -> None:
    """Warns once per process if both sides are known to be probabilities.

    Rows of logits have negative numbers or another sum, if they are not constant; and
    those say the same either way.
    """
    if _warn.cache_info().currsize:
        return
    known = (_seen(x) for x in (p_logits, q_logits))
    sides = [x for x in known if x is not None]
    if len(sides) < 2 or any((x.reshape(-1)[:_GLANCE] < 0).any() for x in sides):
        return
    if all(map(_normalized, sides)) and not all(map(_constant, sides)):
        _warn()


def _seen(x: Any) -> np.ndarray | None:
    """The numbers without a copy, and without waiting for more than a few of them."""
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return None
    here = x.is_fully_addressable and {d.platform for d in x.devices()} == {"cpu"}
    ready = x.size <= _SMALL or x.is_ready()  # pyrefly: ignore[missing-attribute]
    if not here or not ready:
        return None
    return np.asarray(x)


def _normalized(x: np.ndarray) -> bool:
    first = x.reshape(-1, x.shape[-1])[:1].astype(np.float64)
    return all(
        (rows >= 0).all() and (abs(rows.sum(-1) - 1) < 1e-3).all()
        for rows in (first, x.astype(np.float32))
    )


def _constant(x: np.ndarray) -> bool:
    return bool((x == x[..., :1]).all())


@functools.cache
def _warn() -> None:
    warnings.warn(
        "p_logits and q_logits look like probabilities (rows >= 0 that sum to 1), but "
        "logits are expected, and a softmax is taken of them: pass jnp.log(p) and "
        "jnp.log(q). This is said once",
        UserWarning,
        stacklevel=4,
    )
