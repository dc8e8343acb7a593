"""Means and covariances that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.divergences import gaussian as g
from kljax.divergences.gaussian import DiagonalGaussian, Gaussian


def _of(kind, function, **options):
    """A distance of two Gaussians as a function of means and spreads."""
    return lambda mean_p, spread_p, mean_q, spread_q: function(
        kind(mean_p, spread_p), kind(mean_q, spread_q), **options
    )


kl, renyi = _of(Gaussian, g.kl), _of(Gaussian, g.renyi, alpha=jnp.float32(-1))
kl_diag = _of(DiagonalGaussian, g.kl)
w2, w2_diag = (_of(k, g.squared_wasserstein2) for k in (Gaussian, DiagonalGaussian))
ONE, EYE = np.ones(2, np.float32), np.eye(2, dtype=np.float32)
SKEW = np.float32([[1, 0.5], [0, 1]])
FLAT = np.ones((2, 2), np.float32)
WRONG = np.diag(np.float32([1, -1]))
NAN = np.nan

CASES = {
    "negative variance": (
        lambda: kl_diag(ONE, -ONE, ONE, ONE),
        "p.var must be positive, got -1",
    ),
    "no variance": (
        lambda: _of(DiagonalGaussian, g.renyi, alpha=2.0)(ONE, ONE, ONE, 0 * ONE),
        "q.var",
    ),
    "no variance, W2": (lambda: w2_diag(ONE, 0 * ONE, ONE, ONE), 2),
    "negative variance, W2": (
        lambda: w2_diag(ONE, ONE, ONE, -ONE),
        "q.var must be at least 0, got -1",
    ),
    "skew": (lambda: kl(ONE, SKEW, ONE, EYE), "p.cov must be symmetric"),
    "singular": (
        lambda: _of(Gaussian, g.bhattacharyya)(ONE, EYE, ONE, FLAT),
        "q.cov.*definite",
    ),
    "singular, W2": (lambda: w2(ONE, FLAT, ONE, 0 * EYE), 2),
    "indefinite": (
        lambda: _of(Gaussian, g.cauchy_schwarz)(ONE, WRONG, ONE, EYE),
        "p.cov.*definite",
    ),
    "indefinite, W2": (lambda: w2(ONE, EYE, ONE, WRONG), "q.cov"),
    "one of many": (
        lambda: kl(ONE, np.stack([EYE, WRONG]), ONE, EYE),
        "p.cov.*-1.0",
    ),
    "integers": (lambda: kl_diag([0, 0], [1, 1], [1, 1], [1, 1]), 1),
    "negative order": (
        lambda: renyi(ONE, EYE, ONE, EYE),
        "alpha must be positive, got -1",
    ),
    "NaN order": (
        lambda: _of(Gaussian, g.renyi, alpha=jnp.float32(NAN))(ONE, EYE, ONE, EYE),
        NAN,
    ),
    "NaN mean": (lambda: kl(ONE * NAN, EYE, ONE, EYE), NAN),
    "NaN covariance": (lambda: kl(ONE, EYE * NAN, ONE, EYE), NAN),
    # Ten and twenty digits apart is no lack of definiteness.
    "narrow and wide": (
        lambda: kl(ONE, np.diag([1e-10, 1e10]), ONE, np.diag([1e-10, 1e10])),
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_right_or_refused(name):
    ask, expected = CASES[name]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            ask()
    else:
        np.testing.assert_allclose(ask(), expected, rtol=1e-6, atol=1e-6)


def test_what_is_traced_becomes_nan_in_value_and_gradient():
    @jax.jit
    @jax.vmap
    def diagonal(var_p):
        return jax.value_and_grad(kl_diag, 1)(ONE, var_p, 0 * ONE, ONE)

    @jax.jit
    @jax.vmap
    def full(cov_p):
        return jax.value_and_grad(kl, 1)(ONE, cov_p, 0 * ONE, EYE)

    value, slope = diagonal(np.float32([[-1, 1], [0, 1], [NAN, 1], [2, 1]]))
    assert np.isnan(value[:3]).all() and np.isnan(slope[:3]).any(-1).all()
    np.testing.assert_allclose(value[3], 1 + 0.5 * (1 - np.log(2)), rtol=1e-6)
    value, slope = full(np.stack([SKEW, WRONG, EYE * NAN, EYE]))
    assert np.isnan(value[:3]).all() and np.isnan(slope[:3]).any((-2, -1)).all()
    np.testing.assert_allclose(value[3], 1, rtol=1e-6)
