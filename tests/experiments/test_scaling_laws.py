"""Scaling laws' sources: their entropies, and that nothing tells what is to be said."""

import jax
import numpy as np
import pytest

from experiments.papers.scaling_laws import exact, sweeps


def test_the_known_source_is_judged_by_its_own_entropy():
    source = sweeps.zipf(0.5, 64, 512, 0)
    held = source.held["held out"]
    own = np.log(np.maximum(held.target, 1e-30))
    assert float(held.loss(own)) == pytest.approx(source.entropy, rel=1e-5)
    uniform = np.zeros(held.target.shape)
    assert float(held.loss(uniform)) == pytest.approx(np.log(16), rel=1e-5)
    # Digits say which context it is, and the batch has the law of the contexts.
    batch = source.draw(jax.random.key(0), source.arrays)
    place = np.asarray(batch.tokens) @ 16 ** np.arange(4)[::-1]
    np.testing.assert_array_equal(batch.target[:, -1], source.arrays[0][place])
    assert np.median(place) < 10 and batch.weight[:, :-1].sum() == 0


def test_what_is_read_is_what_was_said_before():
    for source in (sweeps.code(8, 64, 16), sweeps.carries(2, 1, 64, 16)):
        draw = source.draw(jax.random.key(1), source.arrays)
        for text in (draw, *source.held.values()):
            np.testing.assert_array_equal(text.tokens[:, 1:], text.target[:, :-1])
    most = sweeps.longest_carry(np.asarray(source.held["carries of 2"].target)[:, :4])
    assert (most == 2).all()
    assert (sweeps.longest_carry(np.asarray(draw.target)[:, :4]) < 2).all()


def test_the_table_of_the_paper():
    """The scale of 8 x 8 images is ten times the printed one; the others agree."""
    found = exact.per_image()
    for name, printed in exact.PUBLISHED.items():
        ratio = found[name] / printed
        assert ratio == pytest.approx(9.84 if name == "8x8" else 1, rel=0.03), name
