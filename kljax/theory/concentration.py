"""How many points carry a kernel density estimate, measured on a sample.

The share of a point in the estimate at x is w_i, proportional to its kernel. Their sum
of squares, the participation ratio Y, is 1/n where all count alike and 1 where one
counts alone; `kljax.theory.kde` says what to expect for Gaussian data. Nothing here
needs to know the law.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import floating
from kljax.divergences.samples import kde_log_density
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "Concentration",
    "concentration",
    "condensation_bandwidth",
    "from_distances",
    "leave_one_out",
    "likeliest_bandwidth",
    "stable_index",
]


class Concentration(NamedTuple):
    """A density estimate and how many points carry it, per query."""

    log_density: Float[Array, "*h n"]
    participation: Float[Array, "*h n"]
    """sum_i w_i^2 in [1/m, 1]; 1 over it is an effective number of points."""
    perplexity: Float[Array, "*h n"]
    """exp of the entropy of the shares, another such number."""


def concentration(
    query: Float[ArrayLike, "n d"], data: Float[ArrayLike, "m d"], bandwidth: ArrayLike
) -> Concentration:
    """`kde_log_density`, with the number of points that it rests on, in tiles.

    The mean of 1 - participation estimates `kljax.theory.kde.Phases.stable_index` where
    that is below 1, whatever the law. No further kernel is needed: a squared Gaussian
    is one of width h / sqrt(2), and the entropy a derivative in h.

    Args:
      query, data, bandwidth: as in `kljax.divergences.samples.kde_log_density`. A query
        that is a point of the data finds itself: see `leave_one_out`.

    Returns:
      Log-densities in nats, participation ratios, perplexities, `[n]` each.

    Raises:
      ValueError: as in `kde_log_density`.

    Example:
      >>> found = concentration(jnp.zeros((1, 2)), jnp.eye(2), 1.0)
      >>> round(float(found.participation[0]), 4), round(float(found.perplexity[0]), 4)
      (0.5, 2.0)
    """
    points = floating("data", data)
    estimate = lambda scale: kde_log_density(  # noqa: E731
        query, points, jnp.asarray(bandwidth, points.dtype) * scale
    )
    one = jnp.ones((), points.dtype)
    log_p, slope = jax.jvp(estimate, (one,), (one,))
    squares = estimate(one / math.sqrt(2))
    m, d = points.shape
    widths = jnp.broadcast_to(jnp.asarray(bandwidth, points.dtype), (d,))
    log_sum = log_p + jnp.sum(jnp.log(widths)) + d / 2 * math.log(2 * math.pi)
    # slope + d is the mean of |(x - y)/h|^2 over the shares.
    entropy = log_sum + math.log(m) + (slope + d) / 2
    ratio = squares - 2 * log_p - jnp.sum(jnp.log(widths)) - math.log(m)
    ratio -= d / 2 * math.log(4 * math.pi)
    return Concentration(log_p, jnp.exp(ratio), jnp.exp(entropy))


@jax.jit
def from_distances(
    squared: Float[ArrayLike, "n m"],
    bandwidths: Float[ArrayLike, " h"],
    dims: ArrayLike,
) -> Concentration:
    """The same from squared distances, which may be drawn without any points.

    Of N(0, I) seen from |x|^2 = d they are noncentral chi-square of d degrees and
    noncentrality d, so that a data set of any dimension is n numbers.

    Args:
      squared: |x - y|^2 >= 0 of every query and point; inf takes a point away.
      bandwidths: h > 0, several.
      dims: d.

    Returns:
      `Concentration` of arrays `[h, n]`.

    Example:
      >>> found = from_distances(jnp.array([[1.0, 1.0, jnp.inf]]), jnp.ones(1), 2)
      >>> round(float(found.participation[0, 0]), 4)
      0.5
    """
    squared = floating("squared", squared)
    h, d = (jnp.asarray(x, squared.dtype) for x in (bandwidths, dims))
    count = jnp.sum(jnp.isfinite(squared), axis=-1).astype(squared.dtype)
    constant = d / 2 * math.log(2 * math.pi)

    def at(width: Array) -> Concentration:
        logits = -squared / (2 * width**2)
        top = logits.max(axis=-1)
        logits -= top[:, None]
        w = jnp.exp(logits)
        total = w.sum(axis=-1)
        log_p = top + jnp.log(total / count) - d * jnp.log(width) - constant
        mean = jnp.where(w > 0, w * logits, 0).sum(axis=-1) / total
        ratio = (w**2).sum(axis=-1) / total**2
        return Concentration(log_p, ratio, total * jnp.exp(-mean))

    return jax.lax.map(at, h)


def leave_one_out(
    data: Float[ArrayLike, "n d"], bandwidths: Float[ArrayLike, " h"]
) -> Concentration:
    """The estimate at every point from the others: what a bandwidth is chosen by.

    With the point itself among its data the likeliest bandwidth is 0.

    Args:
      data: the sample; n^2 distances are held at a time.
      bandwidths: h > 0, several.

    Returns:
      `Concentration` of arrays `[h, n]`. The likeliest bandwidth is that of the largest
      mean log-density.

    Example:
      >>> found = leave_one_out(jnp.array([[0.0], [1.0], [5.0]]), jnp.ones(1))
      >>> [round(float(y), 2) for y in found.participation[0]]
      [1.0, 1.0, 0.98]
    """
    return _leave_one_out(floating("data", data), jnp.asarray(bandwidths))


@jax.jit
def _leave_one_out(x: Float[Array, "n d"], bandwidths: Array) -> Concentration:
    x = x - x.mean(axis=0)  # far from 0 the product would lose digits
    norms = jnp.sum(x**2, axis=-1)
    product = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(norms[:, None] + norms - 2 * product, 0)
    squared = jnp.fill_diagonal(squared, jnp.inf, inplace=False)
    return from_distances(squared, bandwidths, x.shape[1])


class Likeliest(NamedTuple):
    """The bandwidth that a sample finds likeliest, and how many points then count."""

    h: float
    over_h_g: float
    """h over h_G, as the sample tells it."""
    participation: float
    """Mean over points of their participation ratio."""
    perplexity: float
    """Median over points."""


def likeliest_bandwidth(
    data: Float[ArrayLike, "n d"], bandwidths: Float[ArrayLike, " h"]
) -> Likeliest:
    """What a bandwidth is chosen by in practice: every point is left out in turn.

    Args:
      data: the sample; n^2 distances are held at a time.
      bandwidths: to choose from, increasing.

    Returns:
      `Likeliest`, with h_G by `condensation_bandwidth`.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(200, 2))
      >>> round(likeliest_bandwidth(x, np.geomspace(0.1, 1, 20)).h, 4)
      0.5456
    """
    h = np.asarray(bandwidths, np.float64)
    log_p, ratio, perplexity = map(np.asarray, leave_one_out(data, h))
    best = log_p.mean(1).argmax()
    found = h[best], h[best] / condensation_bandwidth(h, ratio.mean(1))
    carried = ratio[best].mean(), np.median(perplexity[best])
    return Likeliest(*map(float, (*found, *carried)))


def condensation_bandwidth(
    bandwidths: Float[ArrayLike, " h"], participation: Float[ArrayLike, " h"]
) -> float:
    """h_G without knowing the law: Y = 1 - (h / h_G)^2 is 1/2 at h_G / sqrt(2).

    Args:
      bandwidths: increasing.
      participation: mean participation ratio at each, which falls.

    Returns:
      A bandwidth; sqrt(2) times an end where Y does not pass 1/2 between the ends.

    Example:
      >>> round(condensation_bandwidth([0.5, 1.0], [0.75, 0.25]), 4)
      1.0607
    """
    h, ratio = (np.asarray(x, np.float64) for x in (bandwidths, participation))
    return math.sqrt(2) * float(np.interp(-0.5, -ratio, h))


def stable_index(x: Float[ArrayLike, " n"]) -> float:
    """Index of a stable law: the slope of log(-log |E exp(itx)|) in log t.

    At twelve t of 0.2 to 1 over the quartiles' distance. An estimate by the tail's
    largest values would be biased by where the law lies; this one is not.

    Args:
      x: independent samples, thousands.

    Returns:
      About 2 for a normal law, 1 for a Cauchy law.

    Example:
      >>> round(stable_index(np.random.default_rng(0).normal(size=20_000)), 1)
      2.0

    References:
      Koutrouvelis, "Regression-type estimation of the parameters of stable laws"
      (1980).
    """
    x = np.asarray(x, np.float64)
    low, middle, high = np.quantile(x, (0.25, 0.5, 0.75))
    t = np.geomspace(0.2, 1.0, 12)
    size = np.abs(np.exp(1j * t[:, None] * (x - middle) / (high - low)).mean(axis=1))
    return float(np.polyfit(np.log(t), np.log(-np.log(size)), 1)[0])
