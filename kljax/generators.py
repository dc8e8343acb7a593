"""The f-divergences, one small object each: definitions, scales and limits.

What they are made of stands in `kljax.fdivergence`. A new divergence is a subclass of
`FDivergence` with `value`, decorated by `generator` and named in the table at the end;
`dual`, `at_zero` and `dual_at_zero` are worth writing too, because only the half
``log_u <= 0`` of a generator and of its dual is ever used in a sum.
"""

import dataclasses
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from kljax import elementary as el
from kljax import sums
from kljax.errors import unknown
from kljax.fdivergence import INF, FDivergence, Moments, Outcomes, generator
from kljax.typing import Array


def _check(name: str, value: Any, low: float, high: float, closed: str) -> None:
    """Raise for a Python number outside its range; let arrays and tracers through."""
    if not isinstance(value, (int, float)):
        return
    x = float(value)
    above = x >= low if "[" in closed else x > low
    below = x <= high if "]" in closed else x < high
    if not (above and below):
        bounds = f"{closed[0]}{low}, {high}{closed[-1]}"
        raise ValueError(f"{name} must lie in {bounds}, got {value!r}")


def _bound(positive: Any, value: Any) -> Any:
    """``value`` where `positive`, else infinity; Python numbers stay numbers."""
    if isinstance(positive, bool):
        return value if positive else INF
    return jnp.where(positive, value, INF)


def _log(x: Any) -> Any:
    return math.log(x) if isinstance(x, (int, float)) else jnp.log(x)


def _nonzero(x: Any) -> Any:
    """`x` with 0 replaced, for a quotient that is not used there."""
    return (x or 1.0) if isinstance(x, (int, float)) else jnp.where(x == 0, 1.0, x)


def _skew_bound(beta: Any) -> Any:
    if isinstance(beta, (int, float)):
        return -math.log(beta) - (1 - beta) if beta > 0 else INF
    return -jnp.log(beta) - (1 - beta)


@generator
class ForwardKL(FDivergence):
    """``Σ p log(p/q)``: f(u) = u log u. Mass covering, unbounded where q = 0."""

    limits_included = True
    at_zero, dual_at_zero = 1.0, INF
    one_pass, centered = sums.FORWARD_KL, True

    @property
    def dual(self):
        return ReverseKL()

    def value(self, log_u):
        l = jnp.asarray(log_u)
        # e^l φ(−l) is inf · 0 far below; the expanded form cancels only near 0.
        far = l < -0.3
        near = jnp.where(far, 0, l)
        return jnp.where(far, l * jnp.exp(l) - jnp.expm1(l), jnp.exp(l) * el.phi(-near))

    def grad_p(self, log_u):
        return jnp.asarray(log_u)

    def grad_q(self, log_u):
        return -jnp.expm1(log_u)

    def curvature(self, log_u):
        return jnp.exp(log_u)

    def conjugate(self, t):
        return jnp.expm1(t)

    def mass_term(self, outcomes):
        _, _, l, p, _, excess = outcomes
        return el.phi_of_mass(p, -l, p * l - excess)

    def mass_grad(self, outcomes):
        return -outcomes.excess


@generator
class ReverseKL(FDivergence):
    """``Σ q log(q/p)``: f(u) = −log u. Mode seeking, unbounded where p = 0."""

    limits_included = True
    at_zero, dual_at_zero = INF, 1.0

    @property
    def dual(self):
        return ForwardKL()

    def value(self, log_u):
        return el.phi(jnp.asarray(log_u))

    def grad_p(self, log_u):
        return -jnp.expm1(-jnp.asarray(log_u))

    def grad_q(self, log_u):
        return -jnp.asarray(log_u)

    def curvature(self, log_u):
        return jnp.ones_like(jnp.asarray(log_u))

    def conjugate(self, t):
        t = jnp.asarray(t)
        return jnp.where(t < 1, -jnp.log1p(-jnp.where(t < 1, t, 0)), INF)

    def mass_term(self, outcomes):
        _, _, l, _, q, excess = outcomes
        return el.phi_of_mass(q, l, excess - q * l)

    def mass_grad(self, outcomes):
        return -outcomes.q * outcomes.log_u


