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
    """In mean what enumeration says; with many samples the entropy."""
    source = Contexts(np.array([0.7, 0.3]), np.array([[0.2, 0.8, 0], [0.5, 0.1, 0.4]]))
    rng, count = np.random.default_rng(2), 5
    found = source.counted(rng, np.full(4000, count))
    n, tables = np.arange(count + 1), {}
    for k, law in enumerate(source.law):
        for visits in n:
            every = [(i, j, visits - i - j) for i in n for j in n if i + j <= visits]
            q = (np.array(every) + 0.5) / (visits + 1.5)
            mass = stats.multinomial(visits, law).pmf(every)
            tables[k, visits] = -(mass @ np.log(q)) @ law
    expected = sum(
        p * (stats.binom(count, p).pmf(n) @ [tables[k, visits] for visits in n])
        for k, p in enumerate(source.p)
    )
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 4000**0.5)
    left = source.counted(rng, np.array([200, 100_000])) - source.entropy
    assert 0 < left[1] < 1e-3 < left[0]


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
