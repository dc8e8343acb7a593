"""References of several models: laws that sum to 1, and soups that come near them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from kljax.models.language.task_arithmetic import soup
from kljax.objectives.policy.references import (
    arithmetic_reference,
    geometric_reference,
)

RNG = np.random.default_rng(0)
TABLES = RNG.normal(size=(2, 1 + 3 + 9, 3))
TABLES -= np.log(np.exp(TABLES).sum(-1, keepdims=True))  # two models, after any prefix
TOKENS = np.array([*itertools.product(range(3), repeat=3)])
ROWS = np.stack([0 * TOKENS[:, 0], 1 + TOKENS[:, 0], 4 + TOKENS[:, :2] @ [3, 1]], 1)
EACH = np.moveaxis(TABLES[:, ROWS, TOKENS], 0, -1)  # [27, 3, 2]


def test_a_mixture_of_laws_is_told_token_by_token():
    weights = np.array([0.3, 0.7])
    found = np.asarray(jax.jit(arithmetic_reference)(EACH, weights))
    laws = np.exp(EACH.sum(1))
    np.testing.assert_allclose(np.exp(found.sum(1)), laws @ weights, rtol=1e-12)
    # What is told of a token depends on no later one.
    first = found.reshape(3, 9, 3)[:, :, 0]
    np.testing.assert_allclose(first, first[:, :1] * np.ones(9), rtol=1e-12)
    np.testing.assert_allclose(np.exp(first[:, 0]).sum(), 1, rtol=1e-12)


def test_a_mixture_is_exact_where_models_refuse_and_at_any_length():
    refused, of = EACH.copy(), jax.jit(arithmetic_reference)
    refused[:, 1, 0] = -np.inf
    found = np.asarray(of(refused))
    want = np.exp(refused.sum(1)).mean(1)
    np.testing.assert_allclose(np.exp(found.sum(1)), want, rtol=1e-12)
    refused[:, 0] = -np.inf
    assert (np.asarray(of(refused)) == -np.inf).all()
    long = np.tile(EACH[:1].astype(np.float32), (1, 1000, 1))
    exact = np.log(np.exp(np.cumsum(np.float64(long), 1)).mean(-1)[:, :100])
    found = np.asarray(of(jnp.asarray(long)))
    assert found.dtype == np.float32 and np.isfinite(found).all()
    steps = np.diff(exact, axis=1, prepend=0)
    np.testing.assert_allclose(found[:, :100], steps, rtol=2e-5)


def test_a_product_is_normalized_after_every_prefix():
    weights = np.array([0.25, 0.75])
    logits = np.moveaxis(TABLES[:, ROWS], 0, -1) + RNG.normal(size=2)
    found = jax.jit(geometric_reference)(logits, TOKENS, weights)
    table = np.tensordot(weights, TABLES, 1)
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, table[ROWS, TOKENS], rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.sum(1)).sum(), 1, rtol=1e-12)


def test_a_soup_comes_to_the_geometric_mixture(x64):
    """S2 of SALSA: their KL falls with the fourth power of the models' distance."""
    sizes = {"into": (3, 8), "out": (8, 5)}
    base, one, two = ({k: RNG.normal(size=x) for k, x in sizes.items()} for _ in "123")
    x = RNG.normal(size=(16, 3))

    def logits(params):
        return np.tanh(x @ params["into"]) @ params["out"]

    def kl(a, b):
        a, b = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (a, b))
        return (np.exp(a) * (a - b)).sum(-1).mean()

    found = []
    for scale in 0.2 * 0.5 ** np.arange(7):
        near = [{k: base[k] + scale * end[k] for k in base} for end in (one, two)]
        mixed = jax.tree.map(np.asarray, soup(near))
        laws = np.stack([logits(end) for end in near], axis=-1)
        tokens = np.repeat(np.arange(5)[None], 16, axis=0)
        log_p = geometric_reference(np.repeat(laws[:, None], 5, axis=1), tokens)
        found.append(
            (kl(logits(mixed), np.asarray(log_p)), kl(*np.moveaxis(laws, -1, 0)))
        )
    slopes = np.log2(np.array(found)[:-1] / np.array(found)[1:])
    assert (abs(slopes[:, 0] - 4) < 0.3).all() and (abs(slopes[:, 1] - 2) < 0.3).all()
