"""The language model against float64 NumPy: full, cached, padded, taken back."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference

from kljax.models.language.transformer import Rope, TransformerConfig, transformer
from kljax.models.layers import looked_up

SIZES = {"vocab_size": 97, "width": 32, "depth": 2, "heads": 4, "max_length": 64}
CASES = {
    "llama": {"kv_heads": 2, "hidden": 48, "rope": Rope(base=500.0)},
    "gpt2": {
        "norm": "layer",
        "mlp": "plain",
        "activation": "gelu_tanh",
        "rope": None,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    "qwen3": {
        "head_dim": 12,
        "kv_heads": 1,
        "qk_norm": True,
        "tied": False,
        "qkv_bias": True,
        "head_bias": True,
        "soft_cap": 3.0,
        "activation": "gelu",
    },
    "mixture": {
        "experts": 4,
        "experts_per_token": 2,
        "expert_hidden": 24,
        "moe_layers": 2,
        "expert_sum": False,
    },
    "window": {"window": 3, "window_layers": (1,), "rope": Rope(base=500.0)},
}
LENGTHS = np.array([9, 4, 6])
TOKENS = np.random.default_rng(0).integers(0, 97, (3, 9)).astype(np.int32)
WHERE = np.arange(9) >= 9 - LENGTHS[:, None]


class Model(NamedTuple):
    config: TransformerConfig
    apply: object
    params: dict
    expected: list  # per row [length, vocab], in float64
    step: object


@functools.cache
def model(name):
    """The case with random biases and scales too, and what NumPy says of its rows."""
    config = TransformerConfig(**SIZES, **CASES[name])
    apply, initial = transformer(config)
    params = reference.draw(initial)
    exact = jax.tree.map(np.float64, params)
    expected = [
        reference.logits(config, exact, row[9 - n :])
        for row, n in zip(TOKENS, LENGTHS, strict=True)
    ]
    step = jax.jit(lambda p, t, w, c: apply(p, t, w, cache=c))
    return Model(config, apply, params, expected, step)


def check(found, expected, bound=1e-5):
    """Within `bound` of the largest |logit|."""
    worst = np.abs(np.asarray(found) - expected).max()
    assert worst <= bound * np.abs(expected).max(), worst


@pytest.mark.parametrize("name", CASES)
def test_left_padded_rows_equal_numpy_on_each_row_alone(name):
    m = model(name)
    found = jax.jit(m.apply)(m.params, TOKENS, WHERE)
    assert found.dtype == jnp.float32
    for row, n, expected in zip(found, LENGTHS, m.expected, strict=True):
        check(row[9 - n :], expected)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", CASES)
def test_cached_blocks_equal_numpy(name):
    """Three blocks of three with left padding; a block may be padding alone."""
    m = model(name)
    cache, found = m.apply.init_cache(3, 12), []
    for i in range(0, 9, 3):
        block = slice(i, i + 3)
        logits, cache = m.step(m.params, TOKENS[:, block], WHERE[:, block], cache)
        found.append(logits)
    found = np.concatenate(found, axis=1)
    for row, n, expected in zip(found, LENGTHS, m.expected, strict=True):
        check(row[9 - n :], expected)
    assert int(cache.cursor) == 9
    np.testing.assert_array_equal(cache.next_position, LENGTHS)
    np.testing.assert_array_equal(cache.valid[:, :9], WHERE)
    assert not cache.valid[:, 9:].any()


@pytest.mark.parametrize("name", ["llama", "qwen3", "window"])
def test_one_token_of_one_row_at_a_time(name):
    """The step of one row has an attention of its own."""
    m = model(name)
    cache, found = m.apply.init_cache(1, 16), []
    for token in TOKENS[0]:
        logits, cache = m.step(m.params, token[None, None], None, cache)
        found.append(logits[0, 0])
    check(np.stack(found), m.expected[0])


def test_vectors_stand_where_those_of_ids_would():
    """A step on embeddings: learned positions are added, what is masked is not read."""
    m = model("gpt2")
    vectors = m.params["head"]["kernel"].T[TOKENS]
    vectors = np.where(WHERE[..., None], vectors, np.nan)
    cache = m.apply.init_cache(3, 9)
    found, cache = jax.jit(m.apply.step)(m.params, vectors, cache, where=WHERE)
    for row, n, expected in zip(found, LENGTHS, m.expected, strict=True):
        check(row[9 - n :], expected)
    assert cache.limit == 64 and cache.memory is None
    with pytest.raises(ValueError, match=r"floats of shape \[b, t, 32\]"):
        m.apply.step(m.params, vectors[..., :5], cache)


def test_rejected_tokens_are_forgotten():
    """`keep` after a block of drafts = a cache that never saw the rejected ones."""
    m = model("llama")
    rng = np.random.default_rng(2)
    cache = m.apply.init_cache(3, 12)
    none = np.ones((3, 3), bool)
    _, cache = m.step(m.params, TOKENS[:, :3], none, cache)
    drafts = rng.integers(0, 97, (3, 3)).astype(np.int32)
    _, cache = m.step(m.params, drafts, none, cache)
    counts = np.array([2, 0, 1])
    kept = jax.jit(lambda c, n: c.keep(n, 3))(cache, counts)
    assert int(kept.cursor) == 5, "the longest kept row says where to go on"
    np.testing.assert_array_equal(kept.next_position, 3 + counts)
    found, after = m.step(m.params, TOKENS[:, 3:6], none, kept)
    exact = jax.tree.map(np.float64, m.params)
    for i, n in enumerate(counts):
        row = np.concatenate([TOKENS[i, :3], drafts[i, :n], TOKENS[i, 3:6]])
        check(found[i], reference.logits(m.config, exact, row)[-3:])
    all_kept = cache.keep(jnp.full(3, 3), 3)
    for a, b in zip(jax.tree.leaves(all_kept), jax.tree.leaves(cache), strict=True):
        np.testing.assert_array_equal(a, b)
    grown = after.grow(20)
    assert (grown.slots, int(grown.cursor)) == (20, 8)
    np.testing.assert_array_equal(grown.valid[:, :12], after.valid)
    assert not grown.valid[:, 12:].any()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_masked_may_hold_any_id(name):
    """Values and gradients, bit for bit; a counted id out of range shows in both."""
    m = model(name)
    rng = np.random.default_rng(3)
    ends = [-100, -1, 97, 98, 2**31 - 1, -(2**31)]
    weights = rng.normal(size=(*TOKENS.shape, 97)).astype(np.float32)

    @jax.jit
    def run(params, tokens):
        def loss(params):
            logits = m.apply(params, tokens, WHERE)
            return jnp.sum(jnp.where(WHERE[..., None], logits * weights, 0)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    want = run(m.params, TOKENS)
    assert np.isfinite(want[0][0])
    for end in ends:
        tokens = np.where(WHERE, TOKENS, rng.permutation([*ends, end, end, end]))
        found = run(m.params, tokens.astype(np.int32))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)
        tokens[2, 7] = end
        (value, logits), grads = run(m.params, tokens.astype(np.int32))
        assert np.isnan(value) and np.isnan(logits[2, 7:]).all()
        np.testing.assert_array_equal(logits[:2], want[0][1][:2])
        assert np.isnan(grads["head"]["kernel"]).any()
        assert np.isnan(grads["layers"][0]["mlp"]["up"]["kernel"]).all()


def test_ids_that_are_known_are_looked_at():
    """What a program does not draw is refused if it counts, and else it is not."""
    m = model("gpt2")

    def shape(*call):
        return jax.eval_shape(lambda params: m.apply(params, *call), m.params).shape

    for wrong in (-1, -100, 97, 2**31 - 1, 2**32 + 5):  # the last wraps to 5
        tokens = np.array([[3, wrong, 4]])
        with pytest.raises(ValueError, match=rf"tokens\[0, 1\] is {wrong}.* has 97"):
            shape(tokens)
        assert shape(tokens, np.array([[True, False, True]])) == (1, 3, 97)
    with pytest.raises(ValueError, match=r"positions\[0, 2\] is 64.* has 64"):
        shape(TOKENS[:1, :3], None, np.array([[0, 1, 64]]))
    assert np.isnan(looked_up(jnp.ones((4, 2)), jnp.array([[-1, 4]]), 0)).all()
    assert np.isfinite(looked_up(jnp.ones((4, 2)), jnp.array([[0, 1]]), 1)).all()


BAD_CONFIGS = {
    "kv_heads is 3; it must divide heads, 4": {"kv_heads": 3},
    "head_dim is 7; rotary": {"head_dim": 7},
    "depth must be at least 1, got 0": {"depth": 0},
    "norm is 'batch'; expected one of": {"norm": "batch"},
    "activation is 'tanh'": {"activation": "tanh"},
    "mlp is 'deep'": {"mlp": "deep"},
    "soft_cap is -1": {"soft_cap": -1.0},
    "window must be at least 1, got 0": {"window": 0},
    "window_layers is .2,.; expected layers below 2": {
        "window": 4,
        "window_layers": (2,),
    },
    "depth, and a window": {"window_layers": (1,)},
    "experts_per_token is 0; expected 1 to 4": {"experts": 4},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_bad_configurations(message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**SIZES, **BAD_CONFIGS[message]})


def test_bad_rotations():
    with pytest.raises(ValueError, match="scaling is 'ntk'; expected None or one of"):
        Rope(scaling="ntk")
    with pytest.raises(ValueError, match=r"factor is 0\.5"):
        Rope(scaling="linear", factor=0.5)
    with pytest.raises(ValueError, match="0 < low < high"):
        Rope(scaling="llama3", low_frequency_factor=4.0)
    with pytest.raises(ValueError, match="goes with scaling 'factors'"):
        Rope(factors=(1.0, 2.0))
    with pytest.raises(ValueError, match="must be positive"):
        Rope(scaling="factors", factors=(1.0, float("nan")))
    with pytest.raises(ValueError, match="2 factors; a head of 8 numbers needs 4"):
        Rope(scaling="factors", factors=(1.0, 2.0)).frequencies(8)


def test_bad_calls():
    """Wrong shapes, an overlong block, a cache of another model: named when traced."""
    m = model("llama")
    tokens = jnp.ones((2, 5), int)
    cache = m.apply.init_cache(2, 4)
    shallow = transformer(TransformerConfig(**{**SIZES, "depth": 1}))[0]
    bad = {
        r"tokens has shape \(5,\)": {"tokens": tokens[0]},
        "dtype float32; expected integers": {"tokens": jnp.ones((2, 5))},
        r"shape \(2, 0\); expected a token": {"tokens": tokens[:, :0]},
        r"where has shape \(2, 4\)": {"where": tokens[:, :4] > 0},
        r"positions has shape \(5,\)": {"positions": jnp.arange(5)},
        "longer than the context of 64": {"tokens": jnp.ones((1, 65), int)},
        "5 tokens and 2 rows does not fit a cache of 4 slots": {"cache": cache},
        "cache has 1 layers and the model 2": {"cache": shallow.init_cache(2, 8)},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(m.apply, m.params, **{"tokens": tokens, **change})
    with pytest.raises(TypeError, match="tokens is a list; expected an array"):
        m.apply(m.params, tokens.tolist())
    _, _, taken = cache.advance(jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"2 tokens does not fit .* which 3 are taken"):
        taken.advance(jnp.ones((2, 2), bool))
    with pytest.raises(ValueError, match="block is 5; expected 1 to 4"):
        cache.keep(jnp.zeros(2, int), 5)
    with pytest.raises(ValueError, match="counts has shape"):
        cache.keep(jnp.zeros(3, int), 2)
    with pytest.raises(ValueError, match="slots is 3; the cache has 4"):
        cache.grow(3)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        m.apply.init_cache(0, 4)
