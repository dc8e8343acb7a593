"""Families of pairs of laws whose divergence is known exactly, by name.

A family is a function ``build(rng, d)`` that draws what is random in it and returns
``pair(strength)``: the two laws are one at strength 0 and part as it grows. Whoever
has another family adds it to `FAMILIES`; an estimator is told the two samples alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from experiments.benchmarks.estimators import sequences
from experiments.benchmarks.estimators.laws import (
    Law,
    Pair,
    coupling,
    linear,
    mixture,
    normal,
    plain,
    product,
    student,
)
from experiments.benchmarks.estimators.sequences import Built

__all__ = ["FAMILIES", "Family"]


class Family(NamedTuple):
    """A family, the dimensions that it exists in, and what kind it counts as."""

    build: Callable[[np.random.Generator, int], Built]
    least: int = 1
    most: int = 100
    refused: bool = False
    """Whether the right answer is a refusal: infinite, or beyond what n can show."""


def _normal_kl(mean: np.ndarray, variance: np.ndarray) -> float:
    """To N(0, I)."""
    return float((variance + mean**2 - 1 - np.log(variance)).sum() / 2)


def _unit(rng: np.random.Generator, d: int) -> np.ndarray:
    x = rng.normal(size=d)
    return x / np.linalg.norm(x)


def _gaussian(move: float, stretch: float) -> Callable:
    def build(rng: np.random.Generator, d: int) -> Built:
        push, u, g = linear(rng, d), _unit(rng, d), rng.normal(size=d)

        def pair(s: float) -> Pair:
            mean, variance = move * s * u, np.exp(stretch * s * g)
            law = normal(mean, variance)
            return Pair(law, plain(d), push, _normal_kl(mean, variance))

        return pair

    return build


def _pushed(map_of: Callable[[np.random.Generator, int], Callable]) -> Callable:
    """Gaussians that differ in mean and covariance, behind a map."""

    def build(rng: np.random.Generator, d: int) -> Built:
        inner, push = _gaussian(1.0, 0.4)(rng, d), map_of(rng, d)

        def pair(s: float) -> Pair:
            found = inner(s)
            return found._replace(push=lambda x: push(found.push(x)))

        return pair

    return build


def _warp(rng: np.random.Generator, d: int) -> Callable:
    """Each coordinate through a curve of its own."""
    curves = (
        lambda x: x**3 / 3 + x,
        np.exp,
        lambda x: np.sinh(1.5 * x),
        special.expit,
        lambda x: np.sign(x) * np.sqrt(np.abs(x)),
    )
    chosen = rng.integers(len(curves), size=d)
    return lambda x: np.stack([curves[c](x[:, i]) for i, c in enumerate(chosen)], 1)


def _mixtures(rng: np.random.Generator, d: int) -> Built:
    """Three components against the same ones moved, stretched and reweighted."""
    k = 3
    weights, means = rng.dirichlet(np.full(k, 5.0)), 2 * rng.normal(size=(k, d))
    variances = np.exp(0.5 * rng.normal(size=(k, d)))
    moves, tilt = rng.normal(size=(k, d)) / np.sqrt(d), rng.normal(size=k)
    stretch, push = rng.normal(size=(k, d)) / np.sqrt(d), linear(rng, d, 0.3)
    p = mixture(weights, means, variances)

    def pair(s: float) -> Pair:
        other = weights * np.exp(0.5 * s * tilt)
        moved = means + s * moves
        wide = variances * np.exp(0.5 * s * stretch)
        return Pair(p, mixture(other / other.sum(), moved, wide), push)

    return pair


def _two_humps(rng: np.random.Generator, d: int) -> Built:
    """Two humps against the normal law of the same mean and covariance."""
    push = linear(rng, d)

    def pair(s: float) -> Pair:
        gap = np.zeros(d)
        gap[0] = s
        p = mixture(np.full(2, 0.5), np.stack([gap, -gap]), np.ones((2, d)))
        return Pair(p, normal(np.zeros(d), 1 + gap**2), push)

    return pair


def _students(rng: np.random.Generator, d: int) -> Built:
    """Heavy tails of one index, moved and stretched."""
    df, u, g = rng.uniform(2.5, 6), _unit(rng, d), rng.normal(size=d)
    push, q = linear(rng, d), student(df, np.zeros(d), np.ones(d))

    def pair(s: float) -> Pair:
        return Pair(student(df, s * u, np.exp(0.3 * s * g)), q, push)

    return pair


def _tails(rng: np.random.Generator, d: int) -> Built:
    """A normal law against heavier and heavier tails of the same scale."""
    push = linear(rng, d)

    def pair(s: float) -> Pair:
        return Pair(plain(d), student(2 / s**2, np.zeros(d), np.ones(d)), push)

    return pair


def _heavy_margins(rng: np.random.Generator, d: int) -> Built:
    """Independent heavy-tailed coordinates, moved and stretched, then rotated."""
    df, push = rng.uniform(2.5, 8, d), linear(rng, d, 0.2)
    moves, stretch = rng.normal(size=(2, d))
    one = np.zeros(1), np.ones(1)
    q = product([student(v, *one) for v in df])

    def pair(s: float) -> Pair:
        parts = [
            student(v, np.array([s * a]), np.exp(0.4 * np.array([s * b])))
            for v, a, b in zip(df, moves / np.sqrt(d), stretch / np.sqrt(d))
        ]
        return Pair(product(parts), q, push)

    return pair


def _gaussian_copula(rng: np.random.Generator, d: int) -> Built:
    """Correlated normal scores against independent ones, under strange margins."""
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    g, warp = rng.normal(size=d), _warp(rng, d)

    def pair(s: float) -> Pair:
        matrix = (rotation * np.exp(s * g)) @ rotation.T
        scale = np.sqrt(np.diag(matrix))
        root = np.linalg.cholesky(matrix / np.outer(scale, scale))
        inverse, log_det = np.linalg.inv(root), np.log(np.diag(root)).sum()
        base = plain(d)
        p = Law(
            lambda rng, n: rng.normal(size=(n, d)) @ root.T,
            lambda x: base.log_density(x @ inverse.T) - log_det,
        )
        return Pair(p, base, warp, float(-log_det))

    return pair


def _clayton(rng: np.random.Generator, d: int) -> Built:
    """Clayton's copula, dependent in one tail, against independence."""
    warp = _warp(rng, d)
    steps = np.arange(d)

    def pair(s: float) -> Pair:
        theta = max(s, 1e-6)

        def sample(rng: np.random.Generator, n: int) -> np.ndarray:
            shared = rng.gamma(1 / theta, size=(n, 1)) + 1e-300
            return (1 + rng.exponential(size=(n, d)) / shared) ** (-1 / theta)

        def log_density(u: np.ndarray) -> np.ndarray:
            log_u = np.log(u)
            total = np.log1p(np.expm1(-theta * log_u).sum(-1))
            found = np.log1p(steps * theta).sum() - (1 + theta) * log_u.sum(-1)
            return found - (d + 1 / theta) * total

        p = Law(sample, log_density)
        q = Law(lambda rng, n: rng.random((n, d)), lambda u: np.zeros(len(u)))
        push = lambda u: warp(special.ndtri(np.clip(u, 1e-12, 1 - 1e-12)))  # noqa: E731
        return Pair(p, q, push)

    return pair


