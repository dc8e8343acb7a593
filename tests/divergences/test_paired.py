"""Laws of y given x, and dependence, against their formulas on matrices of pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.divergences import gaussian, paired
from kljax.divergences.gaussian import Gaussian

RNG = np.random.default_rng(0)
N, WIDTHS = 9, (np.array([0.8, 1.1, 0.9]), 0.7)
X, Y = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))
Z = Y + 0.4 * RNG.normal(size=(N, 2))
WEIGHTS = RNG.uniform(0.2, 1, N)
ESTIMATORS = ("psd", "paper", "repo")


def kernel(a, b, width):
    return np.exp(-(((a[:, None] - b) / width) ** 2).sum(-1) / 2)


def conditional(x, y, z, w, estimator):
    """Sheet's Eq. 6, 7: sums over j of the rows and i of the columns."""
    w = w / w.sum()
    k, joint = kernel(x, x, WIDTHS[0]), np.outer(w, w)
    s = k @ w
    c = {
        "psd": k / np.outer(s, s),
        "paper": k / s[:, None] ** 2,
        "repo": k / (k**2 @ w)[:, None],
    }[estimator]
    log = lambda a, b: np.log((joint * c * kernel(a, b, WIDTHS[1])).sum())
    return log(y, y) + log(z, z) - 2 * log(z, y)


def three(x, y, w):
    w = w / w.sum()
    k, l = kernel(x, x, WIDTHS[0]), kernel(y, y, WIDTHS[1])
    return w @ (k * l) @ w, (w @ k @ w) * (w @ l @ w), w @ ((k @ w) * (l @ w))


def information(x, y, w):
    joint, apart, across = three(x, y, w)
    return np.log(joint * apart / across**2)


def hsic(x, y, w):
    joint, apart, across = three(x, y, w)
    return joint + apart - 2 * across


