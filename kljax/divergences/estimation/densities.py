"""Families of densities, fitted to two samples: what `auto` puts together.

Each is a function of the points of p and of q that returns two log-densities: families
that share what both samples have in common differ in what parts them alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from kljax.divergences.estimation.components import rotated
from kljax.divergences.estimation.lines import Lines

__all__ = [
    "Fit",
    "LogDensity",
    "components",
    "copula",
    "each",
    "elliptical",
    "gaussian",
    "kernel",
    "margins",
    "mixture",
    "student",
    "turned",
]

LogDensity = Callable[[np.ndarray], np.ndarray]
Fit = Callable[
    [np.ndarray, np.ndarray, np.random.Generator], tuple[LogDensity, LogDensity]
]

_FITTED = 10_000
"""Points that a mixture is fitted to, at most."""
_CENTERS = 2_000
"""Of a kernel density estimate, at most."""


def each(one: Callable[[np.ndarray, np.random.Generator], LogDensity]) -> Fit:
    """Both sides on their own."""
    return lambda x_p, x_q, rng: (one(x_p, rng), one(x_q, rng))


class _Whitened:
    """Distances from a mean in units of a covariance."""

    def __init__(self, mean: np.ndarray, cov: np.ndarray):
        d = len(mean)
        root = np.linalg.cholesky(cov + 1e-10 * np.trace(cov) / d * np.eye(d))
        self.mean = mean
        self.inverse = np.linalg.inv(root).T
        self.log_det = np.log(np.diag(root)).sum()

    def white(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) @ self.inverse

    def squared(self, x: np.ndarray) -> np.ndarray:
        z = self.white(x)
        return np.einsum("nd,nd->n", z, z)

    def normal(self, x: np.ndarray) -> np.ndarray:
        d = len(self.mean)
        return -0.5 * (self.squared(x) + d * np.log(2 * np.pi)) - self.log_det


def gaussian(*, shared: bool) -> Fit:
    """Normal laws, of one covariance or of two.

    Nothing between: covariances drawn together are likelier with few points, and make
    every divergence too small.
    """

    def fit(x_p, x_q, rng):
        covs = [np.atleast_2d(np.cov(x.T)) for x in (x_p, x_q)]
        both = (len(x_p) * covs[0] + len(x_q) * covs[1]) / (len(x_p) + len(x_q))
        laws = [
            _Whitened(x.mean(axis=0), both if shared else cov)
            for x, cov in zip((x_p, x_q), covs)
        ]
        return laws[0].normal, laws[1].normal

    return fit


@each
def student(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """The multivariate t, by expectation and maximization; its index from a list."""
    n, d = x.shape
    degrees = np.array([2.0, 3.0, 4.0, 6.0, 9.0, 15.0, 40.0])
    constant = special.gammaln((degrees + d) / 2) - special.gammaln(degrees / 2)
    constant -= d / 2 * np.log(degrees * np.pi)
    white, df = _Whitened(np.median(x, axis=0), np.atleast_2d(np.cov(x.T))), 6.0

    def log_densities(squared: np.ndarray) -> np.ndarray:
        tails = np.log1p(squared[:, None] / degrees)
        return constant - (degrees + d) / 2 * tails - white.log_det

    for _ in range(15):
        squared = white.squared(x)
        weight = (df + d) / (df + squared)
        mean = weight @ x / weight.sum()
        gap = (x - mean) * np.sqrt(weight)[:, None]
        white = _Whitened(mean, gap.T @ gap / n)
        df = degrees[log_densities(white.squared(x)).sum(axis=0).argmax()]
    at = int(np.flatnonzero(degrees == df)[0])
    return lambda y: log_densities(white.squared(y))[:, at]


@each
def elliptical(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """Ellipsoids of one shape around one mean, any law of their size."""
    n, d = x.shape
    mean = np.median(x, axis=0)
    white = _Whitened(mean, np.atleast_2d(np.cov(x.T)))
    for _ in range(10):
        weight = (4.0 + d) / (4.0 + white.squared(x))
        mean = weight @ x / weight.sum()
        gap = (x - mean) * np.sqrt(weight)[:, None]
        white = _Whitened(mean, gap.T @ gap / n)
    size = lambda y: 0.5 * np.log(white.squared(y) + 1e-12)[:, None]  # noqa: E731
    lines = Lines.fit(size(x))
    area = np.log(2) + d / 2 * np.log(np.pi) - special.gammaln(d / 2)

    def log_density(y: np.ndarray) -> np.ndarray:
        log_r = size(y)
        found = lines.log_density(log_r)[:, 0] - d * log_r[:, 0]
        return found - area - white.log_det

    return log_density


@each
def margins(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """Independent coordinates."""
    lines = Lines.fit(x)
    return lambda y: lines.log_density(y).sum(axis=-1)


@each
def components(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """Independent coordinates after a rotation of its own."""
    mean, matrix = rotated(x, rng)
    lines = Lines.fit((x - mean) @ matrix)
    log_det = np.linalg.slogdet(matrix)[1]
    return lambda y: lines.log_density((y - mean) @ matrix).sum(axis=-1) + log_det


def turned(inner: Fit) -> Fit:
    """After one rotation of both, to independent components of their union.

    Found from the points that are fitted to: of all it would know those held out.
    """

    def fit(x_p, x_q, rng):
        mean, matrix = rotated(np.concatenate([x_p, x_q]), rng)
        log_det = np.linalg.slogdet(matrix)[1]
        to = lambda x: (x - mean) @ matrix  # noqa: E731
        log_p, log_q = inner(to(x_p), to(x_q), rng)
        return (lambda y: log_p(to(y)) + log_det), (lambda y: log_q(to(y)) + log_det)

    return fit


@each
def copula(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """A normal copula of margins of any form."""
    lines = Lines.fit(x)
    scores = lines.scores(x)
    scale = scores.std(axis=0)
    cov = np.atleast_2d(np.cov(scores.T)) / np.outer(scale, scale)
    joint = _Whitened(np.zeros(x.shape[1]), cov)

    def log_density(y: np.ndarray) -> np.ndarray:
        z = lines.scores(y)
        alone = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=-1)
        return lines.log_density(y).sum(axis=-1) + joint.normal(z) - alone

    return log_density


def mixture(k: int, *, tied: bool = False) -> Fit:
    """k normal components, covariances drawn towards the mean one within them.

    `tied`: all the way.
    """

    def one(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
        if len(x) > _FITTED:
            x = x[rng.choice(len(x), _FITTED, replace=False)]
        whole = _Whitened(x.mean(axis=0), np.atleast_2d(np.cov(x.T)))
        # Whitening hides clusters that are far apart, scales hide those along a line.
        starts = [_clusters(z, k, rng) for z in (x, whole.white(x))]
        found = [_expected(x, np.eye(k)[hard], tied, 6) for hard in starts]
        best = max(found, key=lambda one: one.mean)
        return _expected(x, best.shares, tied, 25).log_density

    return each(one)


class _Components(NamedTuple):
    laws: list[_Whitened]
    logs: np.ndarray
    shares: np.ndarray
    """Of the components in each point."""
    mean: float
    """Log-likelihood of a point."""

    def log_density(self, y: np.ndarray) -> np.ndarray:
        joint = np.stack([law.normal(y) for law in self.laws], axis=1) + self.logs
        return special.logsumexp(joint, axis=1)


def _expected(x: np.ndarray, shares: np.ndarray, tied: bool, most: int) -> _Components:
    """Steps of expectation and maximization, until they gain nothing."""
    n, d = x.shape
    last = -np.inf
    while True:
        mass = shares.sum(axis=0) + 1e-9
        means = (shares.T @ x) / mass[:, None]
        gaps = [(x - m) * np.sqrt(s)[:, None] for m, s in zip(means, shares.T)]
        sums = np.stack([gap.T @ gap for gap in gaps])
        within = sums.sum(axis=0) / n
        prior = 1e9 if tied else d + 1.0
        covs = (sums + prior * within) / (mass + prior)[:, None, None]
        laws = [_Whitened(m, cov) for m, cov in zip(means, covs)]
        logs = np.log(mass / n)
        joint = np.stack([law.normal(x) for law in laws], axis=1) + logs
        total = special.logsumexp(joint, axis=1)
        shares = np.exp(joint - total[:, None])
        most -= 1
        if not most or total.mean() < last + 1e-4:
            return _Components(laws, logs, shares, float(total.mean()))
        last = total.mean()


def _clusters(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means from spread-out seeds, the best of two starts."""
    best, found = np.inf, np.zeros(len(x), int)
    squares = (x**2).sum(axis=1)
    for _ in range(2):
        centers = x[rng.integers(len(x))][None]
        for _ in range(k - 1):
            gap = squares[:, None] - 2 * x @ centers.T + (centers**2).sum(axis=1)
            near = np.maximum(gap.min(axis=1), 1e-12)
            pick = rng.choice(len(x), p=near / near.sum())
            centers = np.concatenate([centers, x[pick][None]])
        for _ in range(10):
            gap = squares[:, None] - 2 * x @ centers.T + (centers**2).sum(axis=1)
            nearest = gap.argmin(axis=1)
            hot = np.eye(k)[nearest]
            centers = (hot.T @ x) / np.maximum(hot.sum(axis=0), 1)[:, None]
        gap = squares[:, None] - 2 * x @ centers.T + (centers**2).sum(axis=1)
        nearest = gap.argmin(axis=1)
        cost = gap.min(axis=1).sum()
        if cost < best:
            best, found = cost, nearest
    return found


