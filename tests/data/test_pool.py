"""Every seed draws its own images, and some of their labels are wrong."""

import numpy as np
import pytest

from kljax.data.pool import Pool
from kljax.errors import DataError


def test_rows_of_a_seed_do_not_meet_and_labels_are_wrong_as_often_as_said():
    pool = Pool(np.zeros((2000, 1)), np.zeros(2000, int), 10, 1500)
    found = pool.drawn(3, images=900, noise=0.3, held_out=1000)
    assert len(found.train) == 900 and len(found.test) == 1000
    assert not set(found.train) & set(found.test)
    assert 0.22 < (found.labels != 0).mean() < 0.32  # a tenth is drawn right again
    split = pool.drawn(3, images=900, noise=0.3)
    assert split.test.tolist() == [*range(1500, 2000)] and split.train.max() < 1500
    assert len(pool.drawn(0).train) == 1500 and not pool.drawn(0).labels.any()
    with pytest.raises(ValueError, match="noise must lie"):
        pool.drawn(0, noise=1.5)
    with pytest.raises(ValueError, match="held_out must be at most 1999"):
        pool.drawn(0, held_out=2000)


def test_images_without_labels_are_refused(tmp_path):
    x = np.zeros((12, 8, 8, 1), np.uint8)
    x[:, 0] = 255
    np.savez(tmp_path / "bare.npz", x_train=x[:8], x_test=x[8:])
    with pytest.raises(DataError, match="has no labels"):
        Pool.load(str(tmp_path / "bare.npz"))


def test_balanced_parts_do_not_meet_and_hold_all_classes_alike():
    y = np.array([0] * 9 + [1] * 7 + [2] * 8)
    pool = Pool(np.zeros((24, 2)), y, 3, 24)
    first, second = pool.balanced(5, 3, 4)
    assert first.shape == (3, 3) and second.shape == (3, 4)
    for part in (first, second):
        assert (y[part] == np.arange(3)[:, None]).all()
    assert len({*first.flat, *second.flat}) == 21
    # What comes behind changes nothing; another seed does.
    assert np.array_equal(pool.balanced(5, 3)[0], first)
    assert not np.array_equal(pool.balanced(6, 3)[0], first)
    with pytest.raises(ValueError, match="need 8; the smallest class has 7"):
        pool.balanced(0, 4, 4)
