"""The line part of the ring experiment: fixed points, adaptive alpha, weight variance.

Exact laws, no networks: where each divergence ends when one Gaussian is matched to two
modes, and whether an alpha that follows the measured effective sample size gets out of
the traps. Float64 throughout.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kljax import generators
from kljax.objectives.ratio import (
    AlphaController,
    adapt_alpha,
    effective_fraction,
)
from kljax.theory.matching import LineMatching, fixed_point
from kljax.theory.mixtures import GaussianMixture
from kljax.typing import Array, Float

SIX = (
    "softened_reverse_kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "jensen_shannon",
    "forward_kl",
)
STARTS = ((1.0, 0.5), (1.0, -1.5), (math.exp(0.6), 1.5), (math.exp(0.6), -0.5))
"""(standard deviation, mean) of the student at the start."""
COVERS = 1.5
"""A student with at least this standard deviation holds both modes (target: 1.9)."""


def two_modes() -> GaussianMixture:
    """0.7 N(-2, 0.25) + 0.3 N(2, 0.25)."""
    return GaussianMixture(
        jnp.log(jnp.array([0.7, 0.3])), jnp.array([[-2.0], [2.0]]), jnp.full(2, 0.5)
    )


def low_noise() -> LineMatching:
    """Levels 0.1, 0.2, 0.4: mode seeking shows."""
    # A fourth level of weight 0 gives both tasks one shape and one compilation.
    return _task([0.1, 0.2, 0.4, 0.4], [1.0, 1.0, 1.0, 0.0], 10.0)


def annealed() -> LineMatching:
    """Levels 0.1, 0.3, 1, 3 with weight t^2."""
    return _task([0.1, 0.3, 1.0, 3.0], [0.01, 0.09, 1.0, 9.0], 30.0)


def _task(sigma: list[float], weights: list[float], reach: float) -> LineMatching:
    return LineMatching.build(
        two_modes(),
        jnp.array(sigma),
        jnp.array(weights),
        bounds=(-reach, reach),
        points=601,
    )


def log_starts(starts: Any) -> Float[Array, "m 2"]:
    """(std, mean) as (log std, mean)."""
    starts = np.asarray(starts, np.float64)
    return jnp.asarray(np.stack([np.log(starts[:, 0]), starts[:, 1]], axis=1))


def plain(theta: Array) -> np.ndarray:
    """(log std, mean) as (std, mean)."""
    values = np.array(theta)
    values[..., 0] = np.exp(values[..., 0])
    return values


@functools.partial(jax.jit, static_argnames="steps")
def _ends(task: LineMatching, starts: Array, steps: int) -> Array:
    options = tuple(generators.get(name) for name in SIX)
    one = lambda index, start: fixed_point(  # noqa: E731
        task, generators.Choice(index, options), start, steps=steps
    )
    every = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return every(jnp.arange(len(SIX)), starts).theta


def fixed_points(task: LineMatching, steps: int) -> dict[str, np.ndarray]:
    """(std, mean) of every divergence of `SIX` from every start, [4, 2] each."""
    ends = plain(_ends(task, log_starts(STARTS), steps))
    return dict(zip(SIX, ends, strict=True))


class AdaptivePath(NamedTuple):
    """Student and alpha along the way, [m, steps + 1]."""

    theta: np.ndarray
    alpha: np.ndarray
    ess: np.ndarray


@functools.partial(jax.jit, static_argnames=("steps", "clip"))
def _adaptive(
    task: LineMatching,
    starts: Array,
    target: float | Array,
    gain: float | Array,
    steps: int,
    clip: tuple[float, float] | None,
) -> tuple[Array, Array, Array]:
    def measured(theta: Array, alpha: Array) -> Array:
        log_q, _, _ = task.student(theta)
        l = task.log_p - log_q
        if clip is not None:  # the ratio as the training algorithm has it, Eq. 8
            l = jnp.clip(l, math.log(clip[0]), math.log(clip[1]))
        mass = task.weights[:, None] * jnp.exp(log_q)
        return effective_fraction(alpha * l.ravel(), example_weights=mass.ravel())

    def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
        theta, controller = carry
        ess = measured(theta, controller.alpha)
        controller = adapt_alpha(controller, ess, target=target, gain=gain)
        gradient, scale = task.gradient(theta, generators.Alpha(controller.alpha))
        move = 0.2 * gradient / scale
        move = move * jnp.minimum(1, 0.05 / jnp.linalg.norm(move))
        return (theta - move, controller), (theta, controller.alpha, ess)

    def path(start: Array) -> tuple:
        _, out = jax.lax.scan(step, (start, AlphaController.init()), None, steps)
        return out

    return jax.vmap(path)(starts)


def adaptive_paths(
    task: LineMatching,
    starts: Float[Array, "m 2"],
    *,
    target: float,
    gain: float,
    steps: int,
    clip: tuple[float, float] | None,
) -> AdaptivePath:
    """Exact descent with alpha driven by the effective fraction of r^alpha under q.

    With `clip` the controller reads the clipped ratio, as in training; without it the
    exact ratio of the whole line. The gradient is exact either way.
    """
    theta, alpha, ess = _adaptive(task, starts, target, gain, steps, clip)
    return AdaptivePath(plain(theta), np.asarray(alpha), np.asarray(ess))


@functools.partial(jax.jit, static_argnames=("steps", "samples"))
def _sampled(
    key: Array,
    starts: Array,
    sigma: Array,
    target: float | Array,
    gain: float | Array,
    steps: int,
    samples: int,
) -> tuple[Array, Array]:
    law = two_modes()

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        theta, controller = carry
        scale, b = jnp.exp(theta[0]), theta[1]
        z, noise = jax.random.normal(key, (2, samples))
        t = jnp.tile(sigma, -(-samples // len(sigma)))[:samples]
        x = scale * z + b + t * noise
        variance = scale**2 + t**2
        log_q = -0.5 * ((x - b) ** 2 / variance + jnp.log(2 * math.pi * variance))
        l = law.log_density(x[:, None], t) - log_q
        pull = -(x - b) / variance - law.score(x[:, None], t)[:, 0]
        measured = effective_fraction(controller.alpha * l)
        controller = adapt_alpha(controller, measured, target=target, gain=gain)
        h = generators.Alpha(controller.alpha).curvature(l)
        h = h / jnp.mean(h)
        gradient = jnp.stack([jnp.mean(h * pull * scale * z), jnp.mean(h * pull)])
        move = 0.2 * gradient
        move = move * jnp.minimum(1, 0.05 / jnp.linalg.norm(move))
        return (theta - move, controller), None

    def run(start: Array, key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, steps)
        (theta, controller), _ = jax.lax.scan(
            step, (start, AlphaController.init()), keys
        )
        return theta, controller.alpha

    return jax.vmap(run)(starts, jax.random.split(key, len(starts)))


def sampled_ends(
    key: Array,
    starts: Float[Array, "m 2"],
    *,
    target: float,
    gain: float,
    steps: int,
    samples: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the same descent ends when expectations are means over `samples` draws."""
    sigma = jnp.array([0.1, 0.2, 0.4])
    theta, alpha = _sampled(key, starts, sigma, target, gain, steps, samples)
    return plain(theta), np.asarray(alpha)


