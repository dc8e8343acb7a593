"""The one attention against float64 NumPy, a head and a token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from transformer_reference import softmax

from kljax.models.attention import attend, causal, nearest

RNG = np.random.default_rng(0)
B, T, HEADS, SHARED, SIZE = 2, 5, 4, 2, 3


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def by_hand(query, key, value, visible, bias):
    out = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        k = h // (query.shape[2] // key.shape[1])
        scores = key[b, k] @ query[b, t, h] / np.sqrt(query.shape[-1]) + bias[h, t]
        out[b, t, h] = softmax(scores[visible[b, t]]) @ value[b, k][visible[b, t]]
    return out


def test_all_masks_windows_and_biases_are_one_attention():
    query, bias = draw(B, T, HEADS, SIZE), draw(HEADS, T, T)
    key, value = draw(B, SHARED, T, SIZE), draw(B, SHARED, T, SIZE)
    where = np.array([[True] * 5, [False, True, True, False, True]])
    every, none = np.ones((B, T, T), bool), np.zeros_like(bias)

    @jax.jit
    def run(query, key, value, bias):
        seen, _ = causal(T, jnp.asarray(where))
        seen = nearest(seen, 2)
        last = (query[:1, -1:], key[:1], value[:1])  # one row has a form of its own
        return (
            (attend(query, key, value), attend(query, key, value, seen, bias)),
            (attend(*last), attend(*last, seen[:1, -1:], bias[:, -1:])),
            seen,
        )

    (plain, full), (one, own), seen = run(query, key, value, bias)
    read = np.asarray(seen).any(-1)
    exact = [np.float64(x) for x in (query, key, value)]
    expected = by_hand(*exact, every, none)
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    np.testing.assert_allclose(one[0, 0], expected[0, -1], atol=1e-6)
    assert (np.asarray(seen).sum(-1) <= 2).all()
    seen = np.where(read[..., None], seen, True)
    expected = by_hand(*exact, seen, np.float64(bias))
    np.testing.assert_allclose(np.asarray(full)[read], expected[read], atol=1e-6)
    np.testing.assert_allclose(own[0, 0], expected[0, -1], atol=1e-6)
