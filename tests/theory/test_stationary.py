"""Stationary laws of Langevin dynamics against SciPy's solver, there and back."""

import numpy as np
import pytest
from scipy import linalg

from kljax.theory.stationary import corrected_covariance, stationary_variance

ETA = 0.03


def spd(rng, d, size):
    a = rng.normal(size=(d, 3 * d))
    return size * a @ a.T / (3 * d)


def test_the_posterior_is_found_again():
    """S from A and C by a Lyapunov equation; A⁻¹ from S."""
    rng = np.random.default_rng(0)
    a, c = spd(rng, 6, 10.0), spd(rng, 6, 200.0)
    assert ETA * np.linalg.eigvalsh(a)[-1] < 1
    moved = np.eye(6) - ETA * a
    for noise in (None, c):
        pushed = 2 * ETA * np.eye(6) + (0 if noise is None else ETA**2 * noise)
        s = linalg.solve_discrete_lyapunov(moved, pushed)
        found = corrected_covariance(s, ETA, noise)
        np.testing.assert_allclose(found, np.linalg.inv(a), rtol=1e-8, atol=1e-10)
        assert np.linalg.norm(s - found) > 0.05 * np.linalg.norm(found)


def test_one_direction(x64):
    a, c = np.array([1.0, 4.0, 1.0, 30.0]), np.array([0.0, 0.0, 7.0, 3.0])
    eta = np.array([0.1, 0.1, 0.5, 0.02])
    each = zip(1 - eta * a, 2 * eta + eta**2 * c)
    exact = [linalg.solve_discrete_lyapunov([[m]], [[q]])[0, 0] for m, q in each]
    np.testing.assert_allclose(stationary_variance(a, eta, c), exact, rtol=1e-12)
    np.testing.assert_array_equal(stationary_variance(4.0, [0.5, 0.6]), np.inf)
    assert np.isnan(stationary_variance(1.0, 0.1, np.nan))
    again = corrected_covariance(np.diag(exact)[:2, :2], 0.1)
    np.testing.assert_allclose(again, np.diag([1, 0.25]), atol=1e-12)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="noise of one step"):
        corrected_covariance([[0.1]], 0.1)
    with pytest.raises(ValueError, match="positive definite"):
        corrected_covariance(np.zeros((2, 2)), 0.1)
    with pytest.raises(ValueError, match="gradient_noise has shape"):
        corrected_covariance(np.eye(2), 0.1, np.eye(3))
    with pytest.raises(ValueError, match="rate must be positive"):
        stationary_variance(1.0, 0.0)
