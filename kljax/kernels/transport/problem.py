"""A problem of transport that is one: one dtype, equal leading axes, legal values."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from kljax.arguments import floating, legal, real, shadow, whole
from kljax.kernels.pairs.sums import squared_distances
from kljax.typing import Array, ArrayLike, Float


class Matrix(NamedTuple):
    """A cost for each pair; +inf forbids it.

    Potentials are those of `near`: what all costs have in common would take digits, and
    an array of differences memory.
    """

    cost: Float[Array, "*b n m"]
    offset: Float[Array, "*b"]

    @property
    def near(self) -> Float[Array, "*b n m"]:
        """The costs less what they have in common."""
        return self.cost - self.offset[..., None, None]


class SquaredDistances(NamedTuple):
    """The cost ‖x_i − y_j‖²; clouds may lie far from each other and from the origin."""

    x: Float[Array, "*b n d"]
    y: Float[Array, "*b m d"]

    @property
    def near(self) -> Float[Array, "*b n m"]:
        """Held as a matrix."""
        return squared_distances(self.x[..., :, None, :], self.y[..., None, :, :])


class Problem(NamedTuple):
    """All in one dtype and with equal leading axes."""

    a: Float[Array, "*b n"]
    b: Float[Array, "*b m"]
    geometry: Matrix | SquaredDistances
    epsilon: Float[Array, "*b"]


class Lifts(NamedTuple):
    """What was taken off the costs, a number for each point and so of its potential."""

    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]

    def value(self, problem: Problem) -> Float[Array, "*b"]:
        """What they add to a value."""
        return jnp.sum(self.f * problem.a, -1) + jnp.sum(self.g * problem.b, -1)


def checked(
    a: ArrayLike,
    b: ArrayLike,
    cost: ArrayLike | SquaredDistances,
    epsilon: ArrayLike,
    iterations: int,
) -> tuple[Problem, Lifts]:
    """The problem of costs near 0, or an error that names what does not fit."""
    a, b = floating("a", a), floating("b", b)
    if isinstance(cost, SquaredDistances):
        x, y = arrays = floating("cost.x", cost.x), floating("cost.y", cost.y)
        if (
            min(a.ndim, b.ndim) < 1
            or min(x.ndim, y.ndim) < 2
            or x.shape[-1] != y.shape[-1]
            or (a.shape[-1], b.shape[-1]) != (x.shape[-2], y.shape[-2])
            or 0 in x.shape + y.shape
        ):
            raise ValueError(
                "a [..., n], b [..., m] and SquaredDistances of x [..., n, d] and y "
                f"[..., m, d] do not fit: {a.shape}, {b.shape}, {x.shape}, {y.shape}"
            )
    else:
        cost = floating("cost", cost)
        arrays = (cost,)
        if (
            min(a.ndim, b.ndim) < 1
            or cost.ndim < 2
            or (a.shape[-1], b.shape[-1]) != cost.shape[-2:]
            or 0 in cost.shape
        ):
            raise ValueError(
                f"a [..., n], b [..., m] and cost [..., n, m] do not fit: {a.shape}, "
                f"{b.shape}, {cost.shape}"
            )
    whole("iterations", iterations)
    dtype = jnp.result_type(a, b, *arrays)
    with np.errstate(over="ignore"):
        epsilon = real("epsilon", epsilon).astype(dtype)
    what = f"positive and finite in {dtype}"
    epsilon = legal("epsilon", epsilon, lambda x: (x <= 0) | (x == jnp.inf), what)
    a, b = (_masses(name, x.astype(dtype)) for name, x in (("a", a), ("b", b)))
    leads = [x.shape[:-2] for x in arrays]
    try:
        lead = jnp.broadcast_shapes(a.shape[:-1], b.shape[:-1], *leads, epsilon.shape)
    except ValueError:
        name = "cost" if len(arrays) == 1 else "points"
        shapes = ", ".join(str(x.shape) for x in arrays)
        raise ValueError(
            f"leading axes do not broadcast: a {a.shape}, b {b.shape}, "
            f"{name} {shapes}, epsilon {epsilon.shape}"
        ) from None
    wide = [jnp.broadcast_to(x.astype(dtype), lead + x.shape[-2:]) for x in arrays]
    a = jnp.broadcast_to(a, lead + a.shape[-1:])
    b = jnp.broadcast_to(b, lead + b.shape[-1:])
    if len(wide) == 1:
        (cost,) = wide
        geometry = Matrix(cost, lax.stop_gradient(_least(a, b, cost)))
        half = geometry.offset[..., None] / 2
        lifts = Lifts(*(jnp.broadcast_to(half, mass.shape) for mass in (a, b)))
    else:
        geometry, lifts = onto_means(a, b, *wide)
    # What counts and is NaN, or infinite where a point lies, is in the potentials of
    # its problem at least; this brings it into every derivative too.
    unknown = lax.stop_gradient(_unknown(a, b, geometry) + shadow(epsilon))
    a, b = (mass + unknown[..., None] for mass in (a, b))
    return Problem(a, b, geometry, jnp.broadcast_to(epsilon, lead)), lifts


def _masses(name: str, mass: Array) -> Array:
    mass = legal(name, mass, lambda x: x < 0, "at least 0")
    return legal(name, mass, _unbalanced, "of sum 1 (divide it by its sum)")


def _unbalanced(mass):
    """Whether masses do not sum to 1 up to the rounding of half precision."""
    return abs(mass.sum(-1, keepdims=True) - 1) > 1e-2


def _unknown(a: Array, b: Array, geometry: Matrix | SquaredDistances) -> Array:
    """0, or NaN where a cost that counts is NaN or −inf."""
    if isinstance(geometry, SquaredDistances):
        x, y = (jnp.sum(shadow(points), axis=(-2, -1)) for points in geometry)
        return x + y
    cost = geometry.cost
    legal("cost", cost, lambda x: x == -jnp.inf, "above −infinity")
    counts = (a != 0)[..., :, None] & (b != 0)[..., None, :]
    bad = counts & ~(cost > -jnp.inf)
    return jnp.where(jnp.any(bad, axis=(-2, -1)), jnp.nan, 0).astype(cost.dtype)


def _least(a: Array, b: Array, cost: Array) -> Array:
    """The lowest finite cost between points with mass; 0 if there is none."""
    counts = (a != 0)[..., :, None] & (b != 0)[..., None, :] & jnp.isfinite(cost)
    least = jnp.min(jnp.where(counts, cost, jnp.inf), axis=(-2, -1))
    return jnp.where(least == jnp.inf, 0, least)


def onto_means(
    a: Array, b: Array, x: Array, y: Array
) -> tuple[SquaredDistances, Lifts]:
    """Both clouds with their means at the origin: what is small cancels to more digits.

    With Δ the difference of the means, ``‖x − y‖² = ‖x' − y'‖² + ‖Δ‖² + 2Δ·(x' − y')``:
    a part for each point, which no plan changes. Points without mass that are not
    finite are put onto the mean.
    """
    x, y = present(x, a), present(y, b)
    of_x, of_y = _mean(x, a), _mean(y, b)
    x, y, apart = x - of_x, y - of_y, of_x - of_y
    half = jnp.sum(apart**2, axis=-1) / 2
    # A product, not a sum of products: an array less.
    f, g = (
        jnp.einsum("...ud,...nd->...n", apart, z, precision="highest") for z in (x, y)
    )
    return SquaredDistances(x, y), Lifts(half + 2 * f, half - 2 * g)


def _mean(points: Array, mass: Array) -> Array:
    weights = (mass / jnp.sum(mass, axis=-1, keepdims=True))[..., None]
    return lax.stop_gradient(jnp.sum(weights * points, axis=-2, keepdims=True))


def present(points: Array, mass: Array) -> Array:
    """Points, with the mean of the others for one without mass that is not finite."""
    absent = (mass == 0)[..., None] & ~jnp.isfinite(points).all(-1, keepdims=True)
    kept = lax.stop_gradient(jnp.where(absent, 0, points))
    count = jnp.maximum(jnp.sum(~absent, axis=-2, keepdims=True), 1)
    return jnp.where(absent, jnp.sum(kept, axis=-2, keepdims=True) / count, points)
