"""Laws that can be sampled and whose density is known, and maps that keep divergences.

All float64 NumPy and on their own: nothing of kljax is used, as its estimates are
judged by what is exact here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

__all__ = [
    "Law",
    "Pair",
    "autoregression",
    "categorical",
    "chain",
    "coupling",
    "linear",
    "mixture",
    "normal",
    "plain",
    "product",
    "student",
]

Draw = Callable[[np.random.Generator, int], np.ndarray]
Map = Callable[[np.ndarray], np.ndarray]


class Law(NamedTuple):
    """How to draw `[n, d]`, and the log-density or log-mass `[n]` of such draws."""

    sample: Draw
    log_density: Map


class Pair(NamedTuple):
    """Two laws, seen through one map that can be inverted: no f-divergence changes."""

    p: Law
    q: Law
    push: Map = staticmethod(lambda x: x)
    kl: float | None = None
    """KL(p‖q) in nats where it is known in closed form."""


def normal(mean: np.ndarray, variance: np.ndarray) -> Law:
    """Independent normal coordinates."""
    scale = np.sqrt(variance)

    def log_density(x: np.ndarray) -> np.ndarray:
        terms = ((x - mean) / scale) ** 2 + np.log(2 * np.pi * variance)
        return -terms.sum(-1) / 2

    return Law(
        lambda rng, n: mean + scale * rng.normal(size=(n, len(mean))), log_density
    )


def plain(d: int) -> Law:
    """N(0, I)."""
    return normal(np.zeros(d), np.ones(d))


def mixture(weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> Law:
    """Normal components `[k, d]` of diagonal covariance."""
    parts = [normal(m, v) for m, v in zip(means, variances)]

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        chosen = rng.choice(len(weights), n, p=weights)
        noise = rng.normal(size=(n, means.shape[1]))
        return means[chosen] + np.sqrt(variances[chosen]) * noise

    def log_density(x: np.ndarray) -> np.ndarray:
        each = np.stack([part.log_density(x) for part in parts])
        return special.logsumexp(each + np.log(weights)[:, None], axis=0)

    return Law(sample, log_density)


def student(df: float, mean: np.ndarray, scale: np.ndarray) -> Law:
    """The multivariate t: a normal vector over the root of one chi-square."""
    d = len(mean)

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        noise = rng.normal(size=(n, d)) / np.sqrt(rng.chisquare(df, (n, 1)) / df)
        return mean + scale * noise

    def log_density(x: np.ndarray) -> np.ndarray:
        squared = (((x - mean) / scale) ** 2).sum(-1)
        constant = special.gammaln((df + d) / 2) - special.gammaln(df / 2)
        constant -= d / 2 * np.log(df * np.pi) + np.log(scale).sum()
        return constant - (df + d) / 2 * np.log1p(squared / df)

    return Law(sample, log_density)


def product(parts: Sequence[Law]) -> Law:
    """Independent blocks of coordinates."""

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.concatenate([part.sample(rng, n) for part in parts], axis=1)

    widths = [part.sample(np.random.default_rng(0), 1).shape[1] for part in parts]
    ends = np.cumsum(widths)

    def log_density(x: np.ndarray) -> np.ndarray:
        pieces = zip(parts, ends - widths, ends)
        return np.sum([part.log_density(x[:, a:b]) for part, a, b in pieces], axis=0)

    return Law(sample, log_density)


def autoregression(d: int, mean: Map, scale: Map, noise: Law, order: int = 1) -> Law:
    """x_i = mean(h) + scale(h)·e_i, with h `[n, order]` the coordinates before.

    The newest comes first; before the first coordinate there are zeros.
    """

    def before(x: np.ndarray, i: int) -> np.ndarray:
        zeros = np.zeros((len(x), max(0, order - i)))
        return np.concatenate([x[:, max(0, i - order) : i][:, ::-1], zeros], axis=1)

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        x = np.zeros((n, d))
        for i in range(d):
            h = before(x, i)
            x[:, i] = mean(h) + scale(h) * noise.sample(rng, n)[:, 0]
        return x

    def log_density(x: np.ndarray) -> np.ndarray:
        total = np.zeros(len(x))
        for i in range(d):
            h = before(x, i)
            s = scale(h)
            total += noise.log_density(((x[:, i] - mean(h)) / s)[:, None]) - np.log(s)
        return total

    return Law(sample, log_density)


def categorical(probabilities: np.ndarray) -> Law:
    """One coordinate, an integer."""
    logs = np.log(probabilities)
    return Law(
        lambda rng, n: rng.choice(len(probabilities), (n, 1), p=probabilities),
        lambda x: logs[x[:, 0]],
    )


def chain(start: np.ndarray, step: np.ndarray, d: int) -> Law:
    """A Markov chain of d integers: the first's law `[k]`, then `[k, k]` by rows."""
    edges = np.cumsum(step, axis=1)[:, :-1]

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        x = np.zeros((n, d), int)
        x[:, 0] = rng.choice(len(start), n, p=start)
        for i in range(1, d):
            x[:, i] = (rng.random((n, 1)) > edges[x[:, i - 1]]).sum(-1)
        return x

    def log_density(x: np.ndarray) -> np.ndarray:
        return np.log(start)[x[:, 0]] + np.log(step)[x[:, :-1], x[:, 1:]].sum(-1)

    return Law(sample, log_density)


def linear(rng: np.random.Generator, d: int, spread: float = 0.5) -> Map:
    """A random rotation after a random scale of each coordinate, and a shift."""
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    matrix = np.exp(spread * rng.normal(size=d))[:, None] * rotation
    shift = rng.normal(size=d)
    return lambda x: x @ matrix + shift


def coupling(rng: np.random.Generator, d: int, strength: float = 0.7) -> Map:
    """Two affine couplings: each half moves and stretches the other, smoothly."""
    half = d // 2
    sizes = (half, d - half), (d - half, half)
    draw = lambda a, b: rng.normal(size=(a, b)) / np.sqrt(a)  # noqa: E731
    weights = [(draw(a, a), draw(a, b), draw(a, b)) for a, b in sizes]

    def push(x: np.ndarray) -> np.ndarray:
        parts = [x[:, :half], x[:, half:]]
        for side, (inner, by, to) in enumerate(weights):
            hidden = np.tanh(parts[side] @ inner)
            other = parts[1 - side]
            parts[1 - side] = other * np.exp(strength * hidden @ by) + hidden @ to
        return np.concatenate(parts, axis=1)

    return push
