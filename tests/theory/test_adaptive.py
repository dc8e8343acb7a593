"""The adaptive alpha on the line: where it escapes, and where it cannot."""

import jax
import jax.numpy as jnp
import numpy as np

from kljax.theory.adaptive import adaptive_paths, sampled_paths
from kljax.theory.matching import LineMatching, log_std, with_std
from kljax.theory.mixtures import GaussianMixture

CLIP = 0.1, 20.0
TRAPS = [(0.503, -1.9982), (0.5043, 1.9972)]


def two_modes():
    weights, means = jnp.log(jnp.array([0.7, 0.3])), jnp.array([[-2.0], [2.0]])
    return GaussianMixture(weights, means, jnp.full(2, 0.5))


def test_alpha_escapes_with_the_clipped_ratio_alone(x64):
    """Clipped ratio: out of both traps; exact ratio: it stays in them."""
    knobs = {"target": 0.5, "gain": 0.02, "steps": 600}

    @jax.jit
    def both(sigma):
        task = LineMatching.build(two_modes(), sigma, points=601)
        starts = log_std(TRAPS)
        return [adaptive_paths(task, starts, clip=c, **knobs) for c in (CLIP, None)]

    free, held = both(np.array([0.1, 0.2, 0.4]))
    ends = [with_std(path.theta[:, -1]) for path in (free, held)]
    assert (ends[0][:, 0] > 1.5).all() and (ends[1][:, 0] < 0.6).all()
    assert (np.abs(held.alpha[:, -1] - 0.5) < 0.05).all()
    # At the covering end the fraction has settled at its target.
    np.testing.assert_allclose(free.ess[:, -1], 0.5, atol=0.02)


def test_samples_end_where_the_integrals_do(x64):
    """From a start that sees both modes, with the target of the controller."""
    knobs = {"target": 0.5, "gain": 0.02, "steps": 300}

    @jax.jit
    def both(sigma):
        starts = log_std([(2.0, -0.5)])
        task = LineMatching.build(two_modes(), sigma, points=601)
        given = jax.random.key(0), two_modes(), starts, sigma
        seen = sampled_paths(*given, samples=4096, **knobs)
        return adaptive_paths(task, starts, **knobs), seen

    exact, seen = both(np.array([0.4]))
    mean = seen.theta[:, -100:].mean(axis=1)
    np.testing.assert_allclose(mean, exact.theta[:, -1], atol=0.05)
