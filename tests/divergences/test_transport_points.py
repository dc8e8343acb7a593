"""Transport between points: against the matrix form, differences, NumPy iterations."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from kljax.divergences import transport as t

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=(9, 3)) + 0.3
A, B = RNG.dirichlet(np.ones(7)), RNG.dirichlet(np.ones(9))
A[2] = 0
A /= A.sum()
EPSILON, ITERATIONS = 1.5, 200


def squares(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def plain(x, y, a, b, epsilon, iterations=500):
    """Float64 log-domain iterations: regularised value, plan, centered potentials."""
    cost = squares(x, y) / epsilon
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    g = np.zeros(len(b))
    for _ in range(iterations):
        f = -logsumexp(log_b + g - cost, axis=1)
        g = -logsumexp(log_a[:, None] + f[:, None] - cost, axis=0)
    plan = a[:, None] * b * np.exp(f[:, None] + g - cost)
    shift = (f @ a - g @ b) / 2
    potentials = epsilon * (f - shift), epsilon * (g + shift)
    return epsilon * (f @ a + g @ b), plan, *potentials


def points(x, y, a, b, epsilon):
    return a, b, t.SquaredDistances(x, y), epsilon


PROBLEM = X, Y, A, B, EPSILON
W_F, W_G = RNG.normal(size=7), RNG.normal(size=9)


def directions():
    """Changes of the problem, one kind after the other; masses stay equal."""
    d_x, d_y = RNG.normal(size=X.shape), RNG.normal(size=Y.shape)
    d_a, d_b = RNG.normal(size=7) * (A > 0), RNG.normal(size=9)
    moves = d_x, d_y, d_a - A * d_a.sum(), d_b - B * d_b.sum(), 1.0
    for i, move in enumerate(moves):
        yield [move if i == j else 0 * x for j, x in enumerate(PROBLEM)]


def difference(f, direction, step=1e-5):
    ends = (f(*[x + s * d for x, d in zip(PROBLEM, direction)]) for s in (step, -step))
    return (next(ends) - next(ends)) / (2 * step)


def along(slopes, direction):
    return sum(np.sum(s * d) for s, d in zip(slopes, direction))


def primal(x, y, a, b, epsilon):
    plan, used = plain(x, y, a, b, epsilon)[1], np.outer(a, b) > 0
    ratio = plan[used] / np.outer(a, b)[used]
    return np.sum(plan * squares(x, y)) + epsilon * np.sum(plan[used] * np.log(ratio))


def test_value_potentials_and_slopes(x64):
    def value(*p):
        found = t.sinkhorn(*points(*p), iterations=ITERATIONS)
        return found.value, found

    both = jax.jit(jax.value_and_grad(value, (0, 1, 2, 3, 4), has_aux=True))
    (got, found), slopes = jax.device_get(both(*PROBLEM))
    want, plan, f, g = plain(*PROBLEM)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(found.f, f, atol=1e-11)
    np.testing.assert_allclose(found.g, g, atol=1e-11)
    assert found.converged and found.marginal_error_a < 1e-10
    to_x = 2 * (plan.sum(1)[:, None] * X - plan @ Y)
    to_y = 2 * (plan.sum(0)[:, None] * Y - plan.T @ X)
    for slope, expected in zip(slopes, (to_x, to_y, f, g)):
        np.testing.assert_allclose(slope, expected, atol=1e-10)
    for direction in directions():
        expected = difference(primal, direction)
        np.testing.assert_allclose(along(slopes, direction), expected, rtol=1e-6)
    formed = jax.jit(lambda *p: t.transport_plan(*points(*p), iterations=ITERATIONS))
    np.testing.assert_allclose(formed(*PROBLEM), plan, atol=1e-12)


def test_slopes_of_potentials_and_of_the_sharp_cost(x64):
    """Through conjugate gradients, without mass at one point."""

    def total(*p):
        problem = points(*p)
        r = t.sinkhorn(*problem, iterations=ITERATIONS)
        sharp = t.transport_cost(*problem, iterations=ITERATIONS)
        return r.f @ W_F + r.g @ W_G + sharp

    def reference(x, y, a, b, epsilon):
        _, plan, f, g = plain(x, y, a, b, epsilon)
        return f @ W_F + g @ W_G + np.sum(plan * squares(x, y))

    both = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3, 4)))
    got, slopes = jax.device_get(both(*PROBLEM))
    np.testing.assert_allclose(got, reference(*PROBLEM), rtol=1e-10)
    for direction in directions():
        expected = difference(reference, direction)
        np.testing.assert_allclose(along(slopes, direction), expected, rtol=1e-6)


def test_second_derivatives(x64):
    def value(x, y):
        return t.sinkhorn(*points(x, y, A, B, EPSILON), iterations=ITERATIONS).value

    def first(x, y, a, b, epsilon):
        plan = plain(x, y, a, b, epsilon)[1]
        return 2 * (plan.sum(1)[:, None] * x - plan @ y)

    @jax.jit
    def second(*direction):
        return jax.jvp(jax.grad(value), (X, Y), direction)[1]

    for direction in list(directions())[:2]:
        expected = difference(first, direction)
        np.testing.assert_allclose(
            second(*direction[:2]), expected, rtol=1e-6, atol=1e-8
        )


def test_batches_and_early_stopping(x64):
    moved = np.stack([Y, Y + 0.5])
    epsilons = np.array([4.0, 0.5])

    def solve(y, epsilon):
        problem = points(X, y, A, B, epsilon)
        return t.sinkhorn(*problem, tolerance=1e-6, early_stop=True, iterations=300)

    both = jax.jit(lambda *problems: [f(*problems) for f in (solve, jax.vmap(solve))])
    batch, mapped = jax.device_get(both(moved, epsilons))
    np.testing.assert_allclose(mapped.f, batch.f, atol=1e-11)
    assert (mapped.iterations == batch.iterations).all()
    assert batch.iterations[0] < batch.iterations[1] < 300
    assert batch.converged.all()
    for i in range(2):
        value = plain(X, moved[i], A, B, epsilons[i])[0]
        np.testing.assert_allclose(batch.value[i], value, rtol=1e-6)


@pytest.mark.optimized
def test_far_from_the_origin():
    """Norms cancel after the points are moved to the origin together."""
    x, y = np.float32(X), np.float32(Y)
    value = jax.jit(lambda x, y: t.sinkhorn(*points(x, y, A, B, EPSILON)).value)
    here, there = value(x, y), value(x + 1024, y + 1024)
    np.testing.assert_allclose(here, plain(*PROBLEM)[0], rtol=2e-6)
    np.testing.assert_allclose(there, here, rtol=1e-3)  # what adding 1024 rounds off
    exact = plain(np.float64(x + 1024), np.float64(y + 1024), A, B, EPSILON)[0]
    np.testing.assert_allclose(there, exact, rtol=2e-6)


def test_a_large_divergence_holds_no_matrix(monkeypatch):
    monkeypatch.setattr(t, "_HELD", 64)
    x = np.float32(RNG.normal(size=(24, 2)))
    compiled = jax.jit(lambda x, y: t.sinkhorn_divergence(x, y, 1.0)).lower(x, x + 1)
    monkeypatch.undo()
    found = compiled.compile()(x, x + 1)
    np.testing.assert_allclose(found, 2, rtol=1e-3)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"SquaredDistances of x .*\(7, 3\), \(9, 2\)"):
        t.sinkhorn(A, B, t.SquaredDistances(X, Y[:, :2]), 1.0)
    with pytest.raises(ValueError, match=r"do not fit: \(9,\), \(7,\)"):
        t.transport_cost(B, A, t.SquaredDistances(X, Y), 1.0)
    with pytest.raises(ValueError, match=r"do not broadcast.*points \(2, 7, 3\)"):
        batched = t.SquaredDistances(np.stack([X, X]), np.stack([Y, Y, Y]))
        t.transport_plan(A, B, batched, 1.0)
    with pytest.raises(ValueError, match="tolerance must not be negative, got -1"):
        cost = t.SquaredDistances(X, Y)
        jax.eval_shape(lambda: t.sinkhorn(A, B, cost, 1.0, tolerance=-1))


def test_clouds_far_apart_keep_their_digits():
    # (Distance of the clouds)²/ε is 1.2e6: costs alone keep a tenth of ε in float32.
    y, epsilon = Y + 300, 0.2
    value, plan, *_ = plain(X, y, A, B, epsilon, 3000)
    slope = 2 * (A[:, None] * X - plan @ y)

    def of_points(x):
        cost = t.SquaredDistances(x, np.float32(y))
        masses = np.float32(A), np.float32(B)
        return t.sinkhorn(*masses, cost, epsilon, iterations=1000).value

    both = jax.jit(jax.value_and_grad(of_points))
    found, found_slope = jax.device_get(both(np.float32(X)))
    np.testing.assert_allclose(found, value, rtol=1e-6)
    error = np.abs(found_slope - slope).max() / np.abs(slope).max()
    assert error < 1e-5, error
