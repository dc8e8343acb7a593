"""Strong data processing: how much of a difference of laws a noisy layer lets through.

    KL(P T‖Q T) <= eta KL(P‖Q)  for all laws P, Q at the input of the channel T

Data processing says eta <= 1; noise makes it smaller. Along layers whose noises are
independent the coefficients multiply, so they are given as logarithms, which add up and
keep what is left of 1 − eta: ``0.3 ** 40`` beside 1 is lost, its log1p is not. Nothing
here looks at weights: each number holds for any network of these widths.

References: Cohen, Kempermann and Zbaganu (1998) for the theory; Polyanskiy and Wu,
"Dissipation of information in channels with input constraints" (2016), for erasures and
Gaussian noise; He and Goldfeld 2024, "Information-theoretic generalization bounds for
deep neural networks", arXiv 2404.03176, for their use. Derivations are ours: that
paper's text was not to be had.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import floating, legal
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "log_eta_channel",
    "log_eta_dobrushin",
    "log_eta_dropconnect",
    "log_eta_dropout",
    "log_eta_gaussian",
]

NODES, WIDE = 401, 40.0
"""Of the trapezoidal rule, whose error is then below that of float64."""


def log_eta_dropout(
    delta: Float[ArrayLike, "*#b"], width: Float[ArrayLike, "*#b"]
) -> Float[Array, "*b"]:
    """``log(1 − delta^width)``: each of `width` inputs is zeroed by itself.

    All are with probability delta^width, and the layer sees nothing of its input. Two
    inputs that differ in every coordinate and are 0 in none reach the coefficient; so
    do, in the limit, laws that are nearly always 0 and else positive, where an erasure
    does not show (after a ReLU). In wide layers it is 1 to many digits: 1 − 2e-16 for
    delta = 0.3 and 30 units.

    Args:
      delta: probability, in [0, 1]; may be traced.
      width: coordinates of the layer's input, > 0; need not be whole.

    Returns:
      log eta <= 0; −inf where nothing passes.

    Raises:
      ValueError: a value out of range that is known.

    Example:
      >>> round(float(jnp.exp(log_eta_dropout(0.3, 3))), 4)
      0.973
    """
    delta = legal(
        "delta", floating("delta", delta), lambda x: (x < 0) | (x > 1), "in [0, 1]"
    )
    width = legal("width", floating("width", width), lambda x: x <= 0, "positive")
    # −log(delta^width), infinite where delta = 0 and nothing is ever zeroed.
    return jax.nn.log1mexp(-width * jnp.log(delta))


def log_eta_dropconnect(
    delta: Float[ArrayLike, "*#b"],
    inputs: Float[ArrayLike, "*#b"],
    outputs: Float[ArrayLike, "*#b"],
) -> Float[Array, "*b"]:
    """``log(1 − delta^(inputs · outputs))``: each weight is zeroed by itself.

    With that probability all of them are, and the output is one constant whatever the
    input (Doeblin's condition): a bound, which no pair of inputs need reach.

    Args:
      delta: probability, in [0, 1]; may be traced.
      inputs, outputs: the shape of the layer's weights, > 0.

    Returns:
      log eta <= 0.

    Raises:
      ValueError: a value out of range that is known.

    Example:
      >>> round(float(jnp.exp(log_eta_dropconnect(0.5, 2, 1))), 4)
      0.75
    """
    inputs, outputs = (
        legal(name, floating(name, x), lambda x: x <= 0, "positive")
        for name, x in (("inputs", inputs), ("outputs", outputs))
    )
    return log_eta_dropout(delta, inputs * outputs)


def log_eta_gaussian(distance: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
    """Gaussian noise on a bounded output, exactly.

    T = g(x) + eps N(0, I), where g takes values up to D apart: the worst laws sit on
    two points that far apart, and with p0 = N(0, 1), p1 = N(D/eps, 1)

        eta = ∫ (p0 − p1)^2 / (2 (p0 + p1)),  1 − eta = e^(−r²/8) E sech(r u / 2)

    for r = D/eps and u ~ N(0, 1). By Jensen it is at most 1 − exp(−r²/4). Without any
    bound on g it is 1.

    Args:
      distance: D/eps >= 0, the diameter of the outputs in units of the noise: for width
        units ``2 sqrt(width) / eps`` behind a tanh, ``sqrt(width) / eps`` behind a
        sigmoid. May be traced and differentiated.

    Returns:
      log eta <= 0; −inf at 0.

    Raises:
      ValueError: a distance that is known to be negative.

    Example:
      >>> round(float(jnp.exp(log_eta_gaussian(2.0))), 4)
      0.5504

    Reference: that two points suffice: Ordentlich and Polyanskiy, "Strong data
    processing constant is achieved by binary inputs" (2021).
    """
    # From 1,000 on eta is 1 in any type.
    r = jnp.minimum(_distance(distance), 1000.0)[..., None]
    step = 1 / (1 + r / 2)  # the integrand is as narrow as that
    t = jnp.linspace(-WIDE, WIDE, NODES, dtype=r.dtype)
    u = step * t
    v = r * u / 2
    log_cosh = jnp.logaddexp(v, -v) - math.log(2)
    log_weight = -(u**2) / 2 - r**2 / 8 - log_cosh
    log_weight += jnp.log(step * 2 * WIDE / (NODES - 1)) - math.log(2 * math.pi) / 2
    lost = jnp.sum(jnp.exp(log_weight), axis=-1)
    # sech = cosh − sinh²/cosh, and e^(−r²/8) E cosh(r u / 2) = 1: no difference of
    # near ones where eta is small.
    kept = jnp.sum(jnp.exp(log_weight) * jnp.sinh(v) ** 2, axis=-1)
    return _log_of(kept, lost, r[..., 0] < 2)


def log_eta_dobrushin(distance: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
    """Dobrushin's coefficient of the same channel: the total variation of two points.

    ``2 Phi(r/2) − 1``, simple and never below `log_eta_gaussian` (.197 for .059 at
    r = 1/2). It bounds the contraction of every f-divergence.

    Args:
      distance: D/eps >= 0, as in `log_eta_gaussian`.

    Returns:
      log eta <= 0; −inf at 0.

    Raises:
      ValueError: a distance that is known to be negative.

    Example:
      >>> round(float(jnp.exp(log_eta_dobrushin(2.0))), 4)
      0.6827
    """
    r = _distance(distance)
    x = r / math.sqrt(8)
    return _log_of(jax.scipy.special.erf(x), jax.scipy.special.erfc(x), r < 2)


def log_eta_channel(log_channel: Float[ArrayLike, "k z"]) -> Float[Array, ""]:
    """Of any channel with finitely many inputs and outputs, exactly.

    The worst laws sit on two inputs; with p, q the laws of the output there,

        eta = max over pairs and b of b (1 − b) Σ (p − q)² / (b p + (1 − b) q)

    which is concave in b.

    Args:
      log_channel: log-probabilities of the z outputs at every input; −inf is legal.

    Returns:
      log eta <= 0; −inf where the output tells nothing.

    Raises:
      ValueError: fewer than two axes.

    Example:
      >>> flip = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
      >>> round(float(jnp.exp(log_eta_channel(flip))), 4)  # (1 − 2 · 0.1)²
      0.64

    Reference: as `log_eta_gaussian`.
    """
    rows = jnp.exp(floating("log_channel", log_channel))
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"log_channel must be [k, z], got shape {rows.shape}")
    p, q = rows[:, None], rows[None]

    def of(beta: Array) -> Array:
        beta = beta[..., None]
        mixed = beta * p + (1 - beta) * q
        terms = (p - q) ** 2 / jnp.where(mixed == 0, 1, mixed)
        return jnp.sum(beta * (1 - beta) * terms, axis=-1)

    def narrow(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = low + (high - low) / 3, high - (high - low) / 3
        up = of(left) < of(right)
        return jnp.where(up, left, low), jnp.where(up, high, right)

    shape = len(rows), len(rows)
    ends = jnp.zeros(shape, rows.dtype), jnp.ones(shape, rows.dtype)
    low, high = jax.lax.fori_loop(0, 60, narrow, ends)
    return jnp.log(jnp.max(of((low + high) / 2)))


def _distance(distance: ArrayLike) -> Array:
    found = floating("distance", distance)
    return legal("distance", found, lambda x: x < 0, "at least 0")


def _log_of(kept: Array, lost: Array, small: Array) -> Array:
    """log of `kept` = 1 − `lost`, by the one that has the digits."""
    by_kept = jnp.log(jnp.where(small, kept, 1))
    return jnp.where(small, by_kept, jnp.log1p(-jnp.where(small, 0, lost)))
