"""Checkpoints as they come from elsewhere: the right model, or an error that says why.

Every row changes one thing in a folder that is sound. What is read then is compared
with the arrays that were written, or the message with what it must name.
"""

import json
import os
import pathlib
import re
import struct
import warnings

import jax
import numpy as np
import pytest

from kljax.data.sources import Missing, known
from kljax.errors import CheckpointError
from kljax.models.files.config import read_config
from kljax.models.files.pretrained import from_pretrained, save_pretrained
from kljax.models.files.weights import structure
from kljax.models.language.transformer import TransformerConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = {"vocab_size": 31, "width": 16, "depth": 2, "heads": 2, "max_length": 32}
LLAMA = TransformerConfig(**SMALL)
GPT2 = TransformerConfig(
    **SMALL,
    norm="layer",
    mlp="plain",
    activation="gelu_tanh",
    rope=None,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
)
DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TYPES = {"f4": "F32", "u1": "U8", "i1": "I8", "i8": "I64", "f2": "F16"}


def drawn(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = structure(config)[1]
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)


PARAMS = {config: drawn(config) for config in (LLAMA, GPT2)}


def tensors_of(file):
    """The arrays of a file, by its own header."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    kinds = {code: kind for kind, code in TYPES.items()}
    return {
        name: np.frombuffer(
            content[8 + length :][slice(*entry["data_offsets"])], kinds[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def put(file, arrays, header=lambda text: text, codes=None, behind=b""):
    """Writes arrays as safetensors, after a change of the header's text."""
    place, entries = 0, {}
    for name, array in arrays.items():
        end = place + array.nbytes
        code = (codes or {}).get(name, TYPES[array.dtype.str[1:]])
        shape = list(array.shape)
        places = [place, end]
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": places}
        place = end
    text = header(json.dumps(entries)).encode()
    body = b"".join(np.ascontiguousarray(x).tobytes() for x in arrays.values())
    file.write_bytes(struct.pack("<Q", len(text)) + text + body + behind)


def changed(change, **how):
    """A row that rewrites the weights after a change of their dict of arrays."""

    def make(folder):
        arrays = tensors_of(folder / WEIGHTS)
        put(folder / WEIGHTS, change(dict(arrays)) or arrays, **how)

    return make


def same(arrays):
    return arrays


def header(old, new):
    """A row that replaces a piece of the header."""

    def edit(text):
        assert re.search(old, text)
        return re.sub(old, new, text, count=1)

    return changed(same, header=edit)


def extra(name, array, **how):
    return changed(lambda arrays: arrays | {name: array}, **how)


def renamed(rename):
    return changed(lambda arrays: {rename(name): x for name, x in arrays.items()})


def without(name, *, instead):
    def change(arrays):
        return {instead if x == name else x: array for x, array in arrays.items()}

    return changed(change)


def text(name, content):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / name).write_bytes(content)


def sharded(change):
    """A row that saves in shards, then changes the index."""

    def make(folder):
        save_pretrained(folder, LLAMA, PARAMS[LLAMA], shard_bytes=4000)
        index = json.loads((folder / INDEX).read_text())
        index = change(folder, index["weight_map"]) or index
        (folder / INDEX).write_text(json.dumps(index))

    return make


def twice(folder, placed):
    """The tensors of the first shard are in another one as well."""
    first, second, *_ = sorted(set(placed.values()))
    both = tensors_of(folder / first) | tensors_of(folder / second)
    put(folder / second, both)