@generator
class Jeffreys(FDivergence):
    """Forward plus reverse KL: f(u) = (u − 1) log u. Symmetric."""

    limits_included = True
    at_zero, dual_at_zero = INF, INF
    one_pass = sums.JEFFREYS

    @property
    def dual(self):
        return self

    def value(self, log_u):
        l = jnp.asarray(log_u)
        return l * jnp.expm1(l)

    def grad_p(self, log_u):
        l = jnp.asarray(log_u)
        return l - jnp.expm1(-l)

    def grad_q(self, log_u):
        l = jnp.asarray(log_u)
        return -jnp.expm1(l) - l

    def curvature(self, log_u):
        return 1 + jnp.exp(log_u)

    def mass_term(self, outcomes):
        return outcomes.excess * outcomes.log_u

    def mass_grad(self, outcomes):
        return -outcomes.excess - outcomes.q * outcomes.log_u


@generator
class JensenShannon(FDivergence):
    """``β KL(p‖m) + (1−β) KL(q‖m)``, ``m = βp + (1−β)q``: at ½ within [0, log 2].

    SciPy's `jensenshannon` is the square root of the value at β = ½ (Lin, 1991).
    """

    limits_included = True
    beta: Any = 0.5

    def __post_init__(self):
        if isinstance(self.beta, (int, float)) and float(self.beta) in (0.0, 1.0):
            raise ValueError(
                f"beta must lie in (0, 1), got {self.beta!r}: the value vanishes; "
                "divided by beta or 1 - beta it tends to forward_kl at 0 and to "
                "reverse_kl at 1: use those"
            )
        _check("beta", self.beta, 0, 1, "()")

    @property
    def dual(self):
        return JensenShannon(1 - self.beta)

    @property
    def at_zero(self):
        return -(1 - self.beta) * _log(1 - self.beta)

    @property
    def dual_at_zero(self):
        return -self.beta * _log(self.beta)

    def value(self, log_u):
        l = jnp.asarray(log_u)
        log_m, log_m_over_u = el.log_mixture(l, self.beta)
        from_p = el.scaled_phi(l, log_m_over_u, log_m)
        return self.beta * from_p + (1 - self.beta) * el.phi(log_m)

    def grad_p(self, log_u):
        return -self.beta * el.log_mixture(jnp.asarray(log_u), self.beta)[1]

    def grad_q(self, log_u):
        return (self.beta - 1) * el.log_mixture(jnp.asarray(log_u), self.beta)[0]

    def curvature(self, log_u):
        over = el.log_mixture(jnp.asarray(log_u), self.beta)[1]
        return self.beta * (1 - self.beta) * jnp.exp(-over)

    def conjugate(self, t):
        t, top = jnp.asarray(t), self.dual_at_zero
        inside = jnp.where(t < top, t, 0)
        odds = self.beta / (1 - self.beta)
        value = (self.beta - 1) * jnp.log1p(-odds * jnp.expm1(inside / self.beta))
        return jnp.where(t < top, value, INF)

    def mass_term(self, outcomes):
        _, _, l, p, q, _ = outcomes
        b, c = self.beta, 1 - self.beta
        over_p, over_q = el.log_mixture_over(p, q, l, b)
        # Either logarithm is smaller than l. The linear parts of φ cancel.
        near = jnp.abs(l) < el.NEAR
        x, y = (jnp.where(near, over, 0) for over in (over_p, over_q))
        close = b * p * el.phi_near(x) + c * q * el.phi_near(y)
        return jnp.where(near, close, -b * p * over_p - c * q * over_q)

    def mass_grad(self, outcomes):
        _, _, l, p, q, _ = outcomes
        _, over_q = el.log_mixture_over(p, q, l, self.beta)
        return (self.beta - 1) * q * over_q


