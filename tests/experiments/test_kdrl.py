"""KDRL's larger presets in small: transformers that add, judged on other sums."""

import dataclasses

import numpy as np

from experiments import kit
from experiments.papers import kdrl
from kljax.training import silent


def test_transformers_add(tmp_path):
    config = dataclasses.replace(
        kdrl.PRESETS["paper"], seeds=1, digits=1, held_out=30, student=(8, 1),
        teacher=(8, 1), taught=3, questions=16, starts=(("middle", 2),), prompts=4,
        answers=2, rates=(1e-3,), tuning_seeds=0, steps=2,
    )  # fmt: skip
    study = kit.Study(config, tmp_path / "run", silent())
    scores = kdrl.run(study)
    assert scores.methods == (*kdrl.METHODS,) and scores.levels == ("middle",)
    found = np.array([scores.mean(kdrl.ACCURACY, one) for one in scores.methods])
    assert (found > 0).all() and (found < 20).all() and len({*found}) > 4
    world = kdrl.World(config)
    train, test = world.questions[: world.count], world.questions[world.count :]
    assert len(test) == 30 and not {*map(tuple, train)} & {*map(tuple, test)}
    study.folder.close()
