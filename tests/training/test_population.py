"""Stacked trees: typed keys and None among the leaves, members by place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.training import stacked, taken


def test_members_come_back_as_they_went_in():
    trees = [
        {"w": jnp.full((2, 3), i), "key": jax.random.key(i), "none": None, "n": i}
        for i in range(3)
    ]
    together = stacked(trees)
    assert together["w"].shape == (3, 2, 3) and together["key"].shape == (3,)
    assert together["none"] is None and together["n"].tolist() == [0, 1, 2]
    one, some = taken(together, 2), taken(together, [2, 0, 2])
    np.testing.assert_array_equal(one["w"], trees[2]["w"])
    assert one["key"] == trees[2]["key"] and one["w"].dtype == trees[2]["w"].dtype
    assert some["n"].tolist() == [2, 0, 2] and some["w"].shape == (3, 2, 3)


def test_nothing_to_stack():
    with pytest.raises(ValueError, match="trees must be one at least, got none"):
        stacked([])
    with pytest.raises(ValueError, match="structure"):
        stacked([{"a": 1}, {"b": 1}])
