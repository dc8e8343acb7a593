"""Phases of kernel density estimates against roots, quadrature and simulation."""

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

from kljax.theory import kde

SPECTRUM = np.random.default_rng(0).gamma(2.0, size=30)
ALPHAS = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0])
# In the limit of many dimensions, found by bisection of the threshold's equation.
TABLE = {
    "h_g": [1.73306, 1.37078, 1.04565, 0.86774, 0.65215, 0.37211, 0.13537],
    "h_clt": [2.45092, 1.93858, 1.47878, 1.22717, 0.92227, 0.52624, 0.19144],
    "h_kl": [1.14588, 1.03857, 0.89169, 0.78361, 0.62244, 0.36934, 0.13535],
    "kl": [0.18618, 0.13785, 0.08536, 0.05616, 0.02589, 0.00397, 0.00008],
}

phases = jax.jit(kde.gaussian_phases, static_argnames="dims")
rate = jax.jit(kde.log_density_rate)


def phi(order, h, s):
    """log E exp(-order (x - y)^2 / (2 h^2)) of y ~ N(0, s), x^2 = s, by quadrature."""
    x = np.sqrt(s)
    of = lambda y: np.exp(-order * (x - y) ** 2 / (2 * h**2)) * stats.norm.pdf(y, 0, x)
    return np.log(integrate.quad(of, -12 * x, 12 * x, epsabs=1e-13, epsrel=1e-12)[0])


def threshold(order, h, spectrum):
    """alpha = order phi' - phi, by central differences of the quadrature."""
    by = lambda step: np.mean([phi(order + step, h, s) for s in spectrum])
    return order * (by(1e-4) - by(-1e-4)) / 2e-4 - by(0)


def test_the_cgf_is_that_of_quadrature(x64):
    for order, h in ((1.0, 0.7), (2.0, 1.3)):
        expected = np.mean([phi(order, h, s) for s in SPECTRUM])
        assert kde.energy_cgf(order, h, SPECTRUM) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spectrum", [[1.0], SPECTRUM[:3]], ids=["isotropic", "any"])
def test_thresholds_are_roots_of_the_condensation_of_energies(x64, spectrum):
    alpha = 0.3
    found = phases(alpha, spectrum)
    for order, h in ((1.0, found.h_g), (2.0, found.h_clt)):
        below, above = (threshold(order, float(h) + e, spectrum) for e in (-1e-6, 1e-6))
        assert above < alpha < below


def test_closed_forms_of_the_limit(x64):
    found = phases(ALPHAS)
    for name, values in TABLE.items():
        np.testing.assert_allclose(getattr(found, name), values, atol=6e-6)
    # The optimum is the least KL of the rate, and lies below h_G.
    h = np.geomspace(0.05, 4, 4001)[:, None]
    kl = -0.5 * np.log(2 * np.pi * np.e) - rate(h, ALPHAS)
    np.testing.assert_allclose(h[kl.argmin(0), 0], found.h_kl, rtol=2e-3)
    np.testing.assert_allclose(kl.min(0), found.kl, atol=1e-6)
    assert (found.h_kl < found.h_g).all()
    q = found.h_g**2 / (1 + found.h_g**2)
    np.testing.assert_allclose(found.stable_index(found.h_kl), 1 - q**2, rtol=1e-10)
    # Both sides of the rate meet at h_G.
    sides = [rate(found.h_g * (1 + e), ALPHAS) for e in (-1e-9, 1e-9)]
    np.testing.assert_allclose(*sides, atol=1e-7)
    # Few points: h_G ~ (3 / (4 alpha))^(1/4). Many: h_G ~ h_KL ~ exp(-alpha).
    few, many = phases(1e-6), phases(12.0)
    assert float(few.h_g * (4e-6 / 3) ** 0.25) == pytest.approx(1, abs=1e-3)
    assert float(few.h_kl) == pytest.approx(np.sqrt(2), abs=2e-3)
    np.testing.assert_allclose([many.h_g, many.h_kl], np.exp(-12.0), rtol=1e-9)
    # Silverman's bandwidth exp(-alpha) lies below the optimum.
    assert (np.exp(-ALPHAS) < found.h_kl).all()


