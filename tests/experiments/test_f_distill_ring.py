"""The ring experiment's own parts: its population, and where its claims come from."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers import f_distill_ring as ring
from experiments.papers.f_distill_ring import line, students
from kljax import generators


def test_the_population_is_every_divergence_with_curvature():
    left_out = set(generators.names()) - set(students.FAMILY)
    assert left_out == {"total_variation", "alpha"}
    own = students.members(ring.Config().alphas)
    log_ratio = jnp.linspace(-2.0, 2.0, 5)
    for label, one in own.items():
        found = students.chosen(one, jnp.float32(0.7)).curvature(log_ratio)
        alpha = 0.7 if label == students.ADAPTIVE else one["alpha"]
        named = label in students.FAMILY
        expected = generators.get(label) if named else generators.Alpha(alpha)
        np.testing.assert_allclose(found, expected.curvature(log_ratio), rtol=1e-5)


def test_the_line_counts_starts_by_where_they_end():
    ends = np.array([[[0.5, -2.0]], [[1.9, -0.8]], [[1.5, 0.0]]])
    low = np.full((6, 4, 2), 0.5)
    low[5] = 1.9
    pairs = np.array([[2.0, 2.04], [2.0, 2.0], [4.0, 1.0]])
    variances = np.broadcast_to(pairs, (6, 3, 2))
    alpha = np.ones(1)
    found = line.Line(low, low, variances, ends[:, 0], ends, ends, ends[:1], alpha)
    assert found.covering("clipped") == (2, 3) and found.covering("sampled") == (0, 1)
    assert list(found.covers().values()) == [0, 0, 0, 0, 0, 4]
    weights = found.weights()
    assert weights["d = 3"] == 0.75 and weights["d = 1"] == pytest.approx(0.02)


def test_a_critic_is_held_against_the_exact_ratio():
    exact = np.linspace(-8.0, 2.0, 101)
    ratio = students.Ratio(exact, np.maximum(exact, -3) / 2, np.ones(101))
    fit = ratio.fit(-2.0, 1.0)
    assert fit["correlation"] < 1 and ratio.fit()["slope"] < fit["slope"]
    halved = students.Ratio(exact, exact / 2, np.ones(101)).fit()
    np.testing.assert_allclose(list(halved.values()), [1.0, 0.5])
