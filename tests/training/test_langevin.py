"""Chains against the Gaussian posteriors that they are to sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_diabetes

from kljax.theory.stationary import corrected_covariance, stationary_variance
from kljax.training.langevin import posterior_predictive, snapshots


def test_variance_of_a_quadratic():
    """U4: 2,000 chains of three numbers, in a tree, at steps that are not small."""
    a, eta = jnp.array([1.0, 4.0, 1.0]), jnp.array([0.1, 0.1, 0.5])

    def chain(key, a, eta):
        energy = lambda x, key: a / 2 * (x["one"] ** 2 + jnp.sum(x["two"] ** 2))
        start = {"one": jnp.ones(()), "two": jnp.ones((2,))}
        return snapshots(energy, start, eta, key=key, keep=1, burn=40)

    keys = jax.random.split(jax.random.key(0), (3, 2000))
    every = jax.jit(jax.vmap(jax.vmap(chain, (0, None, None))))(keys, a, eta)
    assert every["two"].shape == (3, 2000, 1, 2)
    x = np.concatenate([every["one"][..., None], every["two"]], axis=-1)
    found = x.reshape(3, -1).var(axis=1)
    np.testing.assert_allclose(found, stationary_variance(a, eta), rtol=0.04)
    assert abs(np.corrcoef(x.reshape(-1, 3).T) - np.eye(3)).max() < 0.05


@pytest.mark.optimized  # half a million steps: worth compiling well
def test_mini_batches_on_diabetes():
    """U4: linear regression on collinear features, by batches of 16 of 442."""
    x, y = load_diabetes(return_X_y=True)
    x, y = (z / z.std(axis=0) for z in (x - x.mean(0), y - y.mean()))
    noise, ridge, eta, (n, d), b = 0.5, 20.0, 2e-4, x.shape, 16
    precision = x.T @ x / noise + ridge * np.eye(d)
    cov = np.linalg.inv(precision)
    mean = cov @ x.T @ y / noise
    assert eta * np.linalg.eigvalsh(precision)[-1] < 1

    def energy(theta, key):
        rows = jax.random.randint(key, (b,), 0, n)
        errors = jnp.float32(x)[rows] @ theta - jnp.float32(y)[rows]
        return (
            n / b * jnp.vdot(errors, errors) / (2 * noise) + ridge * theta @ theta / 2
        )

    @jax.jit
    @jax.vmap
    def chain(key):
        given = {"keep": 32, "thin": 100, "burn": 600}
        return snapshots(energy, jnp.zeros(d), eta, key=key, **given)

    theta = np.asarray(chain(jax.random.split(jax.random.key(1), 150)), float)
    theta = theta.reshape(-1, d)
    batches = np.zeros((d, d))
    for one in theta[::8]:
        batches += n**2 / b * np.cov((x * (x @ one - y)[:, None] / noise).T, bias=True)
    batches /= len(theta[::8])
    raw = np.cov(theta.T)
    right = corrected_covariance(raw, eta, batches)
    off = lambda found, exact: np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert off(theta.mean(0), mean) < 0.05
    assert off(right, cov) < 0.05 < off(raw, cov)
    # In units of the posterior, where stiff directions count as much.
    root = np.linalg.cholesky(precision)
    unit = lambda s: off(root.T @ s @ root, np.eye(d))
    assert unit(right) < 0.1 and unit(raw) > 1


def test_probabilities_are_averaged():
    logits = np.random.default_rng(4).normal(size=(5, 3, 4)) * 3
    exact = np.log(special.softmax(logits, axis=-1).mean(0))
    found = posterior_predictive(lambda w, x: w + x, jnp.asarray(logits), 7.0)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    sure = jnp.array([[0.0, -jnp.inf], [0.0, 0.0]])
    half = posterior_predictive(lambda w: w, sure)
    np.testing.assert_allclose(jnp.exp(half), [0.75, 0.25], rtol=1e-6)
