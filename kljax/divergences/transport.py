"""Entropic optimal transport between two weighted sets of points with a given cost.

    OT_ε(a, b) = min over P with marginals a, b of ⟨P, C⟩ + ε KL(P ‖ a⊗b)
               = max over f, g of ⟨f, a⟩ + ⟨g, b⟩ − ε (Σ P_ij − 1)

with the plan P_ij = a_i b_j e^{(f_i + g_j − C_ij)/ε}. The potentials come from a fixed
number of log-domain iterations, so a batch of problems runs as one. Derivatives never
pass through the iterations: those of the value are the plan and the potentials (the
envelope theorem), those of the potentials solve one linear system at the fixed point.
Both are written as forward-mode rules, so that every mode and order of differentiation
works; they are those of the converged problem, as good as `converged` says.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kljax.kernels.pairwise import log_sum_exp, squared_distances
from kljax.typing import Array, ArrayLike, Bool, Float

__all__ = [
    "SinkhornResult",
    "sinkhorn",
    "sinkhorn_divergence",
    "transport_cost",
    "transport_plan",
]


class SinkhornResult(NamedTuple):
    """What `sinkhorn` found, one entry per leading index.

    `f` and `g` are shifted so that their means under a and b are equal. The errors are
    Σ|P1 − a| and Σ|Pᵀ1 − b|.
    """

    value: Float[Array, "*b"]
    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    marginal_error_a: Float[Array, "*b"]
    marginal_error_b: Float[Array, "*b"]
    converged: Bool[Array, "*b"]
    iterations: int


def sinkhorn(
    a: Float[ArrayLike, "*b n"],
    b: Float[ArrayLike, "*b m"],
    cost: Float[ArrayLike, "*b n m"],
    epsilon: ArrayLike,
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> SinkhornResult:
    """Entropic optimal transport: the regularised cost, potentials and errors.

    value = ⟨f, a⟩ + ⟨g, b⟩ = OT_ε(a, b), not ⟨P, C⟩ (that is `transport_cost`). After
    few iterations it is a lower bound on OT_ε.

    Gradients of the value: the plan in `cost`, f in `a`, g in `b`, KL(P‖a⊗b) in
    `epsilon`. Those in `a` and `b` mean something along changes that keep both masses
    equal only: f and g are each known up to a constant. f and g are differentiable too.

    Args:
      a, b: masses ≥ 0 (not logarithms), each summing to 1; entries of 0 are legal.
      cost: any finite cost; +inf forbids a pair, as long as a plan remains.
      epsilon: > 0, in units of the cost, may be traced; the smaller, the more
        iterations are needed (about max cost/ε). One per leading index, or a number.
      iterations: how many updates of f and g, a Python number.
      tolerance: what both marginal errors must be below to count as converged.

    Returns:
      A `SinkhornResult`.

    Raises:
      ValueError: for shapes that do not fit, or a Python epsilon or iterations ≤ 0.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> round(float(sinkhorn(a, a, cost, 0.1).value), 4)  # 0.1·log 2, at no cost
      0.0693

    References:
      Cuturi, "Sinkhorn distances" (2013); Peyré and Cuturi, Computational Optimal
      Transport (2019), §4.4 for the iterations, Prop. 4.6 for the gradient. They
      regularise by the entropy; KL(P‖a⊗b) differs by the entropies of a and b.
    """
    a, b, cost, epsilon = _checked(a, b, cost, epsilon, iterations)
    f, g = _potentials(iterations, a, b, cost, epsilon)
    value = _dual_value(a, b, cost, epsilon, f, g)
    plan = lax.stop_gradient(_plan(a, b, cost, epsilon, f, g))
    error_a = jnp.sum(jnp.abs(plan.sum(-1) - lax.stop_gradient(a)), axis=-1)
    error_b = jnp.sum(jnp.abs(plan.sum(-2) - lax.stop_gradient(b)), axis=-1)
    converged = (error_a <= tolerance) & (error_b <= tolerance)
    return SinkhornResult(value, f, g, error_a, error_b, converged, iterations)


def transport_plan(
    a: Float[ArrayLike, "*b n"],
    b: Float[ArrayLike, "*b m"],
    cost: Float[ArrayLike, "*b n m"],
    epsilon: ArrayLike,
    *,
    iterations: int = 100,
) -> Float[Array, "*b n m"]:
    """The entropic plan P itself, differentiable through the fixed point.

    P_ij = a_i b_j e^{(f_i + g_j − C_ij)/ε}.

    Args:
      a, b, cost, epsilon, iterations: as in `sinkhorn`.

    Returns:
      Masses with the shape of `cost`; the columns sum to b, the rows to a as far as the
      iterations have converged.

    Raises:
      ValueError: as in `sinkhorn`.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> plan = transport_plan(a, a, jnp.zeros((2, 2)), 1.0)
      >>> float(plan[0, 0])
      0.25

    References:
      As `sinkhorn`.
    """
    a, b, cost, epsilon = _checked(a, b, cost, epsilon, iterations)
    f, g = _potentials(iterations, a, b, cost, epsilon)
    return _plan(a, b, cost, epsilon, f, g)


def transport_cost(
    a: Float[ArrayLike, "*b n"],
    b: Float[ArrayLike, "*b m"],
    cost: Float[ArrayLike, "*b n m"],
    epsilon: ArrayLike,
    *,
    iterations: int = 100,
) -> Float[Array, "*b"]:
    """What the entropic plan costs, ⟨P, C⟩, without the regulariser.

    Its gradient in `cost` is P + (∂P/∂C)·C: taking P alone can be tens of percent off.
    It is found by a linear system of size m at the fixed point, O(m³) time.

    Args:
      a, b, cost, epsilon, iterations: as in `sinkhorn`.

    Returns:
      One value per leading index, units of the cost; at least the unregularised
      optimum once converged.

    Raises:
      ValueError: as in `sinkhorn`.

    Example:
      >>> a = jnp.array([0.5, 0.5])
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> round(float(transport_cost(a, a, cost, 1.0)), 4)  # 1/(1 + e)
      0.2689

    References:
      Luise et al., "Differential properties of Sinkhorn approximation for learning with
      Wasserstein distance" (2018), who call it the sharp Sinkhorn distance.
    """
    a, b, cost, epsilon = _checked(a, b, cost, epsilon, iterations)
    f, g = _potentials(iterations, a, b, cost, epsilon)
    plan = _plan(a, b, cost, epsilon, f, g)
    used = plan > 0
    return jnp.sum(jnp.where(used, plan * jnp.where(used, cost, 0), 0), axis=(-2, -1))


def sinkhorn_divergence(
    x_p: Float[ArrayLike, "*b n d"],
    x_q: Float[ArrayLike, "*b m d"],
    epsilon: ArrayLike,
    *,
    a: Float[ArrayLike, "*b n"] | None = None,
    b: Float[ArrayLike, "*b m"] | None = None,
    iterations: int = 100,
) -> Float[Array, "*b"]:
    """The debiased Sinkhorn divergence of two samples, cost ‖x − y‖².

    OT_ε(p, q) − ½ OT_ε(p, p) − ½ OT_ε(q, q): ≥ 0, and 0 at p = q. Between the squared
    2-Wasserstein distance (ε → 0) and the squared distance of the means (ε → ∞).

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
    x_p, x_q = _floating(x_p), _floating(x_q)
    if x_p.ndim < 2 or x_q.ndim < 2 or x_p.shape[-1] != x_q.shape[-1]:
        raise ValueError(
            "x_p and x_q must be [..., n, d] and [..., m, d] with one d, got "
            f"{x_p.shape} and {x_q.shape}"
        )
    a = jnp.full(x_p.shape[:-1], 1 / x_p.shape[-2], x_p.dtype) if a is None else a
    b = jnp.full(x_q.shape[:-1], 1 / x_q.shape[-2], x_q.dtype) if b is None else b

    def value(x, y, mass_x, mass_y):
        cost = squared_distances(x[..., :, None, :], y[..., None, :, :])
        return sinkhorn(mass_x, mass_y, cost, epsilon, iterations=iterations).value

    return value(x_p, x_q, a, b) - 0.5 * (value(x_p, x_p, a, a) + value(x_q, x_q, b, b))


