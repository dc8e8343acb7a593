"""GGUF files that the `gguf` package wrote: values, order of the rows, tokenizer."""

import dataclasses

import jax
import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.models.files.gguf import open_gguf, read_gguf_config
from kljax.models.files.pretrained import from_pretrained, save_pretrained
from kljax.models.files.tokenizer import load_tokenizer
from kljax.models.language.rope import Rope

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD = 64, 96, 4, 2, 16
NAMES = {
    "attn_q": ("attention", "query", WIDTH, HEADS * HEAD),
    "attn_k": ("attention", "key", WIDTH, KV_HEADS * HEAD),
    "attn_v": ("attention", "value", WIDTH, KV_HEADS * HEAD),
    "attn_output": ("attention", "output", HEADS * HEAD, WIDTH),
    "ffn_gate": ("mlp", "gate", WIDTH, HIDDEN),
    "ffn_up": ("mlp", "up", WIDTH, HIDDEN),
    "ffn_down": ("mlp", "down", HIDDEN, WIDTH),
}
TEXT = "The ferry left at 7, twelve minutes late; 1984 gulls watched. Naïve? Yes, Ægir."


def trained():
    """A byte-level tokenizer with digits apart, trained on a sentence."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, level])
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(level.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([TEXT] * 3, trainer)
    return core


CORE = trained()
VOCAB = CORE.get_vocab_size()


KINDS = gguf.GGUFValueType


def written(file, kind="F32", *, leave_out="", parts=0, endian="LITTLE", **metadata):
    """A random model of one layer, and its tensors as numbers; also in parts."""
    import json

    writer = gguf.GGUFWriter(
        None if parts else file,
        metadata.pop("architecture", "llama"),
        endianess=gguf.GGUFEndian[endian],
        split_max_tensors=parts,
    )
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(metadata.pop("rotated", HEAD))
    for key, entry in metadata.pop("keys", {}).items():
        writer.add_key_value(key, *entry)
    model = json.loads(CORE.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(metadata.pop("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ bos_token }}{{ messages[0].content }}")
    factors = metadata.pop("factors", None)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{x}": (WIDTH,) for x in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.{x}": (out, size) for x, (_, _, size, out) in NAMES.items()}
    numbers = {}
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        of = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        packed = gguf.quants.quantize(value, of)
        numbers[name] = gguf.quants.dequantize(packed, of).astype(np.float32)
        if name != leave_out:
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=of)
    writer.write_header_to_file(path=file if parts else None)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_values_and_order_of_the_rows(kind, tmp_path):
    numbers = written(tmp_path / "m.gguf", kind)
    model = from_pretrained(tmp_path / "m.gguf")
    assert model.config.norm_eps == 1e-5 and model.config.rope == Rope(1e5)
    assert model.config.tied and model.config.vocab_size == VOCAB
    head = model.params["head"]["kernel"]
    np.testing.assert_array_equal(head, numbers["token_embd"].T)
    layer = model.params["layers"][0]
    for name, (part, kernel, size, out) in NAMES.items():
        want = numbers[f"blk.0.{name}"]
        if name in ("attn_q", "attn_k"):
            # Row 2i + j of a head here is row i + j d/2 of the half-split form.
            heads = want.reshape(-1, HEAD, size)
            want = np.empty_like(heads)
            for row in range(HEAD):
                want[:, row // 2 + row % 2 * HEAD // 2] = heads[:, row]
            want = want.reshape(out, size)
        np.testing.assert_array_equal(layer[part][kernel]["kernel"], want.T)
    np.testing.assert_array_equal(
        layer["attention_norm"]["scale"], numbers["blk.0.attn_norm"]
    )
    assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {"float32"}


def test_tokenizer_is_the_one_that_was_written(tmp_path):
    written(tmp_path / "m.gguf")
    found = from_pretrained(tmp_path / "m.gguf")
    tokenizer = found.tokenizer
    text = f"<|im_start|>{TEXT}<|im_end|>"
    assert tokenizer.encode(text) == CORE.encode(text).ids
    assert tokenizer.encode(text)[0] == 1 and tokenizer.encode("1984") != []
    assert len(tokenizer.encode("1984")) == 4
    assert tokenizer.decode(tokenizer.encode(text)) == TEXT
    assert tokenizer.decode(tokenizer.encode(text), special=True) == text
    assert tokenizer.stop_tokens == found.stop_tokens == (0, 2)
    assert tokenizer.vocabulary == CORE.get_vocab()
    assert tokenizer.chat([{"role": "user", "content": "Hm"}]) == "<|im_start|>Hm"
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode(text) == tokenizer.encode(text)
    for name in ("bos_id", "eos_id", "pad_id", "stop_tokens", "chat_template"):
        assert getattr(again, name) == getattr(tokenizer, name)


def scaling(kind=None, factor=None, old=None):
    """Metadata of a rope scaling, in the newer or the older spelling."""
    keys = {
        "llama.rope.scaling.type": (kind, KINDS.STRING),
        "llama.rope.scaling.factor": (factor, KINDS.FLOAT32),
        "llama.rope.scale_linear": (old, KINDS.FLOAT32),
    }
    return {key: entry for key, entry in keys.items() if entry[0] is not None}


LINEAR, HALF = Rope(1e5, "linear", 4.0), HEAD // 2
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"rope_type": "llama3", "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        (scaling("linear", 4.0), LINEAR),
        (scaling("linear", None, 4.0), LINEAR),
        (scaling(None, None, 4.0), LINEAR),
        (scaling(None, 4.0), LINEAR),
        (scaling("linear", 4.0, 2.0), LINEAR),
        (scaling("none", 4.0), Rope(1e5)),
        (scaling("linear", 0.0), Rope(1e5)),
        (scaling("linear"), Rope(1e5)),
    ],
)
def test_linear_scaling_is_read(keys, rope, tmp_path):
    """As llama.cpp reads it, factor before scale_linear."""
    written(tmp_path / "m.gguf", keys=keys)
    assert read_gguf_config(open_gguf(tmp_path / "m.gguf")).rope == rope


def llama3_factors():
    """What the converter of llama.cpp writes, wavelength by wavelength."""
    found = []
    for i in range(HALF):
        wavelength = 2 * np.pi * 1e5 ** (2 * i / HEAD)
        turns = 8192 / wavelength
        smooth = (turns - 1.0) / 3.0
        middle = 1 / ((1 - smooth) / 8.0 + smooth)
        found.append(1.0 if turns > 4 else 8.0 if turns < 1 else middle)
    return found


@pytest.mark.parametrize(
    ("factors", "keys", "theirs"),
    [
        (llama3_factors(), {}, LLAMA3),
        ([2.0] * HALF, scaling(None, 3.0), {"rope_type": "linear", "factor": 6.0}),
        (None, scaling(None, None, 3.0), {"rope_type": "linear", "factor": 3.0}),
    ],
)
def test_rotations_are_those_of_the_same_weights_elsewhere(
    factors, keys, theirs, tmp_path
):
    """The logits of transformers, which is given the safetensors and a config.json."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    file = tmp_path / "m.gguf"
    written(file, factors=factors, keys=keys)
    model = from_pretrained(file, tokenizer=False)
    plain = dataclasses.replace(model.config, rope=Rope(1e5))
    save_pretrained(tmp_path / "m", plain, model.params)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    config.rope_parameters = {"rope_theta": 1e5, **theirs}
    other = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", config=config, dtype=torch.float32
    )
    tokens = np.arange(100)[None] % VOCAB
    with torch.no_grad():
        want = other.eval()(torch.from_numpy(tokens)).logits.numpy()
    found = np.asarray(jax.jit(model.apply)(model.params, tokens))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max())
    if theirs is LLAMA3:  # and it can be saved, for it is known by its name
        save_pretrained(tmp_path / "again", model.config, model.params)
        assert from_pretrained(tmp_path / "again").config == model.config


