"""Samples that come in pairs, `x[i]` with `y[i]`: conditional laws, and dependence.

Kernels are Gaussian, κ_s(u) = exp(−‖u/s‖²/2); `width_x` and `width_y` are their s, a
number or one per coordinate `[d]`, and may be traced. It is √2 times the bandwidth of
the densities that are compared (`kljax.divergences.samples.cauchy_schwarz`).

Up to 1,024 pairs matrices of kernels are held, as a training step wants it. Beyond, the
sums stream (`kljax.kernels.pairs`), as a product of two kernels is the kernel of both
points side by side: memory does not grow with n². What is far apart does not vanish, as
logarithms are summed. Below, K_ji = κ(x_j − x_i), and w are weights of sum 1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kljax.arguments import floating
from kljax.divergences._points import (
    bandwidth_of,
    log_normalized,
    not_negative,
    weighted,
)
from kljax.errors import unknown
from kljax.kernels.pairs.sums import kernel_sums, log_sum_exp
from kljax.typing import Array, ArrayLike, Float

__all__ = ["cauchy_schwarz_information", "conditional_cauchy_schwarz", "hsic"]

Points = Float[ArrayLike, "n d"]
Others = Float[ArrayLike, "n k"]
OfPairs = Float[ArrayLike, " n"] | None

MATRICES = 1024
"""Up to so many pairs matrices are held."""

# What is summed over j and over i, by estimator: from the log-weights w and from the
# logarithms of Σ_i w_i K_ji and Σ_i w_i K_ji².
_ESTIMATORS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "psd": lambda w, once, twice: (log_normalized(w - once),) * 2,
    "paper": lambda w, once, twice: (w - 2 * once, w),
    "repo": lambda w, once, twice: (w - twice, w),
}


def conditional_cauchy_schwarz(
    x: Points,
    y_p: Others,
    y_q: Others,
    width_x: ArrayLike,
    width_y: ArrayLike,
    *,
    estimator: str = "psd",
    log_weights: OfPairs = None,
) -> Float[Array, ""]:
    """Cauchy–Schwarz divergence of two laws of y given x, D(p(y|x); q(y|x)).

    S(p, p) with S(q, q), less 2 S(q, p), where S(a, b) is the logarithm of

        Σ_ji C_ji κ(a_j − b_i),   C_ji = K_ji/(s_j s_i),   s_j = Σ_i w_i K_ji.

    As width_x → 0 it becomes −2 log mean_j κ(y_q[j] − y_p[j]), the correntropy loss,
    which for small errors is the squared error over width_y²; as width_x → ∞ it forgets
    x and compares the two samples of y alone. `median_distance` tells where it stands.

    Args:
      x: what both laws are conditional on.
      y_p: targets.
      y_q: what a model predicts, at the same x.
      width_x, width_y: of the kernels.
      estimator: which C. "psd" is the one above, of which the value is ≥ 0. "paper" has
        K_ji/s_j², "repo", its authors' code, K_ji/Σ_i w_i K_ji²: these have the same
        limits for small width_x (and "paper" for large), but are not symmetric, and may
        fall below 0.
      log_weights: logarithms of the weights of the pairs; −inf takes one away.

    Returns:
      A scalar, nats; 0 where no pair has weight.

    Raises:
      ValueError: shapes that do not fit, a known width that is not positive, or an
        unknown estimator.

    Example:
      >>> x, y = jnp.array([[0.0], [9.0]]), jnp.array([[0.0], [1.0]])
      >>> round(float(conditional_cauchy_schwarz(x, y, y + 1, 1.0, 1.0)), 4)
      1.0

    References:
      Yu et al., "Cauchy-Schwarz divergence information bottleneck for regression"
      (2024), Prop. 1, for "paper"; "psd" is ours.
    """
    if estimator not in _ESTIMATORS:
        raise ValueError(unknown("estimator", estimator, _ESTIMATORS))
    given = {"x": x, "y_p": y_p, "y_q": y_q}
    (x, y_p, y_q), w, empty = _together(given, log_weights)
    if y_p.shape != y_q.shape:
        raise ValueError(
            f"y_p and y_q must have one shape, got {y_p.shape} and {y_q.shape}"
        )
    x = x / bandwidth_of(width_x, x, "width_x")
    width = bandwidth_of(width_y, y_p, "width_y")
    p, q = y_p / width, y_q / width
    once, twice = _log_rows(w, (x, x)), _log_rows(w, (x, x), (x, x))
    rows, columns = _ESTIMATORS[estimator](w, once, twice)
    total = lambda a, b: log_sum_exp(rows + _log_rows(columns, (x, x), (a, b)))  # noqa: E731
    value = total(p, p) + total(q, q) - 2 * total(q, p)
    return jnp.where(empty, 0, not_negative(value) if estimator == "psd" else value)


def cauchy_schwarz_information(
    x: Points,
    y: Others,
    width_x: ArrayLike,
    width_y: ArrayLike,
    *,
    normalized: bool = False,
    log_weights: OfPairs = None,
) -> Float[Array, ""]:
    """Cauchy–Schwarz mutual information, the divergence of p(x, y) from p(x) p(y).

    log Σ w_i w_j K_ij L_ij + log Σ w_i w_j K_ij · Σ w_i w_j L_ij
    − 2 log Σ_j w_j (Σ_i w_i K_ji)(Σ_i w_i L_ji), L = κ(y_j − y_i).

    It depends on the scale of x and y: whoever shrinks y, or widens its kernel, lowers
    it to 0, although y tells of x what it told before.

    Args:
      x, y: the pairs.
      width_x, width_y: of the kernels.
      normalized: divide by √(I(x; x) I(y; y)); 0 where one of them is constant.
      log_weights: logarithms of the weights of the pairs; −inf takes one away.

    Returns:
      A scalar ≥ 0, nats (no unit if normalized); 0 where no pair has weight.

    Raises:
      ValueError: shapes that do not fit, or a known width that is not positive.

    Example:
      >>> x = jnp.array([[0.0], [9.0]])
      >>> round(float(cauchy_schwarz_information(x, x, 1.0, 1.0)), 4)  # log 2
      0.6931

    References:
      Yu et al. (2024), Prop. 2; Principe, Information Theoretic Learning (2010), ch. 2.
    """
    x, y, w, empty = _scaled(x, y, width_x, width_y, log_weights)
    of = lambda a, b: _information(*_sums(a, b, w))  # noqa: E731
    value = of(x, y)
    if normalized:
        # Products of numbers below rounding are not told from 0.
        value = value / jnp.sqrt(of(x, x) * of(y, y) + 1e-12)
    return jnp.where(empty, 0, value)


def hsic(
    x: Points,
    y: Others,
    width_x: ArrayLike,
    width_y: ArrayLike,
    *,
    log_weights: OfPairs = None,
) -> Float[Array, ""]:
    """Hilbert–Schmidt independence criterion: MMD² of p(x, y) from p(x) p(y).

    The three sums of `cauchy_schwarz_information`, without logarithms: tr(KHLH)/n² of
    equal weights, the V-statistic. Arguments and errors as there.

    Returns:
      A scalar in [0, 1). In float32 what is below about 1e-7 is lost.

    Example:
      >>> x = jnp.array([[0.0], [9.0]])
      >>> round(float(hsic(x, x, 1.0, 1.0)), 4)  # 1/4
      0.25

    References:
      Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms"
      (2005).
    """
    x, y, w, empty = _scaled(x, y, width_x, width_y, log_weights)
    joint, apart, across = map(jnp.exp, _sums(x, y, w))
    return jnp.where(empty, 0, not_negative(joint + apart - 2 * across))


def _log_rows(log_w: Array, *factors: tuple[Array, Array]) -> Array:
    """log Σ_i w_i Π κ(a_j − b_i) of each j, over factors (a, b) in units of widths."""
    if len(log_w) > MATRICES:
        a, b = (jnp.concatenate(side, axis=1) for side in zip(*factors))
        return kernel_sums(a, b, log_w, jnp.ones(a.shape[1], a.dtype), log=True)
    exponents = [_exponents(a, b) for a, b in factors]
    if any(a is not b for a, b in factors):
        return log_sum_exp(log_w + sum(exponents))
    # Pairs i = j are among these sums: they do not vanish.
    total = math.prod(map(jnp.exp, exponents)) @ jnp.exp(log_w)
    none = total == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1, total)))


def _exponents(a: Array, b: Array) -> Array:
    """−‖a_j − b_i‖²/2 of all pairs. In more than three dimensions a matrix product of
    centered points, whose error is that of rounding ‖a‖²."""
    if a.shape[1] <= 3:
        squares = jnp.sum((a[:, None] - b) ** 2, axis=-1)
    else:
        center = jax.lax.stop_gradient(b.mean(axis=0))
        x, y = a - center, b - center
        product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1) - 2 * product
        if a is b:
            squares = jnp.where(jnp.eye(len(a), dtype=bool), 0, squares)
    return -not_negative(squares) / 2


def _sums(x: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
    """Logarithms of the means of the product of kernels, of each by itself, and of the
    product of their rows."""
    in_x, in_y = _log_rows(w, (x, x)), _log_rows(w, (y, y))
    apart = log_sum_exp(w + in_x) + log_sum_exp(w + in_y)
    joint = log_sum_exp(w + _log_rows(w, (x, x), (y, y)))
    return joint, apart, log_sum_exp(w + in_x + in_y)


def _information(joint: Array, apart: Array, across: Array) -> Array:
    return not_negative(joint + apart - 2 * across)


def _scaled(x, y, width_x, width_y, log_weights):
    """Points in units of widths, log-weights, and whether nothing has weight."""
    (x, y), w, empty = _together({"x": x, "y": y}, log_weights)
    x = x / bandwidth_of(width_x, x, "width_x")
    return x, y / bandwidth_of(width_y, y, "width_y"), w, empty


def _together(given: dict[str, ArrayLike], log_weights: OfPairs):
    """Arrays `[n, ·]` of one type, log-weights, and whether nothing has weight."""
    arrays = {name: floating(name, one) for name, one in given.items()}
    shapes = [one.shape for one in arrays.values()]
    lengths = {len(shape) == 2 and all(shape) and shape[0] for shape in shapes}
    if len(lengths) > 1 or False in lengths:
        raise ValueError(
            f"{', '.join(arrays)} must be [n, ·] with one n, a pair at least, got "
            f"{', '.join(map(str, shapes))}"
        )
    dtype = jnp.result_type(*arrays.values())
    pairs = [
        weighted("log_weights", log_weights, a.astype(dtype)) for a in arrays.values()
    ]
    w = pairs[0][1]
    empty = jnp.all(w == -jnp.inf)
    return [a for a, _ in pairs], jnp.where(empty, 0, w), empty
