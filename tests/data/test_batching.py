"""Batches as functions of the step, and arrays read in parts of one shape."""

import numpy as np
import pytest

from kljax.data.batching import in_parts, passes


def test_a_pass_shows_no_row_twice_and_the_next_has_another_order():
    rows = passes(10, 4, 7, 1)
    first, second = ([*rows(n), *rows(n + 1)] for n in (0, 2))
    for one in (first, second):
        assert len(set(one)) == 8 and set(one) <= set(range(10))
    assert first != second
    order = np.random.default_rng([7, 1, 0]).permutation(10)
    assert first == order[:8].tolist()  # of the stream, pass and place alone
    np.testing.assert_array_equal(passes(10, 4, 7, 1)(3), rows(3))
    assert sorted(passes(3, 8, 0)(5)) == [0, 1, 2]  # fewer rows than a batch wants
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        passes(0, 4)


def test_parts_have_one_shape_and_give_the_whole():
    shapes, done = [], []

    def function(x, y):
        shapes.append((x.shape, y.shape))
        return {"sum": x + y[:, 0], "y": y}

    x, y = np.arange(7), np.arange(14).reshape(7, 2)
    found = in_parts(function, 3, x, y, note=done.append)
    np.testing.assert_array_equal(found["sum"], x + y[:, 0])
    np.testing.assert_array_equal(found["y"], y)
    assert set(shapes) == {((3,), (3, 2))} and done == [3, 6, 7]
    np.testing.assert_array_equal(in_parts(lambda x: -x, 99, x), -x)
