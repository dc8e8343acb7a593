"""Potentials where epsilon is large beside the cost: digits that an exponential loses.

There all exponents x = (g − C)/ε are near 0, and ε log Σ b eˣ is ε times the logarithm
of a number near 1: of a cost of 1 at ε = 1e8 float32 keeps nothing. With masses that
sum to 1 it is ε log1p(Σ b expm1(x)), which keeps all. Sinkhorn's iteration contracts by
about (range of C/ε)² there, so that a few updates from any start are enough.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from kljax.kernels.transport.matrix import every, potential, usable
from kljax.kernels.transport.problem import Matrix, Problem
from kljax.typing import Array, Float

_GENTLE = 1 / 6
"""The range of costs, in units of epsilon, up to which updates are done over."""
_UPDATES = 6
"""Each brings the potentials nearer by 1e-3, or more, from any start."""
_PAIRS = 2**18


class Rows(NamedTuple):
    """Costs: a matrix, or ‖x_i − y_j‖² of two sets of points, made by blocks."""

    left: Float[Array, "*b n k"]
    right: Float[Array, "*b m d"] | None = None

    def spread(self, a: Array, b: Array) -> Array:
        """At least the range of the costs that count."""
        if self.right is None:
            some = (a != 0)[..., :, None] & (b != 0)[..., None, :]
            some &= self.left != jnp.inf
            flat = (*some.shape[:-2], -1)
            return _range(self.left.reshape(flat), some.reshape(flat))
        sides = (self.left, a), (self.right, b)
        norms = [jnp.where(m != 0, jnp.sum(x**2, axis=-1), 0) for x, m in sides]
        return 2 * jnp.max(norms[0], axis=-1) + 2 * jnp.max(norms[1], axis=-1)

    def mean(self, potential: Array, mass: Array, scale: Array, axis: int) -> Array:
        """``log1p(Σ b expm1((g − C)/ε))`` over an axis of the costs, −1 or −2."""
        left, right = self
        if right is None:
            return _mean(left, potential, mass, scale, axis)
        if left.ndim > 2:

            def one(problem):
                left, right, potential, mass, scale = problem
                return Rows(left, right).mean(potential, mass, scale, axis)

            return lax.map(one, (left, right, potential, mass, scale))
        own, others = (left, right) if axis == -1 else (right, left)
        size = max(1, _PAIRS // max(1, others.size))

        def row(x):
            cost = jnp.sum((x - others) ** 2, axis=-1)
            return _mean(cost[None], potential, mass, scale, -1)[0]

        return lax.map(row, own, batch_size=min(size, own.shape[0]))


def _mean(cost: Array, potential: Array, mass: Array, scale: Array, axis: int) -> Array:
    along = -3 - axis
    total = jnp.sum(mass, axis=-1)[..., None]
    potential, mass = (jnp.expand_dims(x, along) for x in (potential, mass))
    exponent = (potential - cost) / scale[..., None, None]
    weighted = jnp.where(mass == 0, 0, mass * jnp.expm1(exponent))
    return jnp.log1p(jnp.sum(weighted, axis=axis) / total)


def polished(
    problem: Problem, f: Float[Array, "*b n"], g: Float[Array, "*b m"]
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    """The potentials, made anew in the problems whose exponents are all near 0."""
    a, b, geometry, epsilon = problem
    held = isinstance(geometry, Matrix)
    given = Rows(geometry.cost) if held else Rows(*geometry)
    spread = given.spread(a, b)
    gentle = spread < _GENTLE * epsilon
    # Beyond such an epsilon nothing changes, and exponents must not vanish.
    most = 1e4 / jnp.finfo(epsilon.dtype).eps * jnp.where(spread > 0, spread, 1)
    scale = jnp.minimum(epsilon, most)
    wide = scale[..., None]

    def anew(f, g):
        rows = Rows(usable(geometry.near, a, b)) if held else given

        def update(_, state):
            _, g = state
            f = wide * potential(rows.mean(g, b, scale, -1), a)
            return f, wide * potential(rows.mean(f, a, scale, -2), b)

        start = jnp.zeros_like(f), jnp.zeros_like(g)
        new = lax.fori_loop(0, _UPDATES, update, start)
        chosen = gentle[..., None]
        return jnp.where(chosen, new[0], f), jnp.where(chosen, new[1], g)

    return lax.cond(every(~gentle), lambda f, g: (f, g), anew, f, g)


def _range(x: Array, some: Array) -> Array:
    high = jnp.max(jnp.where(some, x, -jnp.inf), axis=-1)
    return high - jnp.min(jnp.where(some, x, jnp.inf), axis=-1)
