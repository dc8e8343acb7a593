"""Scalings against the log domain; decisions by problem; memory that does not grow."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from kljax.divergences import transport as t
from kljax.kernels.transport import matrix as kernel
from kljax.kernels.transport.problem import Matrix, Problem

MIB = 2**20
RNG = np.random.default_rng(0)
# Of a unit cost: what scalings must do over, what they must fold, what they do well.
EPSILONS = np.array([2e-4, 0.003, 0.3])
A, B = RNG.dirichlet(np.ones(12), 3), RNG.dirichlet(np.ones(9), 3)
A[:, 4], B[:, 0] = 0, 0
A, B = A / A.sum(1, keepdims=True), B / B.sum(1, keepdims=True)
COST = RNG.uniform(0, 1, size=(3, 12, 9))
COST[:, 1, 1] = np.inf


def log_domain(a, b, cost, epsilon, iterations):
    """Float64, every update a log-sum-exp."""
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(np.float64(a)), np.log(np.float64(b))
    scaled = np.float64(cost) / epsilon[:, None, None]
    f, g = np.zeros(a.shape), np.zeros(b.shape)
    for _ in range(iterations):
        f = -logsumexp((log_b + g)[:, None, :] - scaled, axis=2)
        g = -logsumexp((log_a + f)[:, :, None] - scaled, axis=1)
    return epsilon[:, None] * f, epsilon[:, None] * g


def solved(a, b, cost, epsilon, *options):
    problem = Problem(a, b, Matrix(cost, jnp.zeros_like(epsilon)), epsilon)
    return kernel.solve(problem, *options)


def dual(f, g, a, b):
    return np.sum(f * a, 1) + np.sum(g * b, 1)


def test_potentials_are_those_of_the_log_domain(x64):
    f, g = log_domain(A, B, COST, EPSILONS, 57)

    def solve(*problem):
        return solved(*problem, 57)[:2]

    together = jax.jit(solve)(A, B, COST, EPSILONS)
    mapped = jax.jit(jax.vmap(solve))(A, B, COST, EPSILONS)
    # Without mass: what the last g asks for.
    with np.errstate(divide="ignore"):
        weights = np.log(B) + g / EPSILONS[:, None]
    asked = weights[:, None] - COST / EPSILONS[:, None, None]
    asked = -EPSILONS[:, None] * logsumexp(asked, axis=2)
    for got in (together, mapped):
        np.testing.assert_allclose(got[0], np.where(A > 0, f, asked), atol=1e-12)
        np.testing.assert_allclose(got[1], g, atol=1e-12)


def test_some_problems_need_the_log_domain(x64):
    """The smallest epsilon leaves the range, and only it is done over."""
    problem = kernel._Problem(A, B, COST, EPSILONS[:, None], jnp.zeros(3))
    all_of, two = jnp.ones(3, bool), jnp.int32(2)
    zero = jnp.zeros_like(A), jnp.zeros_like(B)
    start = kernel._State(*zero, all_of, jnp.full(3, 2), two, all_of, two)

    @jax.jit
    def first_block(start):
        state = kernel._log_steps(problem, start, None)
        return kernel._scaled(problem, state, 57, None)

    state = first_block(start)
    assert state.anew.tolist() == [True, False, False]
    assert state.steps == 10 and state.done == 12


def test_branches_stay_branches_under_vmap():
    """A condition on a batch, or a loop that is batched, would become a select."""
    shapes = [jax.ShapeDtypeStruct(x.shape, "float32") for x in (A, B, COST, EPSILONS)]

    def solve(*problem):
        return solved(*problem, 57, 1e-3)

    together = str(jax.make_jaxpr(solve)(*shapes))
    mapped = str(jax.make_jaxpr(jax.vmap(solve))(*shapes))
    assert mapped.count("cond[") == together.count("cond[") == 2
    assert mapped.count("while[") == together.count("while[")
    assert mapped.count(" select_n") == together.count(" select_n")


def test_converged_problems_stop_and_stay(x64):
    epsilons = np.array([2e-4, 0.1, 0.3])
    stops = jax.jit(lambda *p: solved(*p, 400, 1e-6))
    found = stops(A, B, COST, epsilons)
    assert found.iterations.tolist() == [400, 32, 12]
    for i, count in enumerate(found.iterations.tolist()):
        one = [x[i : i + 1] for x in (A, B, COST, epsilons)]
        f, g = log_domain(*one, count)
        used = A[i] > 0
        np.testing.assert_allclose(found.f[i][used], f[0][used], atol=1e-11)
        np.testing.assert_allclose(found.g[i], g[0], atol=1e-11)


@pytest.mark.optimized
def test_float32_value_to_an_ulp():
    """Relative to the log domain in float64, epsilon down to 0.003 of the cost."""
    x, y = RNG.normal(size=(2, 8, 64, 2))
    cost = np.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    cost = np.float32(cost / cost.max((1, 2), keepdims=True))
    mass = np.full((8, 64), 1 / 64, np.float32)
    value = jax.jit(lambda *p: t.sinkhorn(*p).value)
    for epsilon in (0.1, 0.01, 0.003):
        scale = np.full(8, np.float32(epsilon), np.float64)
        exact = dual(*log_domain(mass, mass, cost, scale, 100), mass, mass)
        got = np.float64(value(mass, mass, cost, np.float32(scale)))
        np.testing.assert_allclose(got, exact, rtol=2.5e-7)
        assert np.median(np.abs(got / exact - 1)) < 1e-7


def program(f, *shapes):
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return jax.jit(f).lower(*arrays).compile()


def temporary(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.inspected
def test_gradient_memory_is_a_hundredth_of_unrolled():
    def ours(cost, a, b):
        return jnp.sum(t.sinkhorn(a, b, cost, 0.01).value)

    def unrolled(cost, a, b):
        def step(fg, _):
            weights = jnp.log(b) + fg[1] / 0.01
            f = -jax.nn.logsumexp(weights[:, None] - cost / 0.01, axis=-1)
            weights = jnp.log(a) + f
            g = -jax.nn.logsumexp(weights[..., None] - cost / 0.01, axis=-2)
            return (0.01 * f, 0.01 * g), None

        start = jnp.zeros_like(a), jnp.zeros_like(b)
        f, g = jax.lax.scan(step, start, None, length=100)[0]
        return jnp.sum(f * a) + jnp.sum(g * b)

    shapes = (32, 64, 64), (32, 64), (32, 64)
    least = temporary(program(jax.value_and_grad(ours), *shapes))
    most = temporary(program(jax.value_and_grad(unrolled), *shapes))
    assert least <= most / 100 and least < MIB


@pytest.mark.inspected
def test_points_need_memory_of_their_number():
    """Not of the number of pairs: at 4n four times as much at most."""

    def value(x, y, a):
        cost = t.SquaredDistances(x, y)
        return t.sinkhorn(a, a, cost, 1.0, iterations=10).value

    taken = {}
    for n in (16384, 65536):
        shapes = (n, 16), (n, 16), (n,)
        compiled = program(jax.value_and_grad(value, (0, 1)), *shapes)
        assert not re.search(rf"\[{n},{n}\]", compiled.as_text())
        taken[n] = temporary(compiled)
    assert taken[16384] < 12 * MIB
    assert taken[65536] < 4.2 * taken[16384]


@pytest.mark.inspected
def test_implicit_slopes_need_no_dense_system():
    def sharp(cost, a, b):
        return t.transport_cost(a, b, cost, 0.1)

    compiled = program(jax.grad(sharp), (8, 512), (8,), (512,))
    assert not re.search(r"\[512,512\]|getrf", compiled.as_text())

    def cloud(x, y, a):
        cost = t.SquaredDistances(x, y)
        return t.transport_cost(a, a, cost, 1.0, iterations=10)

    n = 16384
    compiled = program(jax.grad(cloud), (n, 16), (n, 16), (n,))
    assert not re.search(rf"\[{n},{n}\]", compiled.as_text())
    assert temporary(compiled) < 32 * MIB
