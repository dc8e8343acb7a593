"""Measures of tokens against their definitions in float64."""

import jax
import numpy as np
import references

from kljax.metrics import token_measures

DISTANCES = ("forward_kl", "reverse_kl", "jensen_shannon", "skew_forward_kl")


def measure(p, q, labels):
    return token_measures(labels, q, p_logits=p, distances=DISTANCES)


def test_measures_by_definition():
    random = np.random.default_rng(2)
    p, q = random.normal(size=(2, 3, 5, 9)) * 2
    labels = random.integers(0, 9, (3, 5))
    found = jax.jit(measure)(p, q, labels)
    assert set(found) == {
        *("nats", "entropy", "agreement", "accuracy", "confidence"),
        *DISTANCES,
    }
    a, b = references.softmax(p), references.softmax(q)
    want = {name: references.VALUES[name](a, b) for name in DISTANCES}
    want |= {
        "nats": -np.log(np.take_along_axis(b, labels[..., None], -1)[..., 0]),
        "entropy": -(b * np.log(b)).sum(-1),
        "agreement": a.argmax(-1) == b.argmax(-1),
        "accuracy": b.argmax(-1) == labels,
        "confidence": b.max(-1),
    }
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6)
