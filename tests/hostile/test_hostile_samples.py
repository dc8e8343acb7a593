"""Samples, counts and drawn tokens that a careful user should never get past unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabled import check_refused, check_right, refused

from kljax.decoding.sampling import Sampling, sample
from kljax.divergences import bounds, counts
from kljax.divergences import samples as s

X = np.float32([[0, 1], [2, 0], [1, 3], [4, 1], [0.5, 2]])
Y = np.float32([[1, 1], [3, 0], [1, 2], [5, 1]])
NAN = np.nan
BAD = X.copy()
BAD[1, 0] = NAN
KEY = jax.random.key(0)


def _knn(scale, offset=0.0):
    """k = 2 in float64, by sorting."""
    x, y = (np.float64(np.float32(scale) * z + np.float32(offset)) for z in (X, Y))

    def kth(a, k):
        return np.sort(np.linalg.norm(x[:, None] - a[None], axis=-1), axis=1)[:, k]

    return 2 * np.mean(np.log(kth(y, 1) / kth(x, 2))) + np.log(len(y) / (len(x) - 1))


def _draw(*logits, **settings):
    return sample(KEY, jnp.float32(logits), Sampling(**settings))


# What is asked, and the value or the message that names what is wrong.
CASES = {
    "kde of NaN": (lambda: s.kde_log_density(BAD, Y, 1.0)[1], NAN),
    "kde from NaN": (lambda: s.kde_log_density(Y, BAD, 1.0)[0], NAN),
    "Cauchy-Schwarz of NaN": (lambda: s.cauchy_schwarz(BAD, Y, 1.0), NAN),
    "mmd of NaN": (lambda: s.mmd(Y, BAD, 1.0), NAN),
    "neighbours of NaN": (lambda: s.knn_kl(Y, BAD, 3), NAN),
    "neighbours at infinity": (lambda: s.knn_kl(X, np.where(Y > 4, np.inf, Y), 2), NAN),
    "neighbours at 1e-19": (lambda: s.knn_kl(1e-19 * X, 1e-19 * Y, 2), _knn(1e-19)),
    "neighbours at 1e20": (lambda: s.knn_kl(1e20 * X, 1e20 * Y, 2), _knn(1e20)),
    "neighbours far out": (lambda: s.knn_kl(X + 4096, Y + 4096, 2), _knn(1, 4096)),
    "one point": (lambda: s.knn_kl(X[:1], Y, 1), "k must be at least 1, below the 1"),
    "k = n": (lambda: s.knn_kl(X[:3], Y, 3), "k must be at least 1.*got 3"),
    "half a neighbour": (lambda: s.knn_kl(X, Y, 1.5), "k must be an int, got .* 1.5"),
    "histogram of NaN": (
        lambda: s.histogram_kl(BAD[:, 0], Y[:, 0], [0.0, 1.0, 2.0]),
        NAN,
    ),
    "all outside": (lambda: s.histogram_kl([9, 9], [9, 8], [0, 1, 2]), 0.0),
    "empty bins": (
        lambda: s.histogram_kl([0, 0, 0], [0, 2, 2], [0, 1, 2, 3], pseudo_count=0),
        np.log(3),
    ),
    "falling edges": (lambda: s.histogram_kl([0], [1], [0, 2, 1]), "edges must be inc"),
    "no samples": (lambda: s.histogram_kl([], [1], [0, 2]), "a sample at least"),
    "negative count": (lambda: counts.kl([2, -1], [1, 1]), "counts_p.*got -1"),
    "NaN count": (lambda: counts.kl([2, 1], [1, NAN]), NAN),
    "NaN count beside none": (
        lambda: counts.kl([0, 0], [1, NAN], pseudo_count=0),
        NAN,
    ),
    "NaN count before none": (
        lambda: counts.kl([1, NAN], [0, 0], pseudo_count=0),
        NAN,
    ),
    "negative count, traced": (
        lambda: jax.jit(counts.kl)([2.0, -1.0], [1.0, 1.0]),
        NAN,
    ),
    "counts of other batches": (
        lambda: counts.kl(np.ones((2, 3)), np.ones((4, 3))),
        "leading axes of counts_p and counts_q",
    ),
    "negative bandwidth": (lambda: s.mmd(X, Y, np.array([1.0, -2.0])), "bandwidth.*-2"),
    "negative bandwidth, traced": (lambda: jax.jit(s.mmd)(X, Y, -1.0), NAN),
    "infinite weight": (
        lambda: s.mmd(X, Y, 1.0, log_weights_q=np.float32([0, 0, np.inf, 0])),
        "log_weights_q must be below inf",
    ),
    "nothing on a side": (
        lambda: s.cauchy_schwarz(X, Y, 1.0, log_weights_p=np.full(5, -np.inf)),
        0.0,
    ),
    "gradient of nothing on a side": (
        lambda: jax.grad(s.cauchy_schwarz)(
            X, Y, 1.0, log_weights_q=np.full(4, -np.inf)
        ),
        0 * X,
    ),
    "NaN critic": (lambda: bounds.variational([0.0, NAN], [0.0], "forward_kl"), NAN),
    "token of NaN": (lambda: _draw(0, NAN, 1).token, -1),
    "token of NaN, filtered": (lambda: _draw(0, NAN, 1, top_p=0.5, top_k=2).token, -1),
    "greedy token of NaN": (lambda: _draw(0, NAN, 1, temperature=0).token, -1),
    "law of NaN": (lambda: _draw(0, NAN, 1, min_p=0.1).log_probability, NAN),
    "certain twice": (lambda: _draw(np.inf, np.inf).token, -1),
    "tiny temperature": (lambda: _draw(7, 9, 8, temperature=1e-37).token, 1),
}


@pytest.mark.parametrize("name", refused(CASES))
def test_refused(name):
    check_refused(*CASES[name])


def test_right():
    check_right(CASES, rtol=2e-6, atol=1e-6)


MEASURES = {
    "kde": lambda x, w: s.kde_log_density(Y, x, 1.0, log_weights=w).sum(),
    "mmd": lambda x, w: s.mmd(x, Y, 1.0, log_weights_p=w, unbiased=True),
    "cauchy_schwarz": lambda x, w: s.cauchy_schwarz(x, Y, 1.0, log_weights_p=w),
}


@pytest.mark.parametrize("name", MEASURES)
def test_points_without_weight_may_hold_anything(name):
    @jax.jit
    @jax.vmap
    def both(x, w):
        return jax.value_and_grad(MEASURES[name], (0, 1))(x, w)

    junk = np.float32([0.5, NAN, np.inf, -3e38])
    points = np.stack([X] * 4)
    points[:, 3] = junk[:, None]
    weights = np.tile(np.float32([0, 0, 1, -np.inf, 0]), (4, 1))
    value, (slope, in_weights) = both(points, weights)
    for found in (value, slope, in_weights):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, np.stack([found[0]] * 4), atol=2e-6)
    assert not slope[:, 3].any() and slope[:, 0].any()
    # NaN that counts is in both.
    value, (slope, _) = both(points, np.zeros_like(weights))
    assert np.isnan(value[1]) and np.isnan(slope[1]).any()
