"""Published checkpoints: parity with transformers on tiny ones of every family."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.models.files.config import config_fields, family_of, read_config
from kljax.models.files.pretrained import from_pretrained, save_pretrained
from kljax.models.language.rope import Rope
from kljax.models.language.stacking import stack_layers
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives.balance import balance_loss

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"factor": 8.0, "original_max_position_embeddings": 16, "rope_theta": 1e3}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
BIASES = {"attention_bias": True, "mlp_bias": True}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MOE = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama": SIZES | {"tie_word_embeddings": True, "rope_parameters": LLAMA3},
    "llama with biases": SIZES | BIASES | {"rope_parameters": LINEAR},
    "qwen2": SIZES | {"rope_parameters": YARN | {"rope_theta": 1e4}},
    "qwen3": SIZES | {"head_dim": 16, "tie_word_embeddings": True},
    "gpt2": GPT2,
    "mixtral": SIZES | {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": SIZES
    | MOE
    | {"moe_intermediate_size": 24, "norm_topk_prob": True, "decoder_sparse_step": 2},
    # Windows that are shorter than the text, in every layer and in the last one.
    "mistral": SIZES | {"sliding_window": 5},
    "qwen3 with a window": SIZES
    | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3_moe of its defaults": SIZES
    | {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
}
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 11))


def published(name, folder, **saving):
    """A random checkpoint of that family, all its values drawn, and its logits."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name.split()[0], **FAMILIES[name])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.2 if parameter.ndim > 1 else 0.5
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder, **saving)
    return reference(model)


def reference(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits.numpy()


def test_what_the_routers_did_and_its_balance_are_those_of_transformers(tmp_path):
    published("mixtral", tmp_path)
    model = from_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    where = np.arange(11) < np.array([[11], [7]])
    with torch.no_grad():
        want = theirs.eval()(
            torch.from_numpy(TOKENS),
            attention_mask=torch.from_numpy(where.astype(int)),
            output_router_logits=True,
        ).aux_loss
    _, routing = jax.jit(lambda p: model.apply(p, TOKENS, where, routing=True))(
        model.params
    )
    loss, _ = balance_loss(routing.load, routing.probability)
    assert float(loss) == pytest.approx(float(want), rel=1e-5)


def ours(model):
    return np.asarray(jax.jit(model.apply)(model.params, jnp.asarray(TOKENS)))


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name, tmp_path):
    # Small shards for one of them: the same tensors, several files and an index.
    saving = {"max_shard_size": "20KB"} if name == "qwen2" else {}
    want = published(name, tmp_path / "theirs", **saving)
    model = from_pretrained(tmp_path / "theirs")
    got = ours(model)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    assert (tmp_path / "theirs/model.safetensors.index.json").exists() == bool(saving)
    # And so it is where the file says only what is not the family's default.
    least = FAMILIES[name] | {"model_type": name.split()[0]}
    assert read_config(least, pathlib.Path("config.json")) == model.config

    # And back: what we write, they read.
    shards = {"shard_bytes": 20_000} if name == "gpt2" else {}
    save_pretrained(tmp_path / "ours", model.config, model.params, **shards)
    assert (tmp_path / "ours/model.safetensors.index.json").exists() == bool(shards)
    again, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True
    )
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    np.testing.assert_allclose(reference(again.eval()), want, rtol=0, atol=1e-4)
    reloaded = from_pretrained(tmp_path / "ours")
    assert reloaded.config == model.config
    for a, b in zip(jax.tree.leaves(reloaded.params), jax.tree.leaves(model.params)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_older_spellings_are_the_same_model(name, tmp_path):
    """`rope_theta` at the top, no `head_dim`, names without their prefix."""
    import safetensors.numpy

    want = published(name, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    if name == "llama":
        rope = fields.pop("rope_parameters")
        fields["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        fields["rope_scaling"] = rope
        del fields["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    if name == "gpt2":
        tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
        tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 64, 64), np.float32))
    else:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, "f4")
    safetensors.numpy.save_file(tensors, file)
    np.testing.assert_allclose(ours(from_pretrained(tmp_path)), want, atol=1e-4)


def test_types_of_the_parameters(tmp_path):
    published("llama", tmp_path / "a")
    exact = from_pretrained(tmp_path / "a")
    model = from_pretrained(tmp_path / "a", dtype=jnp.bfloat16)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(exact.params)):
        assert a.dtype == jnp.bfloat16 and b.dtype == jnp.float32
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))
    # Halves in the file are float32 on a CPU; the file keeps the parameters' own type.
    save_pretrained(tmp_path / "b", model.config, model.params)
    wide = from_pretrained(tmp_path / "b")
    for a, b in zip(jax.tree.leaves(wide.params), jax.tree.leaves(model.params)):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b.astype(jnp.float32))
    size = (tmp_path / "b/model.safetensors").stat().st_size
    assert size < 0.6 * (tmp_path / "a/model.safetensors").stat().st_size