def adapter(folder):
    text("adapter_config.json", {"base_model_name_or_path": "owner/base"})(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")


def alone(folder):
    adapter(folder)
    (folder / "config.json").unlink()


def fields(**changes):
    def make(folder):
        file = folder / "config.json"
        values = json.loads(file.read_text()) | changes
        file.write_text(json.dumps(values))

    return make


BUFFERS = {
    "h.{}.attn.bias": np.tril(np.ones((1, 1, 8, 8), "u1")),
    "h.{}.attn.masked_bias": np.float32(-1e4),
}


def buffers(prefix, code):
    """GPT-2's masks, of one type, under one prefix; parameters likewise."""

    def change(arrays):
        inner = {x.removeprefix("transformer."): v for x, v in arrays.items()}
        masks = {x.format(i): v for x, v in BUFFERS.items() for i in range(2)}
        return {prefix + x: np.asarray(v) for x, v in (inner | masks).items()}

    names = [f"{prefix}h.{i}.attn.bias" for i in range(2)]
    return changed(change, codes=dict.fromkeys(names, code))


OTHER_HEAD = np.random.default_rng(1).normal(size=(31, 16)).astype("f4")
LONG = np.zeros((1, 1), "i8")
WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 99}, "unk_token": "a"}
# Name, configuration, what is done to the folder, what the error says.
REFUSED = [
    (
        "a token without a row",
        LLAMA,
        text("tokenizer.json", {"version": "1.0", "added_tokens": [], "model": WORDS}),
        "ids up to 99 and the model 31 tokens",
    ),
    ("an end that is true", LLAMA, fields(eos_token_id=True), "eos_token_id is True"),
    ("a name twice", LLAMA, header('"model.norm.weight"', f'"{DOWN}"'), "stands twice"),
    ("places overlap", LLAMA, header(r"\[1984, 2048\]", "[1920, 1984]"), "damaged"),
    ("bytes behind", LLAMA, changed(same, behind=b"junk"), "damaged"),
    ("sizes below 0", LLAMA, header(r"\[31, 16\]", "[-31, -16]"), "shape .-31, -16"),
    ("a size of 31.0", LLAMA, header(r"\[31, 16\]", "[31.0, 16]"), "shape .31.0"),
    ("a size of text", LLAMA, header(r"\[31, 16\]", '["31", 16]'), "has shape"),
    ("places of text", LLAMA, header(r"\[0, 1984\]", '["0", 1984]'), "lies at"),
    ("three places", LLAMA, header(r"\[0, 1984\]", "[0, 9, 1984]"), "too many values"),
    ("a type of no name", LLAMA, header('"F32"', '"Q9"'), "dtype Q9; expected"),
    ("a type of a list", LLAMA, header('"F32"', '["F32"]'), "unhashable"),
    ("no header but a list", LLAMA, changed(same, header=lambda _: "[]"), "damaged"),
    ("deep header", LLAMA, changed(same, header=lambda _: "[" * 9999), "recursion"),
    (
        "packed weights",
        LLAMA,
        changed(lambda a: a | {DOWN: a[DOWN].astype("u1")}),
        f"{DOWN} has dtype U8",
    ),
    (
        "eight-bit floats",
        LLAMA,
        changed(lambda a: a | {DOWN: a[DOWN].astype("u1")}, codes={DOWN: "F8_E4M3"}),
        f"{DOWN} has dtype F8_E4M3",
    ),
    ("a tensor more", LLAMA, extra("model.extra", LONG), "model.extra belongs to no"),
    ("two embeddings", LLAMA, extra("vision.embed_tokens.weight", LONG), "no part"),
    (
        "a folder's name",
        LLAMA,
        sharded(lambda _, m: m.update({DOWN: "../model-00001-of-00002.safetensors"})),
        "not the name of a shard",
    ),
    ("a shard by number", LLAMA, sharded(lambda _, m: m.update({DOWN: 3})), "3 is not"),
    ("no shards", LLAMA, sharded(lambda *_: {"weight_map": {}}), "not an index"),
    ("a list of shards", LLAMA, sharded(lambda *_: {"weight_map": []}), "not an index"),
    ("a tensor in two shards", LLAMA, sharded(twice), "holds .*, and so does"),
    (
        "a shard too few",
        LLAMA,
        sharded(lambda f, m: (f / m[DOWN]).unlink()),
        "missing, model",
    ),
    (
        "a promise not kept",
        LLAMA,
        sharded(lambda _, m: m.update(gone=m[DOWN])),
        "holds no gone",
    ),
    ("an adapter alone", LLAMA, alone, "holds an adapter .*owner/base"),
    ("a list as config", LLAMA, text("config.json", []), "config.json: not readable"),
    ("config not in UTF-8", LLAMA, text("config.json", b"{\xff}"), "not readable JSON"),
    ("deep config", LLAMA, text("config.json", b'{"a":' * 9999), "not readable JSON"),
    ("half a number", LLAMA, fields(hidden_size=16.5), "hidden_size is 16.5"),
    ("a number as text", LLAMA, fields(hidden_size="16"), "hidden_size is '16'"),
    ("a number as truth", LLAMA, fields(num_hidden_layers=True), "is True; expected"),
    ("infinitely many", LLAMA, fields(vocab_size=float("inf")), "infinity"),
    (
        "no number at all",
        LLAMA,
        fields(rms_norm_eps=float("nan")),
        "rms_norm_eps is nan",
    ),
    ("truth as text", LLAMA, fields(attention_bias="no"), "attention_bias is 'no'"),
    ("a list of sizes", LLAMA, fields(intermediate_size=[64]), "_size is .64.; exp"),
    ("a list of families", LLAMA, fields(model_type=["llama"]), "model_type is .'ll"),
    ("a list of activations", LLAMA, fields(hidden_act=["silu"]), "hidden_act is ."),
    ("a word as end", LLAMA, fields(eos_token_id="</s>"), "eos_token_id is '</s>'"),
    ("too many layers", LLAMA, fields(num_hidden_layers=2**31), "num_hidden_layers is"),
    (
        "a text as base",
        LLAMA,
        fields(rope_parameters={"rope_theta": ["x"]}),
        "rope_theta is .'x'., which",
    ),
    ("rope as a list", LLAMA, fields(rope_scaling=["yarn"]), "rope_scaling is .'yarn'"),
    (
        "dynamic rope",
        LLAMA,
        fields(rope_scaling={"type": "dynamic", "factor": 2.0}),
        "rope_type is 'dynamic'",
    ),
    (
        "rope of every layer type",
        LLAMA,
        fields(rope_parameters={"full_attention": {"rope_type": "linear"}}),
        "full_attention",
    ),
    (
        "part of a rotation",
        LLAMA,
        fields(rope_parameters={"partial_rotary_factor": 0.5}),
        "partial_rotary_factor is 0.5",
    ),
    (
        "a scaled residual",
        LLAMA,
        fields(residual_multiplier=0.22),
        "residual_multiplier",
    ),
    ("scaled logits", LLAMA, fields(logits_scaling=8.0), "logits_scaling is 8.0"),
    ("another rotation", LLAMA, fields(rope_interleaved=True), "rope_interleaved"),
    (
        "quantised",
        LLAMA,
        fields(quantization_config={"quant_method": "fp8"}),
        "quantization_config",
    ),
    (
        "a window of 0",
        LLAMA,
        fields(model_type="mistral", sliding_window=0),
        "window must be at least 1",
    ),
    (
        "layers of a third type",
        LLAMA,
        fields(model_type="qwen3", layer_types=["full_attention", "linear_attention"]),
        "layer_types is",
    ),
    (
        "a type too few",
        LLAMA,
        fields(model_type="qwen3", layer_types=["full_attention"]),
        "layer_types is",
    ),
    (
        "windows without a width",
        LLAMA,
        fields(model_type="qwen2", layer_types=["sliding_attention"] * 2),
        "layer_types is",
    ),
    ("two widths", GPT2, fields(hidden_size=32), "hidden_size is 32 and n_embd 16"),
]
# Name, configuration, what is done, what a warning says, the head that is read.
READ = [
    (
        "a tokenizer of another form",
        LLAMA,
        text("tokenizer.model", b"\n"),
        "tokenizer is None: .*tokenizer.model .SentencePiece",
        None,
    ),
    ("masks, as they are published", GPT2, buffers("", "U8"), "", None),
    ("masks of truth", GPT2, buffers("transformer.", "BOOL"), "", None),
    ("masks of a wrapper", GPT2, buffers("module.transformer.", "U8"), "", None),
    ("masks of a compiler", GPT2, buffers("_orig_mod.transformer.", "BOOL"), "", None),
    ("a wrapper of torch", LLAMA, renamed(lambda x: f"module.{x}"), "", None),
    ("the inner model", LLAMA, renamed(lambda x: x.removeprefix("model.")), "", None),
    ("the head alone", LLAMA, without(EMBEDDING, instead=HEAD), "", None),
    ("the head twice", LLAMA, changed(lambda a: a | {HEAD: a[EMBEDDING]}), "", None),
    (
        "another head",
        LLAMA,
        extra(HEAD, OTHER_HEAD),
        "tie_word_embeddings",
        OTHER_HEAD.T,
    ),
    ("an adapter beside", LLAMA, adapter, "adapter_config.json: .*owner/base", None),
    (
        "an index beside",
        LLAMA,
        text(INDEX, {"weight_map": {DOWN: "model-00001-of-00002.safetensors"}}),
        f"{WEIGHTS} and {INDEX}",
        None,
    ),
    (
        "an index of one file",
        LLAMA,
        text(INDEX, {"weight_map": {DOWN: WEIGHTS}}),
        "",
        None,
    ),
    (
        "factors of 1",
        LLAMA,
        fields(embedding_multiplier=1.0, logits_scaling=1),
        "",
        None,
    ),
    ("a window of another family", LLAMA, fields(sliding_window=4), "", None),
    (
        "what nobody computes",
        LLAMA,
        fields(properties={"a": 1}, rope_interleaved=False, pretraining_tp=2),
        "",
        None,
    ),
]


