"""Information bottlenecks: rates against exact laws, one table of fits and rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from kljax.objectives.bottleneck import (
    Widths,
    bottleneck_loss,
    coded,
    information_plane,
    nib_rate,
    vib_rate,
)

RNG = np.random.default_rng(0)
B, D, K = 12, 3, 2
X, Y = np.float32(RNG.normal(size=(B, D))), np.float32(RNG.normal(size=(B, 1)))
WIDTHS = Widths(1.3, 0.8, 0.6)
FITS = ("squared", "absolute", "correntropy", "conditional_cs")
RATES = ("none", "vib", "nib", "nib_squared", "nib_exponential", "hsic", "cs")
RATES = (*RATES, "cs_plain")
PAIRS = [("squared", rate) for rate in RATES] + [(fit, "none") for fit in FITS[1:]]
PAIRS = [*PAIRS, ("conditional_cs", "cs")]
PARAMS = {
    "mean": np.float32(RNG.normal(size=(D, K))),
    "log_var": np.float32(0.3 * RNG.normal(size=(D, K))),
    "out": np.float32(RNG.normal(size=(K, 1))),
}
KEY = jax.random.key(0)


def code_of(params, x, key=KEY):
    mean, log_var = x @ params["mean"], x @ params["log_var"]
    return coded(mean, log_var, lambda t: t @ params["out"], key=key)


@jax.jit
def every(params, x, y, where):
    """Of all pairs: means, their gradients, losses and metrics."""

    def means(params):
        code = code_of(params, x)
        given = {"beta": 0.3, "widths": WIDTHS, "where": where}
        found = [bottleneck_loss(x, y, code, fit=f, rate=r, **given) for f, r in PAIRS]
        totals = [jnp.sum(jnp.where(where, loss, 0)) for loss, _ in found]
        return jnp.stack(totals) / jnp.sum(where), found

    return jax.jacrev(means, has_aux=True)(params), means(params)[0]


def pairwise_kl(code):
    mean, var = np.float64(code.mean), np.exp(np.float64(code.log_var))
    ratio = var[:, None] / var
    gap = (mean[:, None] - mean) ** 2 / var
    return (ratio + gap - 1 - np.log(ratio)).sum(-1) / 2


def test_rates_of_noisy_codes_against_closed_forms():
    code = jax.jit(code_of)(PARAMS, X)
    mean, var = np.float64(code.mean), np.exp(np.float64(code.log_var))
    kl = (var + mean**2 - 1 - np.log(var)).sum(1) / 2
    np.testing.assert_allclose(vib_rate(code.mean, code.log_var), kl, rtol=1e-5)
    gaps = pairwise_kl(code)
    expected = -np.log(np.exp(-gaps).mean(1))
    found = jax.jit(nib_rate)(code.mean, code.log_var)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Far from 0 and close to each other, where products would lose all digits.
    near = jax.jit(nib_rate)(1e3 + 1e-2 * code.mean, 0 * code.mean)
    gaps = ((1e-2 * (mean[:, None] - mean)) ** 2).sum(-1) / 2
    np.testing.assert_allclose(near, -np.log(np.exp(-gaps).mean(1)), atol=1e-5)


def test_nib_bounds_the_information_of_a_mixture():
    """I(x; t) of four inputs with codes on a line, by quadrature."""
    mean, var = np.array([-2.0, -0.5, 0.4, 3.0]), np.array([0.5, 1.0, 0.2, 2.0])
    laws = [stats.norm(m, np.sqrt(v)) for m, v in zip(mean, var)]
    of = lambda t: np.mean([law.pdf(t) for law in laws])
    entropy = integrate.quad(lambda t: -of(t) * np.log(of(t)), -12, 14, limit=200)[0]
    exact = entropy - np.mean([law.entropy() for law in laws])
    as_array = lambda a: jnp.float32(a[:, None])
    given = as_array(mean), as_array(np.log(var))
    bound = float(jax.jit(nib_rate)(*given).mean())
    assert exact < bound < np.log(4)
    assert exact < float(vib_rate(*given).mean())


@pytest.fixture(scope="module")
def whole():
    return jax.device_get(every(PARAMS, X, Y, np.ones(B, bool)))


def test_every_pair_has_a_finite_gradient(whole):
    (slopes, found), values = whole
    assert np.isfinite(values).all()
    for name, slope in slopes.items():
        assert np.isfinite(slope).all(), name
    assert all(g.any() for g in slopes["mean"]) and all(g.any() for g in slopes["out"])
    for each, metrics in found:
        sum_of = metrics["bottleneck/fit"] + 0.3 * metrics["bottleneck/rate"]
        np.testing.assert_allclose(each, np.broadcast_to(sum_of, B), rtol=1e-6)


def test_what_does_not_count_may_hold_anything():
    where = np.arange(B) < B - 3
    junk = [np.where(where[:, None], Y, value) for value in (np.nan, 5.0)]
    first, second = (jax.device_get(every(PARAMS, X, y, where)) for y in junk)
    jax.tree.map(np.testing.assert_array_equal, first[0][0], second[0][0])
    assert np.isfinite(first[1]).all()
    # The mean over the others is over those that count.
    code = jax.jit(code_of)(PARAMS, X)
    gaps = pairwise_kl(code)[: B - 3, : B - 3]
    rate = dict(zip(PAIRS, first[0][1]))["squared", "nib"][1]["bottleneck/rate"]
    expected = -np.log(np.exp(-gaps).mean(1))
    np.testing.assert_allclose(rate[: B - 3], expected, rtol=1e-4, atol=1e-5)


def test_the_terms_of_the_table(whole):
    found = {pair: metrics for pair, (_, metrics) in zip(PAIRS, whole[0][1])}
    fits = {f: np.float64(found[f, "none"]["bottleneck/fit"]) for f in FITS}
    rate = {r: np.float64(found["squared", r]["bottleneck/rate"]) for r in RATES}
    code = jax.jit(code_of)(PARAMS, X)
    error = np.float64(code.prediction - Y)[:, 0]
    np.testing.assert_allclose(fits["squared"], error**2, rtol=1e-5)
    np.testing.assert_allclose(fits["absolute"], np.abs(error), rtol=1e-5)
    kernel = np.exp(-((error / WIDTHS.y) ** 2) / 2).mean()
    np.testing.assert_allclose(fits["correntropy"], -2 * np.log(kernel), rtol=1e-5)
    mean = rate["nib"].mean()
    np.testing.assert_allclose(rate["nib_squared"], mean**2, rtol=1e-5)
    np.testing.assert_allclose(rate["nib_exponential"], np.exp(mean), rtol=1e-5)
    # HSIC as a trace with centered kernels, the information from the same matrices.
    gram = lambda a, s: np.exp(-((np.float64(a)[:, None] - a) ** 2).sum(-1) / 2 / s**2)
    k, l, m = (
        gram(a, s) for a, s in ((X, WIDTHS.x), (Y, WIDTHS.y), (code.t, WIDTHS.t))
    )
    h = np.eye(B) - 1 / B
    hsic = [np.trace(g @ h @ m @ h) / B**2 for g in (k, l)]
    np.testing.assert_allclose(rate["hsic"], hsic[0] - hsic[1], atol=1e-6)
    of = lambda a, b: (
        np.log((a * b).mean() * a.mean() * b.mean()) - 2 * np.log((a @ b).mean() / B)
    )
    np.testing.assert_allclose(rate["cs_plain"], of(k, m), rtol=1e-4)
    unit = of(k, m) / np.sqrt(of(k, k) * of(m, m))
    np.testing.assert_allclose(rate["cs"], unit, rtol=1e-4)


def test_errors_name_what_is_wrong():
    none = coded(X[:, :2], None, lambda t: t[:, :1])
    with pytest.raises(ValueError, match="log_var is None"):
        bottleneck_loss(X, Y, none, rate="vib")
    with pytest.raises(ValueError, match="unknown rate 'mi'"):
        bottleneck_loss(X, Y, none, rate="mi")
    with pytest.raises(ValueError, match="unknown fit 'mse'"):
        bottleneck_loss(X, Y, none, fit="mse")
    with pytest.raises(ValueError, match=r"y and prediction \[b, m\]"):
        bottleneck_loss(X, Y[:, 0], none)
    with pytest.raises(ValueError, match="one shape"):
        coded(X[:, :2], X[:, :1], lambda t: t)


def test_the_plane_and_a_code_that_only_becomes_smaller():
    y = X @ np.float32([[1.0], [0.5], [-0.3]])
    code = lambda scale: coded(scale * y, None, lambda t: t / scale + 0.5)
    large, small = (
        information_plane(X, y, code(np.float32(s)), widths=WIDTHS) for s in (1.0, 0.1)
    )
    expected = np.log(np.var(np.float64(y)) / 0.25) / 2
    assert float(large.relevance) == pytest.approx(expected, rel=1e-4)
    assert float(small.relevance) == pytest.approx(expected, rel=1e-4)
    assert small.complexity < 0.1 * large.complexity
