"""Symmetric divergences within [0, 1]: total variation and Le Cam's."""

import jax
import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.generators.base import Symmetric, generator


@generator
class TotalVariation(Symmetric):
    """``½ Σ |p − q|``, in [0, 1]: f(u) = ½|u − 1|. Its curvature is 0."""

    limits_included = True
    at_zero, dual_at_zero = 0.5, 0.5

    def curvature(self, log_u):
        return jnp.zeros_like(jnp.asarray(log_u))

    def mass_term(self, outcomes):
        return 0.5 * jnp.abs(outcomes.excess)

    def mass_grad(self, outcomes):
        return -0.5 * outcomes.q * jnp.sign(outcomes.log_u)


@generator
class LeCam(Symmetric):
    """``½ Σ (p − q)²/(p + q)``, in [0, 1]: the triangular discrimination, halved."""

    limits_included = smooth = True
    at_zero, dual_at_zero = 0.5, 0.5

    def curvature(self, log_u):
        l = jnp.asarray(log_u)
        return 4 * jax.nn.sigmoid(l) ** 2 * jax.nn.sigmoid(-l)

    def mass_term(self, outcomes):
        *_, p, q, excess = outcomes
        return 0.5 * excess * el.mass_ratio(excess, p + q)

    def mass_grad(self, outcomes):
        *_, p, q, excess = outcomes
        share = el.mass_ratio(excess, p + q)
        return -0.5 * q * share * (2 + share)
