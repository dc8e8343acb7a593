"""Streamed pair sums against float64 NumPy, derivatives against dense formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kljax.divergences import samples
from kljax.kernels.pairs import neighbors, sums, tiles

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles each way, with a remainder that is no multiple of anything."""
    monkeypatch.setattr(tiles, "CPU", tiles.Tile(32, 48))
    monkeypatch.setattr(neighbors, "_CPU", tiles.Tile(32, 48))


def sample(dims, n=77, m=101, offset=0.0):
    """Points in float32, log-weights of which a few are −inf, bandwidths."""
    y = RNG.normal(size=(n, dims)) + offset
    x = 0.3 + RNG.normal(size=(m, dims)) + offset
    weights = np.log(RNG.uniform(0.2, 1, size=m) / m)
    weights[[0, 5, m - 1]] = -np.inf
    h = RNG.uniform(0.4, 0.9, size=dims) * (1 if dims < 4 else 2)
    return tuple(np.float32(z) for z in (y, x, weights, h))


def exponents(y, x, weights, h):
    gap = (np.float64(y)[:, None] - np.float64(x)) / np.float64(h)
    return weights - 0.5 * (gap**2).sum(-1)


@jax.jit
def every(y, x, weights, h):
    return (
        sums.kernel_sums(y, x, weights, h, log=True),
        sums.kernel_sums(y, x, weights, h, log=False),
        sums.kernel_total(x, weights, h, log=True),
        sums.kernel_total(x, weights, h, log=False),
    )


@pytest.mark.parametrize("dims", [1, 2, 16])
def test_values_against_numpy_at_any_offset(dims):
    for offset in (0.0, 1e4):
        y, x, weights, h = sample(dims, offset=offset)
        s, own = exponents(y, x, weights, h), exponents(x, x, weights, h)
        # Points without weight may hold anything.
        garbage = np.where(np.isinf(weights)[:, None], np.float32(np.nan), x)
        log_rows, rows, log_total, total = every(y, garbage, weights, h)
        want = special.logsumexp(s, axis=1)
        np.testing.assert_allclose(log_rows, want, atol=1e-5, rtol=2e-7)
        np.testing.assert_allclose(rows, np.exp(s).sum(1), rtol=1e-5)
        want = special.logsumexp(own + weights[:, None])
        np.testing.assert_allclose(log_total, want, atol=2e-6)
        np.testing.assert_allclose(total, np.exp(want), rtol=2e-6)


def test_bandwidths_that_a_matrix_product_could_not_bear():
    y, x, weights, h = sample(16)
    h, weights = np.full(16, 1e-3, np.float32), np.where(np.isinf(weights), 0, weights)
    x[:77] = y + 3e-4 * RNG.normal(size=y.shape)
    s = exponents(y, x, weights, h)
    got = every(y, x, weights, h)
    assert got[0].dtype == jnp.float32
    np.testing.assert_allclose(got[0], special.logsumexp(s, axis=1), rtol=1e-5)
    # The product would be off by tenths here: ε‖x‖²/h² is about 2.


def test_the_product_is_good_to_the_last_point_that_it_is_used_for(x64):
    edge = np.sqrt(tiles.FAR) * 0.999
    y = RNG.normal(size=(77, 16))
    y = np.float32(edge * y / np.linalg.norm(y, axis=1, keepdims=True))
    x = np.float32(y[::-1] + 0.1 * RNG.normal(size=y.shape))
    x *= np.float32(edge) / np.linalg.norm(x, axis=1, keepdims=True)
    weights, h = np.zeros(77, np.float32), np.ones(16, np.float32)
    want = special.logsumexp(exponents(y, x, weights, h), axis=1)
    for far in (False, True):
        problem = tiles.Problem(y, x, weights, h, 0 * h, jnp.asarray(far))
        got = tiles.sums(True, problem)
        np.testing.assert_allclose(got, want, atol=1e-6 if far else 1e-4)


