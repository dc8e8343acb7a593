"""Samples in parts, and the judge of images with and without labels."""

import numpy as np
import pytest
from small_images import some_pictures

from experiments import kit
from experiments.kit import judge
from kljax.data.images import Codec
from kljax.training import silent


@pytest.fixture
def study(tmp_path):
    made = kit.Study(kit.Settings(), tmp_path / "run", silent())
    yield made
    made.folder.close()


def test_samples_come_in_parts_from_one_stream_of_noise(study, monkeypatch):
    monkeypatch.setattr(judge, "MOST_PIXELS", 64 * 64)
    pictures, calls = some_pictures(), []

    def draw(z, ids):
        calls.append(len(z))
        return 0.1 * z + ids[:, None, None, None] - 0.5

    def drawn(seed):
        codec = Codec(pictures.shape)
        return judge.drawn(study, draw, pictures, codec, 150, seed)

    found, again, other = drawn(0), drawn(0), drawn(1)
    assert calls[:4] == [64] * 4  # one to compile, then three parts
    assert found.images.shape == (150, 8, 8, 1) and found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, again.images)
    assert (found.images != other.images).mean() > 0.5
    assert len(np.unique(found.images[:128], axis=0)) == 128  # no part comes twice
    means = [found.images[found.ids == k].mean() / 255 for k in (0, 1)]
    np.testing.assert_allclose(means, [0.25, 0.75], atol=0.01)


@pytest.mark.parametrize("classes", [2, 0])
def test_a_judge_tells_kinds_apart_and_is_read_back(study, classes):
    pictures = some_pictures(classes=2)
    if not classes:
        hidden = {"train_ids": None, "held_out_ids": None, "num_classes": 0}
        pictures = pictures.__class__(**{**vars(pictures), **hidden})
    config = judge.JudgeConfig(steps=12, batch=32, copies=10)
    found, facts = judge.judge_of(study, pictures, config)
    _, again = judge.judge_of(study, pictures, config)
    assert again == facts
    assert ("k-means" in facts["trained_on"]) == (not classes)
    if classes:
        assert facts["accuracy"] == 1.0
        half = found.features(pictures.train)[1]
        assert (half == pictures.train_ids).all()
