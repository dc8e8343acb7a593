"""Densities on the line, of all coordinates at once: normal, Student, smoothed counts.

Counts stand on a grid of asinh((x − median)/scale), on which heavy tails fall off
exponentially; every candidate is fitted to the counts, and each coordinate takes the
likeliest one (the smoothed counts judged with each point left out).
"""

from typing import NamedTuple

import numpy as np
from scipy import special

__all__ = ["Lines", "centered"]

_GRID = 256
_MARGIN = 1.5
"""Of the grid beyond the data; beyond it log-densities go on in a straight line."""
_WIDTHS = np.array([0.4, 0.6, 0.8, 1.0, 1.4])
"""In units of the normal law's best bandwidth."""
_DEGREES = np.array([2.0, 3.0, 5.0, 9.0, 20.0])
_FLOOR = 0.01
"""Share of a heavy tail in the smoothed counts: none of their densities is 0."""


class Lines(NamedTuple):
    """One density per coordinate, fitted to `[n, d]`."""

    center: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    step: np.ndarray
    log_grid: np.ndarray
    """Log-density of asinh((x − center)/scale) on the grid, `[d, grid]`."""
    normal: np.ndarray
    """Which coordinates took the normal law, `[d]`."""

    @staticmethod
    def fit(x: np.ndarray) -> "Lines":
        center, scale = centered(x)
        u = np.arcsinh((x - center) / scale)
        low, high = u.min(axis=0) - _MARGIN, u.max(axis=0) + _MARGIN
        step = (high - low) / (_GRID - 1)
        counts = _binned((u - low) / step)
        nodes = low[:, None] + step[:, None] * np.arange(_GRID)
        candidates = [_normal(nodes, counts), *_students(nodes, counts)]
        tail = candidates[1][0]
        candidates.append(_smoothed(u.std(axis=0), step, counts, tail))
        scores = np.stack([score for _, score in candidates])
        best = scores.argmax(axis=0)
        grids = np.stack([grid for grid, _ in candidates])
        chosen = grids[best, np.arange(x.shape[1])]
        return Lines(center, scale, low, step, chosen, best == 0)

    def _located(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = (x - self.center) / self.scale
        at = (np.arcsinh(z) - self.low) / self.step
        left = np.clip(at.astype(int), 0, _GRID - 2)
        return z, left, at - left

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Of every coordinate, `[n, d]`."""
        z, left, beyond = self._located(x)
        axis = np.arange(x.shape[1])
        first, second = self.log_grid[axis, left], self.log_grid[axis, left + 1]
        jacobian = np.log(self.scale) + 0.5 * np.log1p(z * z)
        return first + beyond * (second - first) - jacobian

    def shares(self, x: np.ndarray) -> np.ndarray:
        """Distribution functions, in (0, 1), `[n, d]`."""
        _, left, beyond = self._located(x)
        axis, cumulative = np.arange(x.shape[1]), _cumulative(self.log_grid)
        first, second = cumulative[axis, left], cumulative[axis, left + 1]
        found = first + np.clip(beyond, 0, 1) * (second - first)
        return np.clip(found, 1e-7, 1 - 1e-7)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Normal scores, `[n, d]`."""
        return special.ndtri(self.shares(x))


def centered(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and scales that heavy tails do not move."""
    low, center, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    scale = (high - low) / 1.349
    return center, np.where(scale > 0, scale, np.maximum(x.std(axis=0), 1e-300))


def _cumulative(log_grid: np.ndarray) -> np.ndarray:
    mass = np.exp(log_grid)
    steps = (mass[:, 1:] + mass[:, :-1]) / 2
    total = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1)
    return total / total[:, -1:]


def _binned(at: np.ndarray) -> np.ndarray:
    """Counts on the grid, each point shared by the two nodes beside it, `[d, grid]`."""
    d = at.shape[1]
    left = np.clip(at.astype(int), 0, _GRID - 2)
    share = at - left
    flat = (left + _GRID * np.arange(d)).ravel()
    size = d * _GRID
    counts = np.bincount(flat, (1 - share).ravel(), size)
    counts += np.bincount(flat + 1, share.ravel(), size)
    return counts.reshape(d, _GRID)


Candidate = tuple[np.ndarray, np.ndarray]
"""Log-densities on the grid, and scores in nats."""


def _normal(nodes: np.ndarray, counts: np.ndarray) -> Candidate:
    z, total = np.sinh(nodes), counts.sum(axis=1, keepdims=True)
    mean = (counts * z).sum(axis=1, keepdims=True) / total
    variance = (counts * (z - mean) ** 2).sum(axis=1, keepdims=True) / total
    log = -0.5 * ((z - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    log += np.log(np.cosh(nodes))
    return log, (counts * log).sum(axis=1) - 2


def _students(nodes: np.ndarray, counts: np.ndarray) -> list[Candidate]:
    z, total = np.sinh(nodes), counts.sum(axis=1, keepdims=True)
    found = []
    for df in _DEGREES:
        mean, square = np.zeros_like(total), np.ones_like(total)
        for _ in range(12):
            weight = counts * (df + 1) / (df + (z - mean) ** 2 / square)
            mean = (weight * z).sum(axis=1, keepdims=True)
            mean /= weight.sum(axis=1, keepdims=True)
            square = (weight * (z - mean) ** 2).sum(axis=1, keepdims=True) / total
        log = special.gammaln((df + 1) / 2) - special.gammaln(df / 2)
        log = log - 0.5 * np.log(df * np.pi * square)
        log = log - (df + 1) / 2 * np.log1p((z - mean) ** 2 / square / df)
        log = log + np.log(np.cosh(nodes))
        found.append((log, (counts * log).sum(axis=1) - 3))
    return found


def _smoothed(
    spread: np.ndarray, step: np.ndarray, counts: np.ndarray, tail: np.ndarray
) -> Candidate:
    n = counts.sum(axis=1).mean()
    frequency = 2 * np.pi * np.fft.rfftfreq(2 * _GRID)
    spectrum = np.fft.rfft(counts, 2 * _GRID)
    best = np.full(len(counts), -np.inf)
    chosen = np.zeros_like(counts)
    for width in _WIDTHS:
        h = np.maximum(1.06 * width * spread * n**-0.2 / step, 0.7)[:, None]
        smooth = np.fft.irfft(spectrum * np.exp(-0.5 * (h * frequency) ** 2))
        mass = np.maximum(smooth[:, :_GRID], 0) / step[:, None]
        own = 1 / (h * np.sqrt(2 * np.pi) * step[:, None])
        mixed = lambda f: np.logaddexp(  # noqa: E731
            np.log(np.maximum(f, 1e-300)) + np.log1p(-_FLOOR), tail + np.log(_FLOOR)
        )
        without = mixed(np.maximum(mass - own, 0) / (n - 1))
        score = (counts * without).sum(axis=1)
        better = score > best
        best = np.where(better, score, best)
        chosen = np.where(better[:, None], mixed(mass / n), chosen)
    return chosen, best
