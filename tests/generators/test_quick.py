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


@pytest.mark.optimized
def test_exponentials_less_one_keep_their_digits_near_0():
    rng = np.random.default_rng(0)
    x = np.float32(rng.uniform(-30, 88, 100_000))
    x[:50_000] *= 10.0 ** rng.uniform(-6, 0, 50_000)
    less = np.float32(rng.integers(0, 2, x.size))
    want = np.where(less == 1, np.expm1(np.float64(x)), np.exp(np.float64(x)))
    got = np.float64(jax.jit(quick.exp_less)(x, less))
    assert np.max(np.abs(got / want - 1)) < 5e-7
    ends = jnp.array([-jnp.inf, -1e30, 0.0, 89.0, jnp.inf, jnp.nan])
    one = jax.jit(lambda x: quick.exp_less(x, 1.0))
    np.testing.assert_array_equal(one(ends), [-1, -1, 0, np.inf, np.inf, np.nan])
    slope = jax.grad(lambda x: quick.exp_less(x, 1.0))
    np.testing.assert_allclose(jax.grad(slope)(jnp.float32(0.7)), np.exp(0.7), 1e-6)
    assert slope(jnp.float32(100.0)) == 0
