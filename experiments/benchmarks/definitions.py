"""Divergences of logits from their definitions, in JAX and in float64 NumPy."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["DEFINITIONS", "exact", "plain"]


def _kl(xp, a, b):
    return xp.exp(a) * (a - b)


def _mixture(xp, a, b, beta):
    return xp.logaddexp(a + np.log(beta), b + np.log(1 - beta))


def _jensen_shannon(xp, a, b):
    """As in GKD: the mixture by logaddexp, two KLs with log targets."""
    m = _mixture(xp, a, b, 0.5)
    return 0.5 * _kl(xp, a, m) + 0.5 * _kl(xp, b, m)


def _chi2(xp, a, b):
    p, q = xp.exp(a), xp.exp(b)
    return (p - q) ** 2 / q


def _le_cam(xp, a, b):
    p, q = xp.exp(a), xp.exp(b)
    return 0.5 * (p - q) ** 2 / (p + q)


DEFINITIONS: Mapping[str, Callable] = {
    "forward_kl": _kl,
    "reverse_kl": lambda xp, a, b: _kl(xp, b, a),
    "jeffreys": lambda xp, a, b: (xp.exp(a) - xp.exp(b)) * (a - b),
    "jensen_shannon": _jensen_shannon,
    "skew_forward_kl": lambda xp, a, b: _kl(xp, a, _mixture(xp, a, b, 0.1)),
    "skew_reverse_kl": lambda xp, a, b: _kl(xp, b, _mixture(xp, a, b, 0.9)),
    "alpha": lambda xp, a, b: 4 / a.shape[-1] - 4 * xp.exp(0.5 * (a + b)),
    "squared_hellinger": lambda xp, a, b: 0.5 * (xp.exp(a / 2) - xp.exp(b / 2)) ** 2,
    "total_variation": lambda xp, a, b: 0.5 * xp.abs(xp.exp(a) - xp.exp(b)),
    "pearson_chi2": _chi2,
    "neyman_chi2": lambda xp, a, b: _chi2(xp, b, a),
    "le_cam": _le_cam,
    "softened_reverse_kl": lambda xp, a, b: 2 * _kl(xp, _mixture(xp, a, b, 0.5), a),
}
"""Terms whose sum it is, of `numpy` or `jax.numpy` and two arrays of log-masses."""


def plain(name: str, p: jax.Array, q: jax.Array) -> jax.Array:
    terms = DEFINITIONS[name](jnp, jax.nn.log_softmax(p), jax.nn.log_softmax(q))
    return jnp.sum(terms, axis=-1)


def exact(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Float64, from the definition."""
    p, q = (np.float64(x) - np.float64(x).max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return DEFINITIONS[name](np, p, q).sum(-1)
