"""Exponential and logarithm that a CPU computes in single precision in little time.

Elsewhere, and in double precision, they are XLA's own. What is chosen is chosen when a
program is lowered for its platform.
"""

import math

import jax
import jax.numpy as jnp

from kljax.typing import Array

_LOG2E = 1 / math.log(2)
_EXPONENT = 3 * 2.0**22 + 126
"""Added to a whole number, leaves it in the low bits of a float32, 126 more."""
_ROOT = 0x3F3504F3
"""The bits of √½."""

# Minimax, the highest power first: (e^r − 1)/r for |r| <= log(2)/2 to 2e-9, and
# log1p(x)/x for √½ − 1 <= x <= √2 − 1 to 4e-9.
_EXP = (
    0.0013842711564329485,
    0.008374965136669299,
    0.0416680566328388,
    0.1666642188928043,
    0.4999999385266493,
    1.0000000340794046,
)
_TWICE_EXP = tuple(2 * c for c in _EXP)
_LOG = (
    -0.07621112678364186,
    0.12904659818877467,
    -0.13243462387987806,
    0.14181835218726646,
    -0.16609012707523105,
    0.2000196849652107,
    -0.2500158655834689,
    0.33333325993602564,
    -0.49999988279700414,
    0.9999999999590522,
)


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """The highest power first."""
    total = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _exp_single(x: Array) -> Array:
    x = jnp.where(x < -87.6, -87.6, x)  # where the scale below is 0
    n = jax.lax.round(x * _LOG2E, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
    r = x - n * math.log(2)
    bits = jax.lax.bitcast_convert_type(n + _EXPONENT, jnp.int32)
    # Half of 2ⁿ, which itself may be too large.
    scale = jax.lax.bitcast_convert_type(bits << 23, jnp.float32)
    return (polynomial(_TWICE_EXP, r) * r + 2) * scale


def _log_single(x: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    n = (bits - _ROOT) >> 23
    f = jax.lax.bitcast_convert_type(bits - (n << 23), jnp.float32) - 1
    return f * polynomial(_LOG, f) + n.astype(jnp.float32) * math.log(2)


@jax.custom_jvp
def exp(x: Array) -> Array:
    """``eˣ`` to 4e-7, if that does not overflow; 0 below -87. A NaN stays one."""
    if x.dtype != jnp.float32:
        return jnp.exp(x)
    return jax.lax.platform_dependent(x, cpu=_exp_single, default=jnp.exp)


@exp.defjvp
def _exp_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = exp(x)
    return y, y * dx


@jax.custom_jvp
def log(x: Array) -> Array:
    """``log x`` of a positive normal number, to 1e-7 of itself or of 1."""
    if x.dtype != jnp.float32:
        return jnp.log(x)
    return jax.lax.platform_dependent(x, cpu=_log_single, default=jnp.log)


@log.defjvp
def _log_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return log(x), dx / x
