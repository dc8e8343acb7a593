"""Entropic optimal transport between two weighted sets of points with a given cost.

    OT_ε(a, b) = min over P with marginals a, b of ⟨P, C⟩ + ε KL(P ‖ a⊗b)
               = max over f, g of ⟨f, a⟩ + ⟨g, b⟩ − ε (Σ P_ij − 1)

with the plan P_ij = a_i b_j e^{(f_i + g_j − C_ij)/ε}. The potentials come from a fixed
number of iterations, or from as many as each problem needs; a batch of problems runs as
one. The cost is a matrix, or `SquaredDistances` of two sets of points, whose matrix is
then never held. Derivatives never pass through the iterations: those of the value are
the plan and the potentials (the envelope theorem), those of the potentials solve one
linear system at the fixed point. Both are written as forward-mode rules, so that every
mode and order of differentiation works; they are those of the converged problem, as
good as `converged` says.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from kljax.arguments import floating
from kljax.kernels.transport import rules
from kljax.kernels.transport.problem import Matrix, Problem, SquaredDistances, checked
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = [
    "SinkhornResult",
    "SquaredDistances",
    "sinkhorn",
    "sinkhorn_divergence",
    "transport_cost",
    "transport_plan",
]

_HELD = 2**20
"""Pairs of points up to which `sinkhorn_divergence` holds the cost of each."""
Mass = Float[ArrayLike, "*#b n"]
OtherMass = Float[ArrayLike, "*#b m"]
Cost = Float[ArrayLike, "*#b n m"] | SquaredDistances
Each = Float[Array, "*b"]


class SinkhornResult(NamedTuple):
    """What `sinkhorn` found, one entry per leading index."""

    value: Each
    f: Float[Array, "*b n"]
    """Shifted so that its mean under a is that of `g` under b."""
    g: Float[Array, "*b m"]
    marginal_error_a: Each
    """Σ|P1 − a|."""
    marginal_error_b: Each
    """Σ|Pᵀ1 − b|."""
    converged: Bool[Array, "*b"]
    """Not where anything is NaN."""
    iterations: int | Int[Array, "*b"]
    """The number asked for or, with `early_stop`, what each problem took."""


def sinkhorn(
    a: Mass,
    b: OtherMass,
    cost: Cost,
    epsilon: ArrayLike,
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
    early_stop: bool = False,
) -> SinkhornResult:
    """Entropic optimal transport: the regularised cost, potentials and errors.

    value = ⟨f, a⟩ + ⟨g, b⟩ = OT_ε(a, b), not ⟨P, C⟩ (that is `transport_cost`). After
    few iterations it is a lower bound on OT_ε.

    Gradients of the value: the plan in `cost`, f in `a`, g in `b`, KL(P‖a⊗b) in
    `epsilon`; in the points x of `SquaredDistances`, 2(α_i x_i − Σ_j P_ij y_j) with
    α = P1. Those in `a` and `b` mean something along changes that keep both masses
    equal only: f and g are each known up to a constant. f and g are differentiable too,
    by conjugate gradients at the fixed point.

    Args:
      a, b: masses ≥ 0 (not logarithms), each summing to 1; entries of 0 are legal.
      cost: any finite cost; +inf forbids a pair, as long as a plan remains. Or
        ``SquaredDistances(x, y)`` with points `[..., n, d]` and `[..., m, d]`: the cost
        ‖x_i − y_j‖², in memory that grows with n + m, at one exponential a pair and
        update. A matrix of a few MiB is faster: after two iterations a pair costs an
        exponential only while the potentials still move far.
      epsilon: > 0, in units of the cost, may be traced; the smaller, the more
        iterations are needed (about max cost/ε). One per leading index, or a number.
      iterations: how many updates of f and g, a Python number.
      tolerance: what both marginal errors must be below to count as converged.
      early_stop: whether a problem stops, and stays as it is, once its errors are below
        the tolerance (looked at every ten iterations); `iterations` is then the most. A
        batch runs as long as its slowest member.

    Returns:
      A `SinkhornResult`.

    Raises:
      ValueError: for shapes that do not fit, iterations ≤ 0 or a tolerance < 0; for
        known values of epsilon ≤ 0, masses < 0 or of another sum than 1 (by 0.01), or
        costs of −inf. Where these are traced the value is NaN.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> round(float(sinkhorn(a, a, cost, 0.1).value), 4)  # 0.1·log 2, at no cost
      0.0693
      >>> x = jnp.array([[0.0], [1.0]])
      >>> round(float(sinkhorn(a, a, SquaredDistances(x, x), 0.1).value), 4)
      0.0693

    References:
      Cuturi, "Sinkhorn distances" (2013); Peyré and Cuturi, Computational Optimal
      Transport (2019), §4.4 for the iterations, Prop. 4.6 for the gradient. They
      regularise by the entropy; KL(P‖a⊗b) differs by the entropies of a and b.
      Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport
      problems" (2019), §3.1, for scalings that are folded into potentials.
    """
    problem, lifts = checked(a, b, cost, epsilon, iterations)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    f, g, taken = rules.find(problem, iterations, tolerance if early_stop else None)
    value = rules.dual_value(problem, f, g)
    fixed, *potentials = lax.stop_gradient((problem, f, g))
    alpha, beta = rules.marginals(fixed, *potentials)
    error_a = jnp.sum(jnp.abs(alpha - fixed.a), axis=-1)
    error_b = jnp.sum(jnp.abs(beta - fixed.b), axis=-1)
    converged = (error_a <= tolerance) & (error_b <= tolerance)
    count = taken if early_stop else iterations
    value = value + lifts.value(problem)
    f, g = rules.centered(problem.a, problem.b, f + lifts.f, g + lifts.g)
    return SinkhornResult(value, f, g, error_a, error_b, converged, count)


def transport_plan(
    a: Mass, b: OtherMass, cost: Cost, epsilon: ArrayLike, *, iterations: int = 100
) -> Float[Array, "*b n m"]:
    """The entropic plan P itself, differentiable through the fixed point.

    P_ij = a_i b_j e^{(f_i + g_j − C_ij)/ε}. Arguments and errors as in `sinkhorn`; the
    matrix of `SquaredDistances` is formed, as the plan is as large.

    Returns:
      Masses with the shape of `cost`; the columns sum to b, the rows to a as far as the
      iterations have converged.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> plan = transport_plan(a, a, jnp.zeros((2, 2)), 1.0)
      >>> float(plan[0, 0])
      0.25

    References:
      As `sinkhorn`.
    """
    problem, _ = checked(a, b, cost, epsilon, iterations)
    if isinstance(problem.geometry, SquaredDistances):
        problem = _held(problem)
    f, g, _ = rules.find(problem, iterations)
    return rules.plan(problem, f, g)


def _held(problem: Problem) -> Problem:
    """With the squared distances as a matrix."""
    cost = problem.geometry.near
    return problem._replace(geometry=Matrix(cost, jnp.zeros_like(problem.epsilon)))


def transport_cost(
    a: Mass, b: OtherMass, cost: Cost, epsilon: ArrayLike, *, iterations: int = 100
) -> Each:
    """What the entropic plan costs, ⟨P, C⟩, without the regulariser.

    Its gradient in `cost` is P + (∂P/∂C)·C: taking P alone can be tens of percent off.
    It is found by conjugate gradients on a linear system of size m at the fixed point,
    through products with the plan. Arguments and errors as in `sinkhorn`.

    Returns:
      One value per leading index, units of the cost; at least the unregularised
      optimum once converged.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> round(float(transport_cost(a, a, cost, 1.0)), 4)  # 1/(1 + e)
      0.2689

    References:
      Luise et al., "Differential properties of Sinkhorn approximation for learning with
      Wasserstein distance" (2018), who call it the sharp Sinkhorn distance.
    """
    problem, lifts = checked(a, b, cost, epsilon, iterations)
    f, g, _ = rules.find(problem, iterations)
    return rules.sharp_cost(problem, f, g) + lifts.value(problem)


def sinkhorn_divergence(
    x_p: Float[ArrayLike, "*#b n d"],
    x_q: Float[ArrayLike, "*#b m d"],
    epsilon: ArrayLike,
    *,
    a: Mass | None = None,
    b: OtherMass | None = None,
    iterations: int = 100,
) -> Each:
    """The debiased Sinkhorn divergence of two samples, cost ‖x − y‖².

    OT_ε(p, q) − ½ OT_ε(p, p) − ½ OT_ε(q, q): ≥ 0, and 0 at p = q. Between the squared
    2-Wasserstein distance (ε → 0) and the squared distance of the means (ε → ∞). Costs
    of up to 2^20 pairs are held as matrices; beyond, memory grows with n + m.

    Args:
      x_p, x_q: points of target and model, in `[n, d]` and `[m, d]`.
      epsilon: > 0, in units of the squared distance; as in `sinkhorn`.
      a, b: masses of the points, each summing to 1; equal when left out.
      iterations: as in `sinkhorn`.

    Returns:
      One value per leading index, squared units of the points.

    Raises:
      ValueError: for shapes that do not fit, or a Python epsilon or iterations ≤ 0.

    Example:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> round(float(sinkhorn_divergence(x, x + 2.0, 0.5)), 3)
      4.0

    References:
      Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn
      divergences" (2019), Eq. 3, whose cost is half of this one.
    """
    x_p, x_q = floating("x_p", x_p), floating("x_q", x_q)
    if x_p.ndim < 2 or x_q.ndim < 2 or x_p.shape[-1] != x_q.shape[-1]:
        raise ValueError(
            "x_p and x_q must be [..., n, d] and [..., m, d] with one d, got "
            f"{x_p.shape} and {x_q.shape}"
        )
    a = jnp.full(x_p.shape[:-1], 1 / x_p.shape[-2], x_p.dtype) if a is None else a
    b = jnp.full(x_q.shape[:-1], 1 / x_q.shape[-2], x_q.dtype) if b is None else b

    def value(x, y, mass_x, mass_y):
        cost = SquaredDistances(x, y)
        problem, lifts = checked(mass_x, mass_y, cost, epsilon, iterations)
        if max(math.prod(x.shape[:-1]), math.prod(y.shape[:-1])) ** 2 <= _HELD:
            problem = _held(problem)
        f, g, _ = rules.find(problem, iterations)
        return rules.dual_value(problem, f, g) + lifts.value(problem)

    return value(x_p, x_q, a, b) - 0.5 * (value(x_p, x_p, a, a) + value(x_q, x_q, b, b))
