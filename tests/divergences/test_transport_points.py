"""Transport between points: against the matrix form, differences, NumPy iterations."""

import jax
import jax.numpy as jnp
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


def matrix(x, y, a, b, epsilon):
    cost = jnp.sum((x[..., :, None, :] - y[..., None, :, :]) ** 2, axis=-1)
    return a, b, cost, epsilon


PROBLEM = X, Y, A, B, EPSILON


def both(of, *arguments):
    """The same function of the two forms, in one program."""
    compiled = jax.jit(lambda *args: (of(points)(*args), of(matrix)(*args)))
    return compiled(*arguments)


def close(pair, **tolerances):
    got, want = (jax.tree.leaves(x) for x in pair)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, **tolerances)


def test_value_and_potentials(x64):
    def of(form):
        return lambda *p: t.sinkhorn(*form(*p), iterations=ITERATIONS)[:6]

    got, want = both(of, *PROBLEM)
    close((got, want), atol=1e-11)
    value, plan, f, g = plain(*PROBLEM)
    np.testing.assert_allclose(got[0], value, rtol=1e-12)
    np.testing.assert_allclose(got[1], f, atol=1e-11)
    np.testing.assert_allclose(got[2], g, atol=1e-11)
    found = jax.jit(lambda *p: t.transport_plan(*points(*p), iterations=ITERATIONS))
    np.testing.assert_allclose(found(*PROBLEM), plan, atol=1e-12)


def test_slopes_of_the_value(x64):
    def of(form):
        def value(*p):
            return t.sinkhorn(*form(*p), iterations=ITERATIONS).value

        return jax.grad(value, (0, 1, 2, 3, 4))

    got, want = both(of, *PROBLEM)
    close((got, want), atol=1e-10)
    plan = plain(*PROBLEM)[1]
    barycenters = 2 * (plan.sum(1)[:, None] * X - plan @ Y)
    np.testing.assert_allclose(got[0], barycenters, atol=1e-11)
    step = 1e-5
    d_x, d_y = RNG.normal(size=X.shape), RNG.normal(size=Y.shape)
    ends = [plain(X + s * d_x, Y + s * d_y, A, B, EPSILON)[0] for s in (step, -step)]
    slope = np.sum(got[0] * d_x) + np.sum(got[1] * d_y)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_slopes_of_potentials_and_of_the_sharp_cost(x64):
    """Through conjugate gradients, without mass at one point."""
    w_f, w_g = RNG.normal(size=7), RNG.normal(size=9)

    def of(form):
        def total(*p):
            problem = form(*p)
            r = t.sinkhorn(*problem, iterations=ITERATIONS)
            sharp = t.transport_cost(*problem, iterations=ITERATIONS)
            return r.f @ w_f + r.g @ w_g + sharp

        return jax.grad(total, (0, 1, 2, 3, 4))

    got, want = both(of, *PROBLEM)
    close((got, want), rtol=1e-7, atol=1e-9)

    def reference(x, y, epsilon):
        _, plan, f, g = plain(x, y, A, B, epsilon)
        return f @ w_f + g @ w_g + np.sum(plan * squares(x, y))

    step, d_x, d_y = 1e-5, RNG.normal(size=X.shape), RNG.normal(size=Y.shape)
    up = reference(X + step * d_x, Y + step * d_y, EPSILON + step)
    down = reference(X - step * d_x, Y - step * d_y, EPSILON - step)
    slope = np.sum(got[0] * d_x) + np.sum(got[1] * d_y) + got[4]
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6)


def test_second_derivatives(x64):
    d_x, d_y = RNG.normal(size=X.shape), RNG.normal(size=Y.shape)

    def of(form):
        def value(x, y):
            return t.sinkhorn(*form(x, y, A, B, EPSILON), iterations=ITERATIONS).value

        def along(x, y):
            return jax.jvp(jax.grad(value, (0, 1)), (x, y), (d_x, d_y))[1]

        return along

    close(both(of, X, Y), rtol=1e-8, atol=1e-9)


def test_batches_and_early_stopping(x64):
    moved = np.stack([Y, Y + 0.5])
    epsilons = np.array([4.0, 0.5])

    def solve(y, epsilon):
        problem = points(X, y, A, B, epsilon)
        return t.sinkhorn(*problem, tolerance=1e-6, early_stop=True, iterations=300)

    batch = jax.jit(solve)(moved, epsilons)
    mapped = jax.jit(jax.vmap(solve))(moved, epsilons)
    close((batch, mapped), atol=1e-11)
    assert batch.iterations[0] < batch.iterations[1] < 300
    assert batch.converged.all()
    for i in range(2):
        value = plain(X, moved[i], A, B, epsilons[i])[0]
        np.testing.assert_allclose(batch.value[i], value, rtol=1e-6)


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
    x = jnp.asarray(RNG.normal(size=(24, 2)), jnp.float32)
    compiled = jax.jit(lambda x, y: t.sinkhorn_divergence(x, y, 1.0)).lower(x, x + 1)
    monkeypatch.undo()
    found = compiled.compile()(x, x + 1)
    np.testing.assert_allclose(found, 2, rtol=1e-4)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"SquaredDistances of x .*\(7, 3\), \(9, 2\)"):
        t.sinkhorn(A, B, t.SquaredDistances(X, Y[:, :2]), 1.0)
    with pytest.raises(ValueError, match=r"do not fit: \(9,\), \(7,\)"):
        t.transport_cost(B, A, t.SquaredDistances(X, Y), 1.0)
    with pytest.raises(ValueError, match=r"do not broadcast.*points \(2, 7, 3\)"):
        batched = t.SquaredDistances(np.stack([X, X]), np.stack([Y, Y, Y]))
        t.transport_plan(A, B, batched, 1.0)
    with pytest.raises(ValueError, match="tolerance must not be negative, got -1"):
        t.sinkhorn(A, B, t.SquaredDistances(X, Y), 1.0, tolerance=-1)
