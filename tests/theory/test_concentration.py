"""How many points carry an estimate, against NumPy on all pairs and known laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from kljax.theory import concentration as kc
from kljax.theory.kde import gaussian_phases


def by_numpy(squared, h, d):
    """Log-density, participation, perplexity of all pairs; inf is no point."""
    logits = -squared / (2 * h**2)
    w = special.softmax(logits, axis=1)
    log_p = special.logsumexp(logits, axis=1) - np.log(np.isfinite(squared).sum(1))
    log_p -= d * np.log(h) + d / 2 * np.log(2 * np.pi)
    return log_p, (w**2).sum(1), np.exp(special.entr(w).sum(1))


def test_concentration_of_a_sample():
    rng = np.random.default_rng(5)
    data, query = rng.normal(size=(300, 12)), rng.normal(size=(9, 12))
    for h in (0.6, 1.5, rng.uniform(0.5, 2.0, 12)):
        squares = (((query[:, None] - data) / h) ** 2).sum(-1)
        w = special.softmax(-squares / 2, axis=1)
        found = jax.jit(kc.concentration)(*map(jnp.float32, (query, data, h)))
        np.testing.assert_allclose(found.participation, (w**2).sum(1), rtol=1e-4)
        perplexity = np.exp(special.entr(w).sum(1))
        np.testing.assert_allclose(found.perplexity, perplexity, rtol=1e-4)
        log_p = special.logsumexp(-squares / 2, axis=1) - np.log(300)
        log_p -= np.log(h * np.ones(12)).sum() + 6 * np.log(2 * np.pi)
        np.testing.assert_allclose(found.log_density, log_p, rtol=1e-5)


def test_distances_and_leaving_one_out(x64):
    x = np.random.default_rng(1).normal(3, 1, size=(60, 5))
    squared = ((x[:, None] - x) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    h = np.array([0.2, 1.0, 3.0])
    for found in (kc.leave_one_out(x, h), kc.from_distances(squared, h, 5)):
        for i, width in enumerate(h):
            for one, expected in zip(found, by_numpy(squared, width, 5)):
                np.testing.assert_allclose(one[i], expected, rtol=1e-9)


def test_h_g_is_found_without_the_law(x64):
    """Distances of Gaussian data at 60 dimensions, 100 data sets of 8,103 points."""
    d, n = 60, 8103
    squared = np.random.default_rng(2).noncentral_chisquare(d, d, (100, n))
    ends = gaussian_phases(np.log(n) / d, dims=d)
    h = float(ends.h_g) * np.linspace(0.4, 1.2, 9)
    found = kc.from_distances(jnp.asarray(squared), jnp.asarray(h), d)
    ratio = np.asarray(found.participation).mean(1)
    assert kc.condensation_bandwidth(h, ratio) == pytest.approx(
        float(ends.h_g), rel=0.1
    )
    # At half of h_G and at 0.7 of it: Y = 1 - mu.
    np.testing.assert_allclose(ratio[[1, 3]], [0.75, 0.51], atol=0.05)


@pytest.mark.parametrize("index", [0.7, 1.0, 1.5, 2.0])
def test_the_index_of_stable_laws(index):
    law = stats.levy_stable(index, 0.0)
    x = law.rvs(20_000, random_state=np.random.default_rng(3))
    assert kc.stable_index(5 * x - 40) == pytest.approx(index, abs=0.05)


def test_the_likeliest_bandwidth_is_that_of_cross_validation():
    """Against log-densities of scipy's kernels, a point left out at a time."""
    x = np.random.default_rng(3).normal(size=(60, 2))
    h = np.geomspace(0.1, 2, 15)
    squared = ((x[:, None] - x) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    kernels = stats.norm.pdf(np.sqrt(squared)[None] / h[:, None, None])
    scores = (np.log(kernels.sum(-1)) - 2 * np.log(h)[:, None]).mean(1)
    found = kc.likeliest_bandwidth(x, h)
    share = kernels / kernels.sum(-1, keepdims=True)
    ratio = (share**2).sum(-1).mean(1)
    assert found.h == h[scores.argmax()]
    assert found.participation == pytest.approx(ratio[scores.argmax()], rel=1e-4)
    at_half = np.interp(-0.5, -ratio, h) * np.sqrt(2)
    assert found.over_h_g == pytest.approx(found.h / at_half, rel=1e-3)