def _floating(x: ArrayLike) -> Array:
    array = jnp.asarray(x)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _checked(a, b, cost, epsilon, iterations) -> tuple[Array, Array, Array, Array]:
    """All in one dtype and with equal leading axes."""
    a, b, cost = _floating(a), _floating(b), _floating(cost)
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
    if isinstance(epsilon, int | float) and not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    dtype = jnp.result_type(a, b, cost)
    epsilon = jnp.asarray(epsilon, dtype)
    try:
        lead = jnp.broadcast_shapes(
            a.shape[:-1], b.shape[:-1], cost.shape[:-2], epsilon.shape
        )
    except ValueError:
        raise ValueError(
            f"leading axes do not broadcast: a {a.shape}, b {b.shape}, "
            f"cost {cost.shape}, epsilon {epsilon.shape}"
        ) from None
    return (
        jnp.broadcast_to(a.astype(dtype), lead + a.shape[-1:]),
        jnp.broadcast_to(b.astype(dtype), lead + b.shape[-1:]),
        jnp.broadcast_to(cost.astype(dtype), lead + cost.shape[-2:]),
        jnp.broadcast_to(epsilon, lead),
    )


def _log(mass: Array) -> Array:
    positive = mass > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, mass, 1)), -jnp.inf)


def _slack(cost: Array, epsilon: Array, f: Array, g: Array) -> Array:
    """(f + g − C)/ε; −inf at forbidden pairs."""
    return (f[..., :, None] + g[..., None, :] - cost) / epsilon[..., None, None]


