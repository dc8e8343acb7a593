"""Divergences of which only samples are held, `x_p` of the target, `x_q` of the model.

Points are `[n, d]`. Sums over pairs stream (`kljax.kernels.pairs`): memory does not
grow with n·m, and a million points a side are minutes on a CPU. Derivatives of any
order recompute the pairs; they are finite where points coincide.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import falling, floating, legal, shadow, whole
from kljax.divergences import counts
from kljax.divergences._points import bandwidth_of, not_negative, points_of, weighted
from kljax.kernels.pairs.neighbors import kth_squared_distances, of_size_one
from kljax.kernels.pairs.sums import (
    kernel_sums,
    kernel_total,
    log_sum_exp,
    squared_distances,
)
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "cauchy_schwarz",
    "histogram_kl",
    "kde_log_density",
    "kernel_mean",
    "knn_kl",
    "median_distance",
    "mmd",
]

OfPoints = Float[ArrayLike, " n"] | None
OfOthers = Float[ArrayLike, " m"] | None
Points = Float[ArrayLike, "n d"]
Others = Float[ArrayLike, "m d"]


def kde_log_density(
    query: Points, data: Others, bandwidth: ArrayLike, *, log_weights: OfOthers = None
) -> Float[Array, " n"]:
    """Log-density of a Gaussian kernel density estimate.

    log p̂(y) = LSE_j(log w_j − ‖(y − x_j)/h‖²/2) − Σ log h − (d/2) log 2π, Σ w = 1.

    Args:
      query: points at which the density is wanted.
      data: the sample.
      bandwidth: h > 0, the kernel's standard deviation; a number or one per
        coordinate `[d]`, may be traced.
      log_weights: logarithms of weights ≥ 0, normalised here; equal when left out.
        −inf takes a point away (padding).

    Returns:
      nats, one per query; −inf only where no point has weight.

    Raises:
      ValueError: for shapes that do not fit or a Python bandwidth ≤ 0.

    Example:
      >>> x = jnp.zeros((1, 1))
      >>> round(float(kde_log_density(x, x, 1.0)[0]), 4)
      -0.9189

    References:
      Silverman, Density Estimation (1986), ch. 4.
    """
    query, data = points_of("query", query, "data", data)
    h = bandwidth_of(bandwidth, data)
    data, log_w = weighted("log_weights", log_weights, data)
    dims = data.shape[-1]
    constant = jnp.sum(jnp.log(h)) + 0.5 * dims * math.log(2 * math.pi)
    return kernel_sums(query, data, log_w, h, log=True) - constant


def kernel_mean(
    query: Points, data: Others, bandwidth: ArrayLike, *, log_weights: OfOthers = None
) -> Float[Array, " n"]:
    """Mean of a Gaussian kernel over a sample: the function that `mmd` compares.

    μ(y) = Σ_j w_j exp(−‖(y − x_j)/h‖²/2), Σ w = 1: a density without its constant and
    its logarithm, and without the running maximum that far tails need.

    Arguments and errors as in `kde_log_density`.

    Returns:
      Numbers in [0, 1], one per query; 0 where every kernel underflows.

    Example:
      >>> x = jnp.zeros((1, 1))
      >>> round(float(kernel_mean(x + 1, x, 1.0)[0]), 4)  # exp(−1/2)
      0.6065

    References:
      Gretton et al., "A kernel two-sample test" (2012), §2.2.
    """
    query, data = points_of("query", query, "data", data)
    h = bandwidth_of(bandwidth, data)
    data, log_w = weighted("log_weights", log_weights, data)
    return kernel_sums(query, data, log_w, h, log=False)


def knn_kl(x_p: Points, x_q: Others, k: int) -> Float[Array, ""]:
    """KL(p‖q) from distances to the k-th nearest neighbors.

    (d/n) Σ_i log(ν_i/ρ_i) + log(m/(n − 1)): ρ_i is the distance from x_p[i] to its k-th
    neighbor in `x_p` without itself, ν_i that to its k-th one in `x_q`. Consistent for
    densities, any k; may be negative.

    Ties (duplicates, rounded data) mean that there is no density. Distances below the
    resolution of the dtype at the spread of the data count as that resolution: where a
    point is duplicated in both samples it adds 0, never NaN or inf, but an estimate
    from much duplicated data means little (use `histogram_kl`).

    Args:
      x_p, x_q: the samples, drawn independently of each other.
      k: which neighbor, 1 ≤ k < n and k ≤ m; larger has less variance and more bias.

    Returns:
      A scalar, nats. Differentiable in the points where neighbors do not change.

    Raises:
      ValueError: for shapes that do not fit or a k out of range.

    Example:
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> round(float(knn_kl(x, jnp.array([[0.5], [2.0]]), 1)), 4)
      -0.6931

    References:
      Wang, Kulkarni, Verdú, "Divergence estimation for multidimensional densities via
      k-nearest-neighbor distances" (2009).
    """
    x_p, x_q = points_of("x_p", x_p, "x_q", x_q)
    n, dims = x_p.shape
    m = x_q.shape[0]
    k = whole("k", k)
    if k > min(n - 1, m):
        raise ValueError(
            f"k must be at least 1, below the {n} points of x_p and at most the {m} "
            f"of x_q; got {k}"
        )
    # Squares of distances must neither overflow nor vanish; their ratios are the same.
    x_p, x_q = of_size_one(x_p, x_q)
    spread = jnp.sum(jnp.var(jax.lax.stop_gradient(x_p), axis=0))
    eps, tiny = jnp.finfo(x_p.dtype).eps, jnp.finfo(x_p.dtype).tiny
    floor = jnp.maximum(eps**2 * spread, tiny)

    rho = kth_squared_distances(x_p, x_p, k, skip_own_index=True)
    nu = kth_squared_distances(x_p, x_q, k)
    ratios = jnp.log(jnp.maximum(nu, floor)) - jnp.log(jnp.maximum(rho, floor))
    return 0.5 * dims * jnp.mean(ratios) + math.log(m / (n - 1))


def mmd(
    x_p: Points,
    x_q: Others,
    bandwidth: ArrayLike,
    *,
    unbiased: bool = False,
    log_weights_p: OfPoints = None,
    log_weights_q: OfOthers = None,
) -> Float[Array, ""]:
    """MMD², the *squared* maximum mean discrepancy with a Gaussian kernel.

    E K(x, x') + E K(y, y') − 2 E K(x, y), K(x, y) = exp(−‖(x − y)/h‖²/2).

    Args:
      x_p, x_q: the samples.
      bandwidth: h > 0, a number or one per coordinate `[d]`, may be traced.
      unbiased: leave the pairs i = j out of the first two means (the U-statistic, whose
        value may be negative); otherwise the V-statistic, ≥ 0, biased by O(1/n).
      log_weights_p, log_weights_q: logarithms of weights ≥ 0, normalised here.

    Returns:
      A scalar in [0, 2] (V-statistic). In float32 what is below about 1e-7 is lost.

    Raises:
      ValueError: for shapes that do not fit, a Python bandwidth ≤ 0, or fewer than two
        points with `unbiased`.

    Example:
      >>> x, y = jnp.zeros((2, 1)), jnp.ones((2, 1))
      >>> round(float(mmd(x, y, 1.0)), 4)  # 2 − 2 exp(−1/2)
      0.7869

    References:
      Gretton et al., "A kernel two-sample test" (2012), Eqs. 3 and 5.
    """
    (x_p, w_p), (x_q, w_q), h = _both(x_p, x_q, bandwidth, log_weights_p, log_weights_q)
    _check_two(unbiased, x_p, x_q)

    def own(x, w):
        total = kernel_total(x, w, h, log=False)
        # K(x, x) = 1, so the diagonal is Σ w² of the sum.
        diagonal = jnp.sum(jnp.exp(2 * w))
        return (total - diagonal) / (1 - diagonal) if unbiased else total

    across = jnp.sum(jnp.exp(w_p) * kernel_sums(x_p, x_q, w_q, h, log=False))
    value = own(x_p, w_p) + own(x_q, w_q) - 2 * across
    return value if unbiased else not_negative(value)


def cauchy_schwarz(
    x_p: Points,
    x_q: Others,
    bandwidth: ArrayLike,
    *,
    unbiased: bool = False,
    log_weights_p: OfPoints = None,
    log_weights_q: OfOthers = None,
) -> Float[Array, ""]:
    """Cauchy–Schwarz divergence of two kernel density estimates, in closed form.

    log ∫ p̂² + log ∫ q̂² − 2 log ∫ p̂q̂ with p̂, q̂ of `kde_log_density` at the same
    bandwidth h. The integrals are double sums of a Gaussian of width √2·h, the σ of
    those who start from the kernel. Of many samples it is the divergence of both
    densities, each smoothed by h. Arguments and errors as in `mmd`; `unbiased`: each
    double sum is, its logarithm is not.

    Returns:
      A scalar, nats, ≥ 0 (V-statistic; biased upwards by O(1/n), from the pairs i = j);
      computed in log-space, so far-apart samples do not underflow. 0 where a side has
      no weight at all.

    Example:
      >>> x, y = jnp.zeros((1, 1)), jnp.ones((1, 1))
      >>> round(float(cauchy_schwarz(x, y, 1.0)), 4)  # 2·(1/4)
      0.5

    References:
      Principe, Information Theoretic Learning (2010), ch. 2.
    """
    (x_p, w_p), (x_q, w_q), h = _both(x_p, x_q, bandwidth, log_weights_p, log_weights_q)
    _check_two(unbiased, x_p, x_q)
    h *= math.sqrt(2)

    empty = jnp.all(w_p == -jnp.inf) | jnp.all(w_q == -jnp.inf)
    w_p, w_q = (jnp.where(empty, 0, w) for w in (w_p, w_q))
    total = _log_others if unbiased else partial(kernel_total, log=True)
    own = total(x_p, w_p, h) + total(x_q, w_q, h)
    across = log_sum_exp(w_p + kernel_sums(x_p, x_q, w_q, h, log=True))
    value = own - 2 * across
    return jnp.where(empty, 0, value if unbiased else not_negative(value))


def _log_others(x: Array, log_w: Array, h: Array) -> Array:
    """The log-mean of the kernel over pairs i ≠ j: a difference of the mean over all
    pairs and that of i = j would be rounding alone where the kernel is narrow."""
    n = x.shape[0]

    @jax.checkpoint
    def row(one):
        i, point, w = one
        terms = log_w - squared_distances(point[None], x / h) / 2
        return w + log_sum_exp(jnp.where(jnp.arange(n) == i, -jnp.inf, terms))

    rows = jax.lax.map(row, (jnp.arange(n), x / h, log_w), batch_size=min(n, 64))
    return log_sum_exp(rows) - jnp.log1p(-jnp.sum(jnp.exp(2 * log_w)))


def median_distance(points: Points) -> Float[Array, ""]:
    """The median of the distances between different points, a bandwidth to start from.

    A kernel of width s has the median exp(−(median/s)²/2): near 0 every point is alone,
    near 1 all count as one.

    Args:
      points: n ≥ 2 of them; n² distances are held at a time.

    Returns:
      A scalar ≥ 0, in the units of the points.

    Raises:
      ValueError: another shape, or a single point.

    Example:
      >>> float(median_distance(jnp.array([[0.0], [1.0], [3.0]])))
      2.0

    References:
      Gretton et al., "A kernel two-sample test" (2012), §8.
    """
    x, _ = points_of("points", points, "points", points)
    n = x.shape[0]
    if n < 2:
        raise ValueError(f"points must be two at least, got shape {x.shape}")
    rows = jax.lax.map(lambda point: squared_distances(point[None], x), x)
    # Behind the n zeros of points and themselves every pair stands twice.
    others = jnp.sort(rows.ravel())[n:]
    middle = others[np.array([(others.size - 1) // 2, others.size // 2])]
    none = middle == 0
    found = jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, middle)))
    return jnp.mean(found) + jnp.sum(shadow(x))


def _check_two(unbiased: bool, x_p: Array, x_q: Array) -> None:
    if unbiased and min(x_p.shape[0], x_q.shape[0]) < 2:
        raise ValueError(
            "unbiased=True needs two points in each sample, got x_p "
            f"{x_p.shape} and x_q {x_q.shape}"
        )


def _both(x_p, x_q, bandwidth, log_weights_p, log_weights_q):
    """Both samples, each with its log-weights, and the bandwidth; or raises."""
    x_p, x_q = points_of("x_p", x_p, "x_q", x_q)
    h = bandwidth_of(bandwidth, x_p)
    p = weighted("log_weights_p", log_weights_p, x_p)
    return p, weighted("log_weights_q", log_weights_q, x_q), h


def histogram_kl(
    x_p: Float[ArrayLike, " n"],
    x_q: Float[ArrayLike, " m"],
    edges: Float[ArrayLike, " e"],
    *,
    pseudo_count: ArrayLike = 0.5,
) -> Float[Array, ""]:
    """KL(p‖q) of two histograms of numbers, `kljax.divergences.counts.kl` of these.

    Σ_i P_i log(P_i/Q_i), P_i ∝ count of x_p in bin i + pseudo_count.

    Args:
      x_p, x_q: the samples, one-dimensional.
      edges: e increasing numbers, e − 1 bins; what lies outside counts in the first or
        last bin. A bin holds its left edge.
      pseudo_count: ≥ 0, see `counts.kl`.

    Returns:
      A scalar ≥ 0, nats. Its gradient in the samples is 0.

    Raises:
      ValueError: for shapes that do not fit or a negative Python pseudo_count.

    Example:
      >>> x, y = jnp.array([0.1, 0.2]), jnp.array([0.3, 0.9])
      >>> edges = jnp.array([0.0, 0.5, 1.0])
      >>> round(float(histogram_kl(x, y, edges, pseudo_count=0.0)), 4)
      0.6931

    References:
      As `kljax.divergences.counts.kl`.
    """
    x_p, x_q = floating("x_p", x_p), floating("x_q", x_q)
    edges = floating("edges", edges)
    if edges.ndim != 1 or edges.shape[0] < 2:
        raise ValueError(f"edges must be [e] with e ≥ 2, got shape {edges.shape}")
    if x_p.ndim != 1 or x_q.ndim != 1 or 0 in x_p.shape + x_q.shape:
        raise ValueError(
            "x_p and x_q must be one-dimensional with a sample at least, got "
            f"{x_p.shape} and {x_q.shape}"
        )
    edges = legal("edges", edges, falling, "increasing")

    def counted(x):
        bins = jnp.searchsorted(edges[1:-1], x, side="right")
        count = jnp.bincount(bins, length=edges.shape[0] - 1)
        # No bin holds a NaN.
        return count + jnp.sum(shadow(x)) + jnp.sum(shadow(edges))

    return counts.kl(counted(x_p), counted(x_q), pseudo_count=pseudo_count)
