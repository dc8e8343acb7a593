"""Bounds from a critic: met by the log-ratio, kept by any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.divergences import bounds

RNG = np.random.default_rng(0)


def test_variational_bounds(x64):
    p, q = np.array([1, 3, 4]) / 8, np.array([4, 2, 2]) / 8
    at_p, at_q = np.repeat(range(3), (1, 3, 4)), np.repeat(range(3), (4, 2, 2))
    true = {
        "forward_kl": np.sum(p * np.log(p / q)),
        "reverse_kl": np.sum(q * np.log(q / p)),
        "pearson_chi2": np.sum((p - q) ** 2 / q),
        "alpha": np.sum((p - q) ** 2 / q) / 2,
        "squared_hellinger": 1 - np.sum(np.sqrt(p * q)),
    }
    critics = np.log(p / q) + np.concatenate(
        [np.zeros((1, 3)), RNG.normal(size=(9, 3))]
    )

    @jax.jit
    def both(v):
        at = v[:, at_p], v[:, at_q]
        every = {
            name: bounds.variational(*at, name) for name in true if name != "alpha"
        }
        every["alpha"] = bounds.variational(*at, "alpha", alpha=2.0)
        return every, bounds.donsker_varadhan(*at)

    every, donsker = both(critics)
    for name, expected in true.items():
        np.testing.assert_allclose(every[name][0], expected, rtol=1e-12)
        assert (every[name][1:] < expected).all()
    np.testing.assert_allclose(donsker[0], true["forward_kl"], rtol=1e-12)
    assert (donsker[1:] < true["forward_kl"]).all()
    assert (donsker[1:] > every["forward_kl"][1:]).all()
    np.testing.assert_allclose(both(critics + 3)[1], donsker, rtol=1e-9)


def test_a_critic_without_samples_is_named():
    with pytest.raises(ValueError, match="critic_q needs samples"):
        bounds.variational(jnp.ones(2), 1.0, "le_cam")