@each
def kernel(x: np.ndarray, rng: np.random.Generator) -> LogDensity:
    """A kernel density estimate of whitened points; its bandwidth from a list."""
    if len(x) > _CENTERS:
        x = x[rng.choice(len(x), _CENTERS, replace=False)]
    n, d = x.shape
    white = _Whitened(x.mean(axis=0), np.atleast_2d(np.cov(x.T)))
    points = white.white(x).astype(np.float32)
    scott = n ** (-1 / (d + 4))
    gaps = _squares(points, points)
    np.fill_diagonal(gaps, np.inf)
    widths = scott * np.array([0.25, 0.35, 0.5, 0.7, 1.0, 1.3])
    tail = lambda z: -(d + 3) / 2 * np.log1p((z**2).sum(axis=1) / 3)  # noqa: E731
    tail_constant = special.gammaln((d + 3) / 2) - special.gammaln(1.5)
    tail_constant -= d / 2 * np.log(3 * np.pi)

    def logs(gaps: np.ndarray, h: float, count: int, z: np.ndarray) -> np.ndarray:
        top = np.minimum(gaps.min(axis=1), 1e30)
        total = np.exp((top[:, None] - gaps) / np.float32(2 * h * h)).sum(axis=1)
        sums = np.log(total) - top / (2 * h * h) - np.log(count)
        sums = sums - d * np.log(h) - d / 2 * np.log(2 * np.pi)
        return np.logaddexp(sums + np.log(0.99), tail(z) + tail_constant + np.log(0.01))

    h = max(widths, key=lambda h: logs(gaps, h, n - 1, points).mean())

    def log_density(y: np.ndarray) -> np.ndarray:
        z = white.white(y).astype(np.float32)
        pieces = np.array_split(z, -(-len(z) // 2048))
        found = [logs(_squares(part, points), h, n, part) for part in pieces]
        return np.concatenate(found).astype(float) - white.log_det

    return log_density


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gaps = (x**2).sum(axis=1)[:, None] - 2 * x @ y.T + (y**2).sum(axis=1)
    return np.maximum(gaps, 0, out=gaps)
