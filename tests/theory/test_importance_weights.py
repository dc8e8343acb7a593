"""Variance of the weight between two Gaussians, against closed forms and quadrature."""

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from kljax.theory.weights import weight_variance


@pytest.mark.parametrize("d", [0.5, 1.0, 2.0])
def test_exact_values(d, x64):
    """Forward KL's weight is r: exp(d²) - 1. Jensen-Shannon's is r/(1+r)."""
    assert weight_variance("reverse_kl", d) == pytest.approx(0, abs=1e-12)
    exact = weight_variance("forward_kl", d)
    assert exact == pytest.approx(np.expm1(d**2), rel=1e-9)

    def moment(k):
        q, p = stats.norm(0).pdf, stats.norm(d).pdf
        density = lambda x: q(x) * (p(x) / (p(x) + q(x))) ** k
        return integrate.quad(density, -12, 12, epsabs=1e-13)[0]

    expected = moment(2) / moment(1) ** 2 - 1
    found = weight_variance("jensen_shannon", d)
    assert found == pytest.approx(expected, rel=1e-8)


def test_samples_miss_the_tail_of_laws_far_apart():
    draws = jax.random.normal(jax.random.key(0), (100_000,))
    near, far = (weight_variance("forward_kl", d, draws) for d in (0.5, 4.0))
    assert near == pytest.approx(np.expm1(0.25), rel=0.02)
    assert far < 0.5 * np.expm1(16.0)
