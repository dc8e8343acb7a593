"""SuperHF's loss: the gradient of a mixture's cross-entropy, and which samples stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kljax.divergences import Hidden, Logits
from kljax.objectives.policy.superhf import best, superhf_loss

RNG = np.random.default_rng(0)
B, T, V = 3, 4, 5
PRIOR, POLICY = RNG.normal(size=(2, B, T, V))
LABELS = RNG.integers(0, V, (B, T))
WEIGHTS = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)


def test_gradient_is_that_of_a_cross_entropy_to_the_mixture(x64):
    """(1 + λ) (q − target), in NumPy: exact for every λ of one program."""

    @jax.jit
    @jax.vmap
    def run(coefficient):
        def total(policy, prior):
            loss, _ = superhf_loss(
                Logits(prior),
                Logits(policy),
                LABELS,
                coefficient=coefficient,
                weights=WEIGHTS,
            )
            return loss.sum(), loss

        given = jnp.asarray(POLICY), jnp.asarray(PRIOR)
        return jax.grad(total, (0, 1), has_aux=True)(*given)

    coefficients = np.array([0.0, 0.1, 0.35, 3.0])
    (slopes, to_prior), losses = run(coefficients)
    p, q = special.softmax(PRIOR, axis=-1), special.softmax(POLICY, axis=-1)
    label = np.eye(V)[LABELS]
    share = WEIGHTS / WEIGHTS.sum(axis=-1, keepdims=True)
    for c, slope, loss in zip(coefficients, slopes, losses):
        target = (label + c * p) / (1 + c)
        exact = (1 + c) * (q - target) * share[..., None]
        np.testing.assert_allclose(slope, exact, atol=1e-12)
        token = -(label * np.log(q)).sum(-1) + c * special.rel_entr(p, q).sum(-1)
        np.testing.assert_allclose(loss, (token * share).sum(-1), rtol=1e-12)
    assert not np.any(to_prior)


def test_the_divergence_is_forward(x64):
    """Two categoricals by hand: KL(prior‖policy) is log(4/3)/2, the other way not."""
    prior, policy = np.log([[[0.5, 0.5]]]), np.log([[[0.25, 0.75]]])
    label = np.array([[0]])
    value = lambda name: superhf_loss(
        Logits(prior), Logits(policy), label, coefficient=2.0, divergence=name
    )[0][0]
    forward = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    reverse = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    np.testing.assert_allclose(value("forward_kl"), np.log(4) + 2 * forward, 1e-12)
    np.testing.assert_allclose(value("reverse_kl"), np.log(4) + 2 * reverse, 1e-12)
    assert abs(forward - reverse) > 0.01


def test_hidden_states_and_heads_give_the_same():
    states = RNG.normal(size=(2, B, T, 3)).astype(np.float32)
    heads = RNG.normal(size=(2, 3, V)).astype(np.float32)
    sides = [Hidden(*pair) for pair in zip(states, heads)]
    dense = [Logits(x @ w) for x, w in zip(states, heads)]
    options = {"coefficient": 0.35, "weights": WEIGHTS}
    fused, _ = superhf_loss(*sides, LABELS, **options)
    np.testing.assert_allclose(
        fused, superhf_loss(*dense, LABELS, **options)[0], rtol=1e-5
    )


def test_the_best_are_kept():
    rewards = np.array([[0.0, 2.0, 1.0], [5.0, 5.0, -1.0]])
    ids = np.arange(12).reshape(2, 3, 2)
    kept, found = jax.jit(best, static_argnames="keep")(
        rewards, {"ids": ids, "number": ids[..., 0]}, keep=2
    )
    assert kept["ids"].tolist() == [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]
    assert kept["number"].tolist() == [[2, 4], [6, 8]]
    assert found.tolist() == [[2, 1], [5, 5]]
    with pytest.raises(ValueError, match="a row for each reward"):
        best(rewards, ids[:, :2])
    with pytest.raises(ValueError, match="keep must be"):
        best(rewards, ids, keep=4)
    with pytest.raises(ValueError, match="coefficient must be at least 0"):
        superhf_loss(Logits(PRIOR), Logits(POLICY), LABELS, coefficient=-1.0)
