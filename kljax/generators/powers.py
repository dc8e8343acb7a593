"""The power family of Cressie and Read: α, Hellinger and both χ²."""

from typing import Any, ClassVar

import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.generators.base import (
    INF,
    FDivergence,
    Moments,
    Outcomes,
    check_range,
    generator,
)


def _bound(positive: Any, value: Any) -> Any:
    """``value`` where `positive`, else infinity; Python numbers stay numbers."""
    if isinstance(positive, bool):
        return value if positive else INF
    return jnp.where(positive, value, INF)


def _nonzero(x: Any) -> Any:
    """`x` with 0 replaced, for a quotient that is not used there."""
    return (x or 1.0) if isinstance(x, (int, float)) else jnp.where(x == 0, 1.0, x)


class _Power(FDivergence):
    """Shared by the Cressie–Read family: ``scale · (u^α − αu − 1 + α)/(α(α − 1))``."""

    scale: ClassVar[float] = 1.0

    @property
    def exponent(self) -> Any:
        """The α of the family."""
        return self.alpha  # pyrefly: ignore[missing-attribute]

    @property
    def at_zero(self):
        a = self.exponent
        return _bound(a > 0, self.scale / _nonzero(a))

    @property
    def dual_at_zero(self):
        a = self.exponent
        return _bound(a < 1, self.scale / _nonzero(1 - a))

    @property
    def moments(self) -> Moments:  # pyrefly: ignore[bad-override]
        """One pass: ``D = scale · expm1(w)/(α(α − 1))``; singular at α = 0 and 1."""
        a = self.exponent
        return Moments(a, lambda w: self.scale * jnp.expm1(w) / (a * (a - 1)))

    def value(self, log_u):
        l = jnp.asarray(log_u)
        return self.interior(l, jnp.zeros_like(l), l)

    def interior(self, log_p, log_q, log_u):
        # From the side on which the two φ do not cancel: α < ½ as it is, else swapped.
        a = self.exponent
        sides = (log_q, log_p, log_u, a), (log_p, log_q, -log_u, 1 - a)
        if isinstance(a, (int, float)):
            return self.scale * el.power_term(*sides[0 if a < 0.5 else 1])
        chosen = [jnp.where(a < 0.5, x, y) for x, y in zip(*sides)]
        return self.scale * el.power_term(*chosen)

    def grad_interior(self, log_p, log_q, log_u):
        return -self.scale * el.scaled_expm1_ratio(log_q, log_u, self.exponent)

    def slope(self, log_u):
        l = jnp.asarray(log_u)
        return self.scale * el.scaled_expm1_ratio(l, l, self.exponent - 1)

    def grad_p(self, log_u):
        l = jnp.asarray(log_u)
        zero = jnp.zeros_like(l)
        return self.scale * el.scaled_expm1_ratio(zero, l, self.exponent - 1)

    def grad_q(self, log_u):
        l = jnp.asarray(log_u)
        return -self.scale * el.scaled_expm1_ratio(jnp.zeros_like(l), l, self.exponent)

    def curvature(self, log_u):
        return self.scale * jnp.exp(self.exponent * jnp.asarray(log_u))

    def conjugate(self, t):
        # f'(u) = t gives (1 + (α−1)t/scale)^(1/(α−1)) = u, and f* = −grad_q(u).
        a, t = self.exponent, jnp.asarray(t)
        b, x = a - 1, t / self.scale
        growth = jnp.maximum(b * x, -1)
        log1p_over = jnp.where(
            jnp.abs(growth) < 1e-4,
            x * (1 - growth / 2 + growth**2 / 3),
            jnp.log1p(jnp.where(jnp.abs(growth) < 1e-4, 1, growth)) / _nonzero(b),
        )
        outside = (b < 0) & (b * x <= -1)
        l = jnp.where(outside, 0, log1p_over)
        return jnp.where(outside, INF, -self.grad_q(l))

    def mass_term(self, outcomes):
        # From the side on which α <= ½, as in `interior`.
        a, o, other = self.exponent, outcomes, outcomes.swapped
        if isinstance(a, (int, float)):
            o, a = (o, a) if a < 0.5 else (other, 1 - a)
        else:
            o = Outcomes(*(jnp.where(a < 0.5, x, y) for x, y in zip(o, other)))
            a = jnp.where(a < 0.5, a, 1 - a)
        powers = el.power_of_masses(o.log_p, o.log_q, o.log_u, o.q, o.excess, a)
        return self.scale * powers

    def mass_grad(self, outcomes):
        log_p, log_q, l, _, q, _ = outcomes
        rise = el.power_rise(log_p, log_q, l, q, self.exponent)
        return -self.scale * rise


@generator
class Alpha(_Power):
    """``(Σ p^α q^(1−α) − 1)/(α(α−1))``: forward KL at α = 1, reverse KL at α = 0.

    Alpha(½) is 4 times the squared Hellinger distance, Alpha(2) half of Pearson's
    χ², Alpha(−1) half of Neyman's (Cressie and Read, 1984; Amari, 2016).
    """

    alpha: Any = 0.5

    def __post_init__(self):
        check_range("alpha", self.alpha, -INF, INF, "()")

    @property
    def dual(self):
        return Alpha(1 - self.alpha)


@generator
class SquaredHellinger(_Power):
    """``1 − Σ √(pq)``, in [0, 1]: f(u) = 1 − √u. Symmetric."""

    exponent, scale = 0.5, 0.25

    @property
    def dual(self):
        return self


@generator
class PearsonChi2(_Power):
    """``Σ p²/q − 1``: f(u) = (u − 1)². Heavy weight where the target exceeds."""

    exponent, scale = 2.0, 2.0

    @property
    def dual(self):
        return NeymanChi2()


@generator
class NeymanChi2(_Power):
    """``Σ q²/p − 1``: f(u) = (u − 1)²/u. Pearson's with the sides swapped."""

    exponent, scale = -1.0, 2.0

    @property
    def dual(self):
        return PearsonChi2()
