"""Matching on the line with an alpha that follows the weights' effective fraction.

Descent as in `kljax.theory.matching`, on the alpha family, whose parameter
`kljax.objectives.ratio.adapt_alpha` moves at every step: exact, or with means over
samples of the student in place of integrals. Whether it leaves a mode that it started
on depends on what the controller sees. Use float64.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.generators import Alpha
from kljax.objectives.ratio import AlphaController, adapt_alpha, effective_fraction
from kljax.theory.matching import LineMatching
from kljax.theory.mixtures import GaussianMixture
from kljax.typing import Array, Float, Key

__all__ = ["AdaptivePath", "adaptive_paths", "sampled_paths"]

RATE, LONGEST = 0.2, 0.05


class AdaptivePath(NamedTuple):
    """After every step: student (log std, mean), alpha, and the fraction it saw."""

    theta: Float[Array, "m steps 2"]
    alpha: Float[Array, "m steps"]
    ess: Float[Array, "m steps"]


def _descended(
    start: Array, measure: Callable, gradient: Callable, inputs: Array, knobs: dict
) -> AdaptivePath:
    """Descent by `gradient(theta, alpha, input)`, alpha by `measure` of the same."""

    def step(carry: tuple, given: Array) -> tuple[tuple, AdaptivePath]:
        theta, controller = carry
        ess = measure(theta, controller.alpha, given)
        controller = adapt_alpha(controller, ess, **knobs)
        move = RATE * gradient(theta, controller.alpha, given)
        move = move * jnp.minimum(1, LONGEST / jnp.linalg.norm(move))
        theta = theta - move
        return (theta, controller), AdaptivePath(theta, controller.alpha, ess)

    return jax.lax.scan(step, (start, AlphaController.init()), inputs)[1]


@functools.partial(jax.jit, static_argnames=("steps", "clip"))
def adaptive_paths(
    task: LineMatching,
    starts: Float[Array, "m 2"],
    *,
    steps: int,
    target: float | Array = 0.5,
    gain: float | Array = 0.02,
    clip: tuple[float, float] | None = None,
) -> AdaptivePath:
    """Exact descent, alpha steered by the effective fraction of r^alpha under q.

    Args:
      task: target, levels and grid.
      starts: (log std, mean) of the student.
      steps: of the descent.
      target, gain: see `adapt_alpha`.
      clip: the controller reads the ratio within these bounds, as training does; None:
        the exact one of the whole line. The gradient is exact either way.

    Returns:
      Every step of every start.

    Example:
      >>> law = GaussianMixture(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones(1))
      >>> task = LineMatching.build(law, jnp.array([0.1]))
      >>> adaptive_paths(task, jnp.array([[0.0, 1.0]]), steps=3).theta.shape
      (1, 3, 2)
    """

    def measure(theta: Array, alpha: Array, count: Array) -> Array:
        log_q = task.student(theta)[0]
        l = task.log_p - log_q
        if clip is not None:  # Eq. 8 of f-distill
            l = jnp.clip(l, math.log(clip[0]), math.log(clip[1]))
        mass = task.weights[:, None] * jnp.exp(log_q)
        return effective_fraction(alpha * l.ravel(), example_weights=mass.ravel())

    def gradient(theta: Array, alpha: Array, count: Array) -> Array:
        slope, scale = task.gradient(theta, Alpha(alpha))
        return slope / scale

    knobs, count = {"target": target, "gain": gain}, jnp.arange(steps)
    one = lambda start: _descended(start, measure, gradient, count, knobs)  # noqa: E731
    return jax.vmap(one)(starts)


@functools.partial(jax.jit, static_argnames=("steps", "samples"))
def sampled_paths(
    key: Key[Array, ""],
    law: GaussianMixture,
    starts: Float[Array, "m 2"],
    sigma: Float[Array, "s"],
    *,
    steps: int,
    samples: int = 512,
    target: float | Array = 0.5,
    gain: float | Array = 0.02,
) -> AdaptivePath:
    """The same with means over `samples` draws of the student at every step.

    Args:
      key: every start has draws of its own.
      law: the target, on the line.
      starts: (log std, mean) of the student.
      sigma: noise levels, each of which has its share of the samples.
      steps, target, gain: as in `adaptive_paths`.
      samples: drawn anew at every step.

    Example:
      >>> law = GaussianMixture(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones(1))
      >>> start, level = jnp.array([[0.0, 1.0]]), jnp.array([0.1])
      >>> sampled_paths(jax.random.key(0), law, start, level, steps=2).alpha.shape
      (1, 2)
    """
    t = jnp.tile(sigma, -(-samples // len(sigma)))[:samples]

    def drawn(theta: Array, key: Array) -> tuple[Array, Array, Array, Array]:
        scale, b = jnp.exp(theta[0]), theta[1]
        z, noise = jax.random.normal(key, (2, samples))
        x = scale * z + b + t * noise
        variance = scale**2 + t**2
        log_q = -0.5 * ((x - b) ** 2 / variance + jnp.log(2 * math.pi * variance))
        l = law.log_density(x[:, None], t) - log_q
        pull = -(x - b) / variance - law.score(x[:, None], t)[:, 0]
        return l, pull, scale, z

    def measure(theta: Array, alpha: Array, key: Array) -> Array:
        return effective_fraction(alpha * drawn(theta, key)[0])

    def gradient(theta: Array, alpha: Array, key: Array) -> Array:
        l, pull, scale, z = drawn(theta, key)
        h = Alpha(alpha).curvature(l)
        h = h / jnp.mean(h)
        return jnp.stack([jnp.mean(h * pull * scale * z), jnp.mean(h * pull)])

    def path(start: Array, key: Array) -> AdaptivePath:
        keys, knobs = jax.random.split(key, steps), {"target": target, "gain": gain}
        return _descended(start, measure, gradient, keys, knobs)

    return jax.vmap(path)(starts, jax.random.split(key, len(starts)))