@generator
class SkewForwardKL(FDivergence):
    """``KL(p‖βp + (1−β)q)``, 0 <= β < 1; forward KL at β = 0."""

    limits_included = True
    beta: Any = 0.1

    def __post_init__(self):
        _check("beta", self.beta, 0, 1, "[)")

    @property
    def dual(self):
        return SkewReverseKL(self.beta)

    @property
    def at_zero(self):
        return 1 - self.beta

    @property
    def dual_at_zero(self):
        return _skew_bound(self.beta)

    def value(self, log_u):
        l = jnp.asarray(log_u)
        log_m, over = el.log_mixture(l, self.beta)
        return el.scaled_phi(l, over, log_m)

    def grad_p(self, log_u):
        log_m, over = el.log_mixture(jnp.asarray(log_u), self.beta)
        return -over + (1 - self.beta) * jnp.expm1(-log_m)

    def grad_q(self, log_u):
        over = el.log_mixture(jnp.asarray(log_u), self.beta)[1]
        return (self.beta - 1) * jnp.expm1(-over)

    def curvature(self, log_u):
        log_m, over = el.log_mixture(jnp.asarray(log_u), self.beta)
        return (1 - self.beta) ** 2 * jnp.exp(-over - log_m)

    def mass_term(self, outcomes):
        _, _, l, p, q, excess = outcomes
        over_p, _ = el.log_mixture_over(p, q, l, self.beta)
        far = (self.beta - 1) * excess - p * over_p
        return el.phi_of_mass(p, over_p, far)

    def mass_grad(self, outcomes):
        *_, p, q, excess = outcomes
        m = self.beta * p + (1 - self.beta) * q
        return -((1 - self.beta) ** 2) * excess * el.mass_ratio(q, m)


@generator
class SkewReverseKL(FDivergence):
    """``KL(q‖(1−β)p + βq)``, 0 <= β < 1; reverse KL at β = 0."""

    limits_included = True
    beta: Any = 0.1

    def __post_init__(self):
        _check("beta", self.beta, 0, 1, "[)")

    @property
    def dual(self):
        return SkewForwardKL(self.beta)

    @property
    def at_zero(self):
        return _skew_bound(self.beta)

    @property
    def dual_at_zero(self):
        return 1 - self.beta

    def value(self, log_u):
        return el.phi(el.log_mixture(-jnp.asarray(log_u), self.beta)[1])

    def grad_p(self, log_u):
        over = el.log_mixture(-jnp.asarray(log_u), self.beta)[1]
        return (self.beta - 1) * jnp.expm1(-over)

    def grad_q(self, log_u):
        over = el.log_mixture(-jnp.asarray(log_u), self.beta)[1]
        return -over - self.beta * jnp.expm1(-over)

    def curvature(self, log_u):
        log_m = el.log_mixture(-jnp.asarray(log_u), self.beta)[0]
        return (1 - self.beta) ** 2 * jnp.exp(-2 * log_m)

    def conjugate(self, t):
        t, top = jnp.asarray(t), 1 - self.beta
        bottom = top * (1 - 1 / jnp.maximum(self.beta, 1e-30))
        inside = jnp.clip(t, bottom, jnp.where(t < top, t, 0))
        value = -jnp.log1p(-inside / top) - self.beta * inside / top
        return jnp.where(t < top, value, INF)

    def mass_term(self, outcomes):
        _, _, l, p, q, excess = outcomes
        _, over_q = el.log_mixture_over(p, q, l, 1 - self.beta)
        far = (1 - self.beta) * excess - q * over_q
        return el.phi_of_mass(q, over_q, far)

    def mass_grad(self, outcomes):
        _, _, l, p, q, excess = outcomes
        _, over_q = el.log_mixture_over(p, q, l, 1 - self.beta)
        m = (1 - self.beta) * p + self.beta * q
        share = self.beta * (1 - self.beta) * el.mass_ratio(q, m)
        return share * excess - q * over_q


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
        _check("alpha", self.alpha, -INF, INF, "()")

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


@generator
class TotalVariation(FDivergence):
    """``½ Σ |p − q|``, in [0, 1]: f(u) = ½|u − 1|. Its curvature is 0."""

    limits_included = True
    at_zero, dual_at_zero = 0.5, 0.5

    @property
    def dual(self):
        return self

    def value(self, log_u):
        return 0.5 * jnp.abs(jnp.expm1(log_u))

    def grad_p(self, log_u):
        return 0.5 * jnp.sign(log_u)

    def grad_q(self, log_u):
        return -0.5 * jnp.sign(log_u)

    def curvature(self, log_u):
        return jnp.zeros_like(jnp.asarray(log_u))

    def conjugate(self, t):
        t = jnp.asarray(t)
        return jnp.where(t <= 0.5, jnp.maximum(t, -0.5), INF)

    def mass_term(self, outcomes):
        return 0.5 * jnp.abs(outcomes.excess)

    def mass_grad(self, outcomes):
        return -0.5 * outcomes.q * jnp.sign(outcomes.log_u)


