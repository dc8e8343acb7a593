"""Exponential and logarithm that a CPU computes in single precision in little time.

Elsewhere, and in double precision, they are XLA's own. What is chosen is chosen when a
program is lowered for its platform.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kljax.typing import Array, ArrayLike

_LOG2E = 1 / math.log(2)
_WHOLE = 3 * 2.0**22 + 126
"""Added to a float32, rounds it to a whole number in the low bits, 126 more."""
_TOP = 88.72
_WHOLE_BITS = 0x4B400000 + 126
_ROOT = 0x3F3504F3
"""The bits of √½."""

# Minimax, the highest power first: (e^r − 1)/r for |r| <= log(2)/2 to 9e-8 of e^r, and
# log1p(x)/x for √½ − 1 <= x <= √2 − 1 to 4e-9.
_EXP = (
    0.008290306150145981,
    0.041897975374572294,
    0.16667636581799178,
    0.4999914919275572,
    0.9999997070141865,
)
_TWICE_EXP = tuple(2 * c for c in _EXP)
# As the first, but to 1.1e-8 of eʳ − 1.
_TWICE_EXPM1 = (
    0.0027777745737333826,
    0.016738151415415338,
    0.08333427279002998,
    0.33333012302558024,
    0.99999996247351,
    2.0000000212687288,
)
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


def polynomial(coefficients: Sequence[Any], x: Array) -> Array:
    """The highest power first."""
    total = jnp.zeros_like(x) + coefficients[0]
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _exp_single(x: Array, less: ArrayLike = 0) -> Array:
    x = jnp.where(x < -87.6, -87.6, x)  # where the scale below is 0
    # Rounded by the sum; to take the summand away again is what XLA would leave out.
    bits = jax.lax.bitcast_convert_type(x * _LOG2E + _WHOLE, jnp.int32)
    n = (bits - _WHOLE_BITS).astype(jnp.float32)
    r = x - n * math.log(2)
    # Half of 2ⁿ, which itself may be too large.
    scale = jax.lax.bitcast_convert_type(bits << 23, jnp.float32)
    if isinstance(less, int):
        return (polynomial(_TWICE_EXP, r) * r + 2) * scale
    below_top = polynomial(_TWICE_EXPM1, r) * r * scale + (2 * scale - less)
    return jnp.where(x < _TOP, below_top, jnp.where(x >= _TOP, jnp.inf, x))


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
def exp_less(x: Array, less: Array) -> Array:
    """``eˣ − less``, where `less` is 1 or 0; infinite where that overflows."""

    def by_xla(x, less):
        return jnp.where(less == 0, jnp.exp(x), jnp.expm1(x))

    if x.dtype != jnp.float32:
        return by_xla(x, less)
    return jax.lax.platform_dependent(x, less, cpu=_exp_single, default=by_xla)


@exp_less.defjvp
def _exp_less_jvp(primals, tangents):
    y = exp_less(*primals)
    # No derivative where it overflows.
    slope = jnp.where(y < jnp.inf, y + primals[1], 0)
    return y, slope * tangents[0]


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
