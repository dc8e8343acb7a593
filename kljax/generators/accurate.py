"""The small functions that keep divergences accurate: φ, ψ and those of two masses.

``φ(x) = eˣ − 1 − x`` carries every value near ``p = q``: the generators are quadratic
there, and a difference of two numbers near 1 would lose all digits.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from kljax.generators import quick
from kljax.typing import Array

NEAR = 0.5
"""Where `phi_near` and `expm1_near` hold: ``|x| <= NEAR``."""


# Of (eˣ − 1 − x)/x² for |x| <= NEAR, the highest power first: minimax with an error of
# 2.4e-8 in single precision, and Taylor's.
_PHI_SINGLE = (
    0.00019875628435423451,
    0.0013981997362258972,
    0.008333452174971495,
    0.041665795941764915,
    0.166666654558214,
    0.5000000120139733,
)
_PHI_DOUBLE = tuple(1 / math.factorial(n) for n in range(17, 1, -1))


def psi_near(x: Array) -> Array:
    """``(eˣ − 1 − x)/x`` for ``|x| <= NEAR``, a polynomial: no exponential is taken."""
    double = x.dtype == jnp.float64
    return x * quick.polynomial(_PHI_DOUBLE if double else _PHI_SINGLE, x)


def phi_near(x: Array) -> Array:
    """``eˣ − 1 − x`` for ``|x| <= NEAR``."""
    return x * psi_near(x)


def expm1_near(x: Array) -> Array:
    """``eˣ − 1`` for ``|x| <= NEAR``."""
    return x + phi_near(x)


@jax.custom_jvp
def phi(x: Array) -> Array:
    """``eˣ − 1 − x``, to rounding error everywhere; elementwise, derivative expm1."""
    small = jnp.abs(x) < NEAR
    return jnp.where(small, phi_near(jnp.where(small, x, 0)), jnp.expm1(x) - x)


@phi.defjvp
def _phi_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return phi(x), jnp.expm1(x) * dx


def _artanh_rest(square: Array) -> Array:
    """``(artanh z − z)/z³`` of ``z²``, for ``|z| <= 1/3``."""
    last = 35 if square.dtype == jnp.float64 else 15
    total = jnp.full_like(square, 1 / last)
    for n in range(last - 2, 1, -2):
        total = total * square + 1 / n
    return total


def log1p_rest(x: Array) -> Array:
    """``log1p(x) − x`` for ``|x| <= 1/2``: nothing cancels near 0.

    With ``z = x/(2 + x)`` it is ``2 artanh z − x``, and ``2z − x = −x z``.
    """
    z = x / (2 + x)
    return 2 * z * z * z * _artanh_rest(z * z) - x * z


# Of log1p(x)/x and ((1 + x)log1p(x) − x)/x² for |x| <= 0.285, as above: to 1.3e-8
# and 2.6e-8 in single precision.
_LOG1P_SINGLE = (
    -0.11190509113498717,
    0.1546636629623079,
    -0.16842181831314879,
    0.19960945074809866,
    -0.24995102130448724,
    0.33333765590309355,
    -0.5000003160912252,
    0.999999991988688,
)
_LOG1P_DOUBLE = tuple((-1) ** n / (n + 1) for n in range(29, -1, -1))
_RISE_SINGLE = (
    0.016313812044327344,
    -0.025129503941337266,
    0.033497787856863394,
    -0.04996355693200441,
    0.08333002884298003,
    -0.16666693240555375,
    0.5000000088721929,
)
_RISE_DOUBLE = tuple((-1) ** n / ((n + 1) * (n + 2)) for n in range(29, -1, -1))


def log1p_tiny(x: Array) -> Array:
    """``log1p(x)`` for ``|x| <= 0.285``, a polynomial."""
    double = x.dtype == jnp.float64
    return x * quick.polynomial(_LOG1P_DOUBLE if double else _LOG1P_SINGLE, x)


def rise_tiny(x: Array) -> Array:
    """``((1 + x)log1p(x) − x)/x²`` for ``|x| <= 0.285``, a polynomial."""
    double = x.dtype == jnp.float64
    return quick.polynomial(_RISE_DOUBLE if double else _RISE_SINGLE, x)


def log1p_far(x: Array) -> Array:
    """``log1p(x)`` for ``x >= -1/2``, to 6e-8 of itself or of x."""
    y = 1 + x
    # What the sum has lost; of no consequence where y is far from 1.
    return quick.log(y) + jax.lax.stop_gradient(x - (y - 1))


def mass_ratio(x: Array, y: Array) -> Array:
    """``x/y``, 0 where the mass `y` has underflowed."""
    gone = y <= 0
    return jnp.where(gone, 0, x / jnp.where(gone, 1, y))


def log_mixture_over(outcomes: Any, weight) -> tuple[Array, Array]:
    """``log(m/p)`` and ``log(m/q)`` of ``m = weight·p + (1 − weight)·q``.

    One quotient and one logarithm, of m over the larger side: the masses are at hand.
    """
    _, _, l, p, q, excess = outcomes
    near, p_larger = jnp.abs(l) < NEAR, l > 0
    of_larger = jnp.where(p_larger, weight, 1 - weight)
    of_smaller = jnp.where(p_larger, 1 - weight, weight)
    # Where the sides nearly agree the smaller counts by what it lacks.
    lack, smaller = jnp.where(p_larger, -excess, excess), jnp.where(p_larger, q, p)
    part = jnp.where(near, lack, smaller)
    part = of_smaller * mass_ratio(part, jnp.where(p_larger, p, q))
    share = jnp.where(near, 1, of_larger) + part
    # Without any weight on the larger side, its mass over m is the ratio alone.
    vanishes = share < jnp.finfo(l.dtype).tiny
    log = quick.log(jnp.where(vanishes, 1, share))
    log += jax.lax.stop_gradient(jnp.where(near, part - (share - 1), 0))
    log = jnp.where(vanishes, -jnp.abs(l), log)
    return jnp.where(p_larger, log, log - l), jnp.where(p_larger, log + l, log)


def phi_of_mass(mass: Array, x: Array, far: Array) -> Array:
    """``mass·φ(x)``; `far` is its expanded form, used beyond ``|x| = NEAR``."""
    near = jnp.abs(x) < NEAR
    return jnp.where(near, mass * phi_near(jnp.where(near, x, 0)), far)


def power_rise(log_q: Array, l: Array, q: Array, a) -> Array:
    """``(p^a q^(1−a) − q)/a``, its limit ``q l`` at ``a = 0``; masses may be 0."""
    x = a * l
    # The mass is known better than its logarithm, but may have underflowed.
    large = x > 20
    power = quick.exp_less(jnp.where(large, log_q + x, x), jnp.where(large, 0, 1.0))
    rise = jnp.where(large, 1, q) * power
    if isinstance(a, (int, float)) and a != 0:
        return rise * (1 / a)
    return jnp.where(a == 0, q * l, rise / jnp.where(a == 0, 1, a))


def power_of_masses(log_q: Array, l: Array, q: Array, excess: Array, a) -> Array:
    """``(p^a q^(1−a) − a p − (1−a) q)/(a(a−1))`` for ``a <= 1/2``, limits included."""
    near = (jnp.abs(l) < NEAR) & (jnp.abs(a * l) < NEAR)
    # Near equal masses the series Σ (1 + a + … + aᵏ) lᵏ/(k + 2)!, times q l².
    # Powers of hugely negative exponents would overflow.
    b = max(a, -1e5) if isinstance(a, (int, float)) else jnp.maximum(a, -1e5)
    geometric, series = 0, []
    for k in range(15 if l.dtype == jnp.float64 else 7):
        geometric = 1 + b * geometric
        series.insert(0, geometric / math.factorial(k + 2))
    z = jnp.where(near, l, 0)
    close = q * z * z * quick.polynomial(series, z)
    far = power_rise(log_q, l, q, a) - excess
    return jnp.where(near, close, far * (1 / (a - 1)))
