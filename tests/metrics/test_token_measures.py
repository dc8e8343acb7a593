"""Measures of tokens against their definitions in float64."""

import jax
import numpy as np
import references

from kljax.metrics import exact_match, token_measures

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


def test_an_answer_is_exact_when_every_token_is_the_first_choice():
    random = np.random.default_rng(4)
    q = np.float32(random.normal(size=(6, 4, 9)))
    labels = q.argmax(-1)
    labels[1, 2] = (labels[1, 2] + 1) % 9  # one wrong token, and one that is not asked
    labels[2, 3] = (labels[2, 3] + 1) % 9
    where = np.arange(4) < np.array([4, 4, 3, 1, 4, 2])[:, None]
    found = jax.jit(exact_match)(labels, q, where=where)
    assert found.exact.tolist() == [True, False, True, True, True, True]
    log_q = np.log(np.take_along_axis(references.softmax(q), labels[..., None], -1))
    for i, n in enumerate(where.sum(axis=1)):
        np.testing.assert_allclose(found.nats[i], -log_q[i, :n].mean(), rtol=1e-5)