def test_stacked_layers_are_saved_as_a_list(tmp_path):
    config = TransformerConfig(vocab_size=61, width=32, depth=2, heads=4)
    shapes = jax.eval_shape(transformer(config)[1], jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)
    save_pretrained(tmp_path, config, stack_layers(params), stop_tokens=(7, 60))
    model = from_pretrained(tmp_path)
    assert model.config == config
    assert model.stop_tokens == (7, 60) and model.pad_id == 7
    assert jax.tree.structure(model.params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(params)):
        np.testing.assert_array_equal(a, b)
    other = TransformerConfig(vocab_size=61, width=32, depth=2, heads=4, hidden=96)
    with pytest.raises(ValueError, match=r"params.*\['down'\]\['kernel'\] has shape"):
        save_pretrained(tmp_path, other, params)


@pytest.mark.parametrize("name", sorted({x.split()[0] for x in FAMILIES}))
def test_what_a_file_leaves_out_is_what_transformers_says(name):
    file = pathlib.Path("config.json")
    config = read_config({"model_type": name}, file)
    theirs = transformers.AutoConfig.for_model(name)
    assert config == read_config(json.loads(theirs.to_json_string()), file)
    heads, width = theirs.num_attention_heads, theirs.hidden_size
    got = (config.width, config.depth, config.heads, config.vocab_size)
    want = (width, theirs.num_hidden_layers, heads, theirs.vocab_size)
    assert got == want
    kv_heads = getattr(theirs, "num_key_value_heads", heads)
    head_dim = getattr(theirs, "head_dim", None) or width // heads
    assert (config.kv_heads, config.head_dim) == (kv_heads, head_dim)
    assert config.max_length == theirs.max_position_embeddings
    eps = getattr(theirs, "rms_norm_eps", None) or theirs.layer_norm_epsilon
    assert (config.norm_eps, config.tied) == (eps, theirs.tie_word_embeddings)
    assert config.window == getattr(theirs, "sliding_window", None)
    if config.rope is None:
        return
    assert config.hidden == theirs.intermediate_size
    assert config.rope == Rope(theirs.rope_parameters["rope_theta"])
    experts = getattr(theirs, "num_local_experts", getattr(theirs, "num_experts", 0))
    chosen = getattr(theirs, "num_experts_per_tok", 0)
    assert (config.experts, config.experts_per_token) == (experts, chosen)
    assert config.expert_sum == getattr(theirs, "norm_topk_prob", True)


def test_configurations_return_from_their_fields(tmp_path):
    small = {"vocab_size": 61, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2}
    yarn = Rope(1e5, "yarn", 4.0, 32, beta_fast=16.0, attention_factor=1.5)
    llama3 = Rope(1e5, "llama3", 8.0, 32, 1.5, 3.0)
    flags = {"qkv_bias": True, "output_bias": True}
    mixture = {"experts": 4, "experts_per_token": 2}
    cases = {
        "llama": {"rope": llama3, "mlp_bias": True, "norm_eps": 1e-6} | flags,
        "qwen2": {"rope": yarn, "qkv_bias": True, "tied": False},
        "qwen3": {"qk_norm": True, "head_dim": 16, "window": 9, "window_layers": (0,)}
        | flags,
        "mixtral": {"hidden": 40, "tied": False, "window": 9} | mixture,
        "qwen3_moe": {"qk_norm": True, "expert_hidden": 24, "moe_layers": 2}
        | {"window": 9, "expert_sum": False}
        | mixture,
        "mistral": {"window": 9, "tied": False},
        "gpt2": {"norm": "layer", "mlp": "plain", "activation": "gelu_tanh"}
        | {"rope": None, "mlp_bias": True, "kv_heads": 4}
        | flags,
    }
    for family, choices in cases.items():
        config = TransformerConfig(**(small | choices))
        assert family_of(config) == family
        fields = json.loads(json.dumps(config_fields(config)))
        assert read_config(fields, tmp_path / "config.json") == config
    for choices in (
        {"soft_cap": 30.0},
        {"head_bias": True},
        {"rope": None},
        {"norm": "layer"},
        {"window": 9, "window_layers": (1,)},
        {"rope": Rope(scaling="factors", factors=(1.0, 2.0, 3.0, 4.0))},
        {"output_bias": True},
        {"qk_norm": True, "mlp_bias": True},
        {"experts": 2, "experts_per_token": 1, "moe_layers": 2},
    ):
        with pytest.raises(ValueError, match="no family"):
            config_fields(TransformerConfig(**(small | choices)))
