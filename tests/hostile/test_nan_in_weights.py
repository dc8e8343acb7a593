"""A NaN that counts shows in every weight that is made of it; another in none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kljax.decoding.fusion import fuse, solve_weights
from kljax.objectives.ratio import RatioBins, ratio_weights
from kljax.theory.mixtures import GaussianMixture

RNG = np.random.default_rng(0)


def test_weights_of_a_fusion():
    z, s, expert = (
        np.tile(RNG.normal(size=5).astype(np.float32), (5, 1)) for _ in range(3)
    )
    where = np.ones((5, 5), bool)
    where[3:, 1] = False
    z[[0, 4], 1] = s[1, 1] = expert[2, 1] = np.nan

    @jax.jit
    def both(z, s, expert, where):
        found = solve_weights(z, s, expert[:, None], where=where)
        return found, fuse(z, s, expert[:, None], found.alpha)

    found, fused = both(z, s, expert, where)
    for part in (found.alpha[:, 0], found.loss):
        assert np.isnan(part[:3]).all()
        np.testing.assert_allclose(part[4], part[3], rtol=1e-6)
    assert np.isnan(fused[:3]).any(-1).all() and np.isfinite(fused[3]).all()
    np.testing.assert_allclose(fused[4, 2:], fused[3, 2:], rtol=1e-6)


def test_ratios_and_their_bins():
    bins = RatioBins.init(2, sigma_min=0.1, sigma_max=10.0)
    logits = np.float32([0.3, np.nan, -0.2])
    sigma = np.float32([0.2, 5.0, 5.0])

    @jax.jit
    def weigh(logits, sigma, weights):
        return ratio_weights(logits, sigma, "le_cam", bins, example_weights=weights)

    found = weigh(logits, sigma, np.float32([1, 1, 1]))
    assert np.isnan(found.weight).all()
    np.testing.assert_array_equal(np.isnan(found.bins.mean), [False, True])
    alone = np.float32([1, 0, 1])
    found = weigh(logits, sigma, alone)
    clean = weigh(np.float32([0.3, 9.0, -0.2]), np.float32([0.2, 0.1, 5.0]), alone)
    np.testing.assert_allclose(found.weight[::2], clean.weight[::2], rtol=1e-6)
    np.testing.assert_allclose(found.bins.mean, clean.bins.mean, rtol=1e-6)


def test_components_of_a_mixture():
    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def every(law, x):
        draws = law.sample(jax.random.key(0), 3)
        near = law.nearest(x)[0]
        return law.log_density(x), law.score(x), law.denoise(x, 0.5), draws, near

    log_weights = np.float32([[0, 0, -np.inf], [0, 0, -np.inf], [0, np.nan, 0]])
    means = np.tile(np.float32([[0], [1], [7]]), (3, 1, 1))
    std = np.ones((3, 3), np.float32)
    # What has no weight may be anything.
    means[1, 2], std[1, 2] = np.nan, np.nan
    found = every(
        GaussianMixture(*map(jnp.asarray, (log_weights, means, std))), means[0]
    )
    for part in found[:4]:
        np.testing.assert_allclose(part[1][:2], part[0][:2], rtol=1e-6)
        assert np.isfinite(part[0]).all() and np.isnan(part[2]).all()
    np.testing.assert_array_equal(found[4][1], found[4][0])
