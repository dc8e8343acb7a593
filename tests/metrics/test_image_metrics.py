"""Fréchet distance, precision/recall and copying against references in plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

import kljax.metrics.images as images
from kljax.metrics import (
    frechet_distance,
    frechet_distance_from_moments,
    nearest_distances,
    precision_recall,
)


def reference_frechet(mean_p, cov_p, mean_q, cov_q):
    root = np.real(scipy.linalg.sqrtm(cov_p @ cov_q))
    return np.sum((mean_p - mean_q) ** 2) + np.trace(cov_p + cov_q - 2 * root)


def random_moments(rng, d):
    factor = rng.normal(size=(d, d))
    return rng.normal(size=d), factor @ factor.T + 0.1 * np.eye(d)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_frechet_from_moments_is_the_matrix_square_root_formula(d):
    rng = np.random.default_rng(d)
    p, q = random_moments(rng, d), random_moments(rng, d)
    np.testing.assert_allclose(
        frechet_distance_from_moments(*p, *q), reference_frechet(*p, *q), rtol=1e-9
    )


def test_frechet_of_commuting_covariances_has_a_closed_form():
    a, b = np.array([4.0, 1.0, 0.0]), np.array([1.0, 9.0, 16.0])
    turn = scipy.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    value = frechet_distance_from_moments(
        np.zeros(3), turn @ np.diag(a) @ turn.T, np.ones(3), turn @ np.diag(b) @ turn.T
    )
    np.testing.assert_allclose(value, 3 + np.sum((a**0.5 - b**0.5) ** 2), rtol=1e-12)


def test_frechet_of_orthogonal_degenerate_gaussians_adds_the_variances():
    # Two lines at right angles: the square root of the product is exactly zero.
    p, q = np.diag([2.0, 0.0, 0.0]), np.diag([0.0, 0.0, 5.0])
    zero = np.zeros(3)
    assert frechet_distance_from_moments(zero, p, zero, q) == pytest.approx(7.0, 1e-14)


def test_frechet_from_features_estimates_unbiased_moments():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(60, 5))
    fake = rng.normal(size=(41, 5)) @ rng.normal(size=(5, 5)) + 1
    expected = reference_frechet(
        real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T)
    )
    np.testing.assert_allclose(frechet_distance(real, fake), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(fake, real), expected, rtol=1e-9)
    # JAX arrays and image-shaped arrays give the same.
    shaped = jnp.asarray(real, jnp.float32).reshape(60, 1, 5)
    assert frechet_distance(shaped, fake) == pytest.approx(expected, rel=1e-5)


def test_frechet_with_fewer_samples_than_features_stays_clean():
    rng = np.random.default_rng(2)
    real = rng.normal(size=(8, 40))
    real[:, :3] = 5.0
    assert frechet_distance(real, real) < 1e-12
    assert frechet_distance(real, real[::-1] + 0.5) == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.ones((1, 3)), np.ones((5, 3)), r"real_features must be \[n, d\] with n"),
        (np.ones((5, 3)), np.ones((5, 4)), "as many features"),
        (np.ones((5, 3)), np.full((5, 3), np.nan), "fake_features must be finite"),
        (np.ones(5), np.ones((5, 3)), r"got shape \[5\]"),
    ],
)
def test_frechet_refuses_bad_features(real, fake, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, fake)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (np.diag([1.0, -1.0]), "positive semi-definite"),
        (np.ones((2, 3)), r"must be \[d\] and \[d, d\]"),
        (np.full((2, 2), np.inf), "finite"),
    ],
)
def test_frechet_refuses_bad_covariances(cov, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_moments(np.zeros(2), np.eye(2), np.zeros(2), cov)


def test_frechet_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="one length"):
        frechet_distance_from_moments(np.zeros(1), np.eye(1), np.zeros(2), np.eye(2))


def loops(real, fake, k):
    """Precision, recall, density, coverage as their definitions read."""

    def radii(points):
        # Position 0 is the point itself.
        return [np.sort(np.sqrt(((points - x) ** 2).sum(1)))[k] for x in points]

    real_radii, fake_radii = radii(real), radii(fake)
    inside = np.array(
        [
            [np.sqrt(((y - x) ** 2).sum()) <= r for x, r in zip(real, real_radii)]
            for y in fake
        ]
    )
    recalled = [
        any(np.sqrt(((y - x) ** 2).sum()) <= r for y, r in zip(fake, fake_radii))
        for x in real
    ]
    return (
        np.mean([any(row) for row in inside]),
        np.mean(recalled),
        inside.sum() / (k * len(fake)),
        np.mean([any(column) for column in inside.T]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 4_000_000])
def test_precision_recall_is_the_loop_over_all_pairs(monkeypatch, k, block):
    monkeypatch.setattr(images, "BLOCK_NUMBERS", block)
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(50, 3)), rng.normal(0.8, 1.3, size=(37, 3))
    found = precision_recall(real, fake, k=k)
    np.testing.assert_allclose(found, loops(real, fake, k), rtol=1e-12)
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_precision_recall_with_many_ties_far_from_the_origin():
    # Integer points: the loops are exact, the matrix product has to agree.
    rng = np.random.default_rng(3)
    real, fake = rng.integers(0, 3, (2, 60, 4))
    found = precision_recall(real + 1e5, fake + 1e5, k=3)
    np.testing.assert_allclose(found, loops(real, fake, 3), rtol=1e-12)


def test_precision_recall_of_the_same_and_of_distant_sets():
    x = np.random.default_rng(4).normal(size=(30, 2))
    same = precision_recall(x, x, k=3)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    # Each point lies in its own ball and in those of the points that it is a
    # neighbor of: k + 1 balls on average.
    assert same.density == pytest.approx(4 / 3)
    assert precision_recall(x, x + 100, k=3) == (0, 0, 0, 0)


def test_precision_and_recall_tell_narrow_from_wide():
    rng = np.random.default_rng(5)
    real = rng.normal(size=(300, 2))
    narrow = precision_recall(real, 0.2 * rng.normal(size=(300, 2)))
    wide = precision_recall(real, 5 * rng.normal(size=(300, 2)))
    assert narrow.precision > 0.95 and narrow.recall < 0.3
    assert wide.precision < 0.4 and wide.recall > 0.9
    assert narrow.coverage < 0.3 and wide.coverage < 0.4


@pytest.mark.parametrize("k", [0, 5])
def test_precision_recall_refuses_k_out_of_range(k):
    with pytest.raises(ValueError, match="at least"):
        precision_recall(np.eye(5), np.eye(5), k=k)


def test_nearest_distances_are_those_of_the_full_matrix(monkeypatch):
    monkeypatch.setattr(images, "BLOCK_NUMBERS", 100)
    rng = np.random.default_rng(6)
    query, reference = rng.normal(size=(40, 6)) + 1e3, rng.normal(size=(33, 6)) + 1e3
    query[5] = reference[7]
    expected = np.sort(cdist(query, reference), axis=1)
    near, second = nearest_distances(query, reference)
    np.testing.assert_allclose(near, expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(second, expected[:, 1], rtol=1e-9)
    assert near[5] == 0


def test_nearest_distances_of_images_and_of_two_references():
    pictures = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1)
    near, second = nearest_distances(pictures, pictures[:2])
    np.testing.assert_allclose(near, [0, 0, 8])
    np.testing.assert_allclose(second, [8, 8, 16])
    with pytest.raises(ValueError, match="reference must be"):
        nearest_distances(pictures, pictures[:1])
