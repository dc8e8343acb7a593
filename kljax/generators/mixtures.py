"""Divergences from or to a mixture ``m`` of the two sides."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.generators.base import INF, FDivergence, Range, generator
from kljax.typing import Array


def _log(x: Any) -> Any:
    return math.log(x) if isinstance(x, (int, float)) else jnp.log(x)


def _log_odds(beta: Any) -> Array:
    """``log(β/(1 − β))``; hugely negative at β = 0."""
    beta = jnp.asarray(beta, float)
    return jnp.log(jnp.maximum(beta, jnp.finfo(beta.dtype).tiny)) - jnp.log1p(-beta)


@generator
class JensenShannon(FDivergence):
    """``β KL(p‖m) + (1−β) KL(q‖m)``, ``m = βp + (1−β)q``: at ½ within [0, log 2].

    SciPy's `jensenshannon` is the square root of the value at β = ½ (Lin, 1991).
    """

    limits_included = smooth = True
    beta: Any = 0.5

    ranges: ClassVar = {"beta": Range(0, 1)}

    def __post_init__(self):
        if isinstance(self.beta, (int, float)) and float(self.beta) in (0.0, 1.0):
            raise ValueError(
                f"beta must lie in (0, 1), got {self.beta!r}: the value vanishes; "
                "divided by beta or 1 - beta it tends to forward_kl at 0 and to "
                "reverse_kl at 1: use those"
            )
        super().__post_init__()

    @property
    def dual(self):
        return JensenShannon(1 - self.beta)

    @property
    def at_zero(self):
        return -(1 - self.beta) * _log(1 - self.beta)

    @property
    def dual_at_zero(self):
        return -self.beta * _log(self.beta)

    def curvature(self, log_u):
        return (1 - self.beta) * jax.nn.sigmoid(log_u + _log_odds(self.beta))

    def _mixed(self, outcomes):
        """With ``z = (p − q)/m``: ``p = m(1 + (1−β)z)`` and ``q = m(1 − βz)``.

        Returns m; z, 0 unless the sides nearly agree; whether they do; and if not, the
        logarithm of the larger side over m.
        """
        _, _, l, p, q, excess = outcomes
        b, c = self.beta, 1 - self.beta
        m = b * p + c * q
        z = el.mass_ratio(excess, m)
        near = jnp.abs(l) < 0.25
        far = jnp.where(near, 0, z)
        larger = el.log1p_far(jnp.where(l > 0, c * far, -b * far))
        return m, jnp.where(near, z, 0), near, larger

    def mass_term(self, outcomes):
        _, _, l, p, q, _ = outcomes
        b, c = self.beta, 1 - self.beta
        m, z, near, larger = self._mixed(outcomes)
        # Either logarithm is smaller than l. The linear parts cancel.
        rise = c * el.rise_tiny(c * z) + b * el.rise_tiny(-b * z)
        smaller = jnp.where(l > 0, c * q, b * p)
        far = m * larger - smaller * jnp.abs(l)
        return jnp.where(near, m * (b * c) * (z * z) * rise, far)

    def mass_grad(self, outcomes):
        _, _, l, _, q, _ = outcomes
        b, c = self.beta, 1 - self.beta
        _, z, near, larger = self._mixed(outcomes)
        over_m = jnp.where(l > 0, larger - l, larger)
        return c * q * jnp.where(near, el.log1p_tiny(-b * z), over_m)


@generator
class _Skew(FDivergence):
    limits_included = smooth = True
    beta: Any = 0.1

    ranges: ClassVar = {"beta": Range(0, 1, "[)")}


@generator
class SkewForwardKL(_Skew):
    """``KL(p‖βp + (1−β)q)``, 0 <= β < 1; forward KL at β = 0."""

    @property
    def dual(self):
        return SkewReverseKL(self.beta)

    @property
    def at_zero(self):
        return 1 - self.beta

    def curvature(self, log_u):
        l = jnp.asarray(log_u)
        log_rest = jax.nn.log_sigmoid(-l - _log_odds(self.beta))
        return jnp.exp(l + 2 * log_rest)

    def mass_term(self, outcomes):
        *_, p, _, excess = outcomes
        over_p, _ = el.log_mixture_over(outcomes, self.beta)
        far = (self.beta - 1) * excess - p * over_p
        return el.phi_of_mass(p, over_p, far)

    def mass_grad(self, outcomes):
        *_, p, q, excess = outcomes
        m = self.beta * p + (1 - self.beta) * q
        return -((1 - self.beta) ** 2) * excess * el.mass_ratio(q, m)


@generator
class SkewReverseKL(_Skew):
    """``KL(q‖(1−β)p + βq)``, 0 <= β < 1; reverse KL at β = 0."""

    @property
    def dual(self):
        return SkewForwardKL(self.beta)

    @property
    def at_zero(self):
        beta = self.beta
        if isinstance(beta, (int, float)) and beta <= 0:
            return INF
        return -_log(beta) - (1 - beta)

    def curvature(self, log_u):
        return jax.nn.sigmoid(log_u - _log_odds(self.beta)) ** 2

    def mass_term(self, outcomes):
        *_, q, excess = outcomes
        _, over_q = el.log_mixture_over(outcomes, 1 - self.beta)
        far = (1 - self.beta) * excess - q * over_q
        return el.phi_of_mass(q, over_q, far)

    def mass_grad(self, outcomes):
        *_, p, q, excess = outcomes
        _, over_q = el.log_mixture_over(outcomes, 1 - self.beta)
        m = (1 - self.beta) * p + self.beta * q
        share = self.beta * (1 - self.beta) * el.mass_ratio(q, m)
        return share * excess - q * over_q


@generator
class SoftenedReverseKL(FDivergence):
    """``2 KL(m‖p)``, ``m = (p + q)/2``: f-distill's softened reverse KL (Table 1)."""

    limits_included = smooth = True
    at_zero, dual_at_zero = INF, 1 - math.log(2)

    def curvature(self, log_u):
        return jax.nn.sigmoid(-jnp.asarray(log_u))

    def mass_term(self, outcomes):
        *_, p, q, excess = outcomes
        over_p, _ = el.log_mixture_over(outcomes, 0.5)
        m = (p + q) / 2
        return 2 * el.phi_of_mass(m, -over_p, m * over_p + excess / 2)

    def mass_grad(self, outcomes):
        return outcomes.q * el.log_mixture_over(outcomes, 0.5)[0]
