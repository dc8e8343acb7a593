"""Coordinates of images, against scikit-learn."""

import numpy as np
import pytest

from kljax.data.images import Codec


def test_codec_keeps_what_it_says():
    """Codes have the spread of 8x8 digits; decoding loses the stated variance."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(300, 5)) * np.array([3.0, 2.0, 1.0, 0.5, 0.05])
    images = (factors @ rng.normal(size=(5, 48)) * 0.05).reshape(300, 4, 4, 3)
    images = images.astype(np.float32) + 0.1
    codec = Codec.components(images)
    codes = codec.encode(images)
    assert codes.shape == (300, codec.size)
    assert codec.size < 5 and 0.95 <= codec.kept < 1
    assert codes.std() == pytest.approx(0.75, rel=1e-3)
    error = np.square(codec.decode(codes) - images).sum()
    total = np.square(images - images.mean(0)).sum()
    assert 1 - error / total == pytest.approx(codec.kept, abs=1e-4)
    plain = Codec((4, 4, 3))
    assert plain.size == 48
    np.testing.assert_array_equal(plain.decode(plain.encode(images)), images)


def test_codec_is_principal_component_analysis():
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(1)
    images = rng.normal(size=(80, 3, 3, 1)) * np.arange(1, 10).reshape(3, 3, 1)
    images = images.astype(np.float32)
    codec = Codec.components(images)
    theirs = decomposition.PCA(codec.size, svd_solver="full").fit(images.reshape(80, 9))
    assert theirs.explained_variance_ratio_.sum() == pytest.approx(codec.kept, rel=1e-5)
    assert theirs.explained_variance_ratio_[:-1].sum() < 0.95 <= codec.kept
    codes = codec.encode(images) / codec.scale
    want = theirs.transform(images.reshape(80, 9))
    sign = np.sign((codes * want).sum(axis=0))  # an axis has no direction
    np.testing.assert_allclose(codes * sign, want, atol=1e-4)
    back = theirs.inverse_transform(want).reshape(images.shape)
    np.testing.assert_allclose(codec.decode(codec.encode(images)), back, atol=1e-4)
