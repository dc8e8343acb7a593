"""Rows of logits that are hard to be accurate about, and how far off one is."""

from functools import partial

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
from references import FORMS

import kljax.divergences as kd

SMALLEST = 5e-7
"""Of the divergences that the bar is for."""
BAR = 1e-5
"""Of the value, and of the gradient's largest component."""
MASKS = (-1e4, -1e9, float(np.finfo(np.float32).min))


def _log_uniform(rng, low, high, n):
    return np.exp(rng.uniform(np.log(low), np.log(high), size=(n, 1)))


def _bases(rng, n, v):
    """Flat, smooth, Zipf's, one outcome far above, two, and few that differ."""
    noise = rng.normal(size=(n, v))
    flat = noise * _log_uniform(rng, 1e-4, 0.3, n)
    one, two = flat.copy(), flat.copy()
    row = np.arange(n)
    place, other = rng.integers(v, size=(2, n))
    one[row, place] += rng.uniform(1, 30, size=n)
    heights = rng.uniform(2, 20, size=n)
    two[row, place] += heights
    two[row, other] += heights + rng.choice([0, 1e-3, 0.1, 1], size=n)
    zipf = -rng.uniform(0.5, 1.5, size=(n, 1)) * np.log(1 + rng.permutation(v))
    few = np.round(2 * noise) / 2  # ties, at the top as well
    choices = np.stack([flat, 2 * noise, zipf + 0.01 * noise, one, two, few])
    return choices[rng.integers(len(choices), size=n), row]


def _changes(rng, n, v, p):
    """What the model adds: little everywhere, much somewhere, or both."""
    row = np.arange(n)
    little = rng.normal(size=(n, v)) * _log_uniform(rng, 1e-4, 1.5, n)
    at_mode, somewhere, several = np.zeros((3, n, v))
    jump = rng.uniform(0.05, 12, size=n) * rng.choice([-1, 1], size=n)
    at_mode[row, p.argmax(-1)] = jump
    somewhere[row, rng.integers(v, size=n)] = jump
    share = 10 ** rng.uniform(-3, -0.5, size=(n, 1))
    several += (rng.uniform(size=(n, v)) < share) * jump[:, None] / 4
    tails = rng.standard_cauchy(size=(n, v)) * _log_uniform(rng, 1e-5, 1e-2, n)
    instead = -p + rng.normal(size=(n, v)) * _log_uniform(rng, 1e-3, 2, n)
    flattened = -0.5 * p
    rare = np.clip(tails, -30, 30)
    big = np.stack([0 * little, at_mode, somewhere, several, rare, instead, flattened])
    kind = rng.integers(len(big) + 2, size=n)
    kind = np.where(kind >= len(big), 1, kind)  # the mode more often than the others
    quiet = np.where(rng.uniform(size=(n, 1)) < 0.3, 0, 1)
    return big[kind, row] + quiet * little


def rows(rng, n, v):
    """Both sides, ``[n, v]``: any base with any change, offset, rounding and mask."""
    p = _bases(rng, n, v)
    q = p + _changes(rng, n, v, p)
    # Of little changes to nearly flat rows there may be two outliers.
    also = rng.uniform(size=n) < 0.2
    p[np.arange(n), rng.integers(v, size=n)] += also * rng.uniform(0, 8, size=n)
    where = rng.choice(4, p=(0.7, 0.2, 0.05, 0.05), size=(n, 1))
    for x in (p, q):
        offset = rng.choice([0, 0, 3, -90, 1e3, 1e4], size=(n, 1))
        x += np.where((where > 0) & (offset > 100), 0, offset)
    coarse = rng.choice(3, p=(0.8, 0.1, 0.1), size=(n, 1))
    sides = []
    for x in (p, q):
        x = np.float32(x)
        x = np.where(coarse == 1, np.float32(x.astype(jnp.bfloat16)), x)
        sides.append(np.where(coarse == 2, np.float32(x.astype(np.float16)), x))
    p, q = sides
    mask = np.float32(rng.choice(MASKS, size=(n, 1)))
    lost = rng.uniform(size=(n, v)) < rng.uniform(0.1, 0.9, size=(n, 1))
    lost &= np.arange(v) != rng.integers(v, size=(n, 1))
    p = np.where(lost & ((where == 1) | (where == 2)), mask, p)
    q = np.where(lost & ((where == 1) | (where == 3)), mask, q)
    swap = rng.uniform(size=(n, 1)) < 0.5
    return np.where(swap, q, p), np.where(swap, p, q)


@partial(jax.jit, static_argnums=0)
def found(names, p, q):
    """Values and gradients in both sides, by name."""

    def one(name):
        value, pull = jax.vjp(lambda p, q: kd.divergence(p, q, name), p, q)
        return value, *pull(jnp.ones_like(value))

    return {name: one(name) for name in names}


def misses(names, p, q, results=None):
    """Errors in units of the bar, ``[n, 3]`` by name; NaN in rows it is not for."""
    results = jax.device_get(found(names, p, q)) if results is None else results
    errors = {}
    for name in names:
        value, in_p, in_q, terms = closed_forms.value_and_gradients(FORMS[name], p, q)
        got, *gradients = (np.float64(x) for x in results[name])
        assert (got >= 0).all(), name
        kept = (value >= SMALLEST) & (value < 1e30)
        sure = np.full(len(p), True)
        if name == "total_variation":  # its gradient jumps where both sides agree
            log_p, log_q, *_ = closed_forms.rows(p, q)
            sure = (np.abs(log_p - log_q) > 2e-6).all(-1)
        columns = [np.abs(got / np.where(kept, value, 1) - 1)]
        for right, gradient in zip((in_p, in_q), gradients):
            # Of ratios of e^12 and their squares, and near the maximum of a divergence,
            # a difference of almost equal numbers: 2e-6 of them.
            noise = 0.2 * np.maximum(terms * np.minimum(value, 1), value)
            size = np.abs(right).max(-1) + noise
            error = np.abs(gradient - right).max(-1) / np.where(kept, size, 1)
            columns.append(np.where(sure, error, 0))
        errors[name] = np.where(kept[:, None], np.stack(columns, -1) / BAR, np.nan)
    return errors