def sound(folder, config):
    folder.mkdir(exist_ok=True)
    save_pretrained(folder, config, PARAMS[config])
    return folder


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_refused(row, tmp_path):
    _, config, make, message = row
    make(sound(tmp_path / "m", config))
    with pytest.raises(CheckpointError, match=message) as caught:
        from_pretrained(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)


@pytest.mark.parametrize("row", READ, ids=lambda row: row[0])
def test_read(row, tmp_path):
    _, config, make, warned, head = row
    make(sound(tmp_path / "m", config))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = from_pretrained(tmp_path / "m")
    assert len(said) == bool(warned)
    assert not warned or re.search(warned, str(said[0].message))
    found, want = dict(model.params), dict(PARAMS[config])
    if head is not None:
        assert not model.config.tied
        table = found.pop("embedding")["table"]
        np.testing.assert_array_equal(table, want["head"]["kernel"].T)
        want["head"] = {"kernel": head}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.config.window is None


PLACES = {
    "HF_HUB_CACHE": {"HF_HUB_CACHE": "{}", "HF_HOME": "/nowhere"},
    "the older name": {"HUGGINGFACE_HUB_CACHE": "{}", "HF_HOME": "/nowhere"},
    "the newer before the older": {
        "HF_HUB_CACHE": "{}",
        "HUGGINGFACE_HUB_CACHE": "/nowhere",
    },
    "HF_HOME": {"HF_HOME": "{}/.."},
    "XDG_CACHE_HOME": {"XDG_CACHE_HOME": "{}/../.."},
    "a variable in it": {"HF_HUB_CACHE": "$PLACE/hub", "PLACE": "{}/.."},
}


