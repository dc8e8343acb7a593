"""The judge of generated images: scores by other routes, and its controls."""

import dataclasses

import numpy as np
import pytest
from scipy import linalg
from small_images import some_pictures

from kljax.data import from_unit
from kljax.data.images import Codec
from kljax.metrics import FeatureJudge, class_gaussians, variance_ratios


def test_class_gaussians_have_the_classes_moments():
    """Samples without the covariance matrix: mean and covariance of every class."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(3, 4)) * 0.1
    ids = (np.arange(400) % 2).astype(np.int32)
    flat = rng.normal(size=(400, 3)) @ mixing + 0.2 * (2 * ids[:, None] - 1)
    pictures = dataclasses.replace(
        some_pictures(), train=flat.reshape(400, 2, 2, 1).astype("f4"), train_ids=ids
    )
    images, drawn = class_gaussians(pictures, 20_000)
    samples = images.reshape(-1, 4) / 127.5 - 1
    for c in range(2):
        real, fake = flat[ids == c], samples[drawn == c]
        assert len(fake) == 10_000
        np.testing.assert_allclose(fake.mean(0), real.mean(0), atol=0.02)
        np.testing.assert_allclose(np.cov(fake.T), np.cov(real.T), atol=3e-3)


def test_variance_ratios():
    """A class shrunk to half its width has a ratio of 1/4."""
    pictures = some_pictures()
    x, ids = pictures.train.copy(), pictures.train_ids
    center = x[ids == 1].mean(0)
    x[ids == 1] = center + 0.5 * (x[ids == 1] - center)
    ratios = variance_ratios(pictures, x, ids)
    np.testing.assert_allclose(ratios, [1.0, 0.25], rtol=1e-4)


def classify(images):
    """Two numbers of an image; the class is whether its left half is bright."""
    left, right = (np.asarray(x).mean(axis=(1, 2, 3)) for x in np.split(images, 2, 2))
    return np.stack([-left, left], axis=1), np.stack([left, right], axis=1)


def test_scores_of_the_judge():
    """The Fréchet distance from SciPy's matrix square root; copies are seen."""
    pictures = some_pictures()
    judge = FeatureJudge(classify, pictures, at_most=60, copies=50)
    fake = from_unit(pictures.held_out, pictures.levels)
    got = judge.score(fake, pictures.held_out_ids)
    real, features = judge.real, classify(fake / 127.5 - 1)[1]
    cov = [np.cov(x.T) for x in (real, features)]
    root = linalg.sqrtm(cov[0] @ cov[1]).real
    gap = real.mean(0) - features.mean(0)
    want = gap @ gap + np.trace(cov[0] + cov[1] - 2 * root)
    want *= 100 / real.var(axis=0).sum()
    assert got["fid"] == pytest.approx(want, rel=1e-3)
    assert got["copies"] == 0 and 0 < got["precision"] <= 1
    assert got["class_agreement"] == pytest.approx(
        np.mean((features[:, 0] > 0) == pictures.held_out_ids)
    )
    exact = judge.score(from_unit(pictures.train, 256), pictures.train_ids)
    assert exact["fid"] < 1e-3 and exact["closer_than_held_out"] == 1
    np.testing.assert_allclose(exact["variance_ratio_mean"], 1, rtol=1e-3)


def test_controls_of_the_judge():
    pictures = some_pictures()
    judge = FeatureJudge(classify, pictures, at_most=60, copies=50)
    found = judge.controls(Codec.components(pictures.train), 80)
    assert set(found) == {"decoded", "halves", "held_out", "gaussian", "resampled"}
    halves = found["halves"]
    floor = halves["fid"] / (2 / halves["n"]) * (1 / 80 + 1 / 100)
    assert halves["n"] == 100 and halves["floor"] == pytest.approx(floor)
    assert found["resampled"]["closer_than_held_out"] == 1
    assert "decoded" not in judge.controls(Codec(pictures.shape), 80)
    plain = some_pictures(classes=0)
    judge = FeatureJudge(classify, plain, at_most=60, copies=50)
    assert "class_agreement" not in judge.score(from_unit(plain.train), None)