# XLA makes the exponents twice, for the maximum and for the exponentials. Optimized
# programs round both alike; compiled cheaply they are an ulp apart, which for these,
# -5e9, is 512: the exponential of that is infinite or 0. So are those of the gradient.
@pytest.mark.optimized
def test_empty_sets_padding_and_far_queries():
    y, x, weights, h = sample(2)
    none = np.full_like(weights, -np.inf)

    @jax.jit
    def both(y, x, weights, h):
        def total(*operands):
            log_rows, _, log_total, _ = every(*operands)
            some = jnp.where(jnp.isfinite(log_rows), log_rows, 0)
            return jnp.sum(some) + jnp.maximum(log_total, -9e9)

        return every(y, x, weights, h), jax.grad(total, (0, 1, 2, 3))(y, x, weights, h)

    values, gradients = both(y, x, none, h)
    assert (values[0] == -np.inf).all() and values[2] == -np.inf
    assert (values[1] == 0).all() and values[3] == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)
    # Weight on one point; and queries whose kernels all underflow.
    one = none.copy()
    one[40] = 0
    far = y + np.float32(3e4)
    values, gradients = both(far, x, one, h)
    np.testing.assert_allclose(values[0], exponents(far, x, one, h)[:, 40], rtol=1e-6)
    assert (values[1] == 0).all() and values[2] == 0 and values[3] == 1
    assert all(np.isfinite(g).all() for g in gradients)
    moved = np.abs(gradients[1]).sum(1) > 0
    assert moved[40] and moved.sum() == 1


# Dense formulas, as plain as they come.
def _dense_exponents(y, x, weights, h):
    gap = (y[:, None] - x) / h
    return weights - 0.5 * jnp.sum(gap**2, axis=-1)


DENSE = {
    "log_rows": lambda y, x, w, h: jnp.sum(
        jnp.sin(jax.nn.logsumexp(_dense_exponents(y, x, w, h), axis=1))
    ),
    "rows": lambda y, x, w, h: jnp.sum(
        jnp.sin(9 * jnp.sum(jnp.exp(_dense_exponents(y, x, w, h)), axis=1))
    ),
    "log_total": lambda y, x, w, h: jax.nn.logsumexp(
        _dense_exponents(x, x, w, h) + w[:, None]
    ),
    "total": lambda y, x, w, h: jnp.sum(
        jnp.exp(_dense_exponents(x, x, w, h) + w[:, None])
    ),
}
OURS = {
    "log_rows": lambda *a: jnp.sum(jnp.sin(sums.kernel_sums(*a, log=True))),
    "rows": lambda *a: jnp.sum(jnp.sin(9 * sums.kernel_sums(*a, log=False))),
    "log_total": lambda y, *a: sums.kernel_total(*a, log=True),
    "total": lambda y, *a: sums.kernel_total(*a, log=False),
}
ALL = (0, 1, 2, 3)


def close(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = np.abs(b).max() + 1e-12
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def _combined(functions):
    return lambda *operands: sum(f(*operands) for f in functions.values())


@pytest.mark.parametrize("dims", [2, 16])
def test_derivatives_against_dense_formulas(dims, x64):
    y, x, weights, h = sample(dims)
    weights[[0, 5, -1]] = -6  # the dense formula has no derivative at −inf
    cases = [(y, x, weights, h)]
    if dims == 16:  # two clusters that are too far apart for a matrix product
        cases.append((y + 40 * (y[:, :1] > 0), x + 40 * (x[:, :1] > 0), weights, h))

    # The other two differ from these in a factor alone.
    names = tuple(OURS) if dims == 2 else ("log_rows", "total")
    ours, dense = (
        jax.jit(jax.grad(_combined({name: f[name] for name in names}), ALL))
        for f in (OURS, DENSE)
    )
    for case in cases:
        case = tuple(np.float32(z) for z in case)
        close(ours(*case), dense(*(np.float64(z) for z in case)), 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 16])