@pytest.mark.parametrize("place", PLACES)
def test_the_cache_is_where_its_variables_say(place, tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    hub = tmp_path / "huggingface" / "hub"
    for name, value in PLACES[place].items():
        monkeypatch.setenv(name, value.format(hub))
    # As the hub's client lays it: links into a folder of blobs.
    cached = hub / "models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    sound(cached / "blobs", LLAMA)
    with pytest.raises(CheckpointError, match=r"snapshots/abc: no such folder"):
        from_pretrained("owner/tiny")
    (cached / "snapshots/abc").mkdir(parents=True)
    for file in (cached / "blobs").iterdir():
        os.symlink(file, cached / "snapshots/abc" / file.name)
    assert from_pretrained("owner/tiny").config == LLAMA


def test_a_model_goes_by_all_of_its_names(monkeypatch, tmp_path):
    monkeypatch.setenv("KLJAX_CACHE", str(tmp_path))
    for name in ("SmolLM2", *known("smollm2").aliases):
        with pytest.raises(Missing, match="fetch smollm2"):
            from_pretrained(name)


def test_a_window_of_every_family_is_the_one_of_its_file():
    """The keys of the field, and what they leave out."""
    sizes = {"num_hidden_layers": 3, "sliding_window": 8}
    layers = {"use_sliding_window": True, "max_window_layers": 1}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    cases = [
        ("mistral", {}, (8, None)),
        ("mistral", {"sliding_window": None}, (None, None)),
        ("mistral", {"use_sliding_window": False}, (8, None)),
        ("mixtral", {}, (8, None)),
        ("llama", layers, (None, None)),
        ("qwen2", {}, (None, None)),
        ("qwen2", layers, (8, (1, 2))),
        ("qwen2", layers | {"max_window_layers": 0}, (8, None)),
        ("qwen2", layers | {"max_window_layers": 3}, (None, None)),
        ("qwen3", layers | {"layer_types": kinds}, (8, (0, 2))),
        ("qwen3_moe", layers, (8, None)),
        ("qwen3_moe", {}, (None, None)),
    ]
    for family, changes, want in cases:
        values = sizes | changes | {"model_type": family}
        config = read_config(values, pathlib.Path("config.json"))
        assert (config.window, config.window_layers) == want, (family, changes)
