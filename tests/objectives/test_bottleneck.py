"""Information bottlenecks: rates against exact laws, one table of fits and rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from kljax.divergences import gaussian, paired
from kljax.divergences.gaussian import DiagonalGaussian
from kljax.objectives.bottleneck import (
    Widths,
    bottleneck_loss,
    coded,
    information_plane,
    nib_rate,
    vib_rate,
)
from kljax.training.descent import descended

RNG = np.random.default_rng(0)
B, D, K = 12, 3, 2
X, Y = np.float32(RNG.normal(size=(B, D))), np.float32(RNG.normal(size=(B, 1)))
WIDTHS = Widths(1.3, 0.8, 0.6)
FITS = ("squared", "absolute", "correntropy", "conditional_cs")
RATES = ("none", "vib", "nib", "nib_squared", "nib_exponential", "hsic", "cs")
RATES = (*RATES, "cs_plain")
PARAMS = {
    "mean": np.float32(RNG.normal(size=(D, K))),
    "log_var": np.float32(0.3 * RNG.normal(size=(D, K))),
    "out": np.float32(RNG.normal(size=(K, 1))),
}
KEY = jax.random.key(0)


def code_of(params, x, key=KEY):
    mean, log_var = x @ params["mean"], x @ params["log_var"]
    return coded(mean, log_var, lambda t: t @ params["out"], key=key)


@functools.partial(jax.jit, static_argnames=("fit", "rate"))
def loss(params, x, y, where=None, fit="squared", rate="none", beta=0.3):
    def total(params):
        given = {"fit": fit, "rate": rate, "beta": beta, "widths": WIDTHS}
        found, metrics = bottleneck_loss(x, y, code_of(params, x), where=where, **given)
        counts = jnp.ones(len(x), bool) if where is None else where
        return jnp.sum(jnp.where(counts, found, 0)) / jnp.sum(counts), (found, metrics)

    return jax.value_and_grad(total, has_aux=True)(params)


def test_rates_of_noisy_codes_against_closed_forms():
    code = jax.jit(code_of)(PARAMS, X)
    mean, var = np.float64(code.mean), np.exp(np.float64(code.log_var))
    kl = (var + mean**2 - 1 - np.log(var)).sum(1) / 2
    np.testing.assert_allclose(vib_rate(code.mean, code.log_var), kl, rtol=1e-5)
    p = DiagonalGaussian(mean[:, None], var[:, None])
    gaps = np.asarray(gaussian.kl(p, DiagonalGaussian(mean, var)))
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


@pytest.mark.parametrize("rate", RATES)
def test_every_pair_has_a_finite_gradient_and_forgets_what_does_not_count(rate):
    fits = FITS if rate in ("none", "cs") else FITS[:1]
    for fit in fits:
        (value, (each, metrics)), slopes = loss(PARAMS, X, Y, fit=fit, rate=rate)
        assert np.isfinite(value) and each.shape == (B,)
        assert all(np.isfinite(g).all() for g in slopes.values())
        assert slopes["mean"].any() and slopes["out"].any()
        whole = metrics["bottleneck/fit"] + 0.3 * metrics["bottleneck/rate"]
        np.testing.assert_allclose(each, np.broadcast_to(whole, B), rtol=1e-6)
    where = np.arange(B) < B - 3
    y = np.where(where[:, None], Y, np.nan)
    masked = loss(PARAMS, X, y, where, rate=rate)
    # The noise of the first nine examples is drawn with that of all.
    code = jax.tree.map(lambda a: a[: B - 3], code_of(PARAMS, X))
    given = {"rate": rate, "beta": 0.3, "widths": WIDTHS}
    short, _ = bottleneck_loss(X[: B - 3], Y[: B - 3], code, **given)
    np.testing.assert_allclose(masked[0][1][0][: B - 3], short, rtol=2e-5, atol=1e-6)
    assert all(np.isfinite(g).all() for g in masked[1].values())


def test_the_terms_of_the_table():
    code = jax.jit(code_of)(PARAMS, X)
    rate = {
        name: bottleneck_loss(X, Y, code, rate=name, widths=WIDTHS)[1] for name in RATES
    }
    rate = {k: np.asarray(v["bottleneck/rate"]) for k, v in rate.items()}
    mean = rate["nib"].mean()
    np.testing.assert_allclose(rate["nib_squared"], mean**2, rtol=1e-5)
    np.testing.assert_allclose(rate["nib_exponential"], np.exp(mean), rtol=1e-5)
    of_x, of_y = (
        paired.hsic(a, code.t, w, WIDTHS.t) for a, w in ((X, WIDTHS.x), (Y, WIDTHS.y))
    )
    np.testing.assert_allclose(rate["hsic"], of_x - of_y, atol=1e-6)
    given = X, code.t, WIDTHS.x, WIDTHS.t
    of = paired.cauchy_schwarz_information
    np.testing.assert_allclose(rate["cs"], of(*given, normalized=True), rtol=1e-5)
    np.testing.assert_allclose(rate["cs_plain"], of(*given), rtol=1e-5)
    error = np.float64(code.prediction - Y)
    kernel = np.exp(-((error / WIDTHS.y) ** 2) / 2).mean()
    fit = bottleneck_loss(X, Y, code, fit="correntropy", widths=WIDTHS)[0]
    np.testing.assert_allclose(fit, -2 * np.log(kernel), rtol=1e-5)
    none = coded(code.mean, None, lambda t: t[:, :1])
    with pytest.raises(ValueError, match="log_var is None"):
        bottleneck_loss(X, Y, none, rate="vib")
    with pytest.raises(ValueError, match="unknown rate 'mi'"):
        bottleneck_loss(X, Y, none, rate="mi")
    with pytest.raises(ValueError, match=r"y and prediction \[b, m\]"):
        bottleneck_loss(X, Y[:, 0], none)
    with pytest.raises(ValueError, match="one shape"):
        coded(code.mean, code.mean[:, :1], lambda t: t)


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


def test_two_modes_are_both_covered():
    """Points that descend the divergence to a mixture go to both of its halves."""
    from kljax.divergences.samples import cauchy_schwarz

    rng = np.random.default_rng(4)
    target = rng.normal(size=(200, 2)) + np.repeat([[-4.0], [4.0]], 100, axis=0)
    points = np.float32(rng.normal(size=(200, 2)))
    of = lambda x, key=None: cauchy_schwarz(np.float32(target), x, np.sqrt(0.5))
    run = jax.jit(
        lambda x: descended(of, x, optax.sgd(100.0), [800], key=jax.random.key(0))[0]
    )
    end = run(points)
    share = float((end.sum(1) > 0).mean())
    assert of(points) > 5 and of(end) < 0.02 and 0.4 < share < 0.6
