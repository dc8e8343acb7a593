"""Gaussian kernel density estimates of n = exp(alpha d) points in many dimensions d.

    p_h(x) = (1/n) sum_i N(x; y_i, h^2 I),    w_i = share of y_i in the sum

At a typical point x of the law (|x_k|^2 = s_k^2 along every axis of variance s_k^2) the
estimate is the partition function of a random energy model with the energies
|x - y_i|^2 / (2 h^2). Below h_G it condenses: a few points carry it, and its law is one
of extreme values. Below h_CLT = sqrt(2) h_G its fluctuations are stable ones of the
index (h / h_G)^2 instead of Gaussian. The bandwidth of the least KL lies below h_G.

Reference: Biroli and Mezard, "Kernel density estimators in large dimensions" (2024),
for what there is; the formulas are derived here (the paper's text was not to be had)
and hold for Gaussian laws. Densities are in nats; "rates" are per dimension. What a
sample shows of all this is measured in `kljax.theory.concentration`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import floating, legal, whole
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "Phases",
    "condensed_log_density",
    "energy_cgf",
    "gaussian_phases",
    "log_density_rate",
    "relative_variance",
]

Number = Float[ArrayLike, "*#b"]
Each = Float[Array, "*b"]

Variances = Float[ArrayLike, " d"]


class Phases(NamedTuple):
    """Where the regimes of the bandwidth end, at one alpha."""

    h_g: Each
    """Below it a few points carry the estimate."""
    h_clt: Each
    """Below it fluctuations are stable, above it Gaussian."""
    h_kl: Each
    """Of the least KL; its square is |x - y|^2 / d of the nearest point."""
    kl: Each
    """The least KL, nats per dimension."""

    def stable_index(self, h: Float[ArrayLike, "*b"]) -> Each:
        """Index mu of the fluctuations at bandwidth h, (h / h_G)^2.

        Above 2: Gaussian. From 1 to 2: mu-stable around the mean. Below 1: the mean is
        infinite, and the participation ratio is 1 - mu.
        """
        return (jnp.asarray(h) / self.h_g) ** 2


def energy_cgf(order: Number, h: Number, variances: Variances | None = None) -> Each:
    """``phi = (1/d) log E_y exp(-order |x - y|^2 / (2 h^2))`` at a typical x.

    phi = mean_k [-log(1 + s_k^2 / v) / 2 - s_k^2 / (2 (v + s_k^2))], v = h^2 / order.

    Args:
      order: > 0; the power of the kernel.
      h: bandwidth, > 0.
      variances: s_k^2 > 0 of the law along its axes, `[d]`; by default of N(0, I).

    Returns:
      Nats per dimension, exact at any d where |x_k|^2 = s_k^2.

    Example:
      >>> round(float(energy_cgf(1.0, 1.0)), 4)  # -log(2)/2 - 1/4
      -0.5966
    """
    order, h = floating("order", order), floating("h", h)
    return _energy_cgf(order, h, _checked(variances))


@jax.jit
def _energy_cgf(order: Array, h: Array, s: Array) -> Array:
    ratio = s / (h**2 / order)[..., None]
    return jnp.mean(-jnp.log1p(ratio) / 2 - ratio / (2 + 2 * ratio), axis=-1)


def gaussian_phases(
    alpha: Float[ArrayLike, "*b"],
    variances: Variances | None = None,
    *,
    dims: int | None = None,
) -> Phases:
    """The thresholds of Gaussian data: where the entropy of the energies vanishes.

    With q_k = v / (v + s_k^2) and v = h_G^2:

        alpha = mean_k [-log q_k - q_k (1 - q_k)] / 2
        h_KL^2 = mean_k s_k^2 q_k (1 + q_k)

    Args:
      alpha: log(n) / d > 0; may be traced, and differentiated.
      variances: s_k^2 > 0 of the law along its axes, `[d]`; by default of N(0, I).
      dims: None for the limit of many dimensions; else d, and the prefactor of the
        tail (Bahadur and Rao), log(2 pi d mean_k (1 - q_k)^2 (1/2 + q_k)) / (2 d), is
        added on the right. The limit's h_G is 9 to 14 % too small at d = 20 to 60.

    Returns:
      `Phases` of the shape of `alpha`.

    Raises:
      ValueError: an alpha or variance that is known not to be positive, `dims` < 1.

    Example:
      >>> [round(float(h), 4) for h in gaussian_phases(0.5)[:3]]
      [0.6521, 0.9223, 0.6224]
    """
    alpha = legal("alpha", floating("alpha", alpha), lambda x: x <= 0, "positive")
    d = None if dims is None else whole("dims", dims)
    return _phases(alpha, _checked(variances), d)


@functools.partial(jax.jit, static_argnums=2)
def _phases(alpha: Array, s: Array, d: int | None) -> Phases:
    log_s = jnp.log(s)

    def shares(log_v: Array) -> tuple[Array, Array, Array]:
        """-log q, q and 1 - q, `[*b, d]`."""
        z = log_v[..., None] - log_s
        return jax.nn.softplus(-z), jax.nn.sigmoid(z), jax.nn.sigmoid(-z)

    def rate(log_v: Array) -> Array:
        minus_log, q, rest = shares(log_v)
        return jnp.mean(minus_log - q * rest, axis=-1) / 2

    def excess(log_v: Array) -> Array:
        found = rate(log_v) - alpha
        if d is not None:
            _, q, rest = shares(log_v)
            spread = jnp.mean(rest**2 * (0.5 + q), axis=-1)
            found += jnp.log(2 * jnp.pi * d * spread) / (2 * d)
        return found

    def bisected(falling, log_v: Array) -> Array:
        def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            above = falling(middle) > 0
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        low = jnp.min(log_s) - 2 * alpha - 10
        ends = low, jnp.full_like(alpha, 40) + jnp.max(log_s)
        low, high = jax.lax.fori_loop(0, 70, halve, ends)
        return (low + high) / 2

    def linear(slope, y: Array) -> Array:  # elementwise: a diagonal system
        return y / slope(jnp.ones_like(y))

    log_v = jax.lax.custom_root(excess, jnp.zeros_like(alpha), bisected, linear)
    log_v = jnp.where(jnp.isnan(alpha), jnp.nan, log_v)
    _, q, _ = shares(log_v)
    nearest = jnp.mean(s * q * (1 + q), axis=-1)
    h_g = jnp.exp(log_v / 2)
    kl = rate(log_v) + (jnp.log(nearest) - jnp.mean(log_s)) / 2
    return Phases(h_g, math.sqrt(2) * h_g, jnp.sqrt(nearest), kl)


def _checked(variances: ArrayLike | None) -> Array:
    s = jnp.ones(1) if variances is None else floating("variances", variances)
    if s.ndim != 1 or not s.size:
        raise ValueError(f"variances must be [d], got shape {s.shape}")
    return legal("variances", s, lambda x: x <= 0, "positive")


def log_density_rate(
    h: Number, alpha: Number, variances: Variances | None = None
) -> Each:
    """``(1/d) log p_h(x)`` at a typical x, in the limit of many dimensions.

    Above h_G the estimate averages itself, and is the smoothed law's density; below, it
    is the nearest point's kernel: -alpha - log h - log(2 pi) / 2 - h_KL^2 / (2 h^2).
    Minus this, minus the entropy per dimension, is KL(law || p_h) / d.

    Args:
      h: bandwidth, > 0.
      alpha, variances: as in `gaussian_phases`.

    Returns:
      Nats per dimension; continuous at h_G.

    Example:
      >>> round(float(log_density_rate(1.0, 0.5)), 4)  # -log(4 pi)/2 - 1/4
      -1.5155
    """
    h, alpha = floating("h", h), floating("alpha", alpha)
    phases = gaussian_phases(alpha, variances)
    plain = -jnp.log(h) - math.log(2 * math.pi) / 2
    averaged = energy_cgf(1.0, h, variances)
    nearest = -alpha - phases.h_kl**2 / (2 * h**2)
    return plain + jnp.where(h >= phases.h_g, averaged, nearest)


def relative_variance(
    h: Float[ArrayLike, "*b"], count: ArrayLike, variances: Variances
) -> Each:
    """``Var p_h(x) / (E p_h(x))^2`` over data sets, exact at any n and d.

    (exp(d (phi(2) - 2 phi(1))) - 1) / n, with phi of `energy_cgf`. Below h_CLT samples
    of any affordable number do not show it: rare data sets carry it.

    Args:
      h: bandwidth, > 0.
      count: n, the number of points.
      variances: of all d axes; ``np.ones(d)`` for N(0, I).

    Returns:
      A ratio >= 0 at a point with |x_k|^2 = s_k^2.

    Example:
      >>> round(float(relative_variance(1.0, 1, jnp.ones(1))), 4)
      0.3641
    """
    s = _checked(variances)
    gain = energy_cgf(2.0, h, s) - 2 * energy_cgf(1.0, h, s)
    return jnp.expm1(s.size * gain) / jnp.asarray(count)


def condensed_log_density(
    h: Number, nearest: Number, index: Number, alpha: Number, dims: int
) -> Each:
    """``E log p_h(x)`` in the condensed phase, with what the many smaller terms add.

    The weights are a Poisson process of intensity mu w^(-1-mu), whose sum is mu-stable:

        -d (alpha + log h + log(2 pi) / 2 + u / (2 h^2))
        + gamma (1/mu - 1) + log Gamma(1 - mu) / mu

    Args:
      h: bandwidth, below h_G.
      nearest: u, the 1/n quantile of |x - y|^2, over d: h_KL^2 of `gaussian_phases`
        with `dims`, which for N(0, I) is within 0.5 % of
        `scipy.stats.ncx2.ppf(1 / n, d, d) / d` at d = 20 to 60.
      index: mu in (0, 1), (h / h_G)^2.
      alpha: log(n) / d.
      dims: d.

    Returns:
      Nats, not per dimension. Infinite at mu = 1.

    Example:
      >>> round(float(condensed_log_density(1.0, 1.0, 0.5, 0.1, 10)), 3)
      -13.467
    """
    h, u = floating("h", h), floating("nearest", nearest)
    mu = floating("index", index)
    rate = jnp.asarray(alpha) + jnp.log(h) + math.log(2 * math.pi) / 2 + u / (2 * h**2)
    stable = jnp.euler_gamma * (1 / mu - 1) + jax.scipy.special.gammaln(1 - mu) / mu
    return stable - dims * rate