def _plan(a, b, cost, epsilon, f, g) -> Array:
    # Masses enter the exponent: the kernel alone may overflow between two points
    # without mass, where the potentials are mere extensions.
    log_mass = _log(a)[..., :, None] + _log(b)[..., None, :]
    possible = (log_mass != -jnp.inf) & (cost != jnp.inf)
    slack = _slack(jnp.where(possible, cost, 0), epsilon, f, g)
    exponent = jnp.where(possible, slack + jnp.where(possible, log_mass, 0), 0)
    return jnp.where(possible, jnp.exp(exponent), 0)


def _centered(a: Array, b: Array, f: Array, g: Array) -> tuple[Array, Array]:
    mean_f = jnp.sum(f * a, axis=-1) / jnp.sum(a, axis=-1)
    mean_g = jnp.sum(g * b, axis=-1) / jnp.sum(b, axis=-1)
    shift = 0.5 * (mean_f - mean_g)[..., None]
    return f - shift, g + shift


@jax.custom_jvp
def _dual_value(a, b, cost, epsilon, f, g) -> Array:
    """⟨f, a⟩ + ⟨g, b⟩, stationary in f and g."""
    return jnp.sum(f * a, axis=-1) + jnp.sum(g * b, axis=-1)


@_dual_value.defjvp
def _dual_value_jvp(primals, tangents):
    # Residuals are the arguments: the plan is made again in the backward pass.
    return _dual_value(*primals), jax.checkpoint(_envelope)(primals, tangents[:4])


def _envelope(primals, tangents):
    _, _, cost, epsilon, f, g = primals
    d_a, d_b, d_cost, d_epsilon = tangents
    plan = _plan(*primals)
    used = plan > 0
    slack = jnp.where(used, _slack(jnp.where(used, cost, 0), epsilon, f, g), 0)
    # The total mass beside KL(P‖a⊗b) cancels once the marginals hold.
    return (
        jnp.sum(f * d_a, axis=-1)
        + jnp.sum(g * d_b, axis=-1)
        + jnp.sum(plan * d_cost, axis=(-2, -1))
        + jnp.sum(plan * slack, axis=(-2, -1)) * d_epsilon
    )