CASES = {
    **{
        name: (
            partial(paired.conditional_cauchy_schwarz, estimator=name),
            partial(conditional, estimator=name),
            (X, Y, Z),
        )
        for name in ESTIMATORS
    },
    "information": (paired.cauchy_schwarz_information, information, (X, Y)),
    "hsic": (paired.hsic, hsic, (X, Y)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_weights_and_gradients(x64, name):
    ours, reference, arrays = CASES[name]
    # A pair without weight may hold anything.
    junk = [np.concatenate([a, np.full((1, a.shape[1]), np.nan)]) for a in arrays]
    log_w = np.append(np.log(WEIGHTS) + 3, -np.inf)
    call = lambda arrays, w: ours(*arrays, *WIDTHS, log_weights=w)
    value, slopes = jax.jit(jax.value_and_grad(call))(junk, log_w)
    np.testing.assert_allclose(value, reference(*arrays, WEIGHTS), rtol=1e-9)
    steps = [1e-5 * RNG.normal(size=a.shape) for a in arrays]
    ends = [
        reference(*(a + sign * s for a, s in zip(arrays, steps)), WEIGHTS)
        for sign in (1, -1)
    ]
    moved = sum((g[:-1] * s).sum() for g, s in zip(slopes, steps))
    np.testing.assert_allclose(moved, (ends[0] - ends[1]) / 2, rtol=1e-5)
    assert all(not g[-1].any() for g in slopes)


@pytest.mark.parametrize("name", ["psd", "information"])
def test_many_pairs_stream(x64, monkeypatch, name):
    monkeypatch.setattr(paired, "MATRICES", 0)
    ours, reference, arrays = CASES[name]
    call = jax.jit(lambda *arrays, w: ours(*arrays, *WIDTHS, log_weights=w))
    value = call(*arrays, w=np.log(WEIGHTS))
    np.testing.assert_allclose(value, reference(*arrays, WEIGHTS), rtol=1e-9)


def test_both_ends_of_the_width_of_x(x64):
    """Pointwise errors at one end, the two samples of y alone at the other."""
    x, y = RNG.normal(size=(64, 8)), RNG.normal(size=(64, 1))
    z = y + 0.3 * RNG.normal(size=(64, 1))
    points = -2 * np.log(np.exp(-((z - y) ** 2) / 2).mean())
    log = lambda a, b: np.log(kernel(a, b, 1.0).mean())
    alone = log(y, y) + log(z, z) - 2 * log(z, y)

    @jax.jit
    @jax.vmap
    def of(width):
        given = x, y, z, width, 1.0
        ours = paired.conditional_cauchy_schwarz
        return [ours(*given, estimator=name) for name in ESTIMATORS]

    found = dict(zip(ESTIMATORS, of(np.array([1e-3, 1e3]))))
    for narrow, wide in found.values():
        assert float(narrow) == pytest.approx(points, abs=1e-9)
        assert float(wide) == pytest.approx(alone, abs=1e-5)
    exact = jax.jit(paired.conditional_cauchy_schwarz)(x, y, y, 1.0, 1.0)
    assert 0 <= exact < 1e-12


def test_only_one_estimator_is_never_negative(x64):
    """3,000 batches of a few pairs each, close to each other."""
    rng = np.random.default_rng(5)
    x, y, z = (rng.normal(size=(3000, 8, d)) for d in (2, 1, 1))
    z = y + 0.1 * z

    @jax.jit
    @jax.vmap
    def both(*sides):
        ours = paired.conditional_cauchy_schwarz
        terms = [conditional_terms(*sides, name) for name in ESTIMATORS]
        return terms, [ours(*sides, 1.0, 1.0, estimator=n) for n in ESTIMATORS]

    # The references are without the clip at 0, which takes rounding away.
    found = {}
    for name, plain, ours in zip(ESTIMATORS, *both(x, y, z)):
        found[name] = plain.min()
        np.testing.assert_allclose(ours, plain, atol=1e-12)
    assert found["psd"] > -1e-14
    assert -0.02 < found["paper"] < -1e-3 and -0.02 < found["repo"] < -1e-3


def conditional_terms(x, y, z, estimator):
    """The divergence from matrices, in JAX for `vmap`."""
    of = lambda a, b: jnp.exp(-((a[:, None] - b) ** 2).sum(-1) / 2)
    k = of(x, x)
    s = k.sum(1)
    c = {
        "psd": k / s / s[:, None],
        "paper": k / s[:, None] ** 2,
        "repo": k / (k**2).sum(1, keepdims=True),
    }[estimator]
    p, q, across = (jnp.log((c * of(*s)).sum()) for s in ((y, y), (z, z), (z, y)))
    return p + q - 2 * across


def test_information_of_correlated_gaussians():
    """Against the closed form of the smoothed Gaussians, and independence."""
    rng, s, levels = np.random.default_rng(1), 0.5, np.array([0.0, 0.3, 0.6, 0.9])
    x, noise = np.float32(rng.normal(size=(2, 4, 1, 1000, 1)))
    r = np.float32(levels[:, None, None])
    y = r * x + np.sqrt(1 - r**2) * noise
    of = lambda x, y: paired.cauchy_schwarz_information(x, y, s, s)
    found = jax.jit(jax.vmap(jax.vmap(of, (None, 0))))(x[:, 0], y)
    v = 1 + s**2 / 2
    closed = np.log(1 - (levels / v) ** 2 / 4) - np.log(1 - (levels / v) ** 2) / 2
    assert (np.asarray(found) >= 0).all()
    np.testing.assert_allclose(found.mean(axis=0), closed, atol=0.02)

    def whole(x, y):
        given = x, y, s, s
        return paired.cauchy_schwarz_information(*given, normalized=True)

    both = jax.jit(jax.value_and_grad(whole, 1))
    one = x[0, 0, :50]
    assert float(both(one, one)[0]) == pytest.approx(1, abs=1e-5)
    value, slope = both(one, 0 * one)
    assert abs(value) < 0.02 and np.isfinite(slope).all()


def test_the_inequality_with_kl_needs_the_factor_of_a_half(x64):
    """D_CS/2 ≤ min KL for 20,000 pairs of Gaussians; D_CS itself is often above."""
    rng = np.random.default_rng(2)
    roots = rng.normal(size=(2, 20000, 2, 2)) * rng.lognormal(size=(2, 20000, 1, 1))
    covs = roots @ roots.swapaxes(-1, -2) + 1e-2 * np.eye(2)
    means = rng.normal(size=(2, 20000, 2)) * 3

    @jax.jit
    def both(means, covs):
        p, q = (Gaussian(m, c) for m, c in zip(means, covs))
        least = jnp.minimum(gaussian.kl(p, q), gaussian.kl(q, p))
        return gaussian.cauchy_schwarz(p, q), least

    found, least = both(means, covs)
    assert (found / 2 <= least).all() and (found > least).sum() > 1000


def test_errors_name_the_argument():
    x, y = jnp.zeros((3, 2)), jnp.zeros((3, 1))
    with pytest.raises(ValueError, match=r"x, y_p, y_q must be \[n, ·\] .*\(2, 1\)"):
        paired.conditional_cauchy_schwarz(x, y, y[:2], 1.0, 1.0)
    with pytest.raises(ValueError, match=r"y_p and y_q must have one shape"):
        paired.conditional_cauchy_schwarz(x, y, x, 1.0, 1.0)
    with pytest.raises(ValueError, match="unknown estimator 'mean'"):
        paired.conditional_cauchy_schwarz(x, y, y, 1.0, 1.0, estimator="mean")
    with pytest.raises(ValueError, match=r"width_y must be positive, finite, got 0\.0"):
        paired.hsic(x, y, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"x, y must be \[n, ·\]"):
        paired.cauchy_schwarz_information(x[:, 0], y, 1.0, 1.0)
    none = paired.cauchy_schwarz_information(
        x, y, 1.0, 1.0, log_weights=np.full(3, -np.inf, np.float32)
    )
    assert none == 0
