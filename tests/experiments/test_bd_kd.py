"""BD-KD's larger presets on small files: residual networks, images of one's own."""

import dataclasses

import numpy as np

from experiments import kit
from experiments.papers import bd_kd
from kljax.training import silent


def test_residual_networks_learn_from_images_of_ones_own(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(48) % 3
    x = (random.integers(0, 60, (48, 8, 8, 3)) + 90 * y[:, None, None, None]).astype(
        np.uint8
    )
    np.savez(
        tmp_path / "own.npz",
        x_train=x[:36],
        y_train=y[:36],
        x_test=x[36:],
        y_test=y[36:],
    )
    small = bd_kd.Network((4,), (1,))
    config = dataclasses.replace(
        bd_kd.PRESETS["paper"],
        data=str(tmp_path / "own.npz"),
        seeds=1,
        steps=3,
        batch=12,
        clean=bd_kd.Task(small, 30, 0.0, 3.0),
        teacher=small,
    )
    study = kit.Study(config, tmp_path / "run", silent())
    scores = bd_kd.run(study)
    assert scores.methods == (*bd_kd.METHODS,) and scores.levels == ("clean",)
    accuracy = scores.values("student accuracy", "BD-KD")
    right = accuracy * 12 / 100  # of twelve test images
    np.testing.assert_allclose(right, np.rint(right))
    _, loss = study.curve(("train", "clean"), "pair/loss")
    assert loss.shape[1] == 6 and np.isfinite(loss).all()
    study.folder.close()
