"""GGUF files that the `gguf` package wrote: values, order of the rows, tokenizer."""

import jax
import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.models.gguf_file import open_gguf, read_gguf_config
from kljax.models.pretrained import from_pretrained
from kljax.models.rope import Rope
from kljax.models.tokenizer import load_tokenizer

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


def written(file, kind="F32", *, leave_out="", **metadata):
    """A random model of one layer, and its tensors as numbers."""
    import json

    writer = gguf.GGUFWriter(file, metadata.pop("architecture", "llama"))
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(metadata.pop("rotated", HEAD))
    if metadata.pop("linear", False):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
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
    writer.write_header_to_file()
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


def test_linear_scaling_is_read(tmp_path):
    written(tmp_path / "m.gguf", linear=True)
    config = read_gguf_config(open_gguf(tmp_path / "m.gguf"))
    assert config.rope == Rope(1e5, "linear", 4.0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"architecture": "mamba"}, "general.architecture is 'mamba'"),
        ({"leave_out": "blk.0.attn_v"}, r"no tensor blk.0.attn_v.weight of the 11"),
        ({"leave_out": "token_embd"}, "no tensor token_embd.weight"),
        ({"rotated": 8}, "rope.dimension_count"),
        ({"pre": "mystery"}, "tokenizer.ggml.pre is 'mystery'; expected one of"),
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
        with pytest.raises(CheckpointError, match=r"m.gguf: .*truncated"):
            from_pretrained(file)
    file.write_bytes(b"GGML" + content[4:])
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        from_pretrained(file)
    file.write_bytes(content.replace(b"ffn_gate", b"ffn_gone"))
    with pytest.raises(CheckpointError, match=r"no tensor blk.0.ffn_gate.weight"):
        from_pretrained(file, tokenizer=False)
