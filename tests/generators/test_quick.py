"""Exponential and logarithm of a CPU keep the error that they state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.generators import accurate, quick


@pytest.mark.optimized
def test_errors_are_as_stated():
    rng = np.random.default_rng(0)
    x = np.float32(rng.uniform(-86.5, 88.7, 100_000))
    want = np.exp(np.float64(x))
    assert np.max(np.abs(np.float64(jax.jit(quick.exp)(x)) / want - 1)) < 4e-7
    y = np.float32(np.exp(rng.uniform(-80, 80, 100_000)))
    y[:50_000] = rng.uniform(0.5, 2, 50_000)
    want = np.log(np.float64(y))
    size = np.maximum(np.abs(want), 1)
    assert np.max(np.abs(np.float64(jax.jit(quick.log)(y)) - want) / size) < 1.5e-7
    z = np.float32(rng.uniform(-0.5, 1, 100_000))
    error = np.float64(jax.jit(accurate.log1p_far)(z)) - np.log1p(np.float64(z))
    assert np.max(np.abs(error)) < 1e-7


def test_what_is_no_number_or_underflows():
    x = jnp.array([-jnp.inf, -1e30, -88.0, jnp.nan, 0.0])
    np.testing.assert_array_equal(jax.jit(quick.exp)(x), [0, 0, 0, np.nan, 1])


def test_derivatives():
    x = jnp.float32(0.7)
    np.testing.assert_allclose(jax.grad(jax.grad(quick.exp))(x), np.exp(0.7), 1e-6)
    np.testing.assert_allclose(jax.grad(jax.grad(quick.log))(x), -1 / 0.49, 1e-6)
