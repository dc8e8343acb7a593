"""Coordinates of images, against scikit-learn; what is refused; groups and rows."""

import numpy as np
import pytest
from small_images import some_pictures

from kljax.data.images import Codec, first_of_classes, load_pictures, shrunk
from kljax.errors import DataError


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


def test_first_of_classes():
    """Up to ten classes a row each; few images are repeated; no labels, no classes."""
    ids = np.array([0, 2, 2, 0, 2])
    assert first_of_classes(ids, 5, 3)[:, :2].tolist() == [[0, 3], [1, 2]]
    assert first_of_classes(None, 40, 0).shape == (3, 12)
    assert len(first_of_classes(np.arange(100) % 25, 100, 25)) == 10


def test_batches_are_a_function_of_their_number():
    """A resumed run sees the batches that it would have seen."""
    pictures = some_pictures()
    first, again = (pictures.batches(4, 7, 1)(3) for _ in range(2))
    other = pictures.batches(4, 7, 2)(3)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_groups_of_pixels_find_what_the_labels_were():
    """Two kinds of blobs, without labels: no cluster mixes them."""
    labelled = some_pictures()
    found = some_pictures(classes=2).grouped(groups=2)
    assert found.num_classes == 2 and found.train_ids.dtype == np.int32
    same = found.train_ids == labelled.train_ids
    held_out = found.held_out_ids == labelled.held_out_ids
    assert same.all() or not same.any()
    assert held_out.tolist() == same[: len(held_out)].tolist()
    assert some_pictures().grouped().num_classes == 5  # 100 images


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda x: {"images": x[:20]}, "16 training images are too few .* least 64"),
        (lambda x: {"x_train": x, "x_test": x[:7]}, "7 held-out images .* least 8"),
        (lambda x: {"images": x[:1].repeat(120, 0)}, "images are all the same one"),
        (lambda x: {"images": x * 0 + 9, "levels": 17}, "every pixel .* is 9"),
    ],
)
def test_images_that_cannot_teach_say_why(tmp_path, pick, message):
    x = np.random.default_rng(0).integers(0, 256, (120, 9, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", **pick(x))
    with pytest.raises(DataError, match=message):
        load_pictures(tmp_path / "mine.npz")


@pytest.mark.parametrize(
    "side,rows", [(8, slice(2, 26)), (16, None), (14, slice(0, 28))]
)
def test_images_shrink_to_means_of_blocks(side, rows):
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 2)).astype(np.uint8)
    found = shrunk(x, side)
    assert found.shape == (3, side, side, 2)
    framed = (
        np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        if rows is None
        else x[:, rows, rows]
    )
    block = framed.shape[1] // side
    for i, j in ((0, 0), (side - 1, 3)):
        part = framed[:, i * block : (i + 1) * block, j * block : (j + 1) * block]
        np.testing.assert_allclose(found[:, i, j], part.mean(axis=(1, 2)))
    with pytest.raises(ValueError, match="must be square, 8 or larger"):
        shrunk(x[:, :5], 8)
