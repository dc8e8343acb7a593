"""Any model with `init_cache` and `step` decodes through the same loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference

from kljax.decoding import Decoding, Sampling, generate, speculate
from kljax.models.attention import write
from kljax.models.language.cache import Cache
from kljax.models.language.transformer import TransformerConfig, transformer

V, D, SOURCE, NEW = 23, 16, 6, 10
LENGTHS = np.array([3, 1, 2])
WHERE = np.arange(3) >= 3 - LENGTHS[:, None]
GREEDY = Sampling(temperature=0)


def attend(xp, q, keys, values, visible):
    """One head of attention, in NumPy's or JAX's functions."""
    scores = xp.where(visible, xp.einsum("btd,bsd->bts", q, keys), -np.inf)
    weights = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return xp.einsum("bts,bsd->btd", weights, values)


@dataclasses.dataclass(frozen=True)
class Translator:
    """A decoder of one layer that looks at an encoded source, kept as memory."""

    def init_cache(self, batch, slots, dtype):
        return Cache.empty(1, (batch, 1, slots, D), dtype)

    def encode(self, params, source, known):
        x = params["source"][source]
        x = x + attend(jnp, x, x, x, known[:, None])
        return x @ params["far_key"], x @ params["far_value"], known

    def step(self, params, inputs, cache, *, where=None):
        where = jnp.ones(inputs.shape, bool) if where is None else where
        start = cache.cursor
        visible, positions, cache = cache.advance(where)
        x = params["table"][inputs] + params["places"][positions]
        keys, values = (
            write(old[0], (x @ params[name])[:, None], start, axis=2)
            for old, name in ((cache.keys, "key"), (cache.values, "value"))
        )
        x = x + attend(jnp, x @ params["query"], keys[:, 0], values[:, 0], visible)
        far_keys, far_values, known = cache.memory
        far = attend(jnp, x @ params["ask"], far_keys, far_values, known[:, None])
        cache = dataclasses.replace(cache, keys=(keys,), values=(values,))
        return (x + far) @ params["head"], cache


def drawn(seed):
    rng = np.random.default_rng(seed)
    shapes = {"source": (V, D), "table": (V, D), "places": (64, D), "head": (D, V)}
    names = ("key", "value", "query", "ask", "far_key", "far_value")
    shapes |= dict.fromkeys(names, (D, D))
    draw = lambda shape: np.float32(0.4 * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in shapes.items()}


def plain(params, source, known, tokens):
    """Logits behind the last of one row's tokens, all read at once, in float64."""
    p = {name: np.float64(leaf) for name, leaf in params.items()}
    x = p["source"][source][None]
    x = x + attend(np, x, x, x, known[None, None])
    y = (p["table"][tokens] + p["places"][: len(tokens)])[None]
    causal = np.tri(len(tokens), dtype=bool)[None]
    y = y + attend(np, y @ p["query"], y @ p["key"], y @ p["value"], causal)
    far = x @ p["far_key"], x @ p["far_value"], known[None, None]
    return ((y + attend(np, y @ p["ask"], *far)) @ p["head"])[0, -1]


RNG = np.random.default_rng(0)
TEXT = RNG.integers(0, V, (3, SOURCE))
KNOWN = np.arange(SOURCE) < np.array([6, 2, 4])[:, None]
PROMPT = RNG.integers(0, V, (3, 3))
MODEL = Translator()


def started(params):
    """A cache that holds nothing but the encoded source."""
    memory = jax.jit(MODEL.encode)(params, TEXT, KNOWN)
    cache = MODEL.init_cache(3, 1, jnp.float32)
    return dataclasses.replace(cache, memory=memory)


def test_an_encoder_decoder_writes_what_a_plain_loop_writes():
    params = drawn(1)
    cache, settings = started(params), Decoding(NEW, GREEDY)
    options = {"where": WHERE, "caches": [cache]}
    found = generate([(MODEL, params)], PROMPT, settings, **options)
    for i in range(3):
        tokens = list(PROMPT[i, 3 - LENGTHS[i] :])
        for n in range(NEW):
            z = plain(params, TEXT[i], KNOWN[i], tokens)
            tokens.append(int(z.argmax()))
            assert tokens[-1] == int(found.tokens[i, n])
            log_p = z.max() - np.log(np.exp(z).sum())
            np.testing.assert_allclose(found.log_probabilities[i, n], log_p, atol=1e-5)
    assert len({tuple(row) for row in np.asarray(found.tokens)}) == 3
    # The caches that are given are not used up, and small models draft for large ones.
    small = jax.tree.map(lambda x, y: x + 0.3 * y, params, drawn(2))
    settings = Decoding(NEW, GREEDY, combine=first)
    options["caches"] = [cache, started(small)]
    pair = [(MODEL, params), (MODEL, small)]
    block = speculate(pair, PROMPT, settings, drafter=1, draft=2, **options)
    np.testing.assert_array_equal(block.tokens, found.tokens)
    assert 0 < int(block.accepted.sum())


def first(logits):
    return logits[0], {}


def test_vectors_are_read_before_the_text():
    """A cache that begins with embeddings = a prompt that begins with their ids."""
    config = TransformerConfig(97, width=16, depth=1, heads=2, max_length=40)
    apply, initial = transformer(config)
    params = reference.draw(initial)
    ids = np.random.default_rng(1).integers(0, 97, (2, 9))
    settings, models = Decoding(6, GREEDY), [(apply, params)]
    whole = generate(models, ids, settings)
    vectors = params["head"]["kernel"].T[ids[:, :5]]
    cache = apply.init_cache(2, 5)
    _, cache = jax.jit(apply.step)(params, vectors, cache)
    found = generate(models, ids[:, 5:], settings, caches=[cache])
    np.testing.assert_array_equal(found.tokens, whole.tokens)
    close = np.testing.assert_allclose
    close(found.log_probabilities, whole.log_probabilities, atol=1e-5)
    with pytest.raises(ValueError, match="9 tokens and max_new_tokens is 32; model 0"):
        generate(models, ids[:, 5:], Decoding(32, GREEDY), caches=[cache])
