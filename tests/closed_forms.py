"""Values and gradients in logits, in float64 NumPy, from log-probabilities.

Like `references`, but exact also where a probability underflows: finite stand-ins for
``-inf`` count with their logarithm. Shares no code with kljax.
"""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Both sides of ``[n, v]``; log-ratios are 0 where both sides are impossible."""

    log_p: np.ndarray
    log_q: np.ndarray
    p: np.ndarray
    q: np.ndarray


def log_softmax(x):
    """Float64; rows without an outcome stay ``-inf``."""
    x = np.asarray(x, np.float64)
    top = x.max(-1, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    total = np.exp(x - top).sum(-1, keepdims=True)
    return x - top - np.log(np.where(total == 0, 1, total))


def rows(p_logits, q_logits):
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return Rows(log_p, log_q, np.exp(log_p), np.exp(log_q))


def _times(mass, log_mass, log_other):
    """``mass · (log_mass − log_other)``, 0 of an impossible outcome."""
    possible = ~np.isneginf(log_mass)
    beyond = np.isneginf(log_other) & possible
    return np.where(
        beyond, np.inf, np.where(possible, mass * (log_mass - log_other), 0)
    )


def _power(r, a):
    power = np.exp(a * r.log_p + (1 - a) * r.log_q)
    both = ~np.isneginf(r.log_p) & ~np.isneginf(r.log_q)
    lost = np.isneginf(r.log_p) & np.isneginf(r.log_q)
    beyond = (np.isneginf(r.log_p) & (a < 0)) | (np.isneginf(r.log_q) & (a > 1))
    return np.where(both, power, np.where(beyond & ~lost, np.inf, 0))


def _ratio(x, y):
    return np.where(y > 0, x / np.where(y > 0, y, 1), 0)


def swapped(r):
    return Rows(r.log_q, r.log_p, r.q, r.p)


def forward_kl(r):
    term = _times(r.p, r.log_p, r.log_q)
    return term.sum(-1), term, -r.p


def jensen_shannon(r):
    log_m = np.logaddexp(r.log_p, r.log_q) - np.log(2)
    of_p = _times(r.p, r.log_p, log_m) / 2
    of_q = _times(r.q, r.log_q, log_m) / 2
    return (of_p + of_q).sum(-1), of_p, of_q


def skew_forward_kl(r, beta=0.1):
    m = beta * r.p + (1 - beta) * r.q
    log_m = np.logaddexp(np.log(beta) + r.log_p, np.log1p(-beta) + r.log_q)
    term = _times(r.p, r.log_p, log_m)
    in_p = term - beta * r.p * _ratio(r.p, m)
    return term.sum(-1), in_p, -(1 - beta) * r.q * _ratio(r.p, m)


def alpha(r, a=0.5):
    power = _power(r, a)
    terms = (power - a * r.p - (1 - a) * r.q) / (a * (a - 1))
    return terms.sum(-1), power / (a - 1), -power / a


def total_variation(r):
    sign = np.sign(np.where(r.log_p == r.log_q, 0, r.log_p - r.log_q))
    return (abs(r.p - r.q) / 2).sum(-1), r.p * sign / 2, -r.q * sign / 2


def le_cam(r):
    share = _ratio(r.p - r.q, r.p + r.q)
    in_p, in_q = share - share**2 / 2, -share - share**2 / 2
    return ((r.p - r.q) * share / 2).sum(-1), r.p * in_p, r.q * in_q


def softened_reverse_kl(r):
    log_m = np.logaddexp(r.log_p, r.log_q) - np.log(2)
    m = (r.p + r.q) / 2
    in_p = np.where(np.isneginf(r.log_p), 0, r.p * (log_m - r.log_p)) - r.q
    in_q = np.where(np.isneginf(r.log_q), 0, r.q * (log_m - r.log_p))
    return 2 * _times(m, log_m, r.log_p).sum(-1), in_p, in_q


def renyi(r, a):
    power = a * r.log_p + (1 - a) * r.log_q
    power = np.where(np.isneginf(r.log_p), -np.inf if a > 0 else np.inf, power)
    power = np.where(np.isneginf(r.log_q) & ~np.isneginf(r.log_p), np.inf, power)
    power = np.where(np.isneginf(r.log_q) & (a < 1), -np.inf, power)
    top = power.max(-1, keepdims=True)
    mass = np.exp(power - np.where(np.isinf(top), 0, top))
    total = mass.sum(-1, keepdims=True)
    value = (top + np.log(np.where(total > 0, total, 1)))[..., 0] / (a - 1)
    share = mass / np.where(total > 0, total, 1)
    return value, a / (a - 1) * share, -share


def cauchy_schwarz(r):
    def moment(x):
        top = x.max(-1, keepdims=True)
        mass = np.exp(x - np.where(np.isinf(top), 0, top))
        total = mass.sum(-1, keepdims=True)
        total = np.where(total > 0, total, 1)
        return (top + np.log(total))[..., 0], mass / total

    (pp, of_pp), (qq, of_qq), (pq, of_pq) = (
        moment(x) for x in (2 * r.log_p, 2 * r.log_q, r.log_p + r.log_q)
    )
    return pp + qq - 2 * pq, 2 * (of_pp - of_pq), 2 * (of_qq - of_pq)


def cross_entropy(r):
    beyond = np.isneginf(r.log_q) & ~np.isneginf(r.log_p)
    term = np.where(np.isneginf(r.log_p), 0, -r.p * np.where(beyond, 0, r.log_q))
    term = np.where(beyond, np.inf, term)
    return term.sum(-1), term, -r.p


def entropy(r):
    term = np.where(np.isneginf(r.log_p), 0, -r.p * r.log_p)
    return term.sum(-1), term, np.zeros_like(term)


def _of_swapped(form):
    def other(r):
        value, in_q, in_p = form(swapped(r))
        return value, in_p, in_q

    return other


def _scaled(form, scale, *parameters):
    return lambda r: tuple(scale * x for x in form(r, *parameters))


def _sum(*forms):
    return lambda r: tuple(map(sum, zip(*(form(r) for form in forms))))


reverse_kl = _of_swapped(forward_kl)
jeffreys = _sum(forward_kl, reverse_kl)
skew_reverse_kl = _of_swapped(skew_forward_kl)
squared_hellinger = _scaled(alpha, 0.25)
pearson_chi2 = _scaled(alpha, 2, 2.0)
neyman_chi2 = _scaled(alpha, 2, -1.0)

# What is no f-divergence; those stand in the table of `references`.
OTHERS = {
    "renyi(0.5)": lambda r: renyi(r, 0.5),
    "renyi(2)": lambda r: renyi(r, 2.0),
    "cauchy_schwarz": cauchy_schwarz,
    "cross_entropy": cross_entropy,
    "entropy": entropy,
}


def value_and_gradients(form, p_logits, q_logits):
    """``[n]``, ``[n, v]`` and ``[n, v]``: 0 in rows that are infinite or empty.

    And ``[n]``, how large the numbers are whose difference a gradient is. The form is
    ``form(rows) -> value, p ∂D/∂p, q ∂D/∂q``, both derivatives but for a multiple of
    the masses, which drops out of the gradient in the logits.
    """
    r = rows(p_logits, q_logits)
    with np.errstate(all="ignore"):
        value, in_p, in_q = form(r)
        gradients = [
            x - mass * x.sum(-1, keepdims=True)
            for x, mass in ((in_p, r.p), (in_q, r.q))
        ]
        terms = [np.abs(g).max(-1) for g in (in_p, in_q)]
    empty = (r.p.sum(-1) == 0) | (r.q.sum(-1) == 0)
    value = np.where(empty, 0, value)
    fixed = (empty | (value == np.inf))[..., None]
    gradients = [np.where(fixed, 0, x) for x in gradients]
    return value, *gradients, np.where(fixed[:, 0], 0, np.maximum(*terms))
