"""Mixtures and their bounds against SciPy, enumeration and matrices in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from kljax.theory import conjugate, universal


def binary_kl(p, q):
    return special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)


# ------------------------------------------------------------------------ Bernoulli, U1

CASES = {  # theta, n: exact, soft, ball in nats
    (0.5, 100): (1.5868, 2.0842, 2.8051),
    (0.1, 1000): (3.2405, 3.7391, 4.4648),
    (0.01, 10_000): (5.4948, 5.9931, 6.7194),
}


def exact_regret(theta, n):
    """Sum over counts, with the mixture as a ratio of Beta functions."""
    k = np.arange(n + 1)
    log_q = special.betaln(k + 1, n - k + 1)
    log_p = special.xlogy(k, theta) + special.xlog1py(n - k, -theta)
    return stats.binom.pmf(k, n, theta) @ (log_p - log_q)


def interval(theta, eps):
    """Ends of a ball in KL, by root finding."""
    off = lambda t: binary_kl(theta, t) - eps
    low = optimize.brentq(off, 1e-300, theta, xtol=1e-15)
    return low, optimize.brentq(off, theta, 1 - 1e-16, xtol=1e-15)


def test_bernoulli(x64):
    """U1: the table, SciPy's integrals and roots, and the laws of large n."""

    @jax.jit
    @jax.vmap
    def bounds(theta, n):
        d, log_weights = conjugate.bernoulli_models(theta, 200_000, limit=12.0)
        soft = universal.soft_bound(d, n, log_weights)
        return soft, *universal.kl_ball_bound(d, n, log_weights)

    found = bounds(*map(np.array, zip(*((t, float(n)) for t, n in CASES))))
    for (theta, n), printed, soft, ball, eps in zip(CASES, CASES.values(), *found):
        exact = conjugate.bernoulli_regret(theta, n)
        assert exact == pytest.approx(exact_regret(theta, n), abs=1e-7)
        np.testing.assert_allclose((exact, soft, ball), printed, atol=1e-3)
        mass = integrate.quad(
            lambda t: np.exp(-n * binary_kl(theta, t)),  # noqa: B023
            *interval(theta, 40 / n),
            points=[theta],
            epsabs=0,
        )[0]
        assert soft == pytest.approx(-np.log(mass), abs=1e-4)
        of_eps = lambda x: x - np.log(np.diff(interval(theta, x / n))[0])  # noqa: B023
        best = optimize.minimize_scalar(of_eps, (0.3, 0.7), (0.1, 3))
        assert ball == pytest.approx(best.fun, abs=1e-3)
        assert exact <= soft <= ball
        if n >= 1000:
            assert soft - exact == pytest.approx(0.5, abs=0.005)
            assert ball - exact == pytest.approx(1.226, abs=0.01)
            assert n * eps == pytest.approx(0.5, abs=0.02)


def test_clarke_and_barron():
    """(11): the law of many observations, with Fisher's information 1 / θ(1 − θ)."""
    for theta, n in CASES:
        spread = theta * (1 - theta)
        law = 0.5 * np.log(n / (2 * np.pi * np.e * spread))
        found = conjugate.bernoulli_regret(theta, n)
        assert found == pytest.approx(law, abs=0.3 / (n * spread))


# --------------------------------------------------------------------------- mixtures


def test_all_sequences(x64):
    """(1), (2), U6, by enumeration: R_n = KL(p^n‖q) = Σ_t E KL(p‖q(·|z^{t−1}))."""
    rng, n, theta = np.random.default_rng(0), 7, 0.3
    models, weights = rng.uniform(size=5), rng.dirichlet(np.ones(5))
    z = np.array([*itertools.product([0, 1], repeat=n)])
    table = lambda t: np.where(z[..., None], t, 1 - t)  # [sequences, n, models]
    p, q = table(theta)[..., 0], table(models)
    found = jax.vmap(universal.mixture_regret, (0, 0, None))(
        np.log(q), np.log(p), np.log(weights) + 3
    )
    law, every = p.prod(1), q.prod(1) @ weights
    np.testing.assert_allclose(found.regret[:, -1], np.log(law / every), atol=1e-12)
    posterior = weights * q.prod(1) / every[:, None]
    np.testing.assert_allclose(np.exp(found.log_posterior), posterior, atol=1e-12)
    before = weights * np.concatenate([np.ones((len(z), 1, 5)), q.cumprod(1)], 1)[:, :n]
    ones = (before @ models) / before.sum(-1)  # predicted, [sequences, n]
    steps = law @ binary_kl(theta, ones)
    regret = law @ found.regret
    np.testing.assert_allclose(np.cumsum(steps), regret, atol=1e-12)
    np.testing.assert_allclose(law @ found.one_step, steps, atol=1e-12)
    divergence, counts = binary_kl(theta, models), np.arange(1, n + 1)
    soft = universal.soft_bound(divergence, counts, np.log(weights))
    ball = universal.kl_ball_bound(divergence, counts, np.log(weights)).bound
    assert (regret <= soft + 1e-12).all() and (soft <= ball + 1e-12).all()


