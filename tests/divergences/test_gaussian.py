"""Gaussians against quadrature, float64 NumPy forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, stats

from kljax.divergences import gaussian as g
from kljax.divergences.gaussian import DiagonalGaussian, Gaussian

NAMES = (
    "kl",
    "renyi",
    "bhattacharyya",
    "squared_hellinger",
    "cauchy_schwarz",
    "squared_wasserstein2",
)


def _every(p, q, alpha=0.3):
    """All six values, stacked."""
    order = {"renyi": {"alpha": alpha}}
    return jnp.stack([getattr(g, name)(p, q, **order.get(name, {})) for name in NAMES])


def _of(kind, function, **options):
    """A distance of two Gaussians as a function of means and spreads."""
    return lambda mean_p, spread_p, mean_q, spread_q: function(
        kind(mean_p, spread_p), kind(mean_q, spread_q), **options
    )


full = jax.jit(_of(Gaussian, _every))
diag = jax.jit(_of(DiagonalGaussian, _every))


def _reference(mean_p, cov_p, mean_q, cov_q, alpha=0.3):
    """The textbook forms in float64."""
    mean_p, cov_p, mean_q, cov_q = (
        np.asarray(x, np.float64) for x in (mean_p, cov_p, mean_q, cov_q)
    )
    delta, d = mean_p - mean_q, len(mean_p)

    def log_det(c):
        return np.linalg.slogdet(c)[1]

    def quadratic(c):
        return delta @ np.linalg.solve(c, delta)

    trace = np.trace(np.linalg.solve(cov_q, cov_p))
    kl = 0.5 * (trace - d + log_det(cov_q) - log_det(cov_p) + quadratic(cov_q))
    mix = alpha * cov_q + (1 - alpha) * cov_p
    renyi = 0.5 * alpha * quadratic(mix) - 0.5 / (alpha - 1) * (
        log_det(mix) - (1 - alpha) * log_det(cov_p) - alpha * log_det(cov_q)
    )
    mid = 0.5 * (cov_p + cov_q)
    gap = log_det(mid) - 0.5 * (log_det(cov_p) + log_det(cov_q))
    b = 0.5 * gap + quadratic(mid) / 8
    root = linalg.sqrtm(cov_p).real
    w = delta @ delta + np.trace(
        cov_p + cov_q - 2 * linalg.sqrtm(root @ cov_q @ root).real
    )
    return np.array([kl, renyi, b, 1 - np.exp(-b), gap + quadratic(mid) / 2, w])


def _pairs(n, d, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, n, d, d))
    cov = a @ np.swapaxes(a, -1, -2) / d + 0.2 * np.eye(d)
    mean = rng.normal(size=(2, n, d))
    return mean[0], cov[0], mean[1], cov[1]


def test_one_dimension_is_the_integral(x64):
    mean_p, sd_p, mean_q, sd_q, alpha = 0.3, 0.7, -0.4, 1.3, 0.3
    p, q = stats.norm(mean_p, sd_p), stats.norm(mean_q, sd_q)

    def integral(f):
        return integrate.quad(f, -12, 12, epsabs=1e-12, epsrel=1e-12)[0]

    kl = integral(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)))
    mixed = integral(lambda x: p.pdf(x) ** alpha * q.pdf(x) ** (1 - alpha))
    bc = integral(lambda x: np.sqrt(p.pdf(x) * q.pdf(x)))
    cs = (
        np.log(integral(lambda x: p.pdf(x) ** 2))
        + np.log(integral(lambda x: q.pdf(x) ** 2))
        - 2 * np.log(integral(lambda x: p.pdf(x) * q.pdf(x)))
    )
    # W₂² in one dimension is the integral of squared quantile differences.
    w = integral(
        lambda z: ((mean_p + sd_p * z) - (mean_q + sd_q * z)) ** 2 * stats.norm.pdf(z)
    )
    expected = [kl, np.log(mixed) / (alpha - 1), -np.log(bc), 1 - bc, cs, w]
    # Coordinates that are equal on both sides add nothing.
    args = [np.array([x, 1.0, 1.0]) for x in (mean_p, sd_p**2, mean_q, sd_q**2)]
    np.testing.assert_allclose(diag(*args), expected, rtol=1e-9)
    args[1], args[3] = np.diag(args[1]), np.diag(args[3])
    np.testing.assert_allclose(full(*args), expected, rtol=1e-9)


def test_full_covariances_match_the_textbook_forms(x64):
    args = _pairs(8, 3)
    expected = np.stack([_reference(*pair) for pair in zip(*args)], axis=1)
    np.testing.assert_allclose(full(*args), expected, rtol=1e-10)
    singles = np.stack([full(*pair) for pair in zip(*args)], axis=1)
    np.testing.assert_allclose(full(*args), singles, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(full, 0, 1)(*args), singles, rtol=1e-12)


def test_diagonal_is_full_on_diagonal_matrices(x64):
    rng = np.random.default_rng(1)
    var_p, var_q = np.exp(rng.normal(size=(2, 8, 3)) * 2)
    mean_p, mean_q = rng.normal(size=(2, 8, 3))
    as_matrix = lambda var: var[..., None] * np.eye(3)
    values = diag(mean_p, var_p, mean_q, var_q)
    eager = g.kl(
        DiagonalGaussian(mean_p[0], var_p[0]), DiagonalGaussian(mean_q[0], var_q[0])
    )
    np.testing.assert_allclose(values[0, 0], eager, rtol=1e-12)
    # One side of either kind.
    p, q = DiagonalGaussian(mean_p, var_p), Gaussian(mean_q, as_matrix(var_q))
    np.testing.assert_allclose(jax.jit(_every)(p, q), values, rtol=1e-10)
    np.testing.assert_allclose(
        values,
        full(mean_p, as_matrix(var_p), mean_q, as_matrix(var_q)),
        rtol=1e-10,
    )


@pytest.mark.optimized
@pytest.mark.parametrize("scale", [3e-5, 1e-3, 0.1])
def test_nearly_equal_gaussians_in_float32(scale):
    rng = np.random.default_rng(2)
    d = 2
    mean_p, cov_p = (x[0].astype(np.float32) for x in _pairs(1, d)[:2])
    noise = rng.normal(size=(d, d))
    mean_q = (mean_p + scale * rng.normal(size=d)).astype(np.float32)
    cov_q = (cov_p + 0.1 * scale * (noise + noise.T)).astype(np.float32)
    expected = _reference(mean_p, cov_p, mean_q, cov_q)
    np.testing.assert_allclose(
        full(mean_p, cov_p, mean_q, cov_q), expected, rtol=2e-5, atol=1e-14
    )
    var_p, var_q = np.diag(cov_p), np.diag(cov_q)
    expected = _reference(mean_p, np.diag(var_p), mean_q, np.diag(var_q))
    np.testing.assert_allclose(
        diag(mean_p, var_p, mean_q, var_q), expected, rtol=1e-5, atol=1e-14
    )


@pytest.mark.optimized
def test_far_apart_scales_in_float32():
    zero = np.zeros(2)
    for p, q in ((1e-10, 1.0), (1e10, 1e-10), (1.0, 1e10)):
        var_p, var_q = np.array([[p, 2.0], [q, 1.0]], np.float32)
        expected = _reference(zero, np.diag(var_p), zero, np.diag(var_q))
        got = diag(zero, var_p, zero, var_q)
        np.testing.assert_allclose(got, expected, rtol=2e-6)
        got = full(zero, np.diag(var_p), zero, np.diag(var_q))
        np.testing.assert_allclose(got, expected, rtol=2e-6)
    # A tiny and a huge direction in one matrix, turned by 45 degrees.
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    p = (turn * [1e-4, 1e2] @ turn.T).astype(np.float32)
    expected = _reference(zero, p, zero, np.eye(2))
    np.testing.assert_allclose(full(zero, p, zero, np.eye(2)), expected, rtol=1e-5)


def _weighted(weights, args):
    return weights @ _of(Gaussian, _every)(*args)


@jax.jit
def _along(weights, args, direction):
    """First and second derivative along a direction: reverse under forward mode."""
    gradient, second = jax.jvp(
        jax.grad(_weighted, 1), (weights, args), (0 * weights, direction)
    )
    return sum(jnp.sum(a * b) for a, b in zip(gradient, direction)), sum(
        jnp.sum(a * b) for a, b in zip(second, direction)
    )


@pytest.mark.parametrize("equal", [False, True])
def test_first_and_second_derivatives(x64, equal):
    rng = np.random.default_rng(3)
    args = tuple(x[0] for x in _pairs(1, 3, seed=3))
    direction = tuple(rng.normal(size=x.shape) for x in args)
    direction = tuple(d + d.T if d.ndim == 2 else d for d in direction)
    if equal:
        args = args[:2] * 2
    step = 1e-4

    def moved(by):
        return np.asarray(full(*(x + by * d for x, d in zip(args, direction))))

    first = (moved(step) - moved(-step)) / (2 * step)
    second = (moved(step) + moved(-step) - 2 * moved(0)) / step**2
    for i, name in enumerate(NAMES):
        got = _along(np.eye(6)[i], args, direction)
        expected = first[i], second[i]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5, err_msg=name)
    if equal:
        # At p = q the Hessian of the KL divergence is the Fisher metric.
        mean, cov = (direction[i] - direction[i + 2] for i in (0, 1))
        inverse = np.linalg.inv(args[1])
        fisher = mean @ inverse @ mean + 0.5 * np.trace(inverse @ cov @ inverse @ cov)
        got = _along(np.eye(6)[0], args, direction)
        np.testing.assert_allclose(got, (0, fisher), rtol=1e-10, atol=1e-12)


def test_diagonal_derivatives(x64):
    rng = np.random.default_rng(4)
    (mean_p, mean_q), (var_p, var_q) = (
        rng.normal(size=(2, 2)),
        rng.uniform(1, 3, (2, 2)),
    )

    def plain(mean_p, var_p, mean_q, var_q, alpha):
        mix = alpha * var_q + (1 - alpha) * var_p
        logs = jnp.log(mix) - (1 - alpha) * jnp.log(var_p) - alpha * jnp.log(var_q)
        distance = (mean_p - mean_q) ** 2 / mix
        return jnp.sum(logs / (1 - alpha) + alpha * distance) / 2

    def ours(*args):
        return _of(DiagonalGaussian, g.renyi, alpha=args[4])(*args[:4])

    @jax.jit
    def hessians(*args):
        return [jax.hessian(f, (0, 1, 2, 3, 4))(*args) for f in (plain, ours)]

    for args in ((mean_p, var_p, mean_q, var_q), (mean_p, var_p) * 2):
        expected, got = hessians(*args, 0.4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11),
            expected,
            got,
        )
        assert all(
            np.isfinite(x).all() for x in jax.tree.leaves(hessians(*args, 1.0)[1])
        )


def test_renyi_orders(x64):
    mean_p, cov_p, mean_q, cov_q = (x[0] for x in _pairs(1, 3, seed=5))
    alphas = np.array([0.01, 0.5, 0.999999, 1.0, 1.000001, 1.2])
    in_alpha = jax.jit(
        jax.vmap(
            jax.value_and_grad(
                lambda a, *args: _of(Gaussian, g.renyi, alpha=a)(*args),
            ),
            (0, None, None, None, None),
        )
    )
    value, slope = in_alpha(alphas, mean_p, cov_p, mean_q, cov_q)
    kl = jax.jit(g.kl)(Gaussian(mean_p, cov_p), Gaussian(mean_q, cov_q))
    for i in (0, 1, 5):
        reference = _reference(mean_p, cov_p, mean_q, cov_q, alphas[i])[1]
        np.testing.assert_allclose(value[i], reference, rtol=1e-10)
    np.testing.assert_allclose(value[2:5], kl, rtol=1e-5)
    np.testing.assert_allclose(value[3], kl, rtol=1e-12)
    steps = (value[4] - value[2]) / 2e-6
    np.testing.assert_allclose(slope[3], steps, rtol=1e-6)
    # α·D_α is non-decreasing in α, and so is D_α.
    assert np.all(np.diff(value) > 0)


def test_renyi_outside_its_domain():
    one, eye = np.ones(2), np.eye(2)
    for kind, spread in ((Gaussian, eye), (DiagonalGaussian, one)):
        f = _of(kind, g.renyi, alpha=3.0)
        both = jax.jit(
            jax.value_and_grad(lambda m, s, f=f, q=spread: f(m, s, 0 * m, q), (0, 1))
        )
        value, gradient = both(one, 2 * spread)
        assert value == np.inf
        assert not any(np.any(x) for x in gradient)
        # 3·1 − 2·1.4 > 0: still inside.
        value, gradient = both(one, 1.4 * spread)
        assert np.isfinite(value) and all(np.any(x) for x in gradient)


def test_types_and_broadcasting():
    args = [np.float32([x, x]) for x in (1, 2, 0, 1)]
    low = [x.astype(jnp.bfloat16) for x in args]
    kl_diag, kl = _of(DiagonalGaussian, g.kl), _of(Gaussian, g.kl)
    value = jax.jit(kl_diag)(*low)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, jax.jit(kl_diag)(*args), rtol=1e-6)
    mixed = np.ones((3, 1, 2)), np.ones((1, 2)), np.zeros(2), np.ones((4, 2))
    assert jax.eval_shape(kl_diag, *mixed).shape == (3, 4)
    mixed = np.ones((3, 2)), np.eye(2), np.zeros(2), np.eye(2)
    batch = jax.eval_shape(kl, *mixed)
    assert batch.shape == (3,) and batch.dtype == jnp.float32


def test_illegal_and_degenerate_covariances():
    one, eye, bad = np.ones(2), np.eye(2), np.diag([1.0, -1.0])
    assert np.isnan(full(one, bad, one, eye)).all()
    assert np.isnan(full(one, eye, one, bad)).all()
    assert np.isnan(diag(one, np.array([1.0, -1.0]), one, one)).all()
    # Degenerate Gaussians have a Wasserstein distance.
    point, line = np.zeros((2, 2)), np.ones((2, 2))
    cases = ((point, point, 0), (point, eye, 2), (line, point, 2), (line, line, 0))
    distance = _of(Gaussian, g.squared_wasserstein2)
    both = jax.jit(jax.value_and_grad(distance, (1, 3)))
    for p, q, expected in cases:
        value, gradient = both(one, p, one, q)
        np.testing.assert_allclose(value, expected, atol=1e-5)
        assert all(np.isfinite(x).all() for x in gradient)
    slopes = jax.jit(jax.grad(_of(DiagonalGaussian, g.squared_wasserstein2), (1, 3)))
    gradient = slopes(one, np.zeros(2), one, np.array([0.0, 4.0]))
    assert all(np.isfinite(x).all() for x in gradient)


def test_bad_shapes_and_orders_are_named():
    one, eye = np.ones(2), np.eye(2)
    q = Gaussian(one, eye)
    with pytest.raises(ValueError, match=r"p.cov.*\(3, 3\)"):
        g.kl(Gaussian(one, np.eye(3)), q)
    with pytest.raises(ValueError, match=r"q.var.*\(1,\)"):
        g.kl(DiagonalGaussian(one, one), DiagonalGaussian(one, np.ones(1)))
    with pytest.raises(ValueError, match="2 axes of d"):
        g.kl(Gaussian(one, one), q)
    with pytest.raises(ValueError, match="one dimension d"):
        g.kl(Gaussian(np.ones(3), np.eye(3)), q)
    with pytest.raises(ValueError, match="do not broadcast"):
        g.kl(
            DiagonalGaussian(np.ones((3, 2)), one),
            DiagonalGaussian(np.ones((4, 2)), one),
        )
    with pytest.raises(TypeError, match="p must be a Gaussian or"):
        g.kl((one, eye), q)
    with pytest.raises(ValueError, match=r"alpha must be positive.*-1"):
        g.renyi(q, q, alpha=-1)
    with pytest.raises(ValueError, match=r"alpha of shape \(3,\)"):
        g.renyi(q, q, alpha=np.ones(3))
