"""A linear network's bounds against Gaussian formulas, quadrature and simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from kljax.theory.linear_network import LinearNetwork, mean_layer_kl

D, N = 20, 50
MU = np.eye(D)[0]


def nodes():
    """w and weights for means over its law: along mu, and by its length across."""
    x, weight = np.polynomial.hermite_e.hermegauss(30)
    u, share = np.polynomial.legendre.leggauss(60)
    across = np.sqrt(stats.chi2.ppf((u + 1) / 2, D - 1) / N)
    w = np.zeros((30, 60, D))
    w[..., 0] = 1 + x[:, None] / np.sqrt(N)
    w[..., 1] = across
    return w, np.outer(weight / weight.sum(), share / 2)


W, WEIGHTS = nodes()


@pytest.fixture(scope="module")
def found():
    """Everything at every node, in one program."""

    @jax.jit
    def every(w):
        net = LinearNetwork(w, jnp.asarray(MU), float(N))
        size = jnp.linalg.norm(w, axis=-1)
        low, high = net.w1()
        return {
            "input": net.kl(), "last": net.last_kl(), "sign": net.sign_kl(),
            "gap": net.zero_one_gap(), "linear": net.linear_gap(),
            "logistic": net.logistic_gap(), "w1": net.last_w1(),
            "low": size * low, "high": size * high,
            **{str(r): net.kl(net.rows(r)) for r in (1, 2, 5, 10, 20)},
        }  # fmt: skip

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, every(W))


@jax.jit
def small(w, mu, n, s, layer, basis):
    """Of one w."""
    net = LinearNetwork(w, mu, n, s)
    return {
        "input": net.kl(), "layer": net.kl(basis), "rows": net.rows(4),
        "ends": net.w1(layer), "gap": net.zero_one_gap(), "sign": net.sign_kl(),
        "logistic": net.logistic_gap(), "w1": net.last_w1(),
    }  # fmt: skip


def drawn():
    rng = np.random.default_rng(0)
    w, mu, n, s = rng.normal(size=6), rng.normal(size=6), 7.0, 1.3
    layer = rng.normal(size=(3, 6))
    return w, mu, n, s, layer, np.linalg.qr(layer.T)[0].T


def mean(values):
    return float((WEIGHTS * values).sum())


def gaussian_kl(mean_p, cov_p, mean_q, cov_q):
    inverse, delta = np.linalg.inv(cov_q), mean_p - mean_q
    gap = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    trace = np.trace(inverse @ cov_p) - len(delta)
    return (trace + gap + delta @ inverse @ delta) / 2


def test_the_hierarchy_and_the_gap(found):
    """Figures of our derivation at |mu| = s = 1, to 1 %."""
    roots = {k: mean(np.sqrt(found[k] / 2)) for k in ("input", "last", "sign")}
    assert roots["input"] == pytest.approx(0.3139, rel=0.01)
    assert np.sqrt(mean(found["input"]) / 2) == pytest.approx(0.3178, rel=0.01)
    assert roots["last"] == pytest.approx(0.1639, rel=0.01)
    assert roots["sign"] == pytest.approx(0.1060, rel=0.01)
    assert mean(found["gap"]) == pytest.approx(0.0788, rel=0.01)
    order = [mean(found["gap"]), roots["sign"], roots["last"], roots["input"]]
    assert order == sorted(order)
    # Data processing holds for each w, not in the mean alone.
    layers = [found[k] for k in ("20", "10", "5", "2", "1")] + [found["sign"]]
    np.testing.assert_allclose(found["20"], found["input"], rtol=1e-10)
    for before, after in itertools.pairwise(layers):
        assert (after <= before + 1e-12).all()


def test_layers_of_fixed_and_of_learnt_row_space(found):
    assert mean(found["input"]) == pytest.approx(0.2020, rel=0.01)
    for r, expected in ((20, 0.2020), (10, 0.1010), (5, 0.0505), (2, 0.0202)):
        assert float(mean_layer_kl(r, N)) == pytest.approx(expected, rel=0.01)
    assert float(mean_layer_kl(1, N)) == pytest.approx(0.0101, rel=0.01)
    # A row space of its own: mu's axis (the nodes have nothing along the last ones).
    own = (W[..., 0] - 1) ** 2 / 2 - (1 / N + np.log1p(-1 / N)) / 2
    assert mean(own) == pytest.approx(float(mean_layer_kl(1, N)), rel=1e-6)
    assert mean(found["last"]) == pytest.approx(0.0614, abs=0.001)


def test_a_layer_is_two_gaussians(x64):
    w, mu, n, s, layer, _ = given = drawn()
    found = small(*given)
    cov, eye = s**2 * layer @ layer.T, s**2 * np.eye(6)
    expected = gaussian_kl(layer @ w, (1 - 1 / n) * cov, layer @ mu, cov)
    assert found["layer"] == pytest.approx(expected, rel=1e-10)
    expected = gaussian_kl(w, (1 - 1 / n) * eye, mu, eye)
    assert found["input"] == pytest.approx(expected, rel=1e-10)
    rows = np.asarray(found["rows"])
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(rows.T @ (rows @ w), w, atol=1e-12)
    # The ends of W_1: that of the means, and W_2 by the formula for any Gaussians.
    low, high = found["ends"]
    root = np.linalg.cholesky(cov)  # W_2 of A^½ scaled: tr (1 − sqrt(1 − 1/n))² cov
    spread = (1 - np.sqrt(1 - 1 / n)) ** 2 * np.trace(root @ root.T)
    assert float(low) == pytest.approx(np.linalg.norm(layer @ (w - mu)))
    assert float(high) ** 2 == pytest.approx(float(low) ** 2 + spread)


def test_laws_of_the_margin(x64):
    w, mu, n, s, *_ = given = drawn()
    found = small(*given)
    size = np.linalg.norm(w)
    train = stats.norm(size**2, s * size * np.sqrt(1 - 1 / n))
    fresh = stats.norm(w @ mu, s * size)
    assert found["gap"] == pytest.approx(fresh.cdf(0) - train.cdf(0))
    p, q = ([law.cdf(0), law.sf(0)] for law in (train, fresh))
    assert found["sign"] == pytest.approx(stats.entropy(p, q), rel=1e-9)
    risk = lambda law: integrate.quad(
        lambda m: np.logaddexp(0, -m) * law.pdf(m),
        law.ppf(1e-16), law.isf(1e-16), epsabs=1e-12,
    )[0]  # fmt: skip
    expected = risk(fresh) - risk(train)
    assert found["logistic"] == pytest.approx(expected, rel=1e-8)
    u = (np.arange(100_000) + 0.5) / 100_000
    sorted_samples = np.abs(train.ppf(u) - fresh.ppf(u)).mean()
    assert found["w1"] == pytest.approx(sorted_samples, rel=1e-3)


def test_losses_that_are_lipschitz(found):
    assert mean(found["linear"]) == pytest.approx(D / N, abs=0.003)
    assert mean(found["logistic"]) == pytest.approx(0.1103, rel=0.01)
    assert mean(found["w1"]) == pytest.approx(0.4011, rel=0.01)
    assert mean(found["low"]) == pytest.approx(0.7409, rel=0.01)
    assert mean(found["high"]) == pytest.approx(0.7428, rel=0.01)
    assert mean(found["logistic"]) <= mean(found["w1"]) <= mean(found["low"])


def test_simulated_data_sets_have_that_gap(found):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, N, D)) + MU
    w = z.mean(axis=1)
    train = (np.einsum("mnd,md->mn", z, w) < 0).mean(axis=1)
    fresh = stats.norm.cdf(-w[:, 0] / np.linalg.norm(w, axis=1))
    gap = fresh - train
    error = gap.std() / np.sqrt(len(gap))
    assert error < 0.001
    assert abs(gap.mean() - mean(found["gap"])) < 3 * error


def test_draws_are_means_of_data():
    net = LinearNetwork.draw(jax.random.key(0), 4000, MU, 50.0, 2.0)
    assert net.w.shape == (4000, D)
    spread = np.asarray(net.w - MU) * np.sqrt(N) / 2
    assert abs(spread.mean()) < 0.02 and spread.std() == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="n must be at least 1"):
        mean_layer_kl(3, 0.5)
