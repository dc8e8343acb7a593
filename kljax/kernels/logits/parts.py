"""What the value and the gradient of a row are made of, limits and NaN included."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.generators import FDivergence, Outcomes
from kljax.kernels.logits.referenced import sums, within
from kljax.typing import Array


class RowState(NamedTuple):
    """What is known of each row after the forward pass; shapes ``[*b]``."""

    value: Array
    log_zp: Array
    """Log-normaliser of the referenced target."""
    log_zq: Array
    shift: Array
    """``log_zq − log_zp``, accurate where it is small."""
    origin_p: Array
    origin_q: Array
    """The logits at the reference: no gradient passes through them."""
    empty: Array
    """Whether a side has no outcome, as 0 or 1."""

    @property
    def swapped(self) -> "RowState":
        """The sides exchanged."""
        value, log_zp, log_zq, shift, origin_p, origin_q, empty = self
        return RowState(value, log_zq, log_zp, -shift, origin_q, origin_p, empty)


def _interior(o: Outcomes, either: Array) -> Outcomes:
    """Finite stand-ins of moderate size where a side is impossible."""
    log_p, log_q, log_u, p, q, excess = o
    log_p, log_q, log_u = (jnp.where(either, 0, x) for x in (log_p, log_q, log_u))
    return Outcomes(log_p, log_q, log_u, p, q, excess)


def _limit(mass: Array, bound: Any) -> Array:
    infinite = jnp.isinf(bound)
    return jnp.where(infinite, jnp.inf, mass * jnp.where(infinite, 0.0, bound))


def row_sum(x: Array, axis: str | None) -> Array:
    """Over each row, wherever its outcomes lie; the axis stays."""
    return sums([x], axis)[0]


def row_terms(divergence: FDivergence, o: Outcomes, p_zero, q_zero) -> Array:
    """``q f(p/q)`` of each outcome, limits included."""
    bounds = divergence.at_zero, divergence.dual_at_zero
    if divergence.limits_included:
        terms = divergence.mass_term(o)
        for bound, missing, there in zip(bounds, (p_zero, q_zero), (q_zero, p_zero)):
            if not isinstance(bound, float) or math.isinf(bound):
                beyond = missing & ~there & jnp.isinf(bound)
                terms = jnp.where(beyond, jnp.inf, terms)
        return terms
    lone = jnp.where(q_zero, 0, _limit(o.q, bounds[0]))
    lone = jnp.where(p_zero, lone, _limit(o.p, bounds[1]))
    either = p_zero | q_zero
    return jnp.where(either, lone, divergence.mass_term(_interior(o, either)))


def row_gradient(divergence: FDivergence, o: Outcomes, p_zero, q_zero, state, axis):
    """In the model's logits: ``q ⊙ (g − Σ q g)`` with ``g = grad_q``.

    Rows of NaN get 1, of which `row_settled` makes NaN; others without a gradient 0.
    """
    finite = jnp.isfinite(state.value) & (state.empty == 0)
    if divergence.limits_included:
        product = divergence.mass_grad(o)
    else:
        either = p_zero | q_zero
        bound = divergence.at_zero
        bound = jnp.where(jnp.isinf(bound), 0.0, bound)
        inside = divergence.mass_grad(_interior(o, either))
        product = jnp.where(either, jnp.where(q_zero, 0, o.q * bound), inside)
    product = jnp.where(finite, product, 0)

    if not divergence.smooth:
        product = product - o.q * _near_mean(divergence, row_sum(product, axis))

    def balanced(product, q):
        return product - q * within(row_sum(product, axis))

    def stored(product, q):
        # A select by what is known of each outcome (no mass is above 1): without it a
        # CPU computes the product for the sum, and once more for the result.
        return balanced(jnp.where(q < 2, product, 0), q)

    # Of a centered divergence the sum is 0 but for an error of the log-ratios, which it
    # takes out again; elsewhere these are measured until that does not matter.
    product = jax.lax.platform_dependent(
        product,
        o.q,
        cpu=stored,
        default=(lambda product, q: product) if divergence.centered else balanced,
    )
    # A select at the end keeps the subtraction in the loop that writes the gradient.
    return jnp.where(finite, product, jnp.where(jnp.isnan(state.value), 1, 0))


def _near_mean(divergence: FDivergence, mean: Array) -> Array:
    """``grad_q`` on that side of equal masses on which it is closer to its mean.

    Where an outcome has nearly all mass, ``g − Σ q g`` is then a difference of numbers
    that are small themselves. Of no consequence but for rounding, hence a constant.
    """
    divergence, mean = jax.lax.stop_gradient((divergence, mean))
    little = jnp.finfo(mean.dtype).eps
    sides = [divergence.grad_q(l * jnp.ones_like(mean)) for l in (-little, little)]
    below, above = (jnp.where(jnp.isfinite(g), g, 0) for g in sides)
    return jnp.where(jnp.abs(mean - below) < jnp.abs(mean - above), below, above)


def row_settled(tangent: Array, state: RowState, axis: str | None) -> Array:
    """The sum over devices; 0 in a row that is empty or infinite, NaN in one of NaN.

    But in a row of NaN what is multiplied by 0 stays 0, forward and backward, so that
    a loss may leave the row out: hence factors, the same from either end.
    """
    fixed = (state.empty == 1) | (state.value == jnp.inf)
    tangent = jnp.where(fixed, 0, tangent)
    nan = jnp.isnan(state.value)
    # Quotients, as a CPU would compute anything cheaper again for each outcome.
    small = jnp.where(nan, jnp.finfo(tangent.dtype).tiny, 1)
    nothing = jnp.where(nan, 0, 1).astype(tangent.dtype)
    tangent = tangent / small / small * nothing / small / small
    return tangent if axis is None else jax.lax.psum(tangent, axis)