def _banana(rng: np.random.Generator, d: int) -> Built:
    """Bent normal laws of different means: all in one map, as closed as normal ones."""
    c = rng.uniform(0.3, 0.8)

    def bent(x: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[:, 1:] += c * (x[:, :1] ** 2 - 1)
        return y

    inner, turn = _gaussian(1.0, 0.3)(rng, d), linear(rng, d, 0.0)

    def pair(s: float) -> Pair:
        found = inner(s)
        return found._replace(push=lambda x: turn(bent(x)))

    return pair


def _bent(rng: np.random.Generator, d: int) -> Built:
    """A bent law against a straight one."""
    zero = np.zeros(d)

    def pair(s: float) -> Pair:
        base = plain(d)

        def back(y: np.ndarray) -> np.ndarray:
            x = y.copy()
            x[:, 1] -= s * (x[:, 0] ** 2 - 1)
            return x

        def sample(rng: np.random.Generator, n: int) -> np.ndarray:
            y = base.sample(rng, n)
            y[:, 1] += s * (y[:, 0] ** 2 - 1)
            return y

        variance = np.ones(d)
        variance[1] += 2 * s**2
        kl = np.log1p(2 * s**2) / 2
        p = Law(sample, lambda y: base.log_density(back(y)))
        return Pair(p, normal(zero, variance), kl=float(kl))

    return pair


def _betas(rng: np.random.Generator, d: int) -> Built:
    """On a box: independent beta coordinates, tilted."""
    a, b = rng.uniform(1.2, 4, (2, d))
    tilt = rng.normal(size=(2, d)) / np.sqrt(d)

    def law(a: np.ndarray, b: np.ndarray) -> Law:
        def log_density(x: np.ndarray) -> np.ndarray:
            terms = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - special.betaln(a, b)
            return terms.sum(-1)

        def sample(rng: np.random.Generator, n: int) -> np.ndarray:
            return np.clip(rng.beta(a, b, (n, d)), 1e-12, 1 - 1e-12)

        return Law(sample, log_density)

    def pair(s: float) -> Pair:
        c, e = a * np.exp(s * tilt[0]), b * np.exp(s * tilt[1])
        kl = special.betaln(c, e) - special.betaln(a, b) + (a - c) * special.digamma(a)
        kl += (b - e) * special.digamma(b) + (c - a + e - b) * special.digamma(a + b)
        return Pair(law(a, b), law(c, e), kl=float(kl.sum()))

    return pair


def _boxes(rng: np.random.Generator, d: int) -> Built:
    """Uniform laws on boxes that do not meet."""
    axis = int(rng.integers(d))

    def law(shift: float) -> Law:
        move = np.zeros(d)
        move[axis] = shift
        draw = lambda rng, n: rng.random((n, d)) + move  # noqa: E731
        inside = lambda x: np.all((x >= move) & (x <= move + 1), axis=-1)  # noqa: E731
        return Law(draw, lambda x: np.where(inside(x), 0.0, -np.inf))

    return lambda s: Pair(law(0), law(1.2 + s), kl=np.inf)


def _circle(rng: np.random.Generator, d: int) -> Built:
    """A law on a sphere against a normal one: no density."""

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        x = rng.normal(size=(n, d))
        return x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(d)

    law = Law(sample, lambda x: np.full(len(x), np.inf))
    return lambda s: Pair(law, plain(d), kl=np.inf)


FAMILIES: Mapping[str, Family] = {
    "Gaussian, mean": Family(_gaussian(1.0, 0.0)),
    "Gaussian, covariance": Family(_gaussian(0.0, 0.5)),
    "Gaussian, both": Family(_gaussian(1.0, 0.4)),
    "autoregression, linear": Family(sequences.correlation, 2),
    "autoregression, sine": Family(sequences.nonlinear, 2),
    "autoregression, products": Family(sequences.products, 3),
    "autoregression, spread": Family(sequences.volatility, 2),
    "mixtures": Family(_mixtures),
    "two humps": Family(_two_humps),
    "Student": Family(_students),
    "Student against normal": Family(_tails),
    "heavy margins": Family(_heavy_margins),
    "flow, couplings": Family(_pushed(coupling), 2),
    "flow, margins": Family(_pushed(_warp)),
    "bent, both": Family(_banana, 2),
    "bent, one": Family(_bent, 2),
    "copula, Gaussian": Family(_gaussian_copula, 2),
    "copula, Clayton": Family(_clayton, 2, 20),
    "beta": Family(_betas),
    "discrete outcomes": Family(sequences.outcomes, 1, 10),
    "discrete chain": Family(sequences.chains, 2),
    "counts": Family(sequences.counts),
    "far": Family(_gaussian(1.0, 0.0), refused=True),
    "disjoint boxes": Family(_boxes, refused=True),
    "sphere": Family(_circle, 2, refused=True),
}
