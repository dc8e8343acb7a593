"""The language model in training: scanned, recomputed, bfloat16, sharded, scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_transformer as child
import transformer_reference as reference
from jax.sharding import PartitionSpec

from kljax.models.language.rope import Rope, rotation
from kljax.models.language.sharding import partition_specs
from kljax.models.language.stacking import stack_layers, unstack_layers
from kljax.models.language.transformer import TransformerConfig, transformer

SIZES = {"vocab_size": 97, "width": 32, "heads": 4, "kv_heads": 2, "hidden": 64}
APPLY, INITIAL = transformer(TransformerConfig(**SIZES, depth=2))
PARAMS = reference.draw(INITIAL)
MIXED = TransformerConfig(
    **SIZES, depth=4, experts=2, experts_per_token=1, moe_layers=2
)
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 48)).astype(np.int32)


def compiled(params, **options):
    """The compiled gradient of the mean log-loss."""

    def loss(params, tokens):
        log_q = jax.nn.log_softmax(APPLY(params, tokens[:, :-1], **options))
        return -jnp.take_along_axis(log_q, tokens[:, 1:, None], -1).mean()

    return jax.jit(jax.value_and_grad(loss)).lower(params, TOKENS).compile()


def close(found, expected, bound):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=bound, rtol=bound)


@pytest.mark.inspected
def test_scanned_and_recomputed_equals_unrolled_in_less_memory():
    stacked = stack_layers(PARAMS)
    close(unstack_layers(stacked), PARAMS, 0)
    unrolled, scanned = compiled(PARAMS), compiled(stacked, remat=True)
    value, gradient = unrolled(PARAMS, TOKENS)
    again, other = scanned(stacked, TOKENS)
    assert float(again) == pytest.approx(float(value), rel=1e-6)
    close(unstack_layers(other), gradient, 1e-5)
    memory = [p.memory_analysis().temp_size_in_bytes for p in (unrolled, scanned)]
    assert memory[1] < 0.75 * memory[0], memory


def test_layers_of_two_kinds_are_stacked_by_their_period():
    apply, initial = transformer(MIXED)
    params = reference.draw(initial)
    stacked = stack_layers(params, 2)
    assert sorted(stacked["layers"]["stacked"]) == [0, 1]
    close(unstack_layers(stacked), params, 0)
    program = jax.jit(lambda params: apply(params, TOKENS, routing=True))
    expected, routing = program(params)
    close(program(stacked), (expected, routing), 1e-6)
    assert routing.load.shape == (2, 2), "layers 1 and 3, two experts"
    np.testing.assert_allclose(routing.load.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(routing.probability.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(routing.dropped, 0)
    with pytest.raises(ValueError, match="layers 1 apart have different parts"):
        stack_layers(params)
    with pytest.raises(ValueError, match="period is 3; it must divide 4"):
        stack_layers(params, 3)
    cache = apply.init_cache(2, 64)
    with pytest.raises(ValueError, match=r"call unstack_layers\(params\)"):
        jax.eval_shape(lambda p: apply(p, TOKENS, cache=cache), stacked)


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    program = jax.jit(lambda p: APPLY(p, TOKENS, dtype=jnp.bfloat16))
    text = program.lower(PARAMS).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) > 14
    assert all(line.count("bf16") >= 2 for line in dots)
    exact, found = jax.jit(lambda p: APPLY(p, TOKENS))(PARAMS), program(PARAMS)
    assert found.dtype == jnp.float32
    worst = np.abs(np.asarray(found - exact)).max() / np.abs(np.asarray(exact)).max()
    assert 0 < worst < 0.03


def test_features_times_the_head_are_the_logits():
    def both(params):
        features = APPLY(params, TOKENS, features=True)
        return APPLY(params, TOKENS), APPLY.logits(params, features), features

    logits, again, features = jax.jit(both)(PARAMS)
    np.testing.assert_array_equal(logits, again)
    by_hand = np.asarray(features) @ PARAMS["head"]["kernel"]
    np.testing.assert_allclose(by_hand, logits, atol=1e-5)


def test_eight_devices_equal_one():
    context = child.server()
    answers = context.Queue()
    process = context.Process(target=child.difference, args=(answers,))
    process.start()
    shard, worst, _ = answers.get(timeout=120)
    process.join()
    assert shard == (2, 16, 16), "both layers, half of the width, two heads"
    assert worst <= 1e-5


def test_specs_do_not_cut_heads_or_what_does_not_divide():
    class Mesh:
        shape = {"fsdp": 2, "tensor": 4}  # noqa: RUF012

    shapes = jax.eval_shape(transformer(MIXED)[1], jax.random.key(0))
    specs = partition_specs(MIXED, shapes, Mesh())
    layer = specs["layers"][1]
    assert layer["attention"]["query"]["kernel"] == PartitionSpec("fsdp", "tensor")
    assert layer["attention"]["output"]["kernel"] == PartitionSpec("tensor", "fsdp")
    assert layer["attention"]["key"]["kernel"] == PartitionSpec("fsdp", None)
    assert layer["mlp"]["up"]["kernel"] == PartitionSpec(None, "fsdp", "tensor")
    assert layer["mlp"]["router"]["kernel"] == PartitionSpec(None, None)
    assert layer["mlp_norm"]["scale"] == PartitionSpec(None)
    assert specs["head"]["kernel"] == PartitionSpec("fsdp", None), "97 is prime"


def interpolated(rope, i, d):
    """The scaled frequency of pair `i`, from the papers, one at a time."""
    plain = rope.base ** (-2 * i / d)
    if rope.scaling == "linear":
        return plain / rope.factor
    wavelength = 2 * np.pi / plain
    if rope.scaling == "llama3":
        if wavelength < rope.original_length / rope.high_frequency_factor:
            return plain
        if wavelength > rope.original_length / rope.low_frequency_factor:
            return plain / rope.factor
        smooth = (rope.original_length / wavelength - rope.low_frequency_factor) / (
            rope.high_frequency_factor - rope.low_frequency_factor
        )
        return (1 - smooth) * plain / rope.factor + smooth * plain
    low, high = (
        d * np.log(rope.original_length / (turns * 2 * np.pi)) / (2 * np.log(rope.base))
        for turns in (rope.beta_fast, rope.beta_slow)
    )
    low, high = max(np.floor(low), 0), min(np.ceil(high), d - 1)
    ramp = min(max((i - low) / (high - low), 0), 1)
    return ramp * plain / rope.factor + (1 - ramp) * plain


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_rotary_scalings(scaling):
    rope = Rope(base=5000.0, scaling=scaling, factor=8.0, original_length=256)
    expected = [interpolated(rope, i, 64) for i in range(32)]
    np.testing.assert_allclose(rope.frequencies(64), expected, rtol=1e-12)
    positions = np.array([[0, 3, 2000]])
    cos, sin = rotation(rope, jnp.asarray(positions), 64)
    magnitude = 1 + 0.1 * np.log(8) if scaling == "yarn" else 1.0
    angles = positions[..., None, None] * np.array(expected)
    np.testing.assert_allclose(cos, magnitude * np.cos(angles), atol=3e-4)
    np.testing.assert_allclose(sin, magnitude * np.sin(angles), atol=3e-4)
