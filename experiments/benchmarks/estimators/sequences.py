"""Families of pairs that are sequences, or whole numbers; see `families`."""

from collections.abc import Callable

import numpy as np
from scipy import special

from experiments.benchmarks.estimators.laws import (
    Law,
    Pair,
    autoregression,
    categorical,
    chain,
    normal,
    plain,
    product,
    student,
)

__all__ = [
    "Built",
    "chains",
    "correlation",
    "counts",
    "nonlinear",
    "outcomes",
    "products",
    "volatility",
]

Built = Callable[[float], Pair]
"""The pair at a strength."""


def correlation(rng: np.random.Generator, d: int) -> Built:
    """A linear autoregression against white noise of the same variances."""
    scale = np.exp(0.3 * rng.normal(size=d))

    def pair(s: float) -> Pair:
        rho = np.tanh(s)
        rest = np.sqrt(1 - rho**2)

        law = autoregression(
            d, lambda h: rho * h[:, 0], lambda h: rest + 0 * h[:, 0], plain(1)
        )
        variance = rest**2 * np.cumsum(rho ** (2 * np.arange(d)))
        kl = np.log(variance).sum() / 2 - d * np.log(rest)
        return Pair(law, normal(np.zeros(d), variance), lambda x: x * scale, float(kl))

    return pair


def nonlinear(rng: np.random.Generator, d: int) -> Built:
    """x_i = s·sin(b x_{i−1}) + e_i against independent noise."""
    b = rng.uniform(1, 2.5)
    one = lambda h: np.ones(len(h))  # noqa: E731

    def pair(s: float) -> Pair:
        law = autoregression(d, lambda h: s * np.sin(b * h[:, 0]), one, plain(1))
        return Pair(law, plain(d))

    return pair


def products(rng: np.random.Generator, d: int) -> Built:
    """x_i = tanh(x_{i−1} x_{i−2})·s + e_i against an AR(1) of a coefficient near by."""
    a = rng.uniform(-0.5, 0.5)
    one = lambda h: np.ones(len(h))  # noqa: E731

    def pair(s: float) -> Pair:
        def mean(h: np.ndarray) -> np.ndarray:
            return a * h[:, 0] + s * np.tanh(h[:, 0] * h[:, 1])

        p = autoregression(d, mean, one, plain(1), order=2)
        return Pair(p, autoregression(d, lambda h: a * h[:, 0], one, plain(1)))

    return pair


def volatility(rng: np.random.Generator, d: int) -> Built:
    """The spread depends on the coordinate before, against independent noise."""
    heavy = student(rng.uniform(5, 9), np.zeros(1), np.ones(1))
    zero = lambda h: np.zeros(len(h))  # noqa: E731

    def pair(s: float) -> Pair:
        def scale(h: np.ndarray) -> np.ndarray:
            return np.exp(0.5 * s * np.tanh(np.abs(h[:, 0]) - 1))

        one = lambda h: np.ones(len(h))  # noqa: E731
        p = autoregression(d, zero, scale, heavy)
        return Pair(p, autoregression(d, zero, one, heavy))

    return pair


def outcomes(rng: np.random.Generator, d: int) -> Built:
    """One integer of few to many outcomes, or several that are independent."""
    base = rng.dirichlet(np.full(rng.integers(4, 40), 2.0), d) + 1e-4
    base /= base.sum(-1, keepdims=True)
    tilt = rng.normal(size=base.shape)

    def pair(s: float) -> Pair:
        other = base * np.exp(s * tilt)
        other /= other.sum(-1, keepdims=True)
        kl = float((base * np.log(base / other)).sum())
        p, q = (product([categorical(row) for row in x]) for x in (base, other))
        return Pair(p, q, kl=kl)

    return pair


def chains(rng: np.random.Generator, d: int) -> Built:
    """Markov chains of two to five letters."""
    k = int(rng.integers(2, 6))
    start, step = rng.dirichlet(np.full(k, 3.0)), rng.dirichlet(np.full(k, 2.0), k)
    step = 0.95 * step + 0.05 / k
    tilt = rng.normal(size=(k, k))

    def pair(s: float) -> Pair:
        other = step * np.exp(s * tilt)
        other /= other.sum(-1, keepdims=True)
        rows, at, kl = (step * np.log(step / other)).sum(-1), start, 0.0
        for _ in range(d - 1):
            kl, at = kl + at @ rows, at @ step
        return Pair(chain(start, step, d), chain(start, other, d), kl=float(kl))

    return pair


def counts(rng: np.random.Generator, d: int) -> Built:
    """Poisson counts of different rates."""
    rate, tilt = rng.uniform(1, 20, d), rng.normal(size=d) / np.sqrt(d)

    def law(rate: np.ndarray) -> Law:
        def log_density(x: np.ndarray) -> np.ndarray:
            return (x * np.log(rate) - rate - special.gammaln(x + 1)).sum(-1)

        return Law(lambda rng, n: rng.poisson(rate, (n, d)), log_density)

    def pair(s: float) -> Pair:
        other = rate * np.exp(s * tilt)
        kl = (rate * np.log(rate / other) + other - rate).sum()
        return Pair(law(rate), law(other), kl=float(kl))

    return pair
