"""Divergences in float64 NumPy, from the definitions; shares no code with kljax.

Each reference takes probabilities ``p, q`` of shape ``[..., v]``; 0 is allowed.
"""

from collections.abc import Callable
from typing import NamedTuple

import closed_forms as forms
import jax.numpy as jnp
import numpy as np


def _xlogy(x, ratio_top, ratio_bottom):
    """``x log(top/bottom)``, 0 where x is 0, inf where only the bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * (np.log(ratio_top) - np.log(ratio_bottom)), 0.0)


def kl(p, q):
    return _xlogy(p, p, q).sum(-1)


def reverse_kl(p, q):
    return kl(q, p)


def jeffreys(p, q):
    return kl(p, q) + kl(q, p)


def jensen_shannon(p, q, beta=0.5):
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def skew_forward_kl(p, q, beta=0.1):
    return kl(p, beta * p + (1 - beta) * q)


def skew_reverse_kl(p, q, beta=0.1):
    return kl(q, (1 - beta) * p + beta * q)


def alpha(p, q, alpha=0.5):
    if alpha == 1:
        return kl(p, q)
    if alpha == 0:
        return kl(q, p)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        power = np.exp(alpha * np.log(p) + (1 - alpha) * np.log(q))
    both = (p > 0) & (q > 0)
    # p^α q^(1−α) with one factor 0: infinite if that factor's exponent is negative.
    blows = ((p == 0) & (q > 0) & (alpha < 0)) | ((q == 0) & (p > 0) & (alpha > 1))
    power = np.where(both, power, np.where(blows, np.inf, 0.0))
    # Termwise non-negative form, so that float64 keeps its digits near p = q.
    return ((power - alpha * p - (1 - alpha) * q) / (alpha * (alpha - 1))).sum(-1)


def squared_hellinger(p, q):
    return 0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1)


def total_variation(p, q):
    return 0.5 * np.abs(p - q).sum(-1)


def pearson_chi2(p, q):
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = (p - q) ** 2 / q
    return np.where((p == 0) & (q == 0), 0.0, terms).sum(-1)


def neyman_chi2(p, q):
    return pearson_chi2(q, p)


def le_cam(p, q):
    total = p + q
    return 0.5 * ((p - q) ** 2 / np.where(total == 0, 1, total)).sum(-1)


def softened_reverse_kl(p, q):
    return 2 * kl((p + q) / 2, p)


def arithmetic_geometric(p, q):
    m = (p + q) / 2
    return 0.5 * (kl(m, p) + kl(m, q))


class Reference(NamedTuple):
    value: Callable
    """``D`` of two arrays of probabilities."""
    textbook: Callable
    """f(u) as printed, of `jax.numpy`, in a form whose derivatives do not cancel."""
    form: Callable | None = None
    """As in `closed_forms`, for the tests of masses that underflow."""


# The one table: a divergence of the library that is not in it fails the suite.
TABLE = {
    "forward_kl": Reference(kl, lambda u: u * jnp.log(u), forms.forward_kl),
    "reverse_kl": Reference(reverse_kl, lambda u: -jnp.log(u), forms.reverse_kl),
    "jeffreys": Reference(jeffreys, lambda u: (u - 1) * jnp.log(u), forms.jeffreys),
    "jensen_shannon": Reference(
        jensen_shannon,
        lambda u: 0.5 * u * jnp.log(2 * u / (1 + u)) + 0.5 * jnp.log(2 / (1 + u)),
        forms.jensen_shannon,
    ),
    "skew_forward_kl": Reference(
        skew_forward_kl,
        lambda u: -u * jnp.log(0.1 + 0.9 / u),
        forms.skew_forward_kl,
    ),
    "skew_reverse_kl": Reference(
        skew_reverse_kl, lambda u: -jnp.log(0.9 * u + 0.1), forms.skew_reverse_kl
    ),
    "alpha": Reference(alpha, lambda u: -4 * jnp.sqrt(u), forms.alpha),
    "squared_hellinger": Reference(
        squared_hellinger, lambda u: 1 - jnp.sqrt(u), forms.squared_hellinger
    ),
    "total_variation": Reference(
        total_variation, lambda u: 0.5 * jnp.abs(u - 1), forms.total_variation
    ),
    "pearson_chi2": Reference(pearson_chi2, lambda u: (u - 1) ** 2, forms.pearson_chi2),
    "neyman_chi2": Reference(neyman_chi2, lambda u: 1 / u - 2 + u, forms.neyman_chi2),
    "le_cam": Reference(le_cam, lambda u: 0.5 * (u - 3 + 4 / (u + 1)), forms.le_cam),
    "softened_reverse_kl": Reference(
        softened_reverse_kl,
        lambda u: (u + 1) * jnp.log(0.5 + 0.5 / u),
        forms.softened_reverse_kl,
    ),
}
VALUES = {name: reference.value for name, reference in TABLE.items()}
TEXTBOOK = {name: reference.textbook for name, reference in TABLE.items()}
FORMS = {n: r.form for n, r in TABLE.items() if r.form} | forms.OTHERS


def softmax(logits):
    """Float64 probabilities of logits with -inf; an empty row gives zeros."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    mass = np.exp(logits - top)
    total = mass.sum(-1, keepdims=True)
    return mass / np.where(total == 0, 1, total)


def gradient(function, logits, step=1e-4):
    """Five-point differences of ``function(logits) -> [rows]`` in each logit."""
    logits = np.asarray(logits, np.float64)
    out = np.zeros_like(logits)
    for i in range(logits.shape[-1]):
        unit = np.zeros(logits.shape[-1])
        unit[i] = step
        at = [function(logits + k * unit) for k in (-2, -1, 1, 2)]
        out[..., i] = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
    return out


def hessian(function, logits, step=2e-3):
    """Differences of `gradient`: ``[v, v]`` for one row of logits."""

    def row(i):
        return gradient(lambda x: gradient(function, x, step)[..., i], logits, step)

    return np.stack([row(i) for i in range(logits.shape[-1])])
