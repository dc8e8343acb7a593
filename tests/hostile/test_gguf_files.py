"""GGUF files that nobody should have written: what is said of each."""

import struct

import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.models.files.pretrained import from_pretrained

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

WIDTH, HIDDEN = 16, 24
TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklm"]
G, L = "tokenizer.ggml.", "llama."
KEYS = {
    "general.architecture": "llama",
    f"{L}block_count": 1,
    f"{L}context_length": 64,
    f"{L}embedding_length": WIDTH,
    f"{L}feed_forward_length": HIDDEN,
    f"{L}attention.head_count": 2,
    f"{L}attention.head_count_kv": 1,
    f"{L}attention.layer_norm_rms_epsilon": 1e-5,
    f"{G}model": "llama",
    f"{G}tokens": TOKENS,
    f"{G}scores": [0.0] * len(TOKENS),
    f"{G}token_type": [2, 3, 3] + [1] * 13,
    f"{G}bos_token_id": 1,
    f"{G}eos_token_id": 2,
}
F32, Q8_0, Q4_K = 0, 8, 12


def tensor(*shape, kind=F32, offset=None):
    return {"shape": shape, "kind": kind, "offset": offset}


TENSORS = {
    "token_embd": tensor(len(TOKENS), WIDTH),
    "output_norm": tensor(WIDTH),
    "blk.0.attn_norm": tensor(WIDTH),
    "blk.0.attn_q": tensor(16, WIDTH),
    "blk.0.attn_k": tensor(8, WIDTH),
    "blk.0.attn_v": tensor(8, WIDTH),
    "blk.0.attn_output": tensor(WIDTH, 16),
    "blk.0.ffn_norm": tensor(WIDTH),
    "blk.0.ffn_gate": tensor(HIDDEN, WIDTH),
    "blk.0.ffn_up": tensor(HIDDEN, WIDTH),
    "blk.0.ffn_down": tensor(WIDTH, HIDDEN),
}


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


CODES = {bool: (7, "<?"), float: (6, "<f"), str: (8, None), bytes: (8, None)}


def coded(value):
    """The number of a type and the bytes of a value, from the description of GGUF."""
    if isinstance(value, list):
        parts = [coded(x) for x in value] or [(4, b"")]
        head = struct.pack("<IQ", parts[0][0], len(value))
        return 9, head + b"".join(part for _, part in parts)
    if type(value) is int:
        code, form = (4, "<I") if 0 <= value < 2**32 else (11, "<q")
    else:
        code, form = CODES[type(value)]
    return code, struct.pack(form, value) if form else text(value)


def written(keys=(), tensors=(), *, pairs=(), version=3, counts=None):
    """A file; keys and tensors of None are left out, `pairs` come on top."""
    kept = [(k, v) for k, v in {**KEYS, **dict(keys)}.items() if v is not None]
    kept += pairs
    found = {k: v for k, v in {**TENSORS, **dict(tensors)}.items() if v is not None}
    head = b"GGUF" + struct.pack("<I", version)
    head += struct.pack("<QQ", *(counts or (len(found), len(kept))))
    for key, value in kept:
        code, raw = coded(value)
        head += text(key) + struct.pack("<I", code) + raw
    data = b""
    for name, part in found.items():
        shape, offset = part["shape"], part["offset"]
        head += text(f"{name.rstrip('+')}.weight") + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        offset = len(data) if offset is None else offset
        head += struct.pack("<IQ", part["kind"], offset)
        size = int(np.prod(shape)) if max(shape, default=0) < 2**20 else 1
        data += np.full(size, 0.1, np.float32).tobytes()
        data += b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + data