def test_any_spectrum(x64):
    found = phases(ALPHAS, SPECTRUM)
    np.testing.assert_allclose(found.h_clt / found.h_g, np.sqrt(2), rtol=1e-12)
    v = np.asarray(found.h_g)[:, None] ** 2
    q = v / (v + SPECTRUM)
    np.testing.assert_allclose((-np.log(q) - q * (1 - q)).mean(1) / 2, ALPHAS)
    np.testing.assert_allclose(found.stable_index(found.h_kl), 1 - (q**2).mean(1))
    h = np.geomspace(0.05, 9, 4001)[:, None]
    entropy = np.log(2 * np.pi * np.e) / 2 + np.log(SPECTRUM).mean() / 2
    kl = -entropy - rate(h, ALPHAS, SPECTRUM)
    np.testing.assert_allclose(kl.min(0), found.kl, atol=2e-6)
    equal = phases(ALPHAS, np.full(4, 2.25))
    unit = phases(ALPHAS)
    for name in ("h_g", "h_clt", "h_kl"):  # in units of the standard deviation
        np.testing.assert_allclose(getattr(equal, name), 1.5 * getattr(unit, name))
    np.testing.assert_allclose(equal.kl, unit.kl)


def test_the_derivative_is_implicit(x64):
    for of in (
        lambda a: kde.gaussian_phases(a).h_g,
        lambda a: kde.gaussian_phases(a, SPECTRUM, dims=30).h_kl,
        lambda a: kde.gaussian_phases(0.3, SPECTRUM * a).kl,
    ):
        slope, up, down = jax.jit(
            lambda a, of=of: (jax.grad(of)(a), of(a + 1e-6), of(a - 1e-6))
        )(0.4)
        assert float(slope) == pytest.approx(
            float(up - down) / 2e-6, rel=1e-5, abs=1e-8
        )


def test_finite_dimensions_against_the_exact_law(x64):
    for d, alpha in ((20, 0.5), (60, 0.15), (40, 0.3)):
        found = phases(alpha, dims=d)
        n = round(np.exp(alpha * d))
        quantile = stats.ncx2.ppf(1 / n, d, d) / d
        assert float(found.h_kl**2) == pytest.approx(quantile, rel=0.005)
        assert 1.09 < float(found.h_g / phases(alpha).h_g) < 1.14
        # The same for a law whose axes are alike.
        same = phases(alpha, np.ones(d), dims=d)
        np.testing.assert_allclose(same, found, rtol=1e-10)


def test_variance_is_that_of_quadrature(x64):
    h, n, d = 1.1, 50, 12
    moment = lambda order: integrate.quad(
        lambda u: np.exp(-order * u / (2 * h**2)) * stats.ncx2.pdf(u, d, d), 0, 200
    )[0]
    expected = (moment(2) / moment(1) ** 2 - 1) / n
    found = kde.relative_variance(h, n, np.ones(d))
    assert float(found) == pytest.approx(expected, rel=1e-8)


def test_condensed_mean_against_simulation(x64):
    """400 data sets; the leading term alone is some nats off."""
    d, n, rng = 100, 3000, np.random.default_rng(3)
    alpha = np.log(n) / d
    energy = rng.noncentral_chisquare(d, d, (400, n))
    ends = phases(alpha, dims=d)
    nearest = stats.ncx2.ppf(1 / n, d, d) / d
    for mu in (0.2, 0.4):
        h = float(ends.h_g) * np.sqrt(mu)
        log_p = special.logsumexp(-energy / (2 * h**2), axis=1) - np.log(n)
        log_p -= d * np.log(h) + d / 2 * np.log(2 * np.pi)
        found = kde.condensed_log_density(h, nearest, mu, alpha, d)
        error = log_p.std() / 20
        assert float(found) == pytest.approx(log_p.mean(), abs=3 * error)
        leading = -d * (
            alpha + np.log(h) + np.log(2 * np.pi) / 2 + nearest / (2 * h**2)
        )
        assert abs(leading - log_p.mean()) > 10 * error


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        kde.gaussian_phases(0.0)
    with pytest.raises(ValueError, match="variances must be positive, got -1"):
        kde.gaussian_phases(0.1, [1.0, -1.0])
    with pytest.raises(ValueError, match="dims must be at least 1"):
        kde.gaussian_phases(0.1, dims=0)
    assert np.isnan(kde.gaussian_phases(np.nan).kl)
