"""`auto`: families of densities cross-fitted, weighted, calibrated and checked."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kljax.divergences.estimation import densities
from kljax.divergences.estimation.densities import Fit
from kljax.divergences.estimation.inspection import Samples, smoothed
from kljax.divergences.estimation.lines import centered
from kljax.divergences.estimation.outcomes import cells, discrete_families
from kljax.divergences.estimation.regression import Curves, autoregression
from kljax.divergences.estimation.residual import residual
from kljax.divergences.estimation.stack import (
    KERNELS,
    NORMAL,
    Chosen,
    Held,
    Space,
    chosen,
    held_out,
    logistic,
    spaces,
)
from kljax.divergences.estimation.stationary import LEAST, stationary

_KERNEL_DIMENSIONS, _KERNEL_POINTS = 4, 20_000


class Fitted(NamedTuple):
    """Log-ratios at points held out of everything that they are made of."""

    held: Held
    chosen: Chosen
    raw: tuple[np.ndarray, np.ndarray]
    """Of the families, at p and q."""
    calibrated: tuple[np.ndarray, np.ndarray]
    """Straightened by logistic regression."""
    corrected: tuple[np.ndarray, np.ndarray]
    """With what a network found beside it."""
    line: np.ndarray
    gain: float
    """Nats a point that the network's part is worth, and its standard error."""
    gain_error: float


def continuous(z: np.ndarray, n: int) -> Mapping[str, tuple[Space, Fit]]:
    """Families by name, for pooled standardized points."""
    d = z.shape[1]
    seen, lines = spaces(z)
    plain, scores = seen[""], seen["scores"]
    straight, back = np.arange(d), np.arange(d)[::-1]
    found: dict[str, tuple[Space, Fit]] = {
        "normal, one covariance": (plain, densities.gaussian(shared=True)),
        NORMAL: (plain, densities.gaussian(shared=False)),
        "Student": (plain, densities.student),
        "normal scores": (scores, densities.gaussian(shared=False)),
        "normal scores, one covariance": (scores, densities.gaussian(shared=True)),
    }
    for k in (2, 3, 6):
        if k < 4 or k * d * d / 2 <= n / 3:
            found[f"mixture of {k}"] = plain, densities.mixture(k)
    tied = densities.mixture(4, tied=True)
    found["mixture of 4, one covariance"] = plain, tied
    if d > 1:
        curves = Curves.of(z)
        found["components of both"] = plain, densities.turned(densities.margins)
        of_both = densities.turned(densities.copula)
        found["copula of components of both"] = plain, of_both
        found["components"] = plain, densities.components
        found["copula"] = plain, densities.copula
        found["elliptical"] = plain, densities.elliptical
        found["autoregression"] = plain, autoregression(curves, straight)
        found["sparse autoregression"] = (
            plain,
            autoregression(curves, straight, sparse=True),
        )
        found["sparse autoregression, backwards"] = (
            plain,
            autoregression(curves, back, sparse=True),
        )
        among = Curves.of(lines.scores(z))
        found["sparse autoregression of scores"] = (
            scores,
            autoregression(among, straight, sparse=True),
        )
        for k in (3, 8):
            if k < 4 or k * d * d / 2 <= n / 3:
                found[f"mixture of {k} of scores"] = scores, densities.mixture(k)
    else:
        found["smoothed counts"] = plain, densities.margins
    if d >= LEAST:
        found["one law after another"] = plain, stationary
    if 1 < d <= _KERNEL_DIMENSIONS and n <= _KERNEL_POINTS:
        found[KERNELS] = plain, densities.kernel
    return found


def fitted(samples: Samples, rng: np.random.Generator) -> Fitted:
    """Everything that is fitted, for whatever divergence."""
    samples = smoothed(samples, rng)
    pooled = np.concatenate([samples.p, samples.q])
    families: dict[str, tuple[Space, Fit]] = {}
    few = False
    if samples.discrete:
        space, sizes = cells(pooled)
        families |= {k: (space, v) for k, v in discrete_families(sizes).items()}
        few = np.median(sizes) < 8
    center, scale = centered(pooled)
    x_p, x_q = ((x - center) / scale for x in (samples.p, samples.q))
    z = np.concatenate([x_p, x_q])
    if families:
        volume = -np.log(scale).sum()
        families = {
            name: (
                Space(
                    lambda x, to=space.to: to(x * scale + center),
                    lambda x: np.full(len(x), -volume),
                ),
                fit,
            )
            for name, (space, fit) in families.items()
        }
    n = min(len(x_p), len(x_q))
    if not few:
        families |= continuous(z, n)
    held = held_out(x_p, x_q, families, rng, 3 if n >= 1500 else 5)
    there_p, there_q = held.fold_p >= 0, held.fold_q >= 0
    held = held.where(there_p, there_q)
    choice = chosen(held)
    raw = choice.at_p, choice.at_q
    one = lambda v: np.stack([np.ones(len(v)), v], axis=1)  # noqa: E731
    line = logistic(*(one(np.clip(v, -40, 40)) for v in raw))
    calibrated = line[0] + line[1] * raw[0], line[0] + line[1] * raw[1]
    white = _whitened(spaces(z)[1].scores(z))
    z_p, z_q = white[: len(x_p)][there_p], white[len(x_p) :][there_q]
    extra = residual(z_p, z_q, calibrated[0], calibrated[1], rng)
    with_extra = [
        np.stack([np.ones(len(v)), v, g], axis=1)
        for v, g in zip(calibrated, (extra.at_p, extra.at_q))
    ]
    more = logistic(*with_extra)
    corrected = with_extra[0] @ more, with_extra[1] @ more
    gains = [
        np.logaddexp(0, -sign * a) - np.logaddexp(0, -sign * b)
        for sign, a, b in zip((1, -1), calibrated, corrected)
    ]
    gain = float(np.mean([g.mean() for g in gains]))
    error = float(np.sqrt(sum(g.var() / len(g) for g in gains)) / 2)
    return Fitted(held, choice, raw, calibrated, corrected, line, gain, error)


def _whitened(x: np.ndarray) -> np.ndarray:
    x = np.clip(x - x.mean(axis=0), -4, 4)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
    return x @ vectors / np.sqrt(np.maximum(values, 1e-6))
