"""How fusion weights are found on the curves of `kljax.decoding.fusion.curve`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kljax.decoding.fusion.curve import Point, Problem, moments, movement
from kljax.typing import Array, Float

__all__ = ["SINGLE", "along", "each_row", "project", "scan_start"]

_TINY = 1e-30
_SCAN = 8
"""Points of the first look over [0, max_weight] with ``init="scan"``."""


# ------------------------------------------------------------------ one weight


class _At(NamedTuple):
    """What is known at one α: F, R, their derivatives, and the targets."""

    alpha: Array
    forward: Array
    reverse: Array
    slope_forward: Array
    slope_reverse: Array
    target_forward: Array
    target_reverse: Array


def _dynamic(x: _At) -> tuple[Array, Array, Array]:
    """(F − a)² + (R − b)²: half the slope, the Gauss–Newton step, the loss."""
    f, r = x.forward - x.target_forward, x.reverse - x.target_reverse
    slope = f * x.slope_forward + r * x.slope_reverse
    size = x.slope_forward**2 + x.slope_reverse**2
    return slope, slope / jnp.maximum(size, _TINY), f**2 + r**2


def _root(
    alpha: Array, value: Array, slope: Array, target: Array
) -> tuple[Array, Array, Array]:
    """value(α) = target, as if value ∝ α^k with the k that the slope gives here.

    k is 2 near 0 and falls where the fused law runs into a corner: Newton on the
    logarithms of both sides fits either.
    """
    gap = value - target
    power = jnp.clip(alpha * slope / jnp.maximum(value, _TINY), 0.5, 8)
    ratio = jnp.maximum(target, _TINY) / jnp.maximum(value, _TINY)
    return gap, alpha - alpha * ratio ** (1 / power), gap**2


def _kl_ball(x: _At) -> tuple[Array, Array, Array]:
    return _root(x.alpha, x.forward, x.slope_forward, x.target_forward)


def _jeffreys(x: _At) -> tuple[Array, Array, Array]:
    return _root(
        x.alpha,
        x.forward + x.reverse,
        x.slope_forward + x.slope_reverse,
        x.target_forward + x.target_reverse,
    )


SINGLE: dict[str, Callable[[_At], tuple[Array, Array, Array]]] = {
    "dynamic": _dynamic,
    "kl_ball": _kl_ball,
    "jeffreys": _jeffreys,
}
"""Rules of one weight: from what is known at α to (slope's sign, step, loss)."""


Look = tuple[tuple[Array, Array, Array], Point]


class Line(NamedTuple):
    """A search along one direction."""

    look: Callable[[Array, Point], Look]
    """From α and a known point to (slope's sign, step, loss) and the new point."""
    origin: Point
    start: Array
    trusted: Array
    """Whether the targets stand clear of the rounding of a log-partition."""
    high: Array


def _line(rule: str, problem: Problem, t: int, a: Array, b: Array, high: Array) -> Line:
    powers, ends, v = problem.powers[t], problem.ends[t], problem.variance[t]
    zero = jnp.zeros((), v.dtype)
    origin = Point(zero, problem.log_partition, zero)

    def look(alpha: Array, known: Point) -> Look:
        point, square = moments(problem.logits, powers, ends, alpha, known)
        psi = point.log_partition - problem.log_partition
        variance = jnp.maximum(square - point.mean**2, 0)
        here = _At(
            alpha,
            alpha * point.mean - psi,
            psi,  # the mean of d under P is 0
            alpha * variance,
            point.mean,
            a,
            b,
        )
        return SINGLE[rule](here), point

    # F ≈ R ≈ ½ α² Var(d), so α* ≈ √((a + b) / Var). α = 0 is a stationary maximum of
    # the dynamic loss: nothing may start there.
    total = {"kl_ball": 2 * a}.get(rule, a + b)
    start = jnp.sqrt(total / jnp.maximum(v, 1e-12))
    start = jnp.clip(start, jnp.minimum(1e-3, high), high)
    trusted = a + b > jnp.finfo(v.dtype).eps ** (2 / 3)
    return Line(look, origin, start, trusted, high)


def scan_start(line: Line) -> tuple[Array, Array, Array, Array]:
    """The best of some points of (0, high], its neighbours and its loss."""
    points = line.high * jnp.arange(1, _SCAN + 1) / _SCAN
    losses = jax.lax.map(lambda alpha: line.look(alpha, line.origin)[0][2], points)
    best = jnp.argmin(losses)
    gap = line.high / _SCAN
    start = points[best]
    above = jnp.where(best == _SCAN - 1, jnp.inf, start + gap)
    return start, start - gap, above, losses[best]


def along(
    rule: str,
    problem: Problem,
    t: int,
    a: Array,
    b: Array,
    *,
    high: Array,
    iterations: int | Array,
    scan: bool,
) -> Float[Array, ""]:
    """The weight of expert `t` alone, in [0, high]: safeguarded Gauss–Newton.

    Args:
      rule: a name in `SINGLE`.
      problem, t: the row and which of its directions.
      a, b: targets of F and R.
      high: the largest weight.
      iterations: passes over the vocabulary.
      scan: whether to look at a few points first and to stay in the best one's basin.

    Returns:
      α. The signs of the slope keep a bracket; a step that leaves it is halved into it,
      one that leaves the interval stops at its end.
    """
    line = _line(rule, problem, t, a, b, high)
    start, zero = line.start, jnp.zeros((), line.start.dtype)
    # No upper bound is known: the end of the interval may turn out to be one later.
    low, top, best, best_loss = zero, jnp.full_like(zero, jnp.inf), start, None
    if scan:
        best, low, top, best_loss = scan_start(line)
        inside = (start > low) & (start < top)
        start = jnp.where(inside, start, best)
    margin = 1e-6 * jnp.maximum(high, 1)

    def step(_: Any, state: tuple) -> tuple:
        alpha, lower, upper, known = state
        (slope, move, _), known = line.look(alpha, known)
        upper = jnp.where(slope > 0, jnp.minimum(upper, alpha), upper)
        lower = jnp.where(slope <= 0, jnp.maximum(lower, alpha), lower)
        new = alpha - move
        # With strict inequalities the bracket would throw a converged α away.
        inside = (new >= lower - margin) & (new <= upper + margin)
        at_end = (new >= high) & (upper == jnp.inf)
        new = jnp.where(inside, new, (lower + jnp.minimum(upper, high)) / 2)
        new = jnp.clip(jnp.where(at_end, high, new), 0, high)
        return new, lower, upper, known

    # Not written out: one pass is compiled, not all of them.
    state = (start, low, top, line.origin)
    alpha, _, _, known = jax.lax.fori_loop(0, iterations, step, state)
    if best_loss is not None:
        better = line.look(alpha, known)[0][2] <= best_loss
        alpha = jnp.where(better, alpha, best)
    return jnp.where(line.trusted, alpha, line.start)


# ------------------------------------------------------------------ several weights


def project(
    problem: Problem, *, high: Float[Array, "t"], iterations: int | Array, ridge: float
) -> Float[Array, "t"]:
    """min over the box of ψ(α) − α·c + ½ ridge |α|²: projected Newton.

    Convex. Weights that stand at a bound and are pushed outwards are left out of the
    linear system; a step that raised the value is cut to a quarter.
    """
    c = problem.shift
    identity = jnp.eye(c.shape[0], dtype=c.dtype)
    noise = 16 * jnp.finfo(c.dtype).eps
    least = jnp.maximum(jnp.max(problem.variance), 1e-12)

    def look(alpha: Array) -> tuple[Array, Array]:
        here = movement(problem, alpha)
        value = here.psi - alpha @ c + ridge / 2 * alpha @ alpha
        gradient = here.mean - c + ridge * alpha
        out = ((alpha <= 0) & (gradient > 0)) | ((alpha >= high) & (gradient < 0))
        # The smallest curvature that is believed: equal directions share, and a law of
        # two tokens, whose covariance has rank 1, still gives a finite step.
        trusted = jnp.maximum(jnp.max(jnp.diagonal(here.covariance)), least)
        floor = jnp.maximum(2 * noise, 1e-6) * trusted
        hessian = here.covariance + (ridge + floor) * identity
        hessian = jnp.where(out[:, None] | out[None, :], identity, hessian)
        direction = -jnp.linalg.solve(hessian, jnp.where(out, 0, gradient))
        return value, direction

    start = jnp.sqrt(c / jnp.maximum(problem.variance, 1e-12)) / c.shape[0]
    start = jnp.clip(start, 0, high)
    best, length = start, jnp.ones((), c.dtype)
    best_value, direction = look(start)
    alpha = jnp.clip(best + direction, 0, high)

    def step(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        alpha, best, best_value, direction, length = state
        value, new = look(alpha)
        lower = value <= best_value + noise
        length = jnp.where(lower, 1, length / 4)
        best = jnp.where(lower, alpha, best)
        best_value = jnp.where(lower, value, best_value)
        direction = jnp.where(lower, new, direction)
        alpha = jnp.clip(best + length * direction, 0, high)
        return alpha, best, best_value, direction, length

    state = (alpha, best, best_value, direction, length)
    return jax.lax.fori_loop(1, iterations, step, state)[0]


def each_row(
    function: Callable[..., tuple[Array, ...]], *arrays: Array
) -> tuple[Array, ...]:
    """`function` of every leading index: all at once, on a CPU one after the other.

    There a row stays in the cache from its first pass to its last, which a batch of
    rows does not: 1.4 times faster at 64 rows of 49,152.
    """
    if arrays[0].shape[0] == 1:
        return tuple(x[None] for x in function(*(a[0] for a in arrays)))
    one_by_one = functools.partial(_mapped, function)
    return jax.lax.platform_dependent(
        *arrays, cpu=one_by_one, default=jax.vmap(function)
    )


def _mapped(function: Callable, *arrays: Array) -> tuple[Array, ...]:
    return jax.lax.map(lambda row: function(*row), arrays)
