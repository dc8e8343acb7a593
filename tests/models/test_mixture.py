"""Experts compute the tokens that were sent to them: counted, exact, and no others."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference

from kljax.models.functional import pure
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.mixture import Mixture

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 32, 8)).astype(np.float32)


def mixture(**changes):
    """A mixture's function and parameters with biases; the same for any capacity."""
    options = {"count": 4, "chosen": 2, "bias": True} | changes
    apply, initial = pure(
        lambda rngs: Mixture(8, 12, "gated", "silu", rngs=rngs, **options)
    )
    return apply, reference.draw(initial)


def gradient(apply, params, x, weights):
    def loss(params, x):
        out, routing = apply(params, x)
        return jnp.sum(out * weights), (out, routing)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)


def close(found, expected):
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * scale, rtol=1e-5)


def test_room_for_what_comes_is_as_good_as_all_experts_everywhere():
    """Values, statistics and gradients, in the parameters and in the tokens."""
    weights = RNG.normal(size=X.shape).astype(np.float32)
    (everywhere, params), (sent, _) = mixture(), mixture(capacity_factor=1.8)
    expected, (out, routing) = gradient(everywhere, params, X, weights)
    found, (same, counted) = gradient(sent, params, X, weights)
    assert int(counted.dropped) == 0
    close((same, counted, found), (out, routing, expected))


def test_few_tokens_read_the_chosen_experts_alone():
    """One token: values and gradients; the other experts' gradients are 0."""
    weights = np.zeros_like(X[:1, :4])
    weights[:, :1] = RNG.normal(size=8)
    apply, params = mixture(count=4, chosen=2)
    found, (out, routing) = gradient(apply, params, X[:1, :1], weights[:, :1])
    expected, (every, _) = gradient(apply, params, X[:1, :4], weights)
    close((out, found[0]), (every[:, :1], expected[0]))
    unused = np.asarray(routing.load) == 0
    assert unused.sum() == 2
    assert not np.asarray(found[0]["up"]["kernel"])[unused].any()


def numpy_mixture(params, x, where, room):
    """By the definitions: first choices of all tokens, then second ones, one by one."""
    config = SimpleNamespace(activation="silu", mlp="gated")
    exact = jax.tree.map(np.float64, params)
    router = exact.pop("router")
    out, taken, dropped = np.zeros_like(x, float), [0] * 4, 0
    p = reference.softmax(reference.dense(router, np.float64(x)))
    order = np.argsort(-p, axis=-1)[:, :2]
    for choice in range(2):
        for i in np.flatnonzero(where):
            e = order[i, choice]
            if taken[e] == room:
                dropped += 1
                continue
            taken[e] += 1
            expert = jax.tree.map(lambda leaf, e=e: leaf[e], exact)
            weight = p[i, e] / p[i, order[i]].sum()
            out[i] += weight * reference.mlp(config, expert, x[i])
    load = [(order[where] == e).sum() / where.sum() for e in range(4)]
    return out, dropped, load, p[where].mean(axis=0)


def test_what_finds_no_room_is_dropped_and_counted():
    """Against NumPy; what does not count takes no room, whatever it holds."""
    apply, params = mixture(capacity_factor=0.75)
    rows, where = X.reshape(-1, 8).copy(), RNG.random(64) < 0.8
    expected, dropped, load, probability = numpy_mixture(params, rows, where, 24)
    rows[~where] = 1e4
    where = jnp.asarray(where.reshape(2, 32))
    out, routing = jax.jit(apply)(params, rows.reshape(X.shape), where)
    out = np.asarray(out).reshape(-1, 8)[where.reshape(-1)]
    np.testing.assert_allclose(out, expected[where.reshape(-1)], atol=1e-4)
    assert 0 < dropped == int(routing.dropped)
    np.testing.assert_allclose(routing.load, load, rtol=1e-6)
    np.testing.assert_allclose(routing.probability, probability, rtol=1e-5)


def program(tokens, **options):
    apply, params = mixture(count=16, **options)
    x = jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32)
    return jax.jit(lambda p, x: apply(p, x)[0]).lower(params, x).compile()


@pytest.mark.inspected
def test_experts_are_computed_only_where_they_were_chosen():
    """Operations and memory of 2 of 16 experts, for many tokens and for one."""
    every, sent = program(512), program(512, capacity_factor=1.0)
    flops = [x.cost_analysis()["flops"] for x in (every, sent)]
    memory = [x.memory_analysis().temp_size_in_bytes for x in (every, sent)]
    assert flops[1] < 0.25 * flops[0], flops
    assert memory[1] < 0.5 * memory[0], memory
    one = program(1).cost_analysis()["flops"]
    assert one < 0.25 * flops[0] / 512, (one, flops[0] / 512)


def test_decoding_drops_nothing():
    """A cache has room for all choices, whatever the capacity in training is."""
    sizes = {"vocab_size": 31, "width": 8, "depth": 1, "heads": 2}
    experts = {"experts": 4, "experts_per_token": 1}
    config = TransformerConfig(**sizes, **experts, capacity_factor=0.5)
    tight, initial = transformer(config)
    free, _ = transformer(TransformerConfig(**sizes, **experts))
    params, tokens = reference.draw(initial), RNG.integers(0, 31, (2, 8))

    @jax.jit
    def run(params):
        cache = tight.init_cache(2, 8)
        first, cache, routing = tight(params, tokens[:, :7], cache=cache, routing=True)
        last, _ = tight(params, tokens[:, 7:], cache=cache)
        alone = tight(params, tokens, routing=True)[1].dropped.sum()
        cached = jnp.concatenate([first, last], axis=1)
        return cached, free(params, tokens), routing.dropped.sum(), alone

    cached, expected, dropped, alone = run(params)
    np.testing.assert_allclose(cached, expected, atol=1e-5)
    assert (int(dropped), int(alone) > 0) == (0, True), "it holds without a cache"
    with pytest.raises(ValueError, match="capacity_factor is 0; expected above 0"):
        TransformerConfig(**sizes, **experts, capacity_factor=0)