@generator
class LeCam(FDivergence):
    """``½ Σ (p − q)²/(p + q)``, in [0, 1]: the triangular discrimination, halved."""

    limits_included = True
    at_zero, dual_at_zero = 0.5, 0.5

    @property
    def dual(self):
        return self

    def value(self, log_u):
        l = jnp.asarray(log_u)
        return 0.5 * jnp.expm1(l) * jnp.tanh(l / 2)

    def grad_p(self, log_u):
        l = jnp.asarray(log_u)
        return 0.5 * jnp.tanh(l / 2) * (1 + 2 * jax.nn.sigmoid(-l))

    def grad_q(self, log_u):
        return self.grad_p(-jnp.asarray(log_u))

    def curvature(self, log_u):
        l = jnp.asarray(log_u)
        return 4 * jax.nn.sigmoid(l) ** 2 * jax.nn.sigmoid(-l)

    def conjugate(self, t):
        t = jnp.asarray(t)
        root = jnp.sqrt(1 - 2 * jnp.clip(t, -1.5, 0.5))
        return jnp.where(t <= 0.5, 0.5 * (root - 1) * (root - 3), INF)

    def mass_term(self, outcomes):
        *_, p, q, excess = outcomes
        return 0.5 * excess * el.mass_ratio(excess, p + q)

    def mass_grad(self, outcomes):
        *_, p, q, excess = outcomes
        share = el.mass_ratio(excess, p + q)
        return -0.5 * q * share * (2 + share)


@generator
class SoftenedReverseKL(FDivergence):
    """``2 KL(m‖p)``, ``m = (p + q)/2``: f-distill's softened reverse KL (Table 1)."""

    limits_included = True
    at_zero, dual_at_zero = INF, 1 - math.log(2)

    @property
    def dual(self):
        return _SoftenedForwardKL()

    def value(self, log_u):
        l = jnp.asarray(log_u)
        log_m, over = el.log_mixture(l, 0.5)
        return 2 * el.scaled_phi(log_m, -over, l)

    def grad_p(self, log_u):
        l = jnp.asarray(log_u)
        return el.log_mixture(l, 0.5)[1] - jnp.expm1(-l)

    def grad_q(self, log_u):
        return el.log_mixture(jnp.asarray(log_u), 0.5)[1]

    def curvature(self, log_u):
        return jax.nn.sigmoid(-jnp.asarray(log_u))

    def mass_term(self, outcomes):
        _, _, l, p, q, excess = outcomes
        over_p, _ = el.log_mixture_over(p, q, l, 0.5)
        m = (p + q) / 2
        return 2 * el.phi_of_mass(m, -over_p, m * over_p + excess / 2)

    def mass_grad(self, outcomes):
        _, _, l, p, q, _ = outcomes
        over_p, _ = el.log_mixture_over(p, q, l, 0.5)
        return q * over_p


@generator
class _SoftenedForwardKL(FDivergence):
    """``2 KL(m‖q)``, the dual of the softened reverse KL."""

    limits_included = True
    at_zero, dual_at_zero = 1 - math.log(2), INF

    @property
    def dual(self):
        return SoftenedReverseKL()

    def value(self, log_u):
        log_m = el.log_mixture(jnp.asarray(log_u), 0.5)[0]
        return 2 * el.scaled_phi(log_m, -log_m, jnp.zeros_like(log_m))

    def mass_term(self, outcomes):
        _, _, l, p, q, excess = outcomes
        _, over_q = el.log_mixture_over(p, q, l, 0.5)
        m = (p + q) / 2
        return 2 * el.phi_of_mass(m, -over_q, m * over_q - excess / 2)

    def mass_grad(self, outcomes):
        _, _, l, p, q, excess = outcomes
        _, over_q = el.log_mixture_over(p, q, l, 0.5)
        return q * over_q - excess


