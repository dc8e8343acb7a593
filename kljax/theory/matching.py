"""Exact f-divergence matching of one Gaussian to a mixture on the line.

The student N(b, a^2) is too small for the target, so each divergence shows its
character in where gradient descent ends: on one mode, over all of them, or either,
depending on the start. The gradient is f-distill's (Eq. 3), score difference times
h(r) = r^2 f''(r), summed over a grid instead of samples. Use float64.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kljax.generators import Choice, FDivergence, get
from kljax.theory.mixtures import GaussianMixture
from kljax.typing import Array, ArrayLike, Float

__all__ = [
    "FixedPoint",
    "LineMatching",
    "fixed_point",
    "fixed_points",
    "log_std",
    "with_std",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LineMatching:
    """``L(log a, b) = Σ_s w_s D_f(p_s‖N(b, a^2 + sigma_s^2))`` on a uniform grid.

    >>> import jax.numpy as jnp
    >>> law = GaussianMixture(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones(1))
    >>> task = LineMatching.build(law, jnp.array([0.1]))
    >>> round(float(task.value(jnp.array([0.0, 1.0]), "reverse_kl")), 3)  # 1/(2*1.01)
    0.495
    """

    grid: Float[Array, "n"]
    sigma: Float[Array, "s"]
    weights: Float[Array, "s"]
    log_p: Float[Array, "s n"]
    score_p: Float[Array, "s n"]

    @classmethod
    def build(
        cls,
        target: GaussianMixture,
        sigma: Float[Array, "s"],
        weights: Float[Array, "s"] | None = None,
        *,
        bounds: tuple[float, float] = (-10.0, 10.0),
        points: int = 801,
    ) -> "LineMatching":
        """Tabulate a one-dimensional target; equal weights by default.

        Raises:
          ValueError: the target is not one-dimensional.
        """
        if target.means.shape[1] != 1:
            raise ValueError(
                "target: expected a mixture on the line, means [k, 1], got "
                f"{target.means.shape}"
            )
        weights = jnp.ones_like(sigma) if weights is None else weights
        grid = jnp.linspace(*bounds, points)
        at = lambda s: (  # noqa: E731
            target.log_density(grid[:, None], s),
            target.score(grid[:, None], s)[:, 0],
        )
        log_p, score_p = jax.jit(jax.vmap(at))(sigma)
        return cls(grid, sigma, weights / jnp.sum(weights), log_p, score_p)

    def student(self, theta: Float[Array, "2"]) -> tuple[Array, Array, Array]:
        """log q, score of q, and E[d x_t / d (log a, b) | x_t] at the grid."""
        scale, b = jnp.exp(theta[0]), theta[1]
        variance = (scale**2 + self.sigma**2)[:, None]
        offset = self.grid - b
        log_q = -0.5 * (offset**2 / variance + jnp.log(2 * math.pi * variance))
        motion = jnp.stack([scale**2 * offset / variance, jnp.ones_like(log_q)])
        return log_q, -offset / variance, motion

    def integrate(self, values: Float[Array, "s n"]) -> Float[Array, ""]:
        """Plain sum over the grid, weighted mean over levels."""
        width = self.grid[1] - self.grid[0]
        return jnp.einsum("s,sn->", self.weights, values) * width

    def value(
        self,
        theta: Float[Array, "2"],
        divergence: FDivergence | str,
        **parameters: ArrayLike,
    ) -> Float[Array, ""]:
        """The objective itself."""
        log_q, _, _ = self.student(theta)
        chosen = get(divergence, **parameters)
        return self.integrate(chosen.term(self.log_p, log_q))

    def gradient(
        self,
        theta: Float[Array, "2"],
        divergence: FDivergence | str,
        **parameters: ArrayLike,
    ) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        """The gradient by the theorem, and E_q[h], the scale Eq. 10 removes."""
        log_q, score_q, motion = self.student(theta)
        h = get(divergence, **parameters).curvature(self.log_p - log_q)
        qh = jnp.exp(log_q) * h
        pull = qh * (score_q - self.score_p)
        gradient = jnp.stack([self.integrate(pull * m) for m in motion])
        return gradient, self.integrate(qh)


class FixedPoint(NamedTuple):
    """Where descent ends: (log a, b), the gradient norm there, the last polish."""

    theta: Float[Array, "2"]
    gradient_norm: Float[Array, ""]
    polish: Float[Array, ""]


def fixed_point(
    task: LineMatching,
    divergence: FDivergence | str,
    start: Float[Array, "2"],
    *,
    steps: int = 600,
    rate: float = 0.2,
    longest: float = 0.05,
    newton: int = 6,
    **parameters: ArrayLike,
) -> FixedPoint:
    """The end of gradient descent from `start`, polished by Newton's method.

    Every move is a negative multiple of the gradient (divided by E_q[h], at most
    `longest` long), so the path is plain gradient descent's; Newton only sharpens the
    point that it has already reached, which `polish`, the length of all its moves,
    lets a caller check.

    Args:
      task: target, levels and grid.
      divergence: an f-divergence or its name; `Choice` too.
      start: (log a, b).
      steps, rate, longest: of the descent.
      newton: Newton steps at the end.
      **parameters: of a divergence given by name, such as ``alpha``; may be traced.

    Returns:
      The point, the norm of the gradient over E_q[h] there, and the polish.

    Example:
      >>> law = GaussianMixture(jnp.zeros(1), jnp.ones((1, 1)), jnp.ones(1))
      >>> task = LineMatching.build(law, jnp.array([0.5]))
      >>> end = fixed_point(task, "reverse_kl", jnp.zeros(2), steps=100, newton=1)
      >>> bool(abs(end.theta[1] - 1) < 1e-3)
      True
    """

    def direction(theta: Array) -> Array:
        gradient, scale = task.gradient(theta, divergence, **parameters)
        return gradient / scale

    def descend(theta: Array, _: None) -> tuple[Array, None]:
        move = rate * direction(theta)
        length = jnp.linalg.norm(move)
        return theta - move * jnp.minimum(1, longest / length), None

    def sharpen(theta: Array, _: None) -> tuple[Array, None]:
        # Near a zero of g, the Jacobian of g / E_q[h] is the Hessian over E_q[h].
        # Differences compile in half the time of derivatives and lose nothing here.
        probes = theta + 1e-5 * jnp.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
        here, right, left, up, down = jax.vmap(direction)(probes)
        jacobian = jnp.stack([right - left, up - down], axis=1) / 2e-5
        return theta - jnp.linalg.solve(jacobian, here), None

    near, _ = jax.lax.scan(descend, start, None, length=steps)
    theta, _ = jax.lax.scan(sharpen, near, None, length=newton)
    norm = jnp.linalg.norm(direction(theta))
    return FixedPoint(theta, norm, jnp.linalg.norm(theta - near))


@functools.partial(jax.jit, static_argnames=("divergences", "steps"))
def fixed_points(
    task: LineMatching,
    divergences: tuple[str, ...],
    starts: Float[Array, "m 2"],
    *,
    steps: int = 600,
) -> Float[Array, "k m 2"]:
    """`fixed_point` of several divergences from several starts, in one program.

    Args:
      task: target, levels and grid.
      divergences: k names.
      starts: (log a, b).
      steps: of the descent.

    Example:
      >>> law = GaussianMixture(jnp.zeros(1), jnp.ones((1, 1)), jnp.ones(1))
      >>> task = LineMatching.build(law, jnp.array([0.5]))
      >>> names = ("reverse_kl", "forward_kl")
      >>> fixed_points(task, names, jnp.zeros((3, 2)), steps=5).shape
      (2, 3, 2)
    """
    options = tuple(get(name) for name in divergences)
    one = lambda index, start: fixed_point(  # noqa: E731
        task, Choice(index, options), start, steps=steps
    )
    every = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return every(jnp.arange(len(options)), starts).theta


def log_std(students: ArrayLike) -> Float[Array, "*b 2"]:
    """(a, b), standard deviation and mean, as the (log a, b) of a descent.

    Example:
      >>> log_std([[1.0, 2.0]]).tolist()
      [[0.0, 2.0]]
    """
    students = jnp.asarray(students)
    return jnp.stack([jnp.log(students[..., 0]), students[..., 1]], axis=-1)


@jax.jit
def with_std(theta: Float[Array, "*b 2"]) -> Float[Array, "*b 2"]:
    """The inverse of `log_std`."""
    return jnp.stack([jnp.exp(theta[..., 0]), theta[..., 1]], axis=-1)
