"""Moved inputs: closed forms of a linear model, boxes, bounds, trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.divergences import label_cross_entropy
from kljax.objectives.attacks import fgsm, pgd

RNG = np.random.default_rng(0)
X, W = np.float32(RNG.normal(size=(5, 3))), np.float32(RNG.normal(size=(3, 1)))
Y = np.float32(RNG.normal(size=(5, 1)))


def squared(x):
    return ((x @ W - Y) ** 2).sum(1)


def test_a_linear_regression_is_moved_to_the_worst_corner():
    """There the error grows by epsilon |w|_1, in one step as in many."""
    epsilon = 0.3
    error = np.abs(X @ W - Y).sum(1) + epsilon * np.abs(W).sum()
    once = jax.jit(lambda e: fgsm(squared, X, e))(epsilon)
    many = jax.jit(lambda e: pgd(squared, X, e, step=0.1, iterations=9))(epsilon)
    for moved in (once, many):
        np.testing.assert_allclose(squared(moved), error**2, rtol=1e-5)
        assert np.abs(moved - X).max() <= epsilon + 1e-6
    np.testing.assert_array_equal(fgsm(squared, X, 0.0), X)


def test_classification_trees_bounds_and_a_drawn_start():
    labels = np.arange(5) % 2
    tree = {"a": np.clip(np.abs(X), 0, 1), "b": np.clip(np.abs(Y), 0, 1)}

    def loss(tree):
        logits = jnp.concatenate([tree["a"] @ W, tree["b"]], axis=1)
        return label_cross_entropy(labels, logits)

    given = {"step": 0.05, "iterations": 6, "bounds": (0.0, 1.0)}
    run = jax.jit(lambda key: pgd(loss, tree, 0.2, key=key, **given))
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    for name in tree:
        assert np.abs(one[name] - tree[name]).max() <= 0.2 + 1e-6
        assert one[name].min() >= 0 and one[name].max() <= 1
    assert (loss(one) > loss(tree)).all()
    # Six steps of 0.05 reach the corner from some of the starts alone.
    assert not np.array_equal(one["a"], other["a"])


def test_a_gradient_that_is_no_number_shows():
    moved = fgsm(lambda x: x / jnp.array([1.0, 0.0]) * 0, jnp.ones(2), 0.1)
    assert moved[0] == 1 and np.isnan(moved[1])
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        pgd(squared, X, 0.1, step=0.1, iterations=0)
