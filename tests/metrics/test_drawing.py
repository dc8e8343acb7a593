"""Samples of a generator come in parts."""

import numpy as np
from small_images import some_pictures

from kljax.data.images import Codec
from kljax.metrics import drawing


def test_samples_come_in_parts_from_one_stream_of_noise(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_PIXELS", 64 * 64)
    pictures, calls = some_pictures(), []

    def draw(z, ids):
        calls.append(len(z))
        return 0.1 * z + ids[:, None, None, None] - 0.5

    def drawn(seed):
        codec = Codec(pictures.shape)
        return drawing.drawn(draw, pictures, codec, 150, seed=seed)

    found, again, other = drawn(0), drawn(0), drawn(1)
    assert calls[:4] == [64] * 4  # one to compile, then three parts
    assert found.images.shape == (150, 8, 8, 1) and found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, again.images)
    assert (found.images != other.images).mean() > 0.5
    assert len(np.unique(found.images[:128], axis=0)) == 128  # no part comes twice
    means = [found.images[found.ids == k].mean() / 255 for k in (0, 1)]
    np.testing.assert_allclose(means, [0.25, 0.75], atol=0.01)
