"""Distances of features within classes against NumPy, assignment and known laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.spatial.distance import cdist

from kljax.models.dense import MLP
from kljax.models.functional import functional
from kljax.theory import layers

RNG = np.random.default_rng(0)
Y_P, Y_Q = np.arange(60) % 3, np.sort(np.arange(45) % 3)[::-1]
CENTERS = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 3]])
X_P = RNG.normal(size=(60, 3)) + CENTERS[Y_P]
X_Q = 1.5 * RNG.normal(size=(45, 3)) + 0.5 * CENTERS[Y_Q]

class_kl = jax.jit(lambda p, q: layers.class_kl(p, Y_P, q, Y_Q, noise=0.1))
class_w1 = jax.jit(lambda p, q: layers.class_w1(p, Y_P, q, Y_Q))


def matched(x_p, y_p, x_q, y_q):
    """W_1 within classes by a linear program for each."""
    total = 0.0
    for k in np.unique(y_p):
        p, q = x_p[y_p == k], x_q[y_q == k]
        n, m = len(p), len(q)
        sums = np.zeros((n + m, n, m))
        sums[np.arange(n), np.arange(n)] = 1
        sums[n + np.arange(m), :, np.arange(m)] = 1
        masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
        found = optimize.linprog(
            cdist(p, q).ravel(), A_eq=sums.reshape(n + m, -1), b_eq=masses
        )
        total += (y_p == k).mean() * found.fun
    return total


def test_gaussians_within_classes(x64):
    def moments(x, y):
        means = np.stack([x[y == k].mean(0) for k in range(3)])
        cov = np.mean([np.cov(x[y == k].T) for k in range(3)], axis=0)  # equal shares
        return means, cov

    (mean_p, cov_p), (mean_q, cov_q) = moments(X_P, Y_P), moments(X_Q, Y_Q)
    more = 0.1 * np.trace(cov_q) / 3 * np.eye(3)
    cov_p, cov_q = cov_p + more, cov_q + more
    inverse, expected = np.linalg.inv(cov_q), 0.0
    for delta in mean_p - mean_q:
        gap = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
        trace = np.trace(inverse @ cov_p) - 3
        expected += (trace + gap + delta @ inverse @ delta) / 6
    assert float(class_kl(X_P, X_Q)) == pytest.approx(expected, rel=1e-9)
    # What is constant, a unit that is never on, has no distance, but for rounding.
    same = np.ones((60, 3)), np.ones((45, 3))
    assert float(class_kl(*same)) == pytest.approx(0, abs=1e-12)


def test_transport_within_classes():
    expected = matched(X_P, Y_P, X_Q, Y_Q)
    found = float(class_w1(X_P, X_Q))
    assert expected <= found * 1.001 and found == pytest.approx(expected, rel=0.02)
    # Classes that are points: by how far each moves, not to the nearest other one.
    for centers in (CENTERS + 3.0, np.roll(CENTERS, 1, axis=0), CENTERS):
        expected = np.linalg.norm(centers - CENTERS, axis=1).mean()
        found = float(class_w1(CENTERS[Y_P], centers[Y_Q]))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_network_shows_its_layers():
    """A ReLU network whose layers are rescaled says the same; its W_1 inside does not.

    The bound by norms does not move, while the layer with the least W_1 is any.
    """
    apply, params = functional(
        lambda rngs: MLP((3, 3, 3), rngs=rngs), jax.random.key(0)
    )

    @jax.jit
    def found(params):
        kernels = [params["layers"][i]["kernel"] for i in range(2)]
        norms = jnp.stack([jnp.linalg.norm(x, ord=2) for x in kernels])
        sides = (X_P, Y_P), (X_Q, Y_Q)
        return apply(params, X_P), layers.layer_bounds(
            apply, params, *sides, norms=norms
        )

    out, plain = found(params)
    first, last = (params["layers"][i] for i in range(2))
    scaled = {
        0: jax.tree.map(lambda x: 1e-3 * x, first),
        1: last | {"kernel": 1e3 * last["kernel"]},
    }
    same, moved = found({"layers": scaled})
    np.testing.assert_allclose(same, out, rtol=1e-4, atol=1e-5)
    for name in ("kl", "wasserstein_bound"):
        expected = getattr(plain, name)
        np.testing.assert_allclose(getattr(moved, name), expected, rtol=1e-3)
    assert plain.w1.shape == (3,) and int(jnp.argmin(moved.w1)) == 1
    np.testing.assert_allclose(moved.w1[1], 1e-3 * plain.w1[1], rtol=1e-3)
    assert (np.diff(plain.wasserstein_bound) < 0).all()
    np.testing.assert_allclose(plain.kl_bound, np.sqrt(plain.kl / 2), rtol=1e-6)
    np.testing.assert_allclose(plain.w1[0], class_w1(X_P, X_Q), rtol=1e-5)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"y_q lacks the classes \[1, 2\] of y_p"):
        layers.class_kl(X_P, Y_P, X_Q, np.zeros(45, int))
    with pytest.raises(ValueError, match="y_p must be 60 whole numbers"):
        layers.class_w1(X_P, Y_P[:9], X_Q, Y_Q)
    with pytest.raises(ValueError, match=r"\[n, d\] and \[m, d\] with one d"):
        layers.class_w1(X_P[:, :2], Y_P, X_Q, Y_Q)
    with pytest.raises(ValueError, match="noise is 0; it must be positive"):
        layers.class_kl(X_P, Y_P, X_Q, Y_Q, noise=0)
    with pytest.raises(ValueError, match="epsilon is 0; it must be positive"):
        layers.class_w1(X_P, Y_P, X_Q, Y_Q, epsilon=0)
    with pytest.raises(TypeError, match="y_q must be known when the program is made"):
        jax.eval_shape(lambda y: layers.class_kl(X_P, Y_P, X_Q, y), Y_Q)
