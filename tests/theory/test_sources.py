"""Sources of known entropy against expectations of the Dirichlet law and quadrature."""

import numpy as np
import pytest
from scipy import special, stats

from kljax.theory.sources import (
    Contexts,
    markov_contexts,
    quantized_information,
    zipf_contexts,
)


def test_a_zipf_law_of_contexts():
    source = zipf_contexts(np.random.default_rng(0), 0.5, 20_000, 16)
    np.testing.assert_allclose(source.p[3] / source.p[0], 4**-1.5)
    np.testing.assert_allclose(source.law.sum(axis=1), 1)
    # The mean entropy of Dirichlet(1/2) laws.
    expected = special.psi(9) - special.psi(1.5)
    assert source.entropies.mean() == pytest.approx(expected, abs=0.01)
    rows = stats.entropy(source.law, axis=1)
    assert source.entropy == pytest.approx(source.p @ rows)
    q = np.random.default_rng(1).dirichlet(np.ones(16), 20_000)
    kl = source.p @ stats.entropy(source.law, q, axis=1)
    assert source.loss(q) - source.entropy == pytest.approx(kl)


def test_counts_tell_what_their_samples_do():
    """Against counting one by one; and with many samples nothing is left to know."""
    samples = np.array([10, 200, 100_000])
    source = Contexts(np.array([0.7, 0.3]), np.array([[0.2, 0.8, 0], [0.5, 0.1, 0.4]]))
    found = source.counted(np.random.default_rng(3), samples)
    seen, symbol = source.sample(np.random.default_rng(3), samples[-1])
    for count, loss in zip(samples, found):
        table = np.full((2, 3), 0.5)
        np.add.at(table, (seen[:count], symbol[:count]), 1)
        assert loss == pytest.approx(source.loss(table / table.sum(1, keepdims=True)))
    assert 0 < found[-1] - source.entropy < 1e-3 < found[1] - source.entropy
    frequency = np.bincount(seen * 3 + symbol, minlength=6) / samples[-1]
    np.testing.assert_allclose(
        frequency, (source.p[:, None] * source.law).ravel(), atol=0.006
    )


def test_a_markov_source_is_stationary():
    source = markov_contexts(np.random.default_rng(4), 5)
    p, law = source.p.reshape(5, 5), source.law.reshape(5, 5, 5)
    np.testing.assert_allclose(np.einsum("ab,abc->bc", p, law), p, atol=1e-12)
    assert p.sum() == pytest.approx(1)


def test_information_of_levels():
    # Of signs: they agree with probability 1/2 + asin(c) / pi.
    same = 0.5 + np.arcsin(0.6) / np.pi
    expected = np.log(2) - stats.entropy([same, 1 - same])
    assert quantized_information(0.6, 2) == pytest.approx(expected, abs=1e-5)
    fine, whole = quantized_information(0.8, 40), -np.log(1 - 0.64) / 2
    assert whole * 0.98 < fine < whole
    assert quantized_information(0.0, 4) == pytest.approx(0, abs=1e-6)


def test_what_is_wrong_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="exponent is 0"):
        zipf_contexts(rng, 0, 10, 4)
    with pytest.raises(ValueError, match="correlation is 1"):
        quantized_information(1, 4)
    with pytest.raises(ValueError, match="symbols must be at least 2"):
        markov_contexts(rng, 1)