def test_float32_keeps_its_digits():
    """U6: 10,000 observations of log-likelihoods in the thousands, to 1e-5."""
    rng = np.random.default_rng(1)
    t = np.linspace(0.05, 0.95, 40)
    z = rng.random(10_000) < 0.3
    table = np.log(np.stack([1 - t, t])).astype(np.float32)
    log_q, log_p = table[z.astype(int)], np.float32(np.log(np.where(z, 0.3, 0.7)))
    found = jax.jit(universal.mixture_regret)(log_q, log_p)
    exact = np.cumsum(log_p, dtype=np.float64) + np.log(40)
    exact -= special.logsumexp(np.cumsum(log_q, axis=0, dtype=np.float64), axis=1)
    steps = np.asarray(found.one_step, np.float64).sum()
    np.testing.assert_allclose(steps, found.regret[-1], atol=1e-5)
    np.testing.assert_allclose(found.regret[:200], exact[:200], atol=1e-5)
    np.testing.assert_allclose(found.regret, exact, atol=1e-4)


def test_models_that_are_ruled_out():
    never = -np.inf
    log_q = np.array([[0.0, never, -1], [never, never, -1], [0, 0, never], [0, 0, 0]])
    found = universal.mixture_regret(log_q, np.zeros(4))
    share = np.log(3 / (1 + np.exp(-1.0)))
    exact = [share, np.log(3) + 2, np.inf, np.inf]
    np.testing.assert_allclose(found.regret, exact, rtol=1e-6)
    assert not np.isnan(found.one_step).any()
    np.testing.assert_array_equal(found.log_posterior, [never, never, 0])
    hidden = universal.mixture_regret(np.full((2, 2), np.nan), np.zeros(2))
    assert np.isnan(hidden.regret).all()


# ------------------------------------------------------------------------------ bounds


def test_bounds_from_their_definitions(x64):
    """300 classes at once; ties, models without weight, ones infinitely far."""
    rng = np.random.default_rng(2)
    d = rng.exponential(size=(300, 12)) * 10.0 ** rng.uniform(-3, 1, (300, 1))
    d[:, 3] = d[:, 4]
    d[::2, 5], d[::3, 6] = np.inf, 0
    weights = rng.dirichlet(np.ones(12), 300)
    weights[:, 7] = 0
    weights /= weights.sum(1, keepdims=True)
    n, excess = np.array([1.0, 30.0, 1000.0]), np.array([1e-3, 0.1])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(weights)
        within = (d[:, None] <= d[..., None]) @ weights[..., None]
        mass = np.log(within)[..., 0]  # of the ball that each model is the last of
        soft = -special.logsumexp(logs[:, None] - n[:, None] * d[:, None], axis=-1)
        ball = np.min(n[:, None] * d[:, None] - mass[:, None], axis=-1)
        gap = excess[:, None] - d[:, None]
        needed = np.min(np.where(gap > 0, -mass[:, None] / gap, np.inf), axis=-1)
    each = lambda f, x: jax.jit(jax.vmap(lambda a, b: f(a, x, b)))(d, logs)
    np.testing.assert_allclose(each(universal.soft_bound, n), soft, rtol=1e-9)
    found = each(universal.kl_ball_bound, n)
    np.testing.assert_allclose(found.bound, ball, rtol=1e-9, atol=1e-12)
    assert (found.bound >= soft - 1e-12).all()
    at = np.argmin(abs(d[:, None] - np.asarray(found.eps)[..., None]), axis=-1)
    there = n * np.asarray(found.eps) - np.take_along_axis(mass, at, axis=1)
    np.testing.assert_allclose(there, ball, rtol=1e-9, atol=1e-12)
    found = each(universal.samples_needed, excess)
    np.testing.assert_allclose(found, needed, rtol=1e-9, atol=1e-12)
    curve = universal.weight_curve(d[0], logs[0])
    np.testing.assert_array_equal(curve.eps, np.sort(d[0]))
    order = np.argsort(d[0], kind="stable")
    np.testing.assert_allclose(np.exp(curve.log_weight), np.cumsum(weights[0][order]))


