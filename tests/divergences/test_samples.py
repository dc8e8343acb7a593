"""Sample estimators against SciPy, brute force in NumPy and integrals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial, special, stats

from kljax.divergences import counts as c
from kljax.divergences import gaussian
from kljax.divergences import samples as s
from kljax.divergences.gaussian import Gaussian
from kljax.kernels.pairs import neighbors, tiles

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 2)), 0.5 + 1.2 * RNG.normal(size=(9, 2))
WEIGHTS = RNG.uniform(0.2, 1, size=9)
H = np.array([0.6, 0.9])


def _squared(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def _kde(query, data, h, weights):
    share = weights / weights.sum()
    return special.logsumexp(
        np.log(share) - 0.5 * _squared(query / h, data / h), axis=1
    ) - np.sum(np.log(h) + 0.5 * np.log(2 * np.pi))


def _mmd(x, y, h, unbiased=False):
    def mean(a, b, same):
        k = np.exp(-0.5 * _squared(a / h, b / h))
        n = len(a)
        return (k.sum() - n) / (n * (n - 1)) if same and unbiased else k.mean()

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def _cauchy_schwarz(x, y, h, unbiased=False):
    def log_mean(a, b, same):
        k = np.exp(-0.25 * _squared(a / h, b / h))
        n = len(a)
        mean = (k.sum() - n) / (n * (n - 1)) if same and unbiased else k.mean()
        return np.log(mean)

    return log_mean(x, x, True) + log_mean(y, y, True) - 2 * log_mean(x, y, False)


def _knn(x, y, k):
    own = np.sort(np.sqrt(_squared(x, x)), axis=1)[:, k]  # column 0 is itself
    other = np.sort(np.sqrt(_squared(x, y)), axis=1)[:, k - 1]
    n, d = x.shape
    return d * np.mean(np.log(other / own)) + np.log(len(y) / (n - 1))


CASES = {
    "kde": (
        lambda x, y: s.kde_log_density(x, y, H, log_weights=np.log(WEIGHTS)).sum(),
        lambda x, y: _kde(x, y, H, WEIGHTS).sum(),
    ),
    "kernel_mean": (
        lambda x, y: s.kernel_mean(x, y, H, log_weights=np.log(WEIGHTS)).sum(),
        lambda x, y: (
            (np.exp(-0.5 * _squared(x / H, y / H)) @ WEIGHTS).sum() / WEIGHTS.sum()
        ),
    ),
    "mmd": (lambda x, y: s.mmd(x, y, 0.8), lambda x, y: _mmd(x, y, 0.8)),
    "mmd_unbiased": (
        lambda x, y: s.mmd(x, y, H, unbiased=True),
        lambda x, y: _mmd(x, y, H, unbiased=True),
    ),
    "cauchy_schwarz": (
        lambda x, y: s.cauchy_schwarz(x, y, H),
        lambda x, y: _cauchy_schwarz(x, y, H),
    ),
    "cauchy_schwarz_unbiased": (
        lambda x, y: s.cauchy_schwarz(x, y, H, unbiased=True),
        lambda x, y: _cauchy_schwarz(x, y, H, unbiased=True),
    ),
    "knn": (lambda x, y: s.knn_kl(x, y, 2), lambda x, y: _knn(x, y, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_blocks(x64, name, monkeypatch):
    ours, reference = CASES[name]
    # Several tiles each way, with a remainder.
    monkeypatch.setattr(tiles, "CPU", tiles.Tile(2, 4))
    monkeypatch.setattr(neighbors, "_CPU", tiles.Tile(2, 4))
    value, gradients = jax.jit(jax.value_and_grad(ours, (0, 1)))(X, Y)
    np.testing.assert_allclose(value, reference(X, Y), rtol=1e-10)
    for i, gradient in enumerate(gradients):
        step = 1e-5 * RNG.normal(size=gradient.shape)
        up, down = ([X, Y], [X, Y])
        up[i], down[i] = up[i] + step, down[i] - step
        change = (reference(*up) - reference(*down)) / 2
        np.testing.assert_allclose(np.sum(gradient * step), change, rtol=1e-6)


def test_kde_is_scipys(x64):
    x, y = X[:, :1], Y[:, :1]
    density = jax.jit(s.kde_log_density)
    for weights in (None, WEIGHTS):
        scipys = stats.gaussian_kde(y[:, 0], bw_method=0.3, weights=weights)
        h = float(np.sqrt(scipys.covariance[0, 0]))
        log_weights = None if weights is None else np.log(weights) + 5
        got = density(x, y, h, log_weights=log_weights)
        np.testing.assert_allclose(got, scipys.logpdf(x[:, 0]), rtol=1e-10)


def test_far_points_weights_and_padding():
    x, y = np.zeros((1, 2), np.float32), np.full((1, 2), 100, np.float32)
    np.testing.assert_allclose(
        jax.jit(s.cauchy_schwarz)(x, y, jnp.ones(2)), 10000, rtol=1e-6
    )

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def density(y, log_w):
        return s.kde_log_density(x, y, 1.0, log_weights=log_w)[0]

    value, _ = density(y, np.zeros(1, np.float32))
    np.testing.assert_allclose(value, -10001.8379, rtol=1e-6)
    value, gradients = density(y, np.full(1, -np.inf, np.float32))
    assert value == -np.inf and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("measure", [s.mmd, s.cauchy_schwarz])
def test_a_weight_of_two_is_two_points(measure):
    log_w = np.array([0, np.log(2), -np.inf], np.float32)
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    f = jax.jit(lambda x, log_w: measure(x, points[:2], 1.5, log_weights_p=log_w))
    doubled = f(points[[0, 1, 1]], np.zeros(3, np.float32))
    np.testing.assert_allclose(f(points, log_w), doubled, rtol=2e-5)


def test_cauchy_schwarz_is_the_integral_over_densities(x64):
    x, y, h = X[:, :1], Y[:, :1], 0.7
    grid = np.linspace(-12, 12, 4001)[:, None]
    p = np.exp(_kde(grid, x, np.array([h]), np.ones(7)))
    q = np.exp(_kde(grid, y, np.array([h]), np.ones(9)))
    step = grid[1, 0] - grid[0, 0]
    expected = np.log(np.sum(p * p) * np.sum(q * q) / np.sum(p * q) ** 2)
    assert np.sum(p) * step == pytest.approx(1)
    np.testing.assert_allclose(jax.jit(s.cauchy_schwarz)(x, y, h), expected, rtol=1e-8)


def test_cauchy_schwarz_without_its_diagonal_is_that_of_smoothed_gaussians():
    """Within three standard errors, of 16 pairs of samples; the V-statistic is not."""
    rng, h = np.random.default_rng(3), 0.3 / np.sqrt(2)
    root = np.linalg.cholesky([[1.5, 0.4], [0.4, 0.7]])
    x, y = np.float32(rng.normal(size=(2, 16, 500, 2)))
    y = np.float32(y @ root.T + [1.0, 0.5])
    p, q = (
        Gaussian(m, c + h**2 * np.eye(2))
        for m, c in ((np.zeros(2), np.eye(2)), (np.array([1.0, 0.5]), root @ root.T))
    )
    exact = float(gaussian.cauchy_schwarz(p, q))
    given = [partial(s.cauchy_schwarz, unbiased=u) for u in (True, False)]
    both = jax.jit(jax.vmap(lambda x, y: [of(x, y, h) for of in given]))
    u, v = map(np.asarray, both(x, y))
    error = u.std(ddof=1) / 4
    assert abs(u.mean() - exact) < 3 * error < 0.1 and v.mean() > exact + 3 * error


def test_the_median_distance():
    x = np.float32(RNG.normal(size=(40, 3)))
    x[5] = x[6]
    of = jax.jit(jax.value_and_grad(s.median_distance))
    value, slope = of(x)
    assert float(value) == pytest.approx(np.median(spatial.distance.pdist(x)), 1e-5)
    assert slope.any() and np.isfinite(slope).all()
    assert of(0 * x)[0] == 0 and not of(0 * x)[1].any()


def test_knn_finds_the_divergence_and_bears_ties():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 2)).astype(np.float32)
    y = (0.7 + 1.5 * rng.normal(size=(1000, 2))).astype(np.float32)
    true = np.log(1.5**2) - 1 + (2 + 2 * 0.7**2) / (2 * 1.5**2)
    f = jax.jit(jax.value_and_grad(lambda x, y: s.knn_kl(x, y, 5), (0, 1)))
    np.testing.assert_allclose(f(x, y)[0], true, atol=0.15)
    # Every point four times, in both samples; all points equal; rounded data.
    many = np.repeat(x[:250], 4, axis=0)
    for pair in ((many, many), (0 * x, 0 * x), (np.round(x), np.round(y))):
        value, gradients = f(*pair)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(f(0 * x, 0 * x)[0], np.log(1000 / 999), atol=1e-6)


@pytest.mark.parametrize("f", [s.mmd, s.cauchy_schwarz])
def test_coinciding_samples(f):
    x = jnp.asarray(X, jnp.float32)
    both = jax.jit(jax.value_and_grad(lambda x, y: f(x, y, 0.8), (0, 1)))
    value, gradients = both(x, x)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert value >= 0
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
    low = x.astype(jnp.bfloat16)
    assert jax.eval_shape(lambda x: f(x, x, 0.8), low).dtype == jnp.float32


def test_histograms():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=200), rng.normal(size=300) * 1.5
    edges = np.linspace(-3, 3, 9)
    outer = np.concatenate([[-np.inf], edges[1:-1], [np.inf]])
    p, q = (np.histogram(v, outer)[0] + 0.5 for v in (x, y))
    expected = stats.entropy(p, q)
    got = jax.jit(s.histogram_kl)(x, y, edges)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    counts = jnp.array([[3, 0, 1], [0, 0, 0]])
    other = jnp.array([2, 2, 0])
    counts_kl = jax.jit(c.kl)
    plug_in = counts_kl(counts, other, pseudo_count=0)
    assert plug_in[0] == jnp.inf and plug_in[1] == 0
    smooth = counts_kl(counts, other, pseudo_count=1)
    expected = [stats.entropy(c + 1, np.array(other) + 1) for c in np.array(counts)]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_errors_name_the_argument():
    x, y = jnp.zeros((3, 2)), jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"x_p and x_q must be .*\(4, 1\)"):
        s.mmd(x, y[:, :1], 1.0)
    with pytest.raises(ValueError, match=r"query and data .*\(3,\)"):
        s.kde_log_density(x[:, 0], y, 1.0)
    with pytest.raises(
        ValueError, match=r"bandwidth must be positive, finite, got 0.0"
    ):
        s.cauchy_schwarz(x, y, 0)
    with pytest.raises(
        ValueError, match=r"one per coordinate \(2,\), got shape \(3,\)"
    ):
        s.cauchy_schwarz(x, y, jnp.ones(3))
    with pytest.raises(ValueError, match=r"log_weights must have shape \(4,\)"):
        s.kde_log_density(x, y, 1.0, log_weights=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"k must be at least 1.* got 3"):
        s.knn_kl(x, y, 3)
    with pytest.raises(ValueError, match="two points in each sample"):
        s.mmd(x[:1], y, 1.0, unbiased=True)
    with pytest.raises(ValueError, match="two points in each sample"):
        s.cauchy_schwarz(x, y[:1], 1.0, unbiased=True)
    with pytest.raises(ValueError, match="points must be two at least"):
        s.median_distance(x[:1])
    with pytest.raises(ValueError, match="edges must be"):
        s.histogram_kl(x[:, 0], y[:, 0], jnp.zeros(1))
    with pytest.raises(ValueError, match="one-dimensional"):
        s.histogram_kl(x, y, jnp.arange(3.0))
    with pytest.raises(ValueError, match="pseudo_count must be at least 0, got -1"):
        c.kl(jnp.ones(2), jnp.ones(2), pseudo_count=-1)
    with pytest.raises(ValueError, match="same classes"):
        c.kl(jnp.ones(2), jnp.ones(3))