def _iterate(iterations, a, b, cost, epsilon) -> tuple[Array, Array]:
    log_a, log_b = _log(a), _log(b)
    scale = epsilon[..., None]

    def update(_, potentials):
        _, g = potentials
        f = -scale * log_sum_exp((log_b + g / scale)[..., None, :] - scaled)
        rows = (log_a + f / scale)[..., None, :]
        return f, -scale * log_sum_exp(rows - jnp.matrix_transpose(scaled))

    scaled = cost / epsilon[..., None, None]
    start = jnp.zeros_like(a), jnp.zeros_like(b)
    f, g = lax.fori_loop(0, iterations, update, start)
    return _centered(a, b, f, g)


@jax.custom_jvp
def _fixed_point(a, b, cost, epsilon, f, g):
    """f and g as functions of the problem whose solution they are."""
    return f, g


def _potentials(iterations, a, b, cost, epsilon) -> tuple[Array, Array]:
    problem = a, b, cost, epsilon
    f, g = _iterate(iterations, *(lax.stop_gradient(x) for x in problem))
    return _fixed_point(*problem, f, g)


@_fixed_point.defjvp
def _fixed_point_jvp(primals, tangents):
    # Made again in the backward pass, so not made at all where only the value, whose
    # rule ignores the tangents of f and g, is differentiated.
    potentials = _fixed_point(*primals)
    return potentials, jax.checkpoint(_implicit)(primals[:4], potentials, tangents[:4])


def _implicit(problem, potentials, tangents) -> tuple[Array, Array]:
    """Differentiates f_i = −ε log Σ_j b_j e^{(g_j − C_ij)/ε} and its mirror image.

    df + R dg = r and dg + Qᵀ df = s with R the plan conditioned on rows, Q on columns,
    hence (I − QᵀR) dg = s − Qᵀ r. QᵀR is a stochastic matrix with stationary law b;
    adding 1bᵀ removes its null space, the constant by which g may be shifted.
    """
    a, b, cost, epsilon = problem
    d_a, d_b, d_cost, d_epsilon = tangents
    f, g = potentials
    allowed = cost != jnp.inf
    slack = jnp.where(allowed, _slack(jnp.where(allowed, cost, 0), epsilon, f, g), 0)
    log_a, log_b = _log(a), _log(b)
    rows = _conditional(log_b[..., None, :], slack, allowed, -1)
    columns = _conditional(log_a[..., :, None], slack, allowed, -2)
    # Between two points without mass the kernel is unbounded; nothing depends on it.
    kernel = jnp.where(allowed, jnp.exp(jnp.minimum(slack, 60)), 0)
    scale = epsilon[..., None]
    change = jnp.where(allowed, d_cost, 0) + slack * d_epsilon[..., None, None]
    right_f = jnp.sum(rows * change, axis=-1) - scale * _apply(kernel, d_b)
    transposed = jnp.matrix_transpose(kernel)
    right_g = jnp.sum(columns * change, axis=-2) - scale * _apply(transposed, d_a)
    back = jnp.matrix_transpose(columns)
    m = b.shape[-1]
    system = jnp.eye(m, dtype=b.dtype) - back @ rows + b[..., None, :]
    right = right_g - _apply(back, right_f)
    d_g = jnp.linalg.solve(system, right[..., None])[..., 0]
    d_f = right_f - _apply(rows, d_g)
    # The shift that keeps the two means equal.
    mean_f = jnp.sum(d_f * a + f * d_a, axis=-1) - jnp.sum(f * a, -1) * d_a.sum(-1)
    mean_g = jnp.sum(d_g * b + g * d_b, axis=-1) - jnp.sum(g * b, -1) * d_b.sum(-1)
    shift = 0.5 * (mean_f - mean_g)[..., None]
    return d_f - shift, d_g + shift


def _apply(matrix: Array, vector: Array) -> Array:
    return (matrix @ vector[..., None])[..., 0]


def _conditional(log_mass: Array, slack: Array, allowed: Array, axis: int) -> Array:
    """Softmax of log_mass + slack over the allowed pairs."""
    some = allowed & (log_mass != -jnp.inf)
    exponent = jnp.where(some, slack + jnp.where(some, log_mass, 0), -jnp.inf)
    return jax.nn.softmax(exponent, axis=axis)
