"""Bounds on generalization and the Gibbs algorithm against enumeration."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import special

from kljax.theory import generalization as bounds
from kljax.theory import sdpi

CHANCE, N = np.array([0.3, 0.7]), 8
HYPOTHESES = np.linspace(0, 1, 5)
LOSS = np.abs(HYPOTHESES[:, None] - np.arange(2))  # in [0, 1]
PRIOR = np.full(5, 0.2)


gibbs = jax.jit(bounds.gibbs, static_argnums=3)


def enumerated(prior, loss, chance, n, gamma):
    """Gap, risk, I and lautum information over all sequences of n outcomes."""
    laws, weights, gaps, risks = [], [], [], []
    for data in itertools.product(range(len(chance)), repeat=n):
        seen = loss[:, list(data)].mean(axis=1)
        law = prior * np.exp(-gamma * seen)
        laws.append(law / law.sum())
        weights.append(np.prod(chance[list(data)]))
        risks.append(laws[-1] @ (loss @ chance))
        gaps.append(risks[-1] - laws[-1] @ seen)
    laws, weights = np.array(laws), np.array(weights)
    alone = weights @ laws
    both = special.rel_entr(laws, alone), special.rel_entr(alone, laws)
    parts = [weights @ x.sum(axis=1) for x in both]
    return weights @ np.array(gaps), weights @ np.array(risks), *parts


def test_the_gibbs_algorithm_is_that_of_enumeration(x64):
    gammas = np.array([0.5, 3.0, 40.0])
    found = gibbs(np.log(PRIOR), LOSS, np.log(CHANCE), N, gammas)
    for i, gamma in enumerate(gammas):
        expected = enumerated(PRIOR, LOSS, CHANCE, N, gamma)
        np.testing.assert_allclose([x[i] for x in found], expected, rtol=1e-11)
    both = found.information + found.lautum
    np.testing.assert_allclose(found.gap, both / gammas, rtol=0, atol=1e-12)
    assert (found.gap > 0).all()
    by_information = bounds.kl_bound(found.information / N)
    by_gamma = bounds.gibbs_bound(gammas, float(N))
    assert (found.gap <= by_information).all() and (found.gap <= by_gamma).all()
    assert by_gamma[1] == 0.1875


def test_three_outcomes_one_of_them_impossible(x64):
    loss = np.random.default_rng(0).uniform(size=(3, 3))
    prior, chance = np.array([0.2, 0.3, 0.5]), np.array([0.25, 0.75, 0.0])
    with np.errstate(divide="ignore"):
        found = gibbs(np.log(prior), loss, np.log(chance), 4, 2.0)
    expected = enumerated(prior, loss, chance, 4, 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    for n, k in ((4, 3), (5, 1), (3, 4)):
        counts = bounds.samples_of(n, k)
        every = itertools.product(range(n + 1), repeat=k)
        assert counts.tolist() == [list(c) for c in every if sum(c) == n]


def test_deep_and_narrow_at_a_fixed_number_of_weights(x64):
    """Equal widths, 10,000 weights of 16 levels, as many examples."""
    depths = np.array([2.0, 4.0, 8.0, 100.0])
    found, log_eta = bounds.depth_bound(depths, 1e4, 16.0, 1e4, delta=0.9)
    eta = (1 - 0.9 ** np.sqrt(1e4 / depths)) ** depths
    np.testing.assert_allclose(np.exp(log_eta), eta, rtol=1e-9)
    np.testing.assert_allclose(found, np.sqrt(0.5 * eta * math.log(16)), rtol=1e-9)
    np.testing.assert_allclose(found, [1.1767, 1.1653, 1.0679, 5.8e-10], atol=1e-4)
    assert float(found[-1]) == pytest.approx(5.8e-10, rel=0.01)
    # Of weaker dropout nothing is left from 35 units on.
    for delta in (0.3, 0.5):
        passed = 8 * sdpi.log_eta_dropout(delta, 35.0)
        gain = bounds.grid_bound(1e4, 16, 1e4) - bounds.grid_bound(
            1e4, 16, 1e4, log_eta=passed
        )
        assert 0 <= float(gain) < 1e-9


def test_labels_are_not_contracted(x64):
    """W is the first pair's label, or its input, behind dropout of one coordinate.

    The joint law of (T, Y, W) is enumerated: KL of (T, Y) given W from its marginal.
    """
    delta, log = 0.4, lambda x: np.log(np.maximum(x, 1e-300))
    outputs = np.array([[1 - delta, delta, 0], [0, delta, 1 - delta]])  # of x = ∓1
    joint = np.array([[0.4, 0.1], [0.2, 0.3]])  # [x, y]
    for told in ("label", "input"):
        own = np.eye(2)[:, None, :] if told == "input" else np.eye(2)[None]
        law = joint[..., None] * own  # [x, y, w]
        behind = np.einsum("xyw,xt->tyw", law, outputs)
        alone = behind.sum(-1, keepdims=True) * behind.sum((0, 1))
        kl = (behind * (log(behind) - log(alone))).sum()
        y = law.sum(0)
        labels = (y * (log(y) - log(y.sum(1, keepdims=True) * y.sum(0)))).sum()
        given = law.sum(-1, keepdims=True) * y / y.sum(-1, keepdims=True)
        inputs = (law * (log(law) - log(given))).sum()
        eta = sdpi.log_eta_dropout(delta, 1)
        bound = float(bounds.contracted_kl(labels, inputs, eta))
        assert 0 < kl <= bound + 1e-12
        if told == "label":
            assert inputs == pytest.approx(0, abs=1e-12) and kl == pytest.approx(bound)


def test_the_wasserstein_bound_never_rises_with_the_layer():
    """Of maps of known norm, W_1 exactly by sorting: one dimension throughout."""
    rng = np.random.default_rng(0)
    p, q = np.sort(rng.normal(size=(2, 50))), np.sort(rng.normal(1, 2, size=(2, 50)))
    norms = np.exp(rng.normal(size=6))
    w1 = [np.abs(p - q).mean()]
    for norm in norms:
        p, q = (np.sort(norm * np.tanh(x)) for x in (p, q))
        w1.append(np.abs(p - q).mean())
    found = np.asarray(bounds.wasserstein_bound(w1, norms, lipschitz=2.0))
    behind = [np.prod(norms[i:]) for i in range(7)]
    np.testing.assert_allclose(bounds.norms_behind(norms), behind, rtol=1e-6)
    np.testing.assert_allclose(found, 2 * np.array(behind) * w1, rtol=1e-5)
    assert (np.diff(found) <= 1e-6).all()
    # With labels that move it may rise on the way, and is least at the output.
    moving = np.asarray(bounds.wasserstein_bound(w1, norms, labels_move=True))
    np.testing.assert_allclose(moving, np.maximum(behind, 1) * w1, rtol=1e-5)
    assert (moving[-1] <= moving * (1 + 1e-6)).all()
    bulging = bounds.wasserstein_bound([1.0, 4.0, 0.4], [4.0, 0.1], labels_move=True)
    np.testing.assert_allclose(bulging, [1.0, 4.0, 0.4])


def test_batches_are_rows(x64):
    kl = np.array([[0.0, 0.5], [2.0, 8.0]])
    np.testing.assert_allclose(bounds.kl_bound(kl), np.sqrt(kl / 2))
    np.testing.assert_allclose(bounds.kl_bound(kl, [[1.0], [2.0]])[1], [4.0, 8.0])
    norms = np.random.default_rng(0).uniform(0.5, 2, (3, 4))
    for one, row in zip(norms, np.asarray(bounds.norms_behind(norms))):
        np.testing.assert_allclose(row, bounds.norms_behind(one))


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="kl must be at least 0, got -1"):
        bounds.kl_bound(-1.0)
    with pytest.raises(ValueError, match="norms must be at least 0, got -2"):
        bounds.norms_behind([1.0, -2.0])
    with pytest.raises(ValueError, match="expected those of layers 1 to L"):
        bounds.wasserstein_bound([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="levels must be positive, got 0"):
        bounds.grid_bound(10, 0, 10)
    with pytest.raises(ValueError, match=r"expected \[k, z\], \[k\] and \[z\]"):
        bounds.gibbs(np.log(PRIOR), LOSS.T, np.log(CHANCE), 2, 1.0)
    with pytest.raises(ValueError, match="gamma must be positive, got 0"):
        bounds.gibbs(np.log(PRIOR), LOSS, np.log(CHANCE), 2, 0.0)
    with pytest.raises(ValueError, match="at most 200000 are looked at"):
        bounds.samples_of(100, 6)
