"""Entropic transport against linear programming, NumPy iterations and differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from kljax.divergences import transport as t

EPSILON, ITERATIONS = 0.3, 300
RNG = np.random.default_rng(0)
A, B = RNG.dirichlet(np.ones(4)), RNG.dirichlet(np.ones(5))
COST = RNG.uniform(0, 1, size=(4, 5))


def _plain(a, b, cost, epsilon, iterations=2000):
    """Sinkhorn's scalings in float64: plan, centred potentials, dual value."""
    kernel = np.exp(-cost / epsilon)
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(iterations):
        u = 1 / (kernel @ (b * v))
        v = 1 / (kernel.T @ (a * u))
    f, g = epsilon * np.log(u), epsilon * np.log(v)
    shift = (f @ a - g @ b) / 2
    plan = a[:, None] * u[:, None] * kernel * v * b
    return plan, f - shift, g + shift, f @ a + g @ b


def _primal(a, b, cost, epsilon):
    plan = _plain(a, b, cost, epsilon)[0]
    used = plan > 0
    ratio = plan[used] / np.outer(a, b)[used]
    return np.sum(plan * cost) + epsilon * np.sum(plan[used] * np.log(ratio))


def _value(a, b, cost, epsilon):
    return t.sinkhorn(a, b, cost, epsilon, iterations=ITERATIONS).value


def _sharp(a, b, cost, epsilon):
    return t.transport_cost(a, b, cost, epsilon, iterations=ITERATIONS)


def fetched(function):
    """As one program, whose results are NumPy's."""
    compiled = jax.jit(function)
    return lambda *args: jax.device_get(compiled(*args))


solution = partial(t.sinkhorn, iterations=ITERATIONS)
solve = fetched(solution)
value_slopes = fetched(jax.value_and_grad(_value, (0, 1, 2, 3)))
sharp_slopes = fetched(jax.value_and_grad(_sharp, (0, 1, 2, 3)))


def _directions(seed=1):
    """Changes of the problem that keep the masses equal."""
    rng = np.random.default_rng(seed)
    d_a, d_b = rng.normal(size=4) * (A > 0), rng.normal(size=5) * (B > 0)
    d_cost = rng.normal(size=(4, 5))
    zeros = [np.zeros(4), np.zeros(5), np.zeros((4, 5)), 0.0]
    moves = (d_a - d_a.mean(), d_b - d_b.mean(), d_cost, 1.0)
    for i, move in enumerate(moves):
        direction = list(zeros)
        direction[i] = move
        yield direction


def _difference(f, direction, step=1e-5):
    problem = (A, B, COST, EPSILON)
    up = f(*(x + step * d for x, d in zip(problem, direction)))
    down = f(*(x - step * d for x, d in zip(problem, direction)))
    return (up - down) / (2 * step)


def test_value_plan_and_potentials(x64):
    result = solve(A, B, COST, EPSILON)
    plan, f, g, value = _plain(A, B, COST, EPSILON)
    np.testing.assert_allclose(result.value, value, rtol=1e-12)
    np.testing.assert_allclose(value, _primal(A, B, COST, EPSILON), rtol=1e-12)
    np.testing.assert_allclose(result.f, f, atol=1e-12)
    np.testing.assert_allclose(result.g, g, atol=1e-12)
    assert result.converged and result.iterations == ITERATIONS
    assert max(result.marginal_error_a, result.marginal_error_b) < 1e-12
    solved = jax.jit(lambda *args: t.transport_plan(*args, iterations=ITERATIONS))
    np.testing.assert_allclose(solved(A, B, COST, EPSILON), plan, atol=1e-13)
    sharp, _ = sharp_slopes(A, B, COST, EPSILON)
    np.testing.assert_allclose(sharp, np.sum(plan * COST), rtol=1e-12)


def test_gradients_of_the_value(x64):
    _, slopes = value_slopes(A, B, COST, EPSILON)
    plan, f, g, _ = _plain(A, B, COST, EPSILON)
    np.testing.assert_allclose(slopes[2], plan, atol=1e-13)
    np.testing.assert_allclose(slopes[0], f, atol=1e-12)
    np.testing.assert_allclose(slopes[1], g, atol=1e-12)
    for direction in _directions():
        got = sum(np.sum(s * d) for s, d in zip(slopes, direction))
        np.testing.assert_allclose(got, _difference(_primal, direction), rtol=1e-6)


def test_gradients_of_the_sharp_cost(x64):
    def reference(a, b, cost, epsilon):
        return np.sum(_plain(a, b, cost, epsilon)[0] * cost)

    _, slopes = sharp_slopes(A, B, COST, EPSILON)
    for direction in _directions():
        got = sum(np.sum(s * d) for s, d in zip(slopes, direction))
        np.testing.assert_allclose(got, _difference(reference, direction), rtol=1e-6)
    # The plan in its place would be far off.
    plan = _plain(A, B, COST, EPSILON)[0]
    assert np.abs(slopes[2] - plan).max() > 0.1 * np.abs(slopes[2]).max()