def test_second_derivatives_against_dense_formulas(dims, x64):
    y, x, weights, h = sample(dims)
    weights[[0, 5, -1]] = -6
    operands = tuple(np.float64(z) for z in (y, x, weights, h))
    along = tuple(RNG.normal(size=z.shape) for z in operands)

    def product(functions, operands, along):
        return jax.jvp(jax.grad(_combined(functions), ALL), operands, along)

    ours, dense = (jax.jit(partial(product, f)) for f in (OURS, DENSE))
    close(ours(operands, along), dense(operands, along), 1e-9)


def test_transformations_agree(x64, monkeypatch):
    monkeypatch.setattr(tiles, "CPU", tiles.Tile(3, 4))

    def wide(dims):
        y, x, weights, h = sample(dims, n=5, m=6)
        weights = np.where(np.isinf(weights), -6, weights)
        return tuple(np.float64(z) for z in (y, x, weights, h))

    operands = wide(2)
    along = tuple(RNG.normal(size=z.shape) for z in operands)
    f = OURS["log_rows"]

    @jax.jit
    def every_way(*operands):
        gradient = jax.grad(f, ALL)(*operands)
        hessian = jax.hessian(f, 1)(*operands)
        return gradient, jax.jvp(f, operands, along)[1], hessian

    gradient, forward, hessian = every_way(*operands)
    want = sum(np.vdot(g, t) for g, t in zip(gradient, along))
    np.testing.assert_allclose(forward, want, rtol=1e-10)
    close(hessian, jax.jit(jax.hessian(DENSE["log_rows"], 1))(*operands), 1e-9)

    # A batch of problems of which one needs differences.
    scales, operands = np.array([1.0, 1e-2, 3.0]), wide(4)

    def at(scale):
        return jax.grad(f, 1)(*operands[:3], scale * operands[3])

    batch, single = jax.jit(jax.vmap(at))(scales), jax.jit(at)
    for i, scale in enumerate(scales):
        close(jax.tree.map(lambda z, i=i: z[i], batch), single(scale), 1e-8)


def _temporary(f, n, dims):
    a = jax.ShapeDtypeStruct((n, dims), jnp.float32)
    return jax.jit(f).lower(a, a).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.inspected
def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    monkeypatch.undo()

    def kde(y, x):
        return samples.kde_log_density(y, x, 0.7)

    def cauchy_schwarz(y, x):
        return samples.cauchy_schwarz(y, x, 1.0)

    # Weights, results and their partial sums: a few numbers a point.
    small, large = (_temporary(kde, n, 16) for n in (10_000, 40_000))
    assert large - small <= 3 * 4 * 30_000 and small < 2**21
    assert _temporary(cauchy_schwarz, 40_000, 2) < 8 * 4 * 40_000 + 2**20

    def slope(y, x):
        return jax.grad(lambda x: jnp.sum(kde(y, x)))(x)

    # A few arrays of the size of the points, and the tiles: no pair is kept.
    assert _temporary(slope, 40_000, 2) < 10 * 4 * 2 * 40_000 + 2**20


@pytest.mark.parametrize("dims", [1, 16])
def test_neighbors_against_numpy(dims):
    y, x, _, _ = sample(dims, offset=100.0)
    y[7], x[50], x[60] = y[3], x[3], x[3]
    squared = ((np.float64(y)[:, None] - x) ** 2).sum(-1)
    own = ((np.float64(x)[:, None] - x) ** 2).sum(-1) + np.diag(np.full(101, np.inf))

    @jax.jit
    def both(y, x):
        other = neighbors.kth_squared_distances(y, x, 3)
        return other, neighbors.kth_squared_distances(x, x, 2, skip_own_index=True)

    got = both(y, x)
    np.testing.assert_allclose(got[0], np.sort(squared, axis=1)[:, 2], rtol=1e-5)
    np.testing.assert_allclose(got[1], np.sort(own, axis=1)[:, 1], rtol=1e-5)
    assert (np.asarray(got[1])[[3, 50, 60]] == 0).all()
    slope = jax.jit(jax.grad(lambda y: jnp.sum(both(y, x)[0])))(y)
    third = np.argsort(squared, axis=1)[:, 2]
    np.testing.assert_allclose(slope, 2 * (np.float64(y) - x[third]), rtol=1e-5)