WHOLE = written()
Q = "blk.0.attn_q"
# Name: the file, what is said of it.
FILES = {
    "nothing": (b"", "not a GGUF file"),
    "a magic word": (b"GGUF", "version 0 of GGUF"),
    "version 1": (written(version=1), "version 1 of GGUF; expected one of"),
    "half a head": (WHOLE[:500], "damaged or truncated"),
    "half of the data": (WHOLE[:-900], "truncated|damaged"),
    "more keys than there are": (written(counts=(11, 99)), "damaged or truncated"),
    "more tensors": (written(counts=(2**60, 14)), "damaged or truncated"),
    "no tensors": (written(counts=(0, 14)), "no tensor token_embd.weight"),
    "a key twice": (written(pairs=[(f"{L}block_count", 2)]), "damaged|twice|uplicat"),
    "a tensor twice": (written({}, {f"{Q}+": TENSORS[Q]}), "uplicat"),
    "a tensor missing": (written({}, {Q: None}), f"no tensor {Q}.weight of the 11"),
    "a tensor transposed": (
        written({}, {"blk.0.attn_k": tensor(WIDTH, 8)}),
        r"attn_k.weight has shape \(16, 8\), .* says \(8, 16\)",
    ),
    "a tensor of none": (written({}, {Q: tensor(0, WIDTH)}), "damaged|shape"),
    "a huge tensor": (written({}, {Q: tensor(2**40, 2**40)}), "damaged or truncated"),
    "five axes": (written({}, {Q: tensor(16, WIDTH, 1, 1, 1)}), "shape|damaged"),
    "an unknown type": (written({}, {Q: tensor(16, WIDTH, kind=99)}), "does not know"),
    "a quantised type that is cut": (
        written({}, {Q: tensor(16, WIDTH, kind=Q4_K)}),
        "damaged or truncated",
    ),
    "one tensor over another": (
        written({}, {Q: tensor(16, WIDTH, offset=0)}),
        "begins within",
    ),
    "a tensor far away": (
        written({}, {Q: tensor(16, WIDTH, offset=2**40)}),
        "truncated|damaged",
    ),
    "no architecture": (written({"general.architecture": None}), "has no general.arch"),
    "another one": (written({"general.architecture": "bert"}), "'bert'; expected"),
    "one that is a number": (written({"general.architecture": 3}), "3; expected text"),
    "one in Latin-1": (written({"general.architecture": b"\xff"}), "damaged or trunc"),
    "no depth": (written({f"{L}block_count": None}), "has no llama.block_count"),
    "depth of text": (written({f"{L}block_count": "1"}), "'1'; expected a number"),
    "depth of a float": (written({f"{L}block_count": 1.0}), "1.0; expected a number"),
    "depth that is true": (written({f"{L}block_count": True}), "True; expected a num"),
    "depth below 0": (written({f"{L}block_count": -1}), "depth must be at least 1"),
    "depth without end": (written({f"{L}block_count": 2**31}), "at most 10000"),
    "no heads": (written({f"{L}attention.head_count": 0}), "zero|at least 1"),
    "epsilon of NaN": (
        written({f"{L}attention.layer_norm_rms_epsilon": float("nan")}),
        "expected a finite number",
    ),
    "parts of NaN": (
        written({"split.count": float("nan")}),
        "expected a finite number",
    ),
    "parts of text": (written({"split.count": "2"}), "expected a finite number"),
    "scaling of 3": (written({f"{L}rope.scaling.type": 3}), "3; expected text"),
    "another vocabulary": (written({f"{L}vocab_size": 9}), "has 16 rows"),
    "tokens of text": (written({f"{G}tokens": "abc"}), "'abc'; expected a list"),
    "tokens of numbers": (
        written({f"{G}tokens": [*range(16)]}),
        "its tokenizer is dam",
    ),
    "tokens twice": (written({f"{G}tokens": ["a"] * 16}), "holds 'a' twice"),
    "scores of text": (written({f"{G}scores": "abc"}), "'abc'; expected a list"),
    "fewer scores": (written({f"{G}scores": [0.0]}), "has 1 values for 16"),
    "kinds of a number": (written({f"{G}token_type": 1}), "1; expected a list"),
    "no scores": (written({f"{G}scores": None}), "neither tokenizer.ggml.scores nor"),
    "a kind of magic": (written({f"{G}model": "magic"}), "'magic'; expected one of"),
    "a kind of 3": (written({f"{G}model": 3}), "3; expected text"),
    "an end of text": (written({f"{G}eos_token_id": "2"}), "'2'; expected a whole"),
    "an end of lists": (written({f"{G}eos_token_id": [2]}), r"\[2\]; expected a whole"),
    "an end of NaN": (
        written({f"{G}eos_token_id": float("nan")}),
        "nan; expected a w",
    ),
    "padding that is true": (written({f"{G}padding_token_id": True}), "True; expected"),
    "a beginning of text": (
        written({f"{G}add_bos_token": "no"}),
        "'no'; expect",
    ),
    "a space of 1": (written({f"{G}add_space_prefix": 1}), "1; expected true or fal"),
    "a template of 3": (written({"tokenizer.chat_template": 3}), "is no text"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_understood_is_refused(name, tmp_path):
    content, message = FILES[name]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        from_pretrained(file)
    assert str(file) in str(caught.value) and "Remedy" in str(caught.value)


NONE = {
    "no end": {f"{G}eos_token_id": None},
    "an end of -1": {f"{G}eos_token_id": -1},
    "an end beyond": {f"{G}eos_token_id": 2**32 - 1},
}


@pytest.mark.parametrize("name", NONE)
def test_an_end_that_is_none(name, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(written(NONE[name]))
    model = from_pretrained(file)
    assert model.tokenizer.eos_id is None and model.stop_tokens == (2,)  # by its name


def test_the_file_itself_is_read(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(WHOLE)
    model = from_pretrained(file)
    assert model.tokenizer.encode("ab") and model.stop_tokens == (2,)
    np.testing.assert_allclose(model.params["final_norm"]["scale"], 0.1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_damage_ends_in_a_model_or_in_our_error(seed, tmp_path):
    """Bytes of the head that are others, and files that end anywhere."""
    rng = np.random.default_rng(seed)
    content = bytearray(WHOLE)
    for place in rng.integers(0, 1500, rng.integers(1, 4)):
        content[place] = rng.integers(256)
    if seed % 4 == 0:
        content = content[: rng.integers(len(content))]
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(content))
    try:
        from_pretrained(file)
    except CheckpointError as error:
        assert str(file) in str(error)
