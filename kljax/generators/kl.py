"""The Kullback-Leibler divergences: forward, reverse and their sum."""

import jax.numpy as jnp

from kljax.generators import accurate as el
from kljax.generators import one_pass as sums
from kljax.generators.base import INF, FDivergence, Symmetric, generator


@generator
class ForwardKL(FDivergence):
    """``Σ p log(p/q)``: f(u) = u log u. Mass covering, unbounded where q = 0."""

    limits_included = smooth = True
    at_zero, dual_at_zero = 1.0, INF
    one_pass, centered = sums.FORWARD_KL, True

    @property
    def dual(self):
        return ReverseKL()

    def curvature(self, log_u):
        return jnp.exp(log_u)

    def mass_term(self, outcomes):
        _, _, l, p, _, excess = outcomes
        return el.phi_of_mass(p, -l, p * l - excess)

    def mass_grad(self, outcomes):
        return -outcomes.excess


@generator
class ReverseKL(FDivergence):
    """``Σ q log(q/p)``: f(u) = −log u. Mode seeking, unbounded where p = 0."""

    limits_included = smooth = True
    at_zero, dual_at_zero = INF, 1.0

    @property
    def dual(self):
        return ForwardKL()

    def curvature(self, log_u):
        return jnp.ones_like(jnp.asarray(log_u))

    def mass_term(self, outcomes):
        _, _, l, _, q, excess = outcomes
        return el.phi_of_mass(q, l, excess - q * l)

    def mass_grad(self, outcomes):
        return -outcomes.q * outcomes.log_u


@generator
class Jeffreys(Symmetric):
    """Forward plus reverse KL: f(u) = (u − 1) log u. Symmetric."""

    limits_included = smooth = True
    at_zero, dual_at_zero = INF, INF
    one_pass = sums.JEFFREYS

    def curvature(self, log_u):
        return 1 + jnp.exp(log_u)

    def mass_term(self, outcomes):
        return outcomes.excess * outcomes.log_u

    def mass_grad(self, outcomes):
        return -outcomes.excess - outcomes.q * outcomes.log_u
