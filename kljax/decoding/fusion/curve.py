"""One row of logits as an exponential family in the fusion weights.

Along α the fused law P̃ ∝ P·exp(α·d) is an exponential family. With d centred under P
and ψ its log-partition, μ and H the mean and covariance of d under P̃,

    F = KL(P̃‖P) = α·μ − ψ,   R = KL(P‖P̃) = ψ,   ∇F = H α,   ∇R = μ,

so that one pass over the vocabulary, for (ψ, μ, H), gives everything. What fine-tuning
did to the small model is the same family at α = 1 with Q in P's place.

Sums are dot products: a plain float32 sum is one scalar chain on a CPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.typing import Array, Float

__all__ = [
    "IMPOSSIBLE",
    "Movement",
    "Point",
    "Problem",
    "moments",
    "movement",
    "prepare",
]

IMPOSSIBLE = -1e9
"""Logits below count as -inf: masks are often written as the least finite number."""
_TINY = 1e-30


Each = Float[Array, "t"]
"""A number for each expert."""


class Movement(NamedTuple):
    """ψ, the mean μ [t] and the covariance [t t] of the directions under P̃."""

    psi: Float[Array, ""]
    mean: Each
    covariance: Float[Array, "t t"]


class Problem(NamedTuple):
    """A row made ready: logits with their maximum at 0, directions centred under P."""

    logits: Float[Array, "v"]
    log_partition: Float[Array, ""]
    directions: Float[Array, "t v"]
    powers: Float[Array, "t 3 v"]
    """1, d and d², whose sums under any law are one matrix-vector product."""
    ends: Float[Array, "t 2"]
    """The least and the largest of each direction."""
    variance: Each
    """Of each direction under P."""
    forward: Each
    """a_t = KL(Q_t‖Q)."""
    reverse: Each
    """b_t = KL(Q‖Q_t)."""
    shift: Each
    """c_t = E_{Q_t}[d_t] − E_Q[d_t]; equals a_t + b_t."""


def prepare(
    large: Array, base: Array, experts: Array, where: Array | None = None
) -> Problem:
    """One row: `large` and `base` [v], `experts` [t v], any float type.

    Outcomes that a model does not allow, or `where` takes away, are taken away from all
    laws, which renormalises them.
    """
    dtype = jnp.promote_types(jnp.result_type(large, base, experts), jnp.float32)
    large, base, experts = (x.astype(dtype) for x in (large, base, experts))
    # "Not below" rather than "above": a NaN must stay one.
    allowed = ~((large <= IMPOSSIBLE) | (base <= IMPOSSIBLE))
    allowed &= ~jnp.any(experts <= IMPOSSIBLE, axis=0)
    if where is not None:
        allowed &= where

    def shifted(x: Array) -> Array:
        x = jnp.where(allowed, x, -jnp.inf)
        top = jnp.max(x)
        return x - jnp.where(top > -jnp.inf, top, 0)

    z, s = shifted(large), shifted(base)
    # Clipped so that squares stay finite.
    d = jnp.where(allowed, jnp.clip(experts - base, -1e9, 1e9), 0)
    p = jnp.exp(z)
    total = jnp.maximum(_dot(p, jnp.ones_like(p)), _TINY)
    d = jnp.where(allowed, d - (_dot(d, p) / total)[:, None], 0)
    powers = jnp.stack([jnp.ones_like(d), d, d * d], axis=1)
    # Both signs occur, or all are 0, as the mean is 0: the zeros of what is not
    # allowed do no harm here.
    ends = jnp.stack([jnp.min(d, axis=1), jnp.max(d, axis=1)], axis=1)
    targets = [_targets(s, *x) for x in zip(powers, ends)]
    forward, reverse = (jnp.stack(x) for x in zip(*targets))
    variance = _dot(powers[:, 2], p) / total
    goals = forward, reverse, forward + reverse
    return Problem(z, jnp.log(total), d, powers, ends, variance, *goals)


def _dot(x: Array, y: Array) -> Array:
    return jnp.dot(x, y, precision=jax.lax.Precision.HIGHEST)


class Point(NamedTuple):
    """A place on the line z + α d: the log-partition and the mean of d there."""

    alpha: Array
    log_partition: Array
    mean: Array


def moments(
    logits: Array, powers: Array, ends: Array, alpha: Array, known: Point
) -> tuple[Point, Array]:
    """The point at α, and the second moment of d there; `known` is any other point.

    A(α) is convex with slopes between the ends of d, which brackets it from `known`.
    Where the bracket is narrow its middle can stand in for the maximum of the logits
    in exp(l − maximum), and a third of the pass is saved.
    """
    step = alpha - known.alpha
    low = known.log_partition + step * known.mean
    high = known.log_partition + jnp.max(step * ends)

    def middle() -> Array:
        return (low + high) / 2

    def maximum() -> Array:
        top = jnp.max(logits + alpha * powers[1])
        return jnp.where(top > -jnp.inf, top, 0)

    # exp of half the width, times squares of d, must not overflow.
    shift = jax.lax.cond(high - low < 40, middle, maximum)
    e = jnp.exp(logits + alpha * powers[1] - shift)
    total, first, second = _dot(powers, e)
    total = jnp.maximum(total, _TINY)
    point = Point(alpha, shift + jnp.log(total), first / total)
    return point, second / total


def _targets(base: Array, powers: Array, ends: Array) -> tuple[Array, Array]:
    """KL(Q_t‖Q) and KL(Q‖Q_t) of Q_t ∝ Q·exp(d)."""
    zero, one = jnp.zeros((), base.dtype), jnp.ones((), base.dtype)
    e = jnp.exp(base)  # its largest is 1
    total, first, _ = _dot(powers, e)
    total = jnp.maximum(total, _TINY)
    at_0 = Point(zero, jnp.log(total), first / total)
    at_1, _ = moments(base, powers, ends, one, at_0)
    psi = at_1.log_partition - at_0.log_partition
    return jnp.maximum(at_1.mean - psi, 0), jnp.maximum(psi - at_0.mean, 0)


def movement(problem: Problem, alpha: Float[Array, "t"]) -> Movement:
    """ψ, μ and H at several weights at once."""
    l = problem.logits + _dot(alpha, problem.directions)
    at_alpha = _log_partition(l)
    p = jnp.exp(l - at_alpha)
    mean = _dot(problem.directions, p)
    centred = problem.directions - mean[:, None]
    covariance = _dot(centred * p, centred.T)
    return Movement(at_alpha - problem.log_partition, mean, covariance)


def _log_partition(l: Array) -> Array:
    top = jnp.max(l)
    top = jnp.where(top > -jnp.inf, top, 0)
    e = jnp.exp(l - top)
    return top + jnp.log(jnp.maximum(_dot(e, jnp.ones_like(e)), _TINY))
