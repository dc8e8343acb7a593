"""The balance loss against a transcription in NumPy."""

import jax
import numpy as np
import pytest

from kljax.objectives.balance import balance_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 40, 5)).astype(np.float32)  # layers, tokens, experts
CHOSEN = 2


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def shares(logits):
    """What `Routing` holds: by the definitions, a layer and a token at a time."""
    load = np.zeros((len(logits), logits.shape[-1]))
    for layer, rows in enumerate(logits):
        for row in rows:
            for expert in np.argsort(-row)[:CHOSEN]:
                load[layer, expert] += 1 / len(rows)
    return load, softmax(np.float64(logits)).mean(axis=1)


def test_it_is_the_published_one():
    load, probability = shares(LOGITS)
    loss, metrics = balance_loss(np.float32(load), np.float32(probability))
    # Mixtral: over the tokens of all layers together.
    tokens = LOGITS.reshape(-1, 5)
    f, p = (x[0] for x in shares(tokens[None]))
    assert float(loss) == pytest.approx(5 * sum(f[i] * p[i] for i in range(5)), 1e-6)
    assert float(metrics["router/largest_load"]) == pytest.approx(
        load.max() / (CHOSEN / 5), rel=1e-6
    )


def test_one_layer_is_switch_and_its_gradient_that_of_the_probabilities():
    load, probability = (np.float32(x[0]) for x in shares(LOGITS))
    value, (to_load, to_p) = jax.value_and_grad(
        lambda *x: balance_loss(*x)[0], argnums=(0, 1)
    )(load, probability)
    assert float(value) == pytest.approx(5 * float(load @ probability), rel=1e-6)
    np.testing.assert_allclose(to_p, 5 * load, rtol=1e-6)
    np.testing.assert_allclose(to_load, 5 * probability, rtol=1e-6)
    with pytest.raises(ValueError, match=r"load has shape \(5,\) and probability \(4"):
        balance_loss(load, probability[:4])
