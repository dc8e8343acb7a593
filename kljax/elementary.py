"""The small functions that keep divergences accurate: φ, ψ and exponentials.

``φ(x) = eˣ − 1 − x`` carries every value near ``p = q``: the generators are quadratic
there, and a difference of two numbers near 1 would lose all digits. The ``scaled_``
forms multiply by ``e^w`` before an exponential can overflow.
"""

import math

import jax
import jax.numpy as jnp

from kljax.typing import Array


def _taylor(x: Array, first: int) -> Array:
    """``Σ x^(n−first)/n!`` from ``n = first``, enough terms for ``|x| < 0.3``."""
    last = 15 if x.dtype == jnp.float64 else 7
    total = jnp.full_like(x, 1 / math.factorial(last))
    for n in range(last - 1, first - 1, -1):
        total = total * x + 1 / math.factorial(n)
    return total


@jax.custom_jvp
def phi(x: Array) -> Array:
    """``eˣ − 1 − x``, to rounding error everywhere; elementwise, derivative expm1."""
    small = jnp.abs(x) < 0.3
    near = jnp.where(small, x, 0)
    return jnp.where(small, near * near * _taylor(near, 2), jnp.expm1(x) - x)


@phi.defjvp
def _phi_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return phi(x), jnp.expm1(x) * dx


def psi(x: Array) -> Array:
    """``φ(x)/x``, 0 at 0, so that ``1 + ψ(x) = expm1(x)/x``; elementwise."""
    small = jnp.abs(x) < 0.3
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    return jnp.where(small, near * _taylor(near, 2), phi(far) / far)


def exp(x: Array) -> Array:
    """``eˣ`` whose derivative is 0 where it overflows to infinity."""
    top = math.log(float(jnp.finfo(x.dtype).max))
    fits = x < top
    return jnp.where(fits, jnp.exp(jnp.where(fits, x, 0)), jnp.inf)


def scaled_phi(w: Array, x: Array, total: Array) -> Array:
    """``e^w φ(x)``, finite whenever the product is; `total` is the accurate w + x."""
    big = x > 1
    scale, y = jnp.exp(w), jnp.where(big, x, 0)
    grown = exp(jnp.where(big, total, 0))
    return jnp.where(big, grown - scale * (1 + y), scale * phi(jnp.where(big, 0, x)))


def power_term(w: Array, other: Array, s: Array, a) -> Array:
    """``(e^{(1−a)w + a·other} − a e^other − (1 − a)e^w)/(a(a − 1))``, limits included.

    Args:
      w, other: logarithms of the two masses.
      s: ``other − w``, as accurately as it is known.
      a: exponent, at most 1/2, so that nothing cancels near ``s = 0``.
    """
    x, scale = a * s, jnp.exp(w)
    big = jnp.abs(x) > 1
    near = scale * s * psi(jnp.where(big, 0, x)) - scaled_phi(w, s, other)
    # The terms linear in s cancel; far out they are left out.
    power = exp(jnp.where(big, (1 - a) * w + a * other, 0))
    far = (power - scale) / jnp.where(big, a, 1) - (jnp.exp(other) - scale)
    return jnp.where(big, far, near) / (a - 1)


def scaled_expm1_ratio(w: Array, s: Array, a) -> Array:
    """``e^w expm1(a s)/a``, with its limit ``e^w s`` at ``a = 0``."""
    x, scale = a * s, jnp.exp(w)
    big = jnp.abs(x) > 1
    safe_a = jnp.where(big, a, 1)
    return jnp.where(
        big,
        (exp(w + jnp.where(big, x, 0)) - scale) / safe_a,
        scale * s * (1 + psi(jnp.where(big, 0, x))),
    )


def log_mixture(l: Array, beta) -> tuple[Array, Array]:
    """Logarithm of ``m = βu + 1 − β`` and of ``m/u`` for ``u = e^l``, both accurate.

    Args:
      l: the log-ratio, any shape.
      beta: weight of ``u``, ``0 <= beta < 1``.

    Returns:
      ``(log m, log m − l)``, each with the shape of `l`.
    """
    log_beta = jnp.log(jnp.maximum(beta, jnp.finfo(l.dtype).tiny)).astype(l.dtype)
    log_rest = jnp.log1p(-jnp.asarray(beta, l.dtype))
    log_m = jnp.where(
        l < 1,
        jnp.log1p(beta * jnp.expm1(jnp.minimum(l, 1))),
        jnp.logaddexp(log_beta + jnp.maximum(l, 1), log_rest),
    )
    log_m_over_u = jnp.where(
        l > -1,
        jnp.log1p((1 - beta) * jnp.expm1(-jnp.maximum(l, -1))),
        jnp.logaddexp(log_beta, log_rest - jnp.minimum(l, -1)),
    )
    # At β = 0 and l > 1 the argument of log1p rounds to −1.
    deep = l > 1
    return log_m, jnp.where(
        deep, jnp.logaddexp(log_beta, log_rest - jnp.where(deep, l, 1)), log_m_over_u
    )