@generator
class Choice(FDivergence):
    """One of several divergences, chosen by a traced index.

    A mixed family runs under one `vmap` over the index.

    Args:
      index: integer, may be traced; out of range is clipped.
      options: the divergences to choose from.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> pick = lambda i: Choice(i, (ForwardKL(), ReverseKL())).grad_q(jnp.log(2.0))
      >>> [round(float(x), 3) for x in jax.vmap(pick)(jnp.arange(2))]
      [-1.0, -0.693]
    """

    index: Any
    options: tuple[FDivergence, ...]

    def _switch(self, call: Callable[..., Array], *args) -> Array:
        branches = [lambda *a, o=o: call(o, *a) for o in self.options]
        arrays = [jnp.asarray(a) for a in args]
        return jax.lax.switch(self.index, branches, *arrays)

    def _pick(self, bounds: list) -> Array:
        bounds = [jnp.asarray(b, float) for b in bounds]
        return jnp.stack(bounds)[jnp.clip(self.index, 0, len(bounds) - 1)]

    @property
    def dual(self):
        return Choice(self.index, tuple(o.dual for o in self.options))

    @property
    def at_zero(self):
        return self._pick([o.at_zero for o in self.options])

    @property
    def dual_at_zero(self):
        return self._pick([o.dual_at_zero for o in self.options])

    def value(self, log_u):
        return self._switch(lambda o, l: o.value(l), log_u)

    def slope(self, log_u):
        return self._switch(lambda o, l: o.slope(l), log_u)

    def grad_p(self, log_u):
        return self._switch(lambda o, l: o.grad_p(l), log_u)

    def grad_q(self, log_u):
        return self._switch(lambda o, l: o.grad_q(l), log_u)

    def curvature(self, log_u):
        return self._switch(lambda o, l: o.curvature(l), log_u)

    def conjugate(self, t):
        return self._switch(lambda o, x: o.conjugate(x), t)

    def interior(self, log_p, log_q, log_u):
        return self._switch(lambda o, *a: o.interior(*a), log_p, log_q, log_u)

    def grad_interior(self, log_p, log_q, log_u):
        return self._switch(lambda o, *a: o.grad_interior(*a), log_p, log_q, log_u)

    def mass_term(self, outcomes):
        return self._switch(lambda o, *a: o.mass_term(Outcomes(*a)), *outcomes)

    def mass_grad(self, outcomes):
        return self._switch(lambda o, *a: o.mass_grad(Outcomes(*a)), *outcomes)


_TABLE = MappingProxyType(
    {
        "forward_kl": ForwardKL,
        "reverse_kl": ReverseKL,
        "jeffreys": Jeffreys,
        "jensen_shannon": JensenShannon,
        "skew_forward_kl": SkewForwardKL,
        "skew_reverse_kl": SkewReverseKL,
        "alpha": Alpha,
        "squared_hellinger": SquaredHellinger,
        "total_variation": TotalVariation,
        "pearson_chi2": PearsonChi2,
        "neyman_chi2": NeymanChi2,
        "le_cam": LeCam,
        "softened_reverse_kl": SoftenedReverseKL,
    }
)


_ALIASES = MappingProxyType(
    {
        "kl": "forward_kl",
        "js": "jensen_shannon",
        "jsd": "jensen_shannon",
        "tv": "total_variation",
        "chi2": "pearson_chi2",
    }
)
"""Other names, for the same scales. Hellinger's distance itself is a square root, and
half or twice ours elsewhere: it has none."""


def names() -> tuple[str, ...]:
    """The names of the built-in divergences, without their short forms."""
    return tuple(_TABLE)


def get(divergence: str | FDivergence, **parameters: Any) -> FDivergence:
    """The divergence called by that name; an object is returned as it is.

    Args:
      divergence: a name of `names()`, a short form (``kl``, ``js``, ``tv``, ``chi2``,
        ...), or an object.
      **parameters: of the divergence, such as ``alpha=0.3``; with a name only.

    Raises:
      ValueError: the name is unknown, or a parameter is out of range.
      TypeError: not a name and not a divergence, or a parameter that it has not.

    Example:
      >>> get("alpha", alpha=0.3)
      Alpha(alpha=0.3)
    """
    if isinstance(divergence, FDivergence):
        if parameters:
            raise TypeError(f"{divergence} is complete: got {sorted(parameters)} too")
        return divergence
    if not isinstance(divergence, str):
        raise TypeError(
            "divergence must be a name or an FDivergence object, got "
            f"{type(divergence).__name__}"
        )
    canonical = _ALIASES.get(divergence, divergence)
    if canonical not in _TABLE:
        raise ValueError(unknown("divergence", divergence, _TABLE))
    cls = _TABLE[canonical]
    known = [f.name for f in dataclasses.fields(cls)]
    foreign = sorted(set(parameters) - set(known))
    if foreign:
        raise TypeError(f"{divergence} has no parameter {foreign}; it has {known}")
    return cls(**parameters)
