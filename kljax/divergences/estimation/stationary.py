"""An autoregression of one law for all coordinates: a series, as far as it is one.

x_i = f(x_{i-1}, x_{i-2}) + s(x_{i-1}, x_{i-2}) e_i with the same f, s and law of e_i
at every i, so that d times as many points show a dependence that none of them shows
alone. The first two coordinates have laws of their own.
"""

from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation.densities import LogDensity, each
from kljax.divergences.estimation.lines import Lines

__all__ = ["LEAST", "stationary"]

LEAST = 5
"""Dimensions from which on it is worth a family."""
_LAGS, _WAVES, _FAR = 2, 6, 5.0
_ROWS = 60_000


class _Conditional(NamedTuple):
    """A law of y given features `[rows, k]`."""

    mean: np.ndarray
    spread: np.ndarray
    lines: Lines

    @staticmethod
    def fit(features: np.ndarray, y: np.ndarray) -> "_Conditional":
        matrix = features.T @ features / len(y)
        matrix += 1e-6 * np.diag(np.diag(matrix)) + 1e-9 * np.eye(len(matrix))
        solved = lambda target: np.linalg.solve(  # noqa: E731
            matrix, features.T @ target / len(y)
        )
        mean = solved(y)
        error = y - features @ mean
        logs = np.log(error**2 + 1e-3 * error.var())
        spread = solved(logs - logs.mean())
        scale = np.exp(_bent(features @ spread))
        return _Conditional(mean, spread, Lines.fit((error / scale)[:, None]))

    def log_density(self, features: np.ndarray, y: np.ndarray) -> np.ndarray:
        log_scale = _bent(features @ self.spread)
        error = (y - features @ self.mean) * np.exp(-log_scale)
        return self.lines.log_density(error[:, None])[:, 0] - log_scale


def _bent(log_square: np.ndarray) -> np.ndarray:
    return np.clip(log_square / 2, -1.5, 1.5)


def _features(before: list[np.ndarray], lines: Lines) -> np.ndarray:
    """Of the coordinates before, newest first: a constant, curves, products."""
    columns = [np.ones((len(before[0]), 1))] if before else []
    firsts = []
    for h in before:
        u = np.clip(h, -_FAR, _FAR)[:, None]
        share = lines.shares(h[:, None])
        waves = np.cos(np.pi * share * np.arange(1, _WAVES + 1))
        columns += [h[:, None], u**2, u**3, waves]
        firsts.append((u, waves[:, :1], waves[:, 1:2]))
    if len(firsts) == _LAGS:
        (u, a, b), (v, c, e) = firsts
        columns += [u * v, a * c, a * e, b * c]
    return np.concatenate(columns, axis=1)


@each
def stationary(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """In the order of the columns."""
    d = x.shape[1]
    flat = x.reshape(-1, 1)
    some = flat[rng.choice(len(flat), min(len(flat), _ROWS), replace=False)]
    lines = Lines.fit(some)

    def rows(y: np.ndarray, i: int) -> np.ndarray:
        if i == 0:
            return np.ones((len(y), 1))
        return _features([y[:, i - k] for k in range(1, min(i, _LAGS) + 1)], lines)

    first = [_Conditional.fit(rows(x, i), x[:, i]) for i in range(_LAGS)]
    take = rng.permutation(len(x))[: max(1, _ROWS // d)]
    features = np.concatenate([rows(x[take], i) for i in range(_LAGS, d)])
    later = _Conditional.fit(features, x[take, _LAGS:].T.ravel())

    def log_density(y: np.ndarray) -> np.ndarray:
        laws = [*first, *[later] * (d - _LAGS)]
        each = [law.log_density(rows(y, i), y[:, i]) for i, law in enumerate(laws)]
        return np.sum(each, axis=0)

    return log_density
