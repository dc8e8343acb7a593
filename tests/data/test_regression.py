"""Rows of which every seed draws its own parts, against NumPy."""

import numpy as np
import pytest

from kljax.data import load
from kljax.data.regression import Regression, RegressionSource
from kljax.errors import DataError

TEXT = "sky,size,price\n" + "".join(
    f"{('clear', 'rain')[i % 2]},{i},{np.exp(i % 7)}\n" for i in range(50)
)


def test_columns_logarithms_and_gaps(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(TEXT + "rain,,3.0\n")
    found = Regression.load(RegressionSource(str(file), "price", log="log", below=400))
    right = [i for i in range(50) if np.exp(i % 7) < 400]
    np.testing.assert_allclose(found.y, np.mod(right, 7), atol=1e-9)
    np.testing.assert_array_equal(found.x, [[i % 2, i] for i in right])
    one = Regression.load(RegressionSource(str(file), inputs=("size",)))
    assert one.x.shape == (50, 1) and one.sha256
    with pytest.raises(DataError, match=r"no column 'cost'.*sky, size, price"):
        Regression.load(RegressionSource(str(file), "cost"))
    with pytest.raises(ValueError, match="unknown log 'ln'"):
        RegressionSource(str(file), log="ln")


def test_parts_units_and_wrong_targets():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(3, 5, (200, 2)), np.ones(200)]
    pool = Regression(x, 10 * x[:, 0] + 4)
    right, wrong = pool.drawn(3), pool.drawn(3, wrong=0.25)
    assert [len(part["y"]) for part in right.values()] == [128, 32, 40]
    every = np.concatenate([part["x"] for part in right.values()])
    assert len(np.unique(every, axis=0)) == 200 and not every[:, 2].any()
    np.testing.assert_allclose(right["train"]["x"][:, :2].std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(right["test"]["y"][:, 0], right["test"]["x"][:, 0], 1e-5)
    gap = wrong["train"]["y"] - right["train"]["y"]
    assert 0.15 < (gap > 0).mean() < 0.35 and gap.min() == 0 and gap.max() <= 60.001
    for part in ("val", "test"):
        np.testing.assert_array_equal(wrong[part]["y"], right[part]["y"])
    with pytest.raises(ValueError, match="wrong is 2"):
        pool.drawn(0, wrong=2)


def test_a_target_in_a_table_of_its_own():
    datasets = pytest.importorskip("sklearn.datasets")
    found = Regression.load(RegressionSource("diabetes", "diabetes_progression"))
    theirs = datasets.load_diabetes(scaled=False)
    np.testing.assert_array_equal(found.x, theirs.data)
    np.testing.assert_array_equal(found.y, theirs.target)


def test_turned_images():
    pool = Regression.load(RegressionSource("digits", turned=45.0))
    images = load("digits", "all").images[..., 0]
    assert pool.x.shape == (1797, 64) and np.abs(pool.y).max() <= 45 and pool.alike
    # Rows of pixels turned by a right angle would be columns; by little, nearly none.
    i = np.abs(pool.y).argmin()
    near = np.corrcoef(pool.x[i], images[i].ravel())[0, 1]
    assert near > 0.99 and 25 < pool.y.std() < 27
    np.testing.assert_allclose(pool.drawn(0)["train"]["x"].std(), 1, rtol=1e-5)