def weight_variances(samples: int, key: Array) -> list[tuple[Any, ...]]:
    """Var h / (E h)^2 for N(d, 1) against N(0, 1): exact and as `samples` see it."""
    x = jnp.linspace(-40.0, 40.0, 16_001)
    mass = jnp.exp(-0.5 * x**2)
    drawn = jax.random.normal(key, (samples,), jnp.float32)
    names = ("reverse_kl", *SIX[:1], *SIX[4:5], *SIX[3:4], *SIX[2:3], *SIX[5:])

    @jax.jit
    def every(d: Array) -> list[tuple[Array, Array]]:
        out = []
        for h in (generators.get(name).curvature for name in names):
            exact = effective_fraction(
                jnp.log(h(d * x - d**2 / 2)), example_weights=mass
            )
            seen = effective_fraction(jnp.log(h(d * drawn - d**2 / 2)))
            out.append((1 / exact - 1, 1 / seen - 1))
        return out

    columns = [every(d) for d in (1.0, 2.0, 3.0)]
    return [
        (name, *(float(v) for column in columns for v in column[i]))
        for i, name in enumerate(names)
    ]


class LineResult(NamedTuple):
    """Everything measured on the line; (std, mean) pairs throughout."""

    low_noise: dict[str, np.ndarray]
    annealed: dict[str, np.ndarray]
    variances: list[tuple[Any, ...]]
    starts: np.ndarray
    """The table's four, the two traps, then the grid."""
    clipped: AdaptivePath
    exact: AdaptivePath
    sampled: np.ndarray
    sampled_alpha: np.ndarray

    def covering(self, ends: np.ndarray) -> int:
        return int((ends[:, 0] >= COVERS).sum())


def line_part(config: Any, seed: int) -> LineResult:
    """Runs the line in float64, whatever the precision of the rest."""
    with jax.enable_x64(True):
        task = low_noise()
        fixed = fixed_points(task, config.steps)
        # The traps: where Jensen-Shannon and reverse KL stay on one mode.
        traps = (fixed["jensen_shannon"][1], fixed["reverse_kl"][2])
        side = max(1, config.starts // 9)
        grid = [
            (a, b) for a in np.geomspace(0.3, 2.7, side) for b in np.linspace(-4, 4, 9)
        ][: config.starts]
        starts = log_starts([*STARTS, *traps, *grid])
        knobs = {"target": config.target, "gain": config.gain}
        adaptive = functools.partial(
            adaptive_paths, task, starts, steps=config.adaptive_steps, **knobs
        )
        keys = jax.random.split(jax.random.key(seed))
        sampled, sampled_alpha = sampled_ends(
            keys[0],
            starts[:6],
            steps=config.sampled_steps,
            samples=config.samples,
            **knobs,
        )
        return LineResult(
            low_noise=fixed,
            annealed=fixed_points(annealed(), config.steps),
            variances=weight_variances(config.variance_samples, keys[1]),
            starts=plain(starts),
            clipped=adaptive(clip=(0.1, 20.0)),
            exact=adaptive(clip=None),
            sampled=sampled,
            sampled_alpha=sampled_alpha,
        )
