"""From a log-ratio at held-out points to a divergence, its error and its regime."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.generators import FDivergence

__all__ = ["Averages", "averages", "regime_of", "tail_index"]

_MOST = 60.0
"""A log-ratio beyond it says nothing more: its exponential is kept within float32."""


class Averages(NamedTuple):
    """Two estimates of D(p‖q) from one log-ratio v, `[n]` and `[m]` points held out.

    Errors of v push the first up and the second down by the same to second order where
    v is right on average: their mean keeps neither.
    """

    plug_in: float
    """f at v itself: E_q[f(e^v)] where v ≤ 0, E_p[f°(e^-v)] where v > 0."""
    bound: float
    """Variational: E_p[f'(e^v)] + E_q[f − u f'], a lower bound for any v."""
    error: float
    """Standard error of the bound's average, the first-order one of both."""

    @property
    def middle(self) -> float:
        return (self.plug_in + self.bound) / 2


@jax.jit
def _members(divergence: FDivergence, v: jax.Array):
    low, high = jnp.minimum(v, 0), jnp.maximum(v, 0)
    halves = divergence.value(low), divergence.dual.value(-high)
    return *halves, divergence.grad_p(v), divergence.grad_q(v)


def _evaluated(divergence: FDivergence, v: np.ndarray) -> list[np.ndarray]:
    # One program for all sizes up to the next power of two.
    size = max(256, 1 << (len(v) - 1).bit_length())
    padded = np.zeros(size, np.float32)
    padded[: len(v)] = np.clip(v, -_MOST, _MOST)
    return [np.asarray(x, float)[: len(v)] for x in _members(divergence, padded)]


def averages(divergence: FDivergence, v_p: np.ndarray, v_q: np.ndarray) -> Averages:
    """Of the log-ratio at points of p and of q."""
    _, above, slope_p, _ = _evaluated(divergence, v_p)
    below, _, _, slope_q = _evaluated(divergence, v_q)
    variance = slope_p.var() / len(v_p) + slope_q.var() / len(v_q)
    return Averages(
        float(above.mean() + below.mean()),
        float(slope_p.mean() + slope_q.mean()),
        float(np.sqrt(variance)),
    )


def tail_index(log_weights: np.ndarray) -> float:
    """Hill's index of the largest weights: above 2 their mean has a standard error."""
    k = max(5, int(math.sqrt(len(log_weights))))
    if len(log_weights) <= k:
        return math.inf
    top = np.partition(log_weights, -k - 1)[-k - 1 :]
    excess = top - top.min()
    return float(k / max(excess.sum(), 1e-9))


def regime_of(index: float) -> str:
    """Of a sum of weights with such tails, as of kernel sums in many dimensions.

    References:
      Biroli, Mezard, "Kernel density estimators in large dimensions" (2024).
    """
    return "clt" if index > 2 else "stable" if index > 1 else "condensed"


@functools.cache
def quantile(level: float) -> float:
    """Half-width of the interval in standard errors."""
    from scipy import special

    return float(special.ndtri(0.5 + level / 2))
