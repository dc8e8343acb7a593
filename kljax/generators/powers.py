"""The power family of Cressie and Read: α, Hellinger and both χ²."""

from typing import Any, ClassVar

import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.generators import quick
from kljax.generators.base import (
    INF,
    FDivergence,
    Outcomes,
    Range,
    Symmetric,
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

    limits_included = smooth = True
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

    def curvature(self, log_u):
        return self.scale * jnp.exp(self.exponent * jnp.asarray(log_u))

    def mass_term(self, outcomes):
        # From the side on which the two φ do not cancel: α <= ½, or else swapped.
        a, o, other = self.exponent, outcomes, outcomes.swapped
        if isinstance(a, (int, float)):
            o, a = (o, a) if a < 0.5 else (other, 1 - a)
        else:
            o = Outcomes(*(jnp.where(a < 0.5, x, y) for x, y in zip(o, other)))
            a = jnp.where(a < 0.5, a, 1 - a)
        powers = el.power_of_masses(o.log_q, o.log_u, o.q, o.excess, a)
        return self.scale * powers

    def mass_grad(self, outcomes):
        _, log_q, l, _, q, _ = outcomes
        return -self.scale * el.power_rise(log_q, l, q, self.exponent)


@generator
class Alpha(_Power):
    """``(Σ p^α q^(1−α) − 1)/(α(α−1))``: forward KL at α = 1, reverse KL at α = 0.

    Alpha(½) is 4 times the squared Hellinger distance, Alpha(2) half of Pearson's
    χ², Alpha(−1) half of Neyman's (Cressie and Read, 1984; Amari, 2016).
    """

    alpha: Any = 0.5

    ranges: ClassVar = {"alpha": Range(-INF, INF)}

    @property
    def dual(self):
        return Alpha(1 - self.alpha)


@generator
class SquaredHellinger(Symmetric, _Power):
    """``1 − Σ √(pq)``, in [0, 1]: f(u) = 1 − √u. Symmetric."""

    exponent, scale = 0.5, 0.25

    def _roots(self, outcomes):
        """The larger mass M, and √(m/M) − 1 of the smaller."""
        _, _, l, p, q, _ = outcomes
        above = l > 0
        lower = quick.exp_less(jnp.where(above, -l, l) / 2, 1.0)
        return above, jnp.where(above, p, q), lower

    def mass_term(self, outcomes):
        _, larger, lower = self._roots(outcomes)
        return larger * lower * lower * 0.5

    def mass_grad(self, outcomes):
        above, larger, lower = self._roots(outcomes)
        return larger * lower * jnp.where(above, 0.5 + 0.5 * lower, -0.5)

    def grad_q(self, log_u):
        # By masses it is √u from a sum that is nearly 0: wrong by 3 % at u = e³⁰.
        return -0.5 * jnp.expm1(jnp.asarray(log_u) / 2)


@generator
class PearsonChi2(_Power):
    """``Σ p²/q − 1``: f(u) = (u − 1)². Heavy weight where the target exceeds."""

    exponent, scale = 2.0, 2.0

    @property
    def dual(self):
        return NeymanChi2()

    def mass_term(self, outcomes):
        log_p, _, l, _, _, excess = outcomes
        return el.power_rise(log_p, l, excess, 1)

    def mass_grad(self, outcomes):
        return -2 * outcomes.excess - self.mass_term(outcomes)


@generator
class NeymanChi2(_Power):
    """``Σ q²/p − 1``: f(u) = (u − 1)²/u. Pearson's with the sides swapped."""

    exponent, scale = -1.0, 2.0

    @property
    def dual(self):
        return PearsonChi2()

    def mass_term(self, outcomes):
        return self.dual.mass_term(outcomes.swapped)

    def mass_grad(self, outcomes):
        _, log_q, l, _, q, _ = outcomes
        return 2 * el.power_rise(log_q, -l, q, 1)
