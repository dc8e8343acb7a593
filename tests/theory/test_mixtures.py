"""Mixtures of Gaussians against NumPy, SciPy and Tweedie's formula."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from kljax.theory.mixtures import GaussianMixture, noised_log_ratio


def law():
    return GaussianMixture(
        jnp.log(jnp.array([0.2, 0.8])) + 3.0,
        jnp.array([[1.0, -1.0], [-2.0, 0.5]]),
        jnp.array([0.4, 0.9]),
    )


def test_density_score_and_denoiser(x64):
    x = np.random.default_rng(0).normal(size=(7, 2)) * 2
    sigma = np.linspace(0.1, 3.0, 7)
    expected = [
        np.log(
            0.2 * stats.multivariate_normal([1, -1], 0.16 + s**2).pdf(v)
            + 0.8 * stats.multivariate_normal([-2, 0.5], 0.81 + s**2).pdf(v)
        )
        for v, s in zip(x, sigma)
    ]
    x, sigma = jnp.asarray(x), jnp.asarray(sigma)

    @jax.jit
    def every(x, sigma):
        slope = jax.vmap(jax.grad(law().log_density))
        return (
            law().log_density(x, sigma),
            (law().score(x, sigma), slope(x, sigma)),
            (law().score(x), slope(x, 0 * sigma)),
            law().denoise(x, sigma),
        )

    density, noisy, clean, denoised = every(x, sigma)
    np.testing.assert_allclose(density, expected, rtol=1e-12)
    np.testing.assert_allclose(*noisy, rtol=1e-10)
    np.testing.assert_allclose(*clean, rtol=1e-10)
    tweedie = x + sigma[:, None] ** 2 * noisy[1]
    np.testing.assert_allclose(denoised, tweedie, rtol=1e-9)


def test_samples_and_ring():
    x = np.asarray(law().sample(jax.random.key(0), 50_000), np.float64)
    np.testing.assert_allclose(x.mean(0), [-1.4, 0.2], atol=0.03)
    ring = GaussianMixture.ring(8, radius=2.0, std=0.1)
    np.testing.assert_allclose(np.linalg.norm(ring.means, axis=1), 2.0, rtol=1e-6)
    mode, distance = ring.nearest(jnp.array([[2.05, 0.0], [0.0, -1.8]]))
    np.testing.assert_array_equal(mode, [0, 6])
    np.testing.assert_allclose(distance, [0.5, 2.0], rtol=1e-4)


def test_balanced_samples_have_every_component_alike():
    ring = GaussianMixture.ring(4, std=0.01)
    mode, distance = ring.nearest(ring.balanced(jax.random.key(0), 40))
    assert np.bincount(mode).tolist() == [10] * 4
    assert 0.5 < np.mean(np.asarray(distance) ** 2) / 2 < 2  # chi-square, two degrees


def test_noised_log_ratios_are_those_at_points_of_q(x64):
    p, q = GaussianMixture.ring(4, std=0.3), law()
    sigma = jnp.geomspace(0.1, 3.0, 4000)
    x, found = noised_log_ratio(jax.random.key(0), p, q, sigma)
    log_q = [
        np.log(
            0.2 * stats.multivariate_normal([1, -1], 0.16 + s**2).pdf(v)
            + 0.8 * stats.multivariate_normal([-2, 0.5], 0.81 + s**2).pdf(v)
        )
        for v, s in zip(x[:9], sigma[:9])
    ]
    log_p = p.log_density(x[:9], sigma[:9])
    np.testing.assert_allclose(found[:9], log_p - np.array(log_q), rtol=1e-9)
    # E_q[p/q] = 1 at points of q alone.
    ratio = np.exp(np.asarray(found))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.std() < 10
