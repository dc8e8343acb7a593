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


NEAR = 0.5
"""Where `phi_near` and `expm1_near` hold: ``|x| <= NEAR``."""


def psi_near(x: Array) -> Array:
    """``(eˣ − 1 − x)/x`` for ``|x| <= NEAR``, a polynomial: no exponential is taken."""
    last = 17 if x.dtype == jnp.float64 else 9
    total = jnp.full_like(x, 1 / math.factorial(last))
    for n in range(last - 1, 1, -1):
        total = total * x + 1 / math.factorial(n)
    return x * total


def phi_near(x: Array) -> Array:
    """``eˣ − 1 − x`` for ``|x| <= NEAR``."""
    return x * psi_near(x)


def expm1_near(x: Array) -> Array:
    """``eˣ − 1`` for ``|x| <= NEAR``."""
    return x + phi_near(x)


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
    over = x >= top
    return jnp.where(over, jnp.inf, jnp.exp(jnp.where(over, 0, x)))


def scaled_phi(w: Array, x: Array, total: Array) -> Array:
    """``e^w φ(x)``, finite whenever the product is; `total` is the accurate w + x."""
    big = x > 1
    scale, y = jnp.exp(w), jnp.where(big, x, 0)
    grown = exp(jnp.where(big, total, 0))
    return jnp.where(big, grown - scale * (1 + y), scale * phi(jnp.where(big, 0, x)))


def _blend(log_p: Array, log_q: Array, l: Array, a) -> Array:
    """``a log p + (1 − a) log q``, where both overflow from ``l = log p − log q``."""
    total = (1 - a) * log_q + a * log_p
    return jnp.where(jnp.isnan(total), log_q + a * l, total)


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
    power = exp(jnp.where(big, _blend(other, w, s, a), 0))
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


def _artanh_rest(square: Array) -> Array:
    """``(artanh z − z)/z³`` of ``z²``, for ``|z| <= 1/3``."""
    last = 35 if square.dtype == jnp.float64 else 15
    total = jnp.full_like(square, 1 / last)
    for n in range(last - 2, 1, -2):
        total = total * square + 1 / n
    return total


def log1p_near(x: Array) -> Array:
    """``log1p(x)`` for ``-1/2 <= x <= 1``, without a logarithm: ``2 artanh z``."""
    z = x / (2 + x)
    return 2 * z + 2 * z * z * z * _artanh_rest(z * z)


def log1p_rest(x: Array) -> Array:
    """``log1p(x) − x`` for ``|x| <= 1/2``: nothing cancels near 0.

    With ``z = x/(2 + x)`` as in `log1p_near`, ``2z − x = −x z``.
    """
    z = x / (2 + x)
    return 2 * z * z * z * _artanh_rest(z * z) - x * z


def mass_ratio(x: Array, y: Array) -> Array:
    """``x/y``, 0 where the mass `y` has underflowed."""
    gone = y <= 0
    return jnp.where(gone, 0, x / jnp.where(gone, 1, y))


def log_mixture_over(p: Array, q: Array, l: Array, weight) -> tuple[Array, Array]:
    """``log(m/p)`` and ``log(m/q)`` of ``m = weight·p + (1 − weight)·q``.

    One logarithm and no exponential: the masses are at hand.

    Args:
      p, q: the masses, same shape.
      l: ``log p − log q``, as accurately as it is known.
      weight: within [0, 1].
    """
    near, p_larger = jnp.abs(l) < NEAR, l > 0
    # Near equality without a look at which side is larger: derivatives of any order
    # pass through p = q.
    close = log1p_near(weight * expm1_near(jnp.where(near, l, 0)))
    of_larger = jnp.where(p_larger, weight, 1 - weight)
    ratio = mass_ratio(jnp.where(p_larger, q, p), jnp.where(p_larger, p, q))
    share = of_larger + (1 - of_larger) * ratio
    # Without any weight on the larger side, its mass over m is the ratio alone.
    vanishes = share < jnp.finfo(l.dtype).tiny
    log = jnp.log(jnp.where(vanishes, 1, share))
    log = jnp.where(near, close, jnp.where(vanishes, -jnp.abs(l), log))
    # This is log(m/p) or log(m/q): the latter where the two are near.
    is_over_p = p_larger & ~near
    return jnp.where(is_over_p, log, log - l), jnp.where(is_over_p, log + l, log)


def phi_of_mass(mass: Array, x: Array, far: Array) -> Array:
    """``mass·φ(x)``; `far` is its expanded form, used beyond ``|x| = NEAR``."""
    near = jnp.abs(x) < NEAR
    return jnp.where(near, mass * phi_near(jnp.where(near, x, 0)), far)


def power_rise(log_p: Array, log_q: Array, l: Array, q: Array, a) -> Array:
    """``(p^a q^(1−a) − q)/a``, with its limit ``q l`` at ``a = 0``."""
    x = a * l
    near = jnp.abs(x) < NEAR
    y = jnp.where(near, x, 0)
    # From the mass, which is known better than its logarithm, if the factor fits.
    fits = jnp.abs(x) < 20
    direct = _blend(log_p, log_q, l, a)
    power = exp(jnp.where(near, 0, jnp.where(fits, x, direct)))
    power = jnp.where(fits, q, 1) * power
    return jnp.where(
        near, q * l * (1 + psi_near(y)), (power - q) / jnp.where(near, 1, a)
    )


def power_of_masses(
    log_p: Array, log_q: Array, l: Array, q: Array, excess: Array, a
) -> Array:
    """``(p^a q^(1−a) − a p − (1−a) q)/(a(a−1))`` for ``a <= 1/2``, limits included."""
    x = a * l
    near = (jnp.abs(l) < NEAR) & (jnp.abs(x) < NEAR)
    y, z = jnp.where(near, x, 0), jnp.where(near, l, 0)
    close = q * (z * psi_near(y) - phi_near(z))
    far = power_rise(log_p, log_q, l, q, a) - excess
    return jnp.where(near, close, far) / (a - 1)
