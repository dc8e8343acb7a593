"""Curves of averaged weights against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.training.descent import descended, watched


def test_what_is_watched_is_an_average_of_the_last_weights():
    loss = lambda x, key, n: jnp.sum((x - n) ** 2)
    stops = [1, 4, 30]
    run = jax.jit(lambda x, averaged: watched(
        loss, lambda p: {"sum": p.sum(), "weights": p}, x, optax.sgd(0.1), stops,
        key=jax.random.key(0), averaged=averaged,
    ))  # fmt: skip
    x, mean, expected = np.array([1.0, -2.0]), np.array([1.0, -2.0]), []
    for n in range(30):
        x = x - 0.2 * (x - n)
        mean = mean + (x - mean) / max(1, 0.3 * (n + 1))
        if n + 1 in stops:
            expected.append(mean)
    found = run(jnp.array([1.0, -2.0]), 0.3)
    np.testing.assert_allclose(found["weights"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["sum"], np.sum(expected, axis=1), rtol=1e-5)
    # The last weights themselves are those of `descended`, whose keys are the same.
    plain = run(jnp.array([1.0, -2.0]), 0.0)["weights"][-1]
    np.testing.assert_allclose(plain, x, rtol=1e-5)
    noisy = lambda p, key, n=None: jnp.sum((p - jax.random.normal(key)) ** 2)
    given = jnp.ones(2), optax.sgd(0.1)
    one = descended(noisy, *given, [5], key=jax.random.key(1))[0]
    other = watched(
        noisy, lambda p: p, *given, [5], key=jax.random.key(1), averaged=0.0
    )[0]
    np.testing.assert_allclose(one, other, rtol=1e-6)
