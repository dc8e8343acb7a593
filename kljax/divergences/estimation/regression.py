"""An autoregression of curves: each coordinate from those before it.

x_i = linear in x_<i + curves of single ones + products of pairs + s(x_<i) e_i, with e_i
of any form. Every regression is solved from one matrix of second moments; what is not
linear enters only where it is significant, so that nothing is lost where there is none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from kljax.divergences.estimation.densities import Fit, LogDensity, each
from kljax.divergences.estimation.lines import Lines

__all__ = ["Curves", "autoregression"]

_WAVES = 8
_SINGLE = _WAVES + 2
"""Curves of one coordinate: waves of its share, its square and its cube."""
_PAIRS, _MIXED = 100, 4
"""Pairs of coordinates that stand near each other, at most, and curves of each."""
_FAR = 5.0
"""Scales from the median at which squares, cubes and products grow no more."""
_BLOCKS = 12
"""That a coordinate may take, at most."""
_LEVEL = 0.02
"""Chance that a coordinate without curves takes one."""


class Curves(NamedTuple):
    """Functions of one or two coordinates, fixed by the pooled sample."""

    lines: Lines
    pairs: np.ndarray
    """`[pairs, 2]`."""
    owners: Sequence[np.ndarray]
    """The coordinates that each block is of."""
    columns: Sequence[np.ndarray]
    """Where each block stands."""

    @staticmethod
    def of(pooled: np.ndarray) -> "Curves":
        d = pooled.shape[1]
        lag = max(1, min(d - 1, _PAIRS // max(d, 1)))
        found = [(i, j) for j in range(d) for i in range(max(0, j - lag), j)]
        pairs = np.array(found[:_PAIRS], int).reshape(-1, 2)
        parts = np.split(np.arange(_SINGLE), [2, 2 + _WAVES // 2])
        owners, columns = [], []
        for i in range(d):
            owners += [np.array([i])] * len(parts)
            columns += [i * _SINGLE + part for part in parts]
        for c, pair in enumerate(pairs):
            owners.append(pair)
            columns.append(d * _SINGLE + c * _MIXED + np.arange(_MIXED))
        return Curves(Lines.fit(pooled), pairs, owners, columns)

    def at(self, x: np.ndarray) -> np.ndarray:
        """`[n, curves]`."""
        shares = self.lines.shares(x)
        u = np.clip((x - self.lines.center) / self.lines.scale, -_FAR, _FAR)
        single = np.empty((*x.shape, _SINGLE))
        single[..., 0], single[..., 1] = u**2, u**3
        single[..., 2:] = np.cos(np.pi * shares[..., None] * np.arange(1, _WAVES + 1))
        i, j = self.pairs.T
        mixed = np.empty((len(x), len(i), _MIXED))
        mixed[..., 0] = u[:, i] * u[:, j]
        first, second = single[..., 2], single[..., 3]
        mixed[..., 1] = first[:, i] * first[:, j]
        mixed[..., 2] = first[:, i] * second[:, j]
        mixed[..., 3] = second[:, i] * first[:, j]
        flat = [part.reshape(len(x), -1) for part in (single, mixed)]
        return np.concatenate(flat, axis=1)


def autoregression(curves: Curves, order: np.ndarray, *, sparse: bool = False) -> Fit:
    """Both sides on their own, coordinates taken in this order.

    `sparse`: of the linear terms, too, only what is significant.
    """
    place = np.argsort(order)
    last = np.array([place[owner].max() for owner in curves.owners])

    def one(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
        d = x.shape[1]
        made = np.concatenate([x, curves.at(x)], axis=1)
        mean = made.mean(axis=0)
        moments = (made - mean).T @ (made - mean) / len(x)
        weights = _regressed(moments, len(x), curves, last, order, sparse)
        error = x - mean[:d] - (made - mean) @ weights
        spread = _spreads(moments, len(x), curves, last, order, error, made - mean)

        def parts(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            made = np.concatenate([y, curves.at(y)], axis=1) - mean
            gap = y - mean[:d] - made @ weights
            return gap, np.clip(made @ spread / 2, -1.5, 1.5)

        gap, log_scale = parts(x)
        lines = Lines.fit(gap * np.exp(-log_scale))

        def log_density(y: np.ndarray) -> np.ndarray:
            gap, log_scale = parts(y)
            found = lines.log_density(gap * np.exp(-log_scale)) - log_scale
            return found.sum(axis=-1)

        return log_density

    return each(one)


def _chosen(
    slopes: np.ndarray,
    variance: float,
    moments: np.ndarray,
    n: int,
    d: int,
    curves: Curves,
    may: np.ndarray,
) -> np.ndarray:
    """Columns of the significant blocks, the strongest first."""
    strength = n * slopes**2 / (variance * np.maximum(np.diag(moments)[d:], 1e-12))
    sizes = np.array([len(c) for c in curves.columns])
    sums = np.add.reduceat(strength, [c[0] for c in curves.columns])
    p = stats.chi2.sf(sums, sizes)
    p = np.where(may, p, 1.0)
    good = np.flatnonzero(p < _LEVEL / max(1, may.sum()))
    good = good[np.argsort(-sums[good])][:_BLOCKS]
    return np.concatenate([curves.columns[b] for b in good] or [np.zeros(0, int)]) + d


def _solved(moments: np.ndarray, columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    matrix = moments[np.ix_(columns, columns)]
    ridge = 1e-6 * np.diag(matrix) + 1e-12
    return np.linalg.solve(matrix + np.diag(ridge), target[columns])


def _significant(
    moments: np.ndarray, n: int, columns: np.ndarray, i: int
) -> np.ndarray:
    """Of the linear terms of coordinate i."""
    inverse = np.linalg.inv(moments[np.ix_(columns, columns)])
    line = inverse @ moments[columns, i]
    variance = max(moments[i, i] - line @ moments[columns, i], 1e-12)
    t = line / np.sqrt(variance * np.diag(inverse) / n)
    return columns[np.abs(t) > np.sqrt(2 * np.log(len(columns) + 1) + 2)]


def _regressed(moments, n, curves, last, order, sparse) -> np.ndarray:
    """`[d + curves, d]`: what the mean of each coordinate is made of."""
    d = len(order)
    weights = np.zeros((len(moments), d))
    for step, i in enumerate(order):
        before = order[:step].astype(int)
        if not step:
            continue
        if sparse:
            before = _significant(moments, n, before, i)
        line = _solved(moments, before, moments[:, i])
        variance = moments[i, i] - line @ moments[before, i]
        slopes = moments[d:, i] - moments[d:, before] @ line
        columns = _chosen(slopes, variance, moments, n, d, curves, last < step)
        columns = np.concatenate([before, columns.astype(int)])
        weights[columns, i] = _solved(moments, columns, moments[:, i])
    return weights


def _spreads(moments, n, curves, last, order, error, made) -> np.ndarray:
    """`[d + curves, d]`: what the log of the variance of each error is made of."""
    d = len(order)
    scale = error.std(axis=0)
    logs = np.log(error**2 + 1e-3 * scale**2)
    logs = logs - logs.mean(axis=0)
    slopes = made.T @ logs / n
    weights = np.zeros((len(moments), d))
    for step, i in enumerate(order):
        if not step:
            continue
        found = slopes[d:, i]
        columns = _chosen(found, logs[:, i].var(), moments, n, d, curves, last < step)
        if len(columns):
            weights[columns, i] = _solved(moments, columns, slopes[:, i])
    return weights
