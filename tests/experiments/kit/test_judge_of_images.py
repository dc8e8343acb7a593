"""The judge of images, with and without labels."""

import pytest
from small_images import some_pictures

from experiments import kit
from experiments.kit import judge
from kljax.training import silent


@pytest.fixture
def study(tmp_path):
    made = kit.Study(kit.Settings(), tmp_path / "run", silent())
    yield made
    made.folder.close()


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
