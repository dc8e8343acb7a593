"""Derivatives of entropic transport at the fixed point, for a matrix and for points.

The value: its slopes are the plan and the potentials (envelope theorem), residuals are
the problem and the potentials. The potentials: one linear system, of the reduced
Hessian,

    (I − BᵀB) y = r,  B_ij = P_ij/√(α_i β_j),  α = P1,  β = Pᵀ1,  y = √β dg,

solved by conjugate gradients that use B through products of the plan alone. Its null
vector √β, the constant by which g may be shifted, is projected out. Rules are
forward-mode; both modes and all orders follow.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from kljax.kernels.transport.gentle import polished
from kljax.kernels.transport.matrix import Solution, every, log_mass, solve, usable
from kljax.kernels.transport.points import side, solve_points
from kljax.kernels.transport.problem import Matrix, Problem, SquaredDistances
from kljax.typing import Array, Float

_LARGEST = 60.0
"""Exponents between two points without mass are unbounded; nothing depends on them."""


class _Conditionals(NamedTuple):
    """The plan seen from either side; `rows` has R = diag(1/α) P, without mass too."""

    alpha: Array
    beta: Array
    rows: Callable[[Array], Array]
    columns: Callable[[Array], Array]
    rows_of_mass: Callable[[Array], Array]
    """Σ_j K_ij v_j for a change v of b; K is the plan without masses."""
    columns_of_mass: Callable[[Array], Array]


def find(problem: Problem, iterations: int, tolerance: float | None = None) -> Solution:
    """Potentials whose derivatives are those of the fixed point."""
    fixed = lax.stop_gradient(problem)
    way = solve if isinstance(fixed.geometry, Matrix) else solve_points
    found = way(fixed, iterations, tolerance)
    f, g = centered(fixed.a, fixed.b, *polished(fixed, found.f, found.g))
    return Solution(*_fixed_point(problem, f, g), found.iterations)


def centered(a: Array, b: Array, f: Array, g: Array) -> tuple[Array, Array]:
    """Potentials of equal means, f under a and g under b."""
    mean_f = jnp.sum(f * a, axis=-1) / jnp.sum(a, axis=-1)
    mean_g = jnp.sum(g * b, axis=-1) / jnp.sum(b, axis=-1)
    shift = 0.5 * (mean_f - mean_g)[..., None]
    return f - shift, g + shift


def plan(problem: Problem, f, g) -> Float[Array, "*b n m"]:
    """P_ij = a_i b_j e^{(f_i + g_j − C_ij)/ε}."""
    a, b, geometry, epsilon = problem
    # Masses enter the exponent: the kernel alone may overflow between two points
    # without mass, where the potentials are mere extensions.
    log_masses = log_mass(a)[..., :, None] + log_mass(b)[..., None, :]
    near = geometry.near
    possible = (log_masses != -jnp.inf) & (near != jnp.inf)
    slack = _slack(jnp.where(possible, near, 0), epsilon, f, g)
    exponent = jnp.where(possible, slack + jnp.where(possible, log_masses, 0), 0)
    return jnp.where(possible, jnp.exp(exponent), 0)


def marginals(problem: Problem, f, g) -> tuple[Array, Array]:
    """P1 and Pᵀ1."""
    a, b, geometry, epsilon = problem
    if isinstance(geometry, Matrix):
        found = plan(problem, f, g)
        return found.sum(-1), found.sum(-2)
    x, y = geometry
    of_x, of_y = side(x, y, epsilon), side(y, x, epsilon)
    alpha = _marginal(a, f, of_x(log_mass(b), g)[0], epsilon)
    return alpha, _marginal(b, g, of_y(log_mass(a), f)[0], epsilon)


def sharp_cost(problem: Problem, f, g) -> Float[Array, "*b"]:
    """⟨P, C⟩ of the costs less their offset."""
    a, b, geometry, epsilon = problem
    if isinstance(geometry, Matrix):
        found = plan(problem, f, g)
        used = found != 0
        finite = jnp.where(used, geometry.near, 0)
        return jnp.sum(jnp.where(used, found * finite, 0), axis=(-2, -1))
    x, y = geometry
    square = jnp.sum(y**2, axis=-1, keepdims=True)
    values = jnp.concatenate([y, square], axis=-1)
    lse, mean = side(x, y, epsilon)(log_mass(b), g, values)
    cost = jnp.sum(x**2, -1) + mean[..., -1] - 2 * jnp.sum(x * mean[..., :-1], -1)
    return jnp.sum(_marginal(a, f, lse, epsilon) * cost, axis=-1)


def _marginal(mass: Array, potential: Array, lse: Array, epsilon: Array) -> Array:
    some = mass != 0
    exponent = jnp.where(some, potential / epsilon[..., None] + lse, 0)
    return jnp.where(some, mass * jnp.exp(exponent), 0)


def _slack(cost: Array, epsilon: Array, f: Array, g: Array) -> Array:
    """(f + g − C)/ε."""
    return (f[..., :, None] + g[..., None, :] - cost) / epsilon[..., None, None]


def _given(tangents: Any) -> Any:
    """Tangents, with None for what is not differentiated."""
    return jax.tree.map(
        lambda t: None if isinstance(t, SymbolicZero) else t,
        tangents,
        is_leaf=lambda t: isinstance(t, SymbolicZero),
    )


@jax.custom_jvp
def dual_value(problem: Problem, f, g) -> Float[Array, "*b"]:
    """⟨f, a⟩ + ⟨g, b⟩, stationary in f and g."""
    return _by_halves(f * problem.a) + _by_halves(g * problem.b)


def _by_halves(x: Array) -> Array:
    """Sum over the last axis; one term after the other would cost a digit."""
    while (n := x.shape[-1]) > 8:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n % 2)])
        x = x[..., : (n + 1) // 2] + x[..., (n + 1) // 2 :]
    return jnp.sum(x, axis=-1)


@partial(dual_value.defjvp, symbolic_zeros=True)
def _dual_value_jvp(primals, tangents):
    # Residuals are the arguments: the plan is made again in the backward pass.
    change = jax.checkpoint(_envelope)(primals, _given(tangents[0]))
    return dual_value(*primals), change


def _envelope(primals, tangents) -> Array:
    problem, f, g = primals
    a, b, geometry, epsilon = problem
    d_a, d_b, d_geometry, d_epsilon = tangents
    total = jnp.zeros_like(epsilon)
    if d_a is not None:
        total += jnp.sum(f * d_a, axis=-1)
    if d_b is not None:
        total += jnp.sum(g * d_b, axis=-1)
    # The total mass beside KL(P‖a⊗b) cancels once the marginals hold.
    if isinstance(geometry, SquaredDistances):
        if any(d is not None for d in (*d_geometry, d_epsilon)):
            of_x = side(geometry.x, geometry.y, epsilon)
            lse = of_x(log_mass(b), g)[0]

            def rows(values):
                return of_x(log_mass(b), g, values)[1]

            alpha = _marginal(a, f, lse, epsilon)
            moved = _moved(geometry, d_geometry, f, g, epsilon, d_epsilon, rows)
            total += jnp.sum(alpha * moved, axis=-1)
        return total
    weights = plan(problem, f, g)
    if d_geometry.cost is not None:
        total += jnp.sum(weights * d_geometry.cost, axis=(-2, -1))
    if d_epsilon is not None:
        used = weights != 0
        finite = jnp.where(used, geometry.near, 0)
        slack = jnp.where(used, _slack(finite, epsilon, f, g), 0)
        total += jnp.sum(weights * slack, axis=(-2, -1)) * d_epsilon
    return total


def _moved(points, d_points, f, g, epsilon, d_epsilon, rows) -> Array:
    """Σ_j R_ij (dC_ij + (f_i + g_j − C_ij) dε/ε) for C = ‖x_i − y_j‖²."""
    (x, y), (d_x, d_y) = points, d_points
    # Apart from what is linear in the changes, as the two are transposed apart.
    mean_y = rows(y)
    relative = None if d_epsilon is None else (d_epsilon / epsilon)[..., None]
    total = jnp.zeros_like(f)
    if d_x is not None:
        total += 2 * jnp.sum(d_x * (x - mean_y), axis=-1)
    if d_y is not None:
        inner = jnp.sum(y * d_y, axis=-1, keepdims=True)
        mean = rows(jnp.concatenate([d_y, inner], axis=-1))
        total += 2 * (mean[..., -1] - jnp.sum(x * mean[..., :-1], axis=-1))
    if relative is not None:
        mean_g = rows((g - jnp.sum(y**2, axis=-1))[..., None])[..., 0]
        own = f - jnp.sum(x**2, -1) + 2 * jnp.sum(x * mean_y, -1)
        total += relative * (own + mean_g)
    return total


@jax.custom_jvp
def _fixed_point(problem, f, g):
    """f and g as functions of the problem whose solution they are."""
    return f, g


@partial(_fixed_point.defjvp, symbolic_zeros=True)
def _fixed_point_jvp(primals, tangents):
    # Made again in the backward pass, so not made at all where only the value, whose
    # rule ignores the tangents of f and g, is differentiated.
    potentials = _fixed_point(*primals)
    change = jax.checkpoint(_implicit)
    return potentials, change(primals[0], potentials, _given(tangents[0]))


def _implicit(problem, potentials, tangents) -> tuple[Array, Array]:
    """Differentiates f_i = −ε log Σ_j b_j e^{(g_j − C_ij)/ε} and its mirror image.

    df + R dg = r and dg + Qᵀ df = s with R the plan conditioned on rows, Q on columns.
    """
    a, b, geometry, epsilon = problem
    d_a, d_b, d_geometry, d_epsilon = tangents
    f, g = potentials
    if isinstance(geometry, Matrix):
        c, right_f, right_g = _of_matrix(problem, f, g, d_geometry.cost, d_epsilon)
    else:
        c = _of_points(problem, f, g)
        back, d_back = geometry[::-1], d_geometry[::-1]
        right_f = _moved(geometry, d_geometry, f, g, epsilon, d_epsilon, c.rows)
        right_g = _moved(back, d_back, g, f, epsilon, d_epsilon, c.columns)

        def one(product):
            return lambda v: product(v[..., None])[..., 0]

        c = c._replace(rows=one(c.rows), columns=one(c.columns))
    scale = epsilon[..., None]
    if d_b is not None:
        right_f -= scale * c.rows_of_mass(d_b)
    if d_a is not None:
        right_g -= scale * c.columns_of_mass(d_a)
    d_g = _solve_reduced(c, right_g - c.columns(right_f))
    d_f = right_f - c.rows(d_g)
    d_g = right_g - c.columns(d_f)  # at points without mass too
    # The shift that keeps the two means equal.
    gap = jnp.sum(d_f * a, axis=-1) - jnp.sum(d_g * b, axis=-1)
    if d_a is not None:
        gap += jnp.sum(f * d_a, axis=-1) - jnp.sum(f * a, -1) * d_a.sum(-1)
    if d_b is not None:
        gap -= jnp.sum(g * d_b, axis=-1) - jnp.sum(g * b, -1) * d_b.sum(-1)
    shift = 0.5 * gap[..., None]
    return d_f - shift, d_g + shift


def _of_points(problem, f, g) -> _Conditionals:
    a, b, (x, y), epsilon = problem
    of_x, of_y = side(x, y, epsilon), side(y, x, epsilon)
    log_a, log_b = log_mass(a), log_mass(b)

    def of_mass(of, own, other):
        def product(change):
            lse, mean = of(jnp.zeros_like(other), other, change[..., None])
            exponent = own / epsilon[..., None] + lse
            return jnp.exp(jnp.minimum(exponent, _LARGEST)) * mean[..., 0]

        return product

    return _Conditionals(
        _marginal(a, f, of_x(log_b, g)[0], epsilon),
        _marginal(b, g, of_y(log_a, f)[0], epsilon),
        lambda v: of_x(log_b, g, v)[1],
        lambda u: of_y(log_a, f, u)[1],
        of_mass(of_x, f, g),
        of_mass(of_y, g, f),
    )


def _of_matrix(problem, f, g, d_cost, d_epsilon):
    """Its conditionals, and Σ_j R_ij change_ij and Σ_i Q_ij change_ij."""
    a, b, geometry, epsilon = problem
    cost = usable(geometry.near, a, b)
    allowed = cost != jnp.inf
    finite = jnp.where(allowed, cost, 0)
    slack = jnp.where(allowed, _slack(finite, epsilon, f, g), 0)
    rows = _conditional(log_mass(b)[..., None, :], slack, allowed, -1)
    columns = _conditional(log_mass(a)[..., :, None], slack, allowed, -2)
    kernel = jnp.where(allowed, jnp.exp(jnp.minimum(slack, _LARGEST)), 0)
    weights = plan(problem, f, g)

    def product(matrix, equation):
        precision = lax.Precision.HIGHEST
        return lambda v: jnp.einsum(equation, matrix, v, precision=precision)

    along, back = "...ij,...j->...i", "...ij,...i->...j"
    conditionals = _Conditionals(
        weights.sum(-1),
        weights.sum(-2),
        product(rows, along),
        product(columns, back),
        product(kernel, along),
        product(kernel, back),
    )
    change = jnp.zeros_like(slack)
    if d_cost is not None:
        change += jnp.where(allowed, d_cost, 0)
    if d_epsilon is not None:
        change += slack * d_epsilon[..., None, None]
    right_f = jnp.sum(rows * change, axis=-1)
    return conditionals, right_f, jnp.sum(columns * change, axis=-2)


def _conditional(log_weights: Array, slack: Array, allowed: Array, axis: int) -> Array:
    """Softmax of log_weights + slack over the allowed pairs; 0 if there are none."""
    some = allowed & (log_weights != -jnp.inf)
    exponent = jnp.where(some, slack + jnp.where(some, log_weights, 0), -jnp.inf)
    largest = lax.stop_gradient(jnp.max(exponent, axis=axis, keepdims=True))
    exponent = jnp.where(some, exponent - jnp.where(some, largest, 0), 0)
    weights = jnp.where(some, jnp.exp(exponent), 0)
    total = jnp.sum(weights, axis=axis, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def _solve_reduced(c: _Conditionals, right: Array) -> Array:
    """dg of (I − QᵀR) dg = right, without a constant; 0 at points without mass."""
    root_a, root_b = _root(c.alpha), _root(c.beta)
    over_a, over_b = _inverse(root_a), _inverse(root_b)
    size = jnp.sqrt(jnp.sum(c.beta, axis=-1, keepdims=True))
    null = root_b / size

    def project(y):
        return y - null * jnp.sum(null * y, axis=-1, keepdims=True)

    def operator(y):
        middle = root_a * c.rows(over_b * y)
        return y - root_b * c.columns(over_a * middle)

    def matvec(y):
        inside = project(y)
        return project(operator(inside)) + (y - inside)

    y = lax.custom_linear_solve(
        matvec, project(root_b * right), _conjugate_gradients, symmetric=True
    )
    return over_b * y


def _root(x: Array) -> Array:
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _inverse(x: Array) -> Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


def _conjugate_gradients(matvec, right: Array) -> Array:
    """Each leading index by itself; those that are done wait for the others."""
    m = right.shape[-1]
    threshold = (10 * jnp.finfo(right.dtype).eps) ** 2 * jnp.sum(right**2, axis=-1)
    most = min(2 * m, 1000)

    def unfinished(state):
        _, _, _, square, count = state
        return (count < most) & ~every(square <= threshold)

    def step(state):
        y, residual, direction, square, count = state
        image = matvec(direction)
        curvature = jnp.sum(direction * image, axis=-1)
        active = (square > threshold) & (curvature > 0)
        length = jnp.where(active, square / jnp.where(active, curvature, 1), 0)
        y = y + length[..., None] * direction
        residual = residual - length[..., None] * image
        new = jnp.where(active, jnp.sum(residual**2, axis=-1), 0)
        ratio = new / jnp.where(square > 0, square, 1)
        direction = residual + ratio[..., None] * direction
        return y, residual, direction, new, count + 1

    square = jnp.sum(right**2, axis=-1)
    state = jnp.zeros_like(right), right, right, square, 0
    return lax.while_loop(unfinished, step, state)[0]
