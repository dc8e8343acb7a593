"""Adapters and arithmetic on weights, against weights merged by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformer_reference import draw

from kljax.decoding import Decoding, Fusion, Sampling, generate
from kljax.models.language.lora import (
    adapted,
    init_adapter,
    merge_adapter,
    stack_adapters,
)
from kljax.models.language.stacking import stack_layers
from kljax.models.language.task_arithmetic import add_task_vectors, soup, task_vector
from kljax.models.language.transformer import TransformerConfig, transformer

CONFIG = TransformerConfig(31, width=16, depth=1, heads=4, kv_heads=2, hidden=24)
APPLY, INITIAL = transformer(CONFIG)
PARAMS = draw(INITIAL)
TOKENS = np.random.default_rng(0).integers(0, 31, size=(3, 6))


def adapter(seed, rank=3, scale=1.0):
    """Random on both sides."""
    start = init_adapter(jax.random.key(0), PARAMS, rank, targets=("query", "up"))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(scale * rng.normal(size=x.shape)), start)


def merged(one):
    """W + A B, written out."""
    out = jax.tree.map(np.array, PARAMS)
    for i, layer in one["layers"].items():
        for part, map_ in (("attention", "query"), ("mlp", "up")):
            ab = layer[part][map_]
            out["layers"][i][part][map_]["kernel"] += ab["down"] @ ab["up"]
    return out


def test_adapters_are_merged_weights_alone_and_stacked():
    one, two = adapter(1), adapter(2)
    run = jax.jit(APPLY)
    wanted = [run(p, TOKENS) for p in (PARAMS, merged(one), merged(two))]
    by_library = run(merge_adapter({**PARAMS, "lora": one}, one), TOKENS)
    np.testing.assert_allclose(by_library, wanted[1], atol=1e-4)
    alone = jax.jit(adapted(APPLY))({**PARAMS, "lora": one}, TOKENS)
    np.testing.assert_allclose(alone, wanted[1], atol=1e-4)
    stack = {**PARAMS, "lora": stack_adapters([one, two], base=True)}
    together = jax.jit(adapted(APPLY, 3))(stack, TOKENS)
    np.testing.assert_allclose(together, np.stack(wanted, axis=2), atol=1e-4)
    # The shared weights are multiplied once, with three times the rows.
    shared = "tensor<9x6x16xf32>, tensor<16x31xf32>"
    text = jax.jit(adapted(APPLY, 3)).lower(stack, TOKENS).as_text()
    assert text.count(shared) == 1 and "tensor<3x16x31xf32>" not in text


def test_a_new_adapter_changes_nothing_and_takes_the_gradient():
    new = init_adapter(jax.random.key(1), PARAMS, rank=2)

    @jax.jit
    def value(lora):
        return jnp.sum(adapted(APPLY)({**PARAMS, "lora": lora}, TOKENS) ** 2)

    plain = jnp.sum(jax.jit(APPLY)(PARAMS, TOKENS) ** 2)
    np.testing.assert_allclose(value(new), plain, rtol=1e-5)
    slope = jax.jit(jax.grad(value))(new)["layers"][0]["mlp"]["down"]
    assert float(jnp.abs(slope["up"]).max()) > 0 and not slope["down"].any()


def test_experts_as_adapters_are_fused_as_models_are():
    one, two = adapter(1, scale=0.3), adapter(2, scale=0.3)
    stack = {**PARAMS, "lora": stack_adapters([one, two], base=True)}
    where = np.arange(6) >= np.array([[0], [2], [5]])
    fusion = Fusion(rule="axis")
    settings = Decoding(8, Sampling(temperature=0), combine=fusion)
    large, small = draw(INITIAL, 5), (adapted(APPLY, 3), stack)
    out = generate([(APPLY, large), small], TOKENS, settings, where=where)
    # The same from merged weights, all tokens read at once.
    text = np.concatenate([TOKENS, out.tokens], axis=1)
    seen = np.concatenate([where, np.ones((3, 8), bool)], axis=1)
    run = jax.jit(APPLY)
    weights = (large, PARAMS, merged(one), merged(two))
    logits = [run(p, text, jnp.asarray(seen))[:, 5:-1] for p in weights]
    fused, noted = jax.jit(fusion)(tuple(logits))
    np.testing.assert_array_equal(out.tokens, np.argmax(fused, axis=-1))
    alpha = out.diagnostics["alpha"]
    np.testing.assert_allclose(alpha, noted["alpha"], atol=1e-3)
    assert alpha.shape == (3, 8, 2) and ((alpha > 0).sum(axis=-1) == 1).all()


def test_bad_adapters():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        init_adapter(jax.random.key(0), PARAMS, 0)
    with pytest.raises(ValueError, match="no map is called one of q_proj"):
        init_adapter(jax.random.key(0), PARAMS, 2, targets=("q_proj",))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        adapted(APPLY, 0)
    with pytest.raises(ValueError, match='no entry "lora"'):
        adapted(APPLY)(PARAMS, TOKENS)
    with pytest.raises(ValueError, match="unstack_layers"):
        adapted(APPLY)({**stack_layers(PARAMS), "lora": adapter(1)}, TOKENS)
    with pytest.raises(ValueError, match="adapters is empty"):
        stack_adapters([])
    with pytest.raises(ValueError, match=r"'down'\] has shape \(16, 2\), expected"):
        stack_adapters([adapter(1), adapter(1, rank=2)])


def test_arithmetic_on_weights():
    rng = np.random.default_rng(0)
    trees = [
        {"a": rng.normal(size=3), "b": {"c": rng.normal(size=(2, 2))}} for _ in range(3)
    ]
    base, *tuned = jax.tree.map(np.float32, trees)
    vectors = [task_vector(x, base) for x in tuned]
    moved = add_task_vectors(base, vectors, [0.4, -1.0])
    for name in ("a",):
        want = base[name] + 0.4 * (tuned[0][name] - base[name])
        want = want - (tuned[1][name] - base[name])
        np.testing.assert_allclose(moved[name], want, rtol=1e-5, atol=1e-6)
    back = add_task_vectors(base, vectors[:1])
    np.testing.assert_allclose(back["b"]["c"], tuned[0]["b"]["c"], rtol=1e-6)
    mixed = soup(trees, [1, 3, 0])
    want = 0.25 * trees[0]["b"]["c"] + 0.75 * trees[1]["b"]["c"]
    np.testing.assert_allclose(mixed["b"]["c"], want, rtol=1e-5, atol=1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), base)
    assert soup([half, half])["a"].dtype == jnp.bfloat16
    assert task_vector(half, half)["a"].dtype == jnp.float32
    assert add_task_vectors(half, vectors)["a"].dtype == jnp.bfloat16


def test_weights_that_do_not_fit():
    base = {"a": np.ones(3), "b": np.ones(2)}
    with pytest.raises(ValueError, match=r"entry \['a'\] has shape \(2,\), expected"):
        task_vector({"a": np.ones(2), "b": np.ones(2)}, base)
    with pytest.raises(ValueError, match=r"models: entry \['b'\] has shape none"):
        soup([base, {"a": np.ones(3)}])
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        add_task_vectors(base, [base], [1, 2, 3])
    with pytest.raises(ValueError, match=r"weights has shape \(1,\)"):
        soup([base, base], [1.0])
    with pytest.raises(ValueError, match="models is empty"):
        soup([])