def test_large_classes_are_free_where_they_repeat(x64):
    """(5): log M − log multiplicity, whatever M."""
    for models in (10, 10_000):
        d = np.where(np.arange(models) < models // 5, 0, 2.0)
        bound = universal.kl_ball_bound(d, 1000)
        np.testing.assert_allclose(bound, (np.log(5), 0), atol=1e-12)


def test_bounds_are_arrays_of_their_counts():
    every = universal.soft_bound, universal.kl_ball_bound, universal.samples_needed
    for n in (3, np.ones((2, 3))):
        found = [jax.eval_shape(lambda f=f, n=n: f(jnp.ones(2), n)) for f in every]
        assert {one.shape for one in jax.tree.leaves(found)} == {np.shape(n)}
    unknown = jax.jit(lambda d: [f(d, 3) for f in every])(jnp.array([0.5, jnp.nan]))
    soft, ball, needed = unknown
    assert np.isnan([soft, ball.bound, needed]).all()


# ------------------------------------------------------------------- linear models, U2


def test_linear_regression(x64):
    """(13), (14) by matrices, and R_n as the mean of 20,000 data sets' regrets."""
    rng, n, s2, t2 = np.random.default_rng(3), 50, 0.25, 1.0
    wide, regrets = rng.normal(size=(n, 5000)), {}
    theta = rng.normal(size=5000)
    for d in (5, 50, 500, 5000):
        scale = np.arange(1, d + 1) ** -1.5
        x = wide[:, :d] * np.sqrt(scale / scale.sum())
        f = x @ theta[:d]
        found = conjugate.linear_regret(x, f, s2, t2)
        m = s2 * np.eye(n) + t2 * x @ x.T
        inverse, fit = np.linalg.inv(m), f @ np.linalg.solve(m, f)
        log_det = np.linalg.slogdet(m / s2)[1]
        exact = 0.5 * (s2 * np.trace(inverse) - n + log_det + fit)
        assert float(found.regret) == pytest.approx(exact, rel=1e-9)
        assert float(found.soft_bound) == pytest.approx((log_det + fit) / 2, rel=1e-9)
        size = np.trace(t2 * x @ x.T @ inverse)
        assert float(found.dimensions) == pytest.approx(size, rel=1e-9)
        gap = float(found.soft_bound - found.regret)
        assert gap == pytest.approx(size / 2, abs=1e-8)
        y = f + np.sqrt(s2) * rng.normal(size=(20_000, n))
        squares = np.einsum("bn,nm,bm->b", y, inverse, y)
        one = 0.5 * (squares - ((y - f) ** 2).sum(1) / s2 + log_det)
        assert abs(one.mean() - exact) <= 0.05
        regrets[d] = exact
    assert regrets[5000] / regrets[500] <= 1.1


def test_posterior_of_linear_regression(x64):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    found = conjugate.linear_posterior(x, y, 0.5, 2.0)
    m = 0.5 * np.eye(20) + 2.0 * x @ x.T  # by conditioning, in the space of data
    gain = 2.0 * x.T @ np.linalg.inv(m)
    np.testing.assert_allclose(found.mean, gain @ y, rtol=1e-10)
    exact = 2.0 * np.eye(3) - 2.0 * gain @ x
    np.testing.assert_allclose(found.cov, exact, rtol=1e-9, atol=1e-12)


def test_what_is_wrong_is_named():
    d = jnp.ones(3)
    with pytest.raises(ValueError, match="log_weights has shape"):
        universal.soft_bound(d, 5, jnp.ones(2))
    with pytest.raises(ValueError, match="n must be positive, got -1"):
        universal.kl_ball_bound(d, -1)
    with pytest.raises(ValueError, match=r"log_q has shape \(3,\); expected \[n s\]"):
        universal.mixture_regret(d, d)
    with pytest.raises(ValueError, match=r"log_p has shape \(2,\)"):
        universal.mixture_regret(jnp.ones((3, 4)), jnp.ones(2))
    with pytest.raises(ValueError, match="excess must be positive"):
        universal.samples_needed(d, 0.0)
    with pytest.raises(ValueError, match="theta must lie in"):
        conjugate.bernoulli_regret(1.0, 10)
    with pytest.raises(ValueError, match="noise must be positive"):
        conjugate.linear_regret(jnp.ones((2, 3)), jnp.ones(2), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"mean \(3,\)"):
        conjugate.linear_regret(jnp.ones((2, 3)), jnp.ones(3), 1.0, 1.0)
