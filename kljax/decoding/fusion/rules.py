"""The rules that decide how far a row follows its experts, one function each.

With P = softmax(z), Q = softmax(s), Q_t = softmax(s_t), a_t = KL(Q_t‖Q),
b_t = KL(Q‖Q_t), F(α) = KL(P̃_α‖P) and R(α) = KL(P‖P̃_α):

| rule | weight |
| --- | --- |
| `dynamic` | one expert: argmin over [0, max] of (F − a)² + (R − b)² (Eq. 3) |
| `kl_ball` | one expert: F(α) = a, the move of least KL with the largest E[d] |
| `jeffreys` | one expert: F(α) + R(α) = a + b |
| `axis` | several: each expert alone, the best one is taken (Algorithm 1) |
| `projection` | several: argmin of KL(P̃‖P) with E_P̃[d_t] − E_P[d_t] = a_t + b_t |
| `static` | a weight that is given, as in proxy-tuning |

The dynamic objective of several experts has two residuals for t unknowns and so no
unique answer; Algorithm 1's "one at a time" is what picks one. `projection` is convex
and has one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.arguments import shadow
from kljax.decoding.fusion.curve import Problem, movement
from kljax.decoding.fusion.solver import SINGLE, along, project
from kljax.typing import Array, Float

__all__ = ["RULES", "SINGLE", "Options", "Weights"]


class Weights(NamedTuple):
    """Weights per expert, and the objective at them in nats²."""

    alpha: Float[Array, "*b t"]
    loss: Float[Array, "*b"]


class Options(NamedTuple):
    """A fusion's settings, made ready for a row of t experts."""

    high: Float[Array, "t"]
    """The largest weights."""
    fixed: Float[Array, "t"]
    """Those of `static`."""
    iterations: int | Array
    scan: bool
    cross: bool
    own: bool
    """Whether `axis` fits every expert to its own targets."""
    ridge: float


Loss = Callable[[Problem, Options, Array], Array]
Rule = Callable[[Problem, Options], Weights]


def _targets(problem: Problem, options: Options) -> tuple[Array, Array]:
    """What F and R are to be, [t] each."""
    a, b = problem.forward, problem.reverse
    return (b, a) if options.cross else (a, b)


def _unknown(problem: Problem) -> Array:
    """0, or NaN where a logit that counts is: comparisons in a search would hide it."""
    return jnp.sum(shadow(problem.shift)) + shadow(problem.log_partition)


def _moved(problem: Problem, alpha: Array) -> tuple[Array, Array]:
    """F + R and R."""
    here = movement(problem, alpha)
    return alpha @ here.mean, here.psi


def _joint(problem: Problem, options: Options, alpha: Array) -> Array:
    """Σ_t (F − a_t)² + (R − b_t)², the objective of several experts."""
    total, reverse = _moved(problem, alpha)
    a, b = _targets(problem, options)
    return jnp.sum((total - reverse - a) ** 2 + (reverse - b) ** 2)


def _forward_gap(problem: Problem, options: Options, alpha: Array) -> Array:
    total, reverse = _moved(problem, alpha)
    return (total - reverse - _targets(problem, options)[0][0]) ** 2


def _total_gap(problem: Problem, options: Options, alpha: Array) -> Array:
    a, b = _targets(problem, options)
    return (_moved(problem, alpha)[0] - a[0] - b[0]) ** 2


def _alone(
    name: str, problem: Problem, options: Options, t: int, a: Array, b: Array
) -> Array:
    """The weight of expert `t` by a rule of one expert."""
    return along(
        name,
        problem,
        t,
        a,
        b,
        high=options.high[t],
        iterations=options.iterations,
        scan=options.scan,
    )


def _single(name: str, loss: Loss) -> Rule:
    def rule(problem: Problem, options: Options) -> Weights:
        a, b = _targets(problem, options)
        alpha = _alone(name, problem, options, 0, a[0], b[0])[None]
        alpha += _unknown(problem)
        return Weights(alpha, loss(problem, options, alpha))

    return rule


def _axis(problem: Problem, options: Options) -> Weights:
    a, b = _targets(problem, options)
    found = []
    for t in range(len(a)):
        goal = (a[t], b[t]) if options.own else (jnp.mean(a), jnp.mean(b))
        found.append(_alone("dynamic", problem, options, t, *goal))
    alone = jnp.diag(jnp.stack(found))
    losses = jax.lax.map(lambda alpha: _joint(problem, options, alpha), alone)
    alpha = alone[jnp.argmin(losses)] + _unknown(problem)
    return Weights(alpha, _joint(problem, options, alpha))


def _projection(problem: Problem, options: Options) -> Weights:
    alpha = project(
        problem, high=options.high, iterations=options.iterations, ridge=options.ridge
    )
    gap = movement(problem, alpha).mean - problem.shift
    return Weights(alpha + _unknown(problem), jnp.sum(gap**2))


def _static(problem: Problem, options: Options) -> Weights:
    return Weights(options.fixed, _joint(problem, options, options.fixed))


RULES: dict[str, Rule] = {
    "dynamic": _single("dynamic", _joint),
    "kl_ball": _single("kl_ball", _forward_gap),
    "jeffreys": _single("jeffreys", _total_gap),
    "axis": _axis,
    "projection": _projection,
    "static": _static,
}
"""From a row made ready and the options to its weights and their objective."""