def test_parts_are_opened_together(tmp_path):
    written(tmp_path / "whole.gguf")
    written(tmp_path / "m.gguf", parts=5)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert [x.name for x in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    whole = from_pretrained(tmp_path / "whole.gguf")
    for part in parts:
        model = from_pretrained(part)
        assert model.config == whole.config
        assert model.tokenizer.encode(TEXT) == whole.tokenizer.encode(TEXT)
        for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(whole.params)):
            np.testing.assert_array_equal(a, b)
    content = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    refused(parts[0], "00002-of-00003.gguf: says that it is part 3 of 3")
    parts[1].write_bytes((tmp_path / "whole.gguf").read_bytes())
    refused(parts[0], "00002-of-00003.gguf: says that it is part")
    parts[1].write_bytes(content.replace(b"blk.0.", b"blk.1."))
    refused(parts[2], r"no tensor blk.0")
    parts[1].unlink()
    refused(parts[0], r"m-00002-of-00003.gguf: missing, part 2 of 3")
    parts[0].rename(tmp_path / "first.gguf")
    refused(
        tmp_path / "first.gguf", "in 3 parts, by another name .*NAME-00001-of-00003"
    )


def refused(file, message):
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(file, tokenizer=False)


def number(value):
    return (value, KINDS.UINT32)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"architecture": "mamba"}, "general.architecture is 'mamba'"),
        ({"leave_out": "blk.0.attn_v"}, r"no tensor blk.0.attn_v.weight of the 11"),
        ({"leave_out": "token_embd"}, "no tensor token_embd.weight"),
        ({"rotated": 8}, "rope.dimension_count"),
        ({"pre": "mystery"}, "tokenizer.ggml.pre is 'mystery'; expected one of"),
        ({"endian": "BIG"}, "big-endian"),
        ({"keys": scaling("yarn", 4.0)}, "rope.scaling.type is 'yarn'"),
        ({"keys": scaling("longrope")}, "rope.scaling.type is 'longrope'"),
        ({"keys": scaling(None, 0.5)}, r"factor is 0\.5"),
        ({"factors": [1.0] * 4}, r"rope_freqs.weight has shape \(4,\)"),
        ({"factors": [0.0] * 8}, "factors is .* must be positive"),
        ({"keys": {"llama.expert_count": number(8)}}, "llama.expert_count is 8"),
        ({"keys": {"llama.attention.value_length": number(4)}}, "value_length is 4"),
        ({"keys": {"llama.vocab_size": number(7)}}, "vocab_size is 7 and token_embd"),
        ({"keys": {"llama.logit_scale": (0.5, KINDS.FLOAT32)}}, "logit_scale is 0.5"),
        (
            {"keys": {"llama.attention.causal": (False, KINDS.BOOL)}},
            "attention.causal is False",
        ),
    ],
)
def test_what_cannot_be_read_is_said(choices, message, tmp_path):
    file = tmp_path / "m.gguf"
    written(file, **choices)
    with pytest.raises(CheckpointError, match=message) as caught:
        from_pretrained(file)
    assert str(file) in str(caught.value)


def test_truncated_and_foreign_files(tmp_path):
    file = tmp_path / "m.gguf"
    written(file)
    content = file.read_bytes()
    for size in (content.index(b"token_embd"), len(content) - 3000, 20):
        file.write_bytes(content[:size])
        refused(file, r"m.gguf: .*truncated")
    file.write_bytes(b"GGML" + content[4:])
    refused(file, "not a GGUF file")
    for version in (1, 4):
        file.write_bytes(b"GGUF" + version.to_bytes(4, "little") + content[8:])
        refused(file, f"version {version} of GGUF")
    place = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 20
    assert content[place : place + 4] == bytes(4), "the type of a tensor, F32"
    file.write_bytes(content[:place] + b"\xe7\3\0\0" + content[place + 4 :])
    refused(file, "a type that the gguf package does not know .*999")
    file.write_bytes(content[:place] + b"\x1b\0\0\0" + content[place + 4 :])
    refused(file, "attn_q.weight is of type I64")
    file.write_bytes(content.replace(b"ffn_gate", b"ffn_gone"))
    with pytest.raises(CheckpointError, match=r"no tensor blk.0.ffn_gate.weight"):
        from_pretrained(file, tokenizer=False)