def test_potentials_and_second_derivatives(x64):
    @jax.jit
    def along(direction):
        problem = (A, B, COST, EPSILON)
        change = jax.jvp(lambda *args: solution(*args)[:3], problem, direction)[1]
        return change, jax.jvp(jax.grad(_value, 2), problem, direction)[1]

    for direction in _directions():
        (_, d_f, d_g), d_plan = along(tuple(direction))
        for i, got in ((0, d_plan), (1, d_f), (2, d_g)):
            expected = _difference(lambda *args, i=i: _plain(*args)[i], direction)
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def test_small_epsilon_approaches_the_linear_program(x64):
    rows = np.kron(np.eye(4), np.ones(5))
    columns = np.kron(np.ones(4), np.eye(5))
    program = optimize.linprog(
        COST.ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([A, B]),
    )

    @partial(jax.jit, static_argnums=0)
    def both(iterations):
        problem = (A, B, COST, 0.005)
        return t.sinkhorn(*problem, iterations=iterations), t.transport_cost(
            *problem, iterations=iterations
        )

    many, sharp = both(3000)
    np.testing.assert_allclose(sharp, program.fun, rtol=1e-3)
    assert sharp >= program.fun - 1e-9
    few, _ = both(5)
    assert not few.converged and few.marginal_error_a > 1e-3
    assert few.marginal_error_b < 1e-12
    # Each value on the way is a lower bound.
    assert few.value < many.value


def test_no_mass_and_forbidden_pairs():
    a = np.append(A, 0).astype(np.float32)
    b = np.append(B, 0).astype(np.float32)
    cost = np.pad(COST, ((0, 1), (0, 1)), constant_values=40.0).astype(np.float32)
    cost[-1, -1] = -40.0  # a pair without mass that would overflow
    small = value_slopes(*(np.float32(x) for x in (A, B, COST, EPSILON)))
    for forbid in (False, True):
        if forbid:
            cost[0, 1] = np.inf
        for f in (value_slopes, sharp_slopes):
            value, slopes = f(a, b, cost, np.float32(EPSILON))
            assert np.isfinite(value)
            assert all(np.isfinite(s).all() for s in slopes)
        if not forbid:
            value, slopes = value_slopes(a, b, cost, np.float32(EPSILON))
            np.testing.assert_allclose(value, small[0], rtol=1e-5)
            np.testing.assert_allclose(slopes[2][:-1, :-1], small[1][2], atol=1e-6)
            np.testing.assert_allclose(slopes[2][-1], 0)
    plan = value_slopes(a, b, cost, np.float32(EPSILON))[1][2]
    assert plan[0, 1] == 0
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-5)


def test_batches_and_types(x64):
    costs = RNG.uniform(0, 1, size=(3, 4, 5))
    one_by_one = [solve(A, B, c, EPSILON) for c in costs]
    batch = solve(A, B, costs, EPSILON)
    mapped = fetched(jax.vmap(solution, (None, None, 0, None)))(A, B, costs, EPSILON)
    for i, single in enumerate(one_by_one):
        for got, vmapped, expected in zip(batch[:5], mapped[:5], single[:5]):
            np.testing.assert_allclose(got[i], expected, atol=1e-12)
            np.testing.assert_allclose(vmapped[i], expected, atol=1e-12)
    low = [x.astype(jnp.bfloat16) for x in (A, B, COST)]
    result = jax.eval_shape(lambda *args: solution(*args, 0.3), *low)
    assert result.value.dtype == result.f.dtype == jnp.float32


def test_sinkhorn_divergence():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 2)).astype(np.float32)
    f = jax.jit(
        jax.value_and_grad(
            lambda x, y: t.sinkhorn_divergence(x, y, 0.5, iterations=500), (0, 1)
        )
    )
    value, slopes = f(x, x)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=1e-4)
    # A translation costs exactly its squared length.
    value, slopes = f(x, x + np.float32([1, 2]))
    np.testing.assert_allclose(value, 5, rtol=1e-4)
    np.testing.assert_allclose(slopes[1].sum(0), [2, 4], rtol=1e-3)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"cost \[..., n, m\] do not fit.*\(5, 4\)"):
        t.sinkhorn(A, B, COST.T, 0.1)
    with pytest.raises(ValueError, match=r"epsilon must be positive and finite.*got 0"):
        t.transport_cost(A, B, COST, 0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        t.sinkhorn(A, B, COST, 0.1, iterations=0)
    with pytest.raises(ValueError, match=r"do not broadcast.*epsilon \(3,\)"):
        t.sinkhorn(A, np.tile(B, (2, 1)), COST, np.ones(3))
    with pytest.raises(ValueError, match=r"x_p and x_q must be .*\(4, 3\)"):
        t.sinkhorn_divergence(np.zeros((4, 2)), np.zeros((4, 3)), 0.1)


def test_parity_with_ott(x64):
    pytest.importorskip("ott")
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    problem = linear_problem.LinearProblem(
        geometry.Geometry(cost_matrix=jnp.asarray(COST), epsilon=EPSILON), A, B
    )
    theirs = sinkhorn.Sinkhorn(threshold=1e-10, max_iterations=2000)(problem)
    result = solve(A, B, COST, EPSILON)
    plan = t.transport_plan(A, B, COST, EPSILON, iterations=ITERATIONS)
    np.testing.assert_allclose(theirs.matrix, plan, atol=1e-8)
    np.testing.assert_allclose(theirs.kl_reg_cost, result.value, rtol=1e-8)
