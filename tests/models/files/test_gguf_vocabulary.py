"""Tokenizers of GGUF files against those they were written from, and `transformers`."""

import json

import pytest
from test_tokenizer_parity import CHAT, LLAMA3, QWEN2, TEXTS, byte_level, sentencepiece

from kljax.errors import CheckpointError
from kljax.models.files.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"


def write(file, kind, core=None, *, tokens=None, types=None, **keys):
    """A file without tensors: the vocabulary of a tokenizer, and any other key."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    if core is not None:
        model = json.loads(core.to_str())
        ids = model["model"]["vocab"]
        tokens = sorted(ids, key=ids.get)
        special = {token["id"] for token in model["added_tokens"]}
        types = [CONTROL if i in special else NORMAL for i in range(len(tokens))]
        if kind == "gpt2":
            keys = {
                "token_merges": list(map(" ".join, model["model"]["merges"])),
                **keys,
            }
        else:
            types = [BYTE if x.startswith("<0x") else y for x, y in zip(tokens, types)]
            types[0] = UNKNOWN
    writer.add_token_list(tokens)
    if types is not None:
        writer.add_token_types(types)
    for key, value in keys.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def theirs(file):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(
        str(file.parent), gguf_file=file.name
    )


def agree(ours, other, *, special=False):
    for text in TEXTS:
        assert ours.encode(text, special=special) == other(text), text


@pytest.mark.parametrize(
    ("pre", "split"), [("llama-bpe", LLAMA3), ("qwen2", QWEN2), ("gpt-2", None)]
)
def test_bytes_that_are_merged(pre, split, tmp_path):
    core = byte_level(CHAT, split=split)
    file = write(
        tmp_path / "m.gguf",
        "gpt2",
        core,
        tokenizer_pre=pre,
        bos_token_id=1,
        eos_token_id=2,
        add_bos_token=True,
        add_eos_token=True,
    )
    ours, other = load_tokenizer(file), theirs(file)
    agree(ours, lambda text: core.encode(text).ids)
    agree(ours, other.encode, special=True)
    assert ours.encode("ferry", special=True)[0] == 1
    assert ours.encode("ferry", special=True)[-1] == 2
    assert ours.vocabulary == core.get_vocab()
    for text in TEXTS:
        ids = core.encode(text).ids
        assert ours.decode(ids, special=True) == core.decode(ids, False)


# By llama.cpp's own expressions, one after the other.
EXPRESSIONS = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "smollm": (r"\p{N}", GPT2),
    "starcoder": (r"\p{N}", GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "gpt-2": (GPT2,),
    "olmo": (GPT2,),
    "llama-bpe": (LLAMA3,),
    "dbrx": (LLAMA3,),
    "qwen2": (QWEN2,),
    "stablelm2": (QWEN2,),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "gpt-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}


def pieces(text, expressions):
    """Matches, and what lies between them, of each expression within the last's."""
    regex = pytest.importorskip("regex")
    found = [text]
    for expression in expressions:
        parts = []
        for piece in found:
            end = 0
            for match in regex.finditer(expression, piece):
                parts += [piece[end : match.start()], match.group()]
                end = match.end()
            parts.append(piece[end:])
        found = [part for part in parts if part]
    return found


@pytest.mark.parametrize("pre", EXPRESSIONS)
def test_text_is_split_as_the_name_says(pre, tmp_path):
    core = byte_level(CHAT)
    file = write(tmp_path / "m.gguf", "gpt2", core, tokenizer_pre=pre)
    rules = load_tokenizer(file).core.pre_tokenizer
    seen = set()
    for text in (*TEXTS, "a1234567b  $$12,345.67`x`!?\n \n  x", "HTTPServer isn'T it"):
        parts = rules.pre_tokenize_str(text)
        want = pieces(text, EXPRESSIONS[pre])
        assert [text[start:end] for _, (start, end) in parts] == want
        seen |= set(want)
    assert len(seen) > 30


@pytest.mark.parametrize("prefix", [None, True, False])
def test_sentencepiece_by_scores(prefix, tmp_path):
    core = sentencepiece()
    merges = json.loads(core.to_str())["model"]["merges"]
    made = {a + b: -float(i) for i, (a, b) in enumerate(merges)}
    tokens = core.get_vocab()
    scores = [made.get(x, -1e6) for x in sorted(tokens, key=tokens.get)]
    file = write(
        tmp_path / "m.gguf",
        "llama",
        core,
        token_scores=scores,
        add_space_prefix=prefix,
        bos_token_id=1,
        eos_token_id=2,
        unk_token_id=0,
    )
    ours = load_tokenizer(file)
    if prefix is not False:  # which transformers does not read
        agree(ours, theirs(file).encode, special=True)
    assert ours.encode("ferry", special=True)[0] == 1
    first = ours.core.id_to_token(ours.encode("ferry")[0])
    assert first.startswith("▁") == (prefix is not False)
    plain = "The ferry, 1984: naïve €5"
    bare = ours.encode(plain)
    core.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    want = plain if prefix is False else f" {plain}"
    assert bare == core.encode(want, add_special_tokens=False).ids
    assert ours.decode(bare) == plain and ours.named["unk_token"] == "<unk>"


def test_types_of_tokens(tmp_path):
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "<s>", "<think>", "  ", "<0x41>", "<pad1>", "ab", "<｜end▁｜>"]
    types = [*[NORMAL] * 256, CONTROL, USER, USER, BYTE, UNUSED, NORMAL, CONTROL]
    file = write(
        tmp_path / "m.gguf",
        "gpt2",
        tokens=tokens,
        types=types,
        tokenizer_pre="gpt-2",
        token_merges=["a b"],
        eos_token_id=262,
        eot_token_id=256,
        pad_token_id=4294967295,
        bos_token_id=4000,
    )
    ours = load_tokenizer(file)
    assert ours.encode("<s><think>x  ab<｜end▁｜>") == [
        *(256, 257),
        tokens.index("x"),
        *(258, 261, 262),
    ]
    assert ours.encode("<pad1>") == [tokens.index(x) for x in "<pad1>"]
    assert ours.decode([256, 257, 258, 261]) == "<think>  ab"
    assert ours.stop_tokens == (256, 262) and ours.bos_id is None
    assert ours.encode("ab", special=True) == [261]


@pytest.mark.parametrize(
    ("pre", "says", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False)],
)
def test_files_that_do_not_say_begin_like_their_family(pre, says, begins, tmp_path):
    # Llama 3's own files say nothing, and its texts begin with BOS.
    keys = {"tokenizer_pre": pre, "bos_token_id": 1, "add_bos_token": says}
    ours = load_tokenizer(write(tmp_path / "m.gguf", "gpt2", byte_level(CHAT), **keys))
    assert ours.encode("late", special=True) == [1] * begins + ours.encode("late")
    tokens, where = ours.rows(["late", "a late ferry"], special=True)
    assert (tokens[where == 1][0] == 1) == begins
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode("late", special=True) == ours.encode("late", special=True)


def test_several_chat_templates(tmp_path):
    file = write(
        tmp_path / "m.gguf",
        "gpt2",
        byte_level(CHAT),
        tokenizer_pre="gpt-2",
        chat_template=[
            {"name": "default", "template": "plain"},
            {"name": "tool_use", "template": "tools"},
        ],
    )
    ours = load_tokenizer(file)
    user = [{"role": "user", "content": "a"}]
    assert (ours.chat(user), ours.chat(user, tools=[])) == ("plain", "tools")


BASE = {"tokens": ["a", "b", "ab"], "tokenizer_pre": "gpt-2", "token_merges": ["a b"]}
SCORES = [0.0, -1.0, -2.0]
REFUSED = {
    "a kind of its own": (
        "rwkv",
        {},
        "tokenizer.ggml.model is 'rwkv'; expected one of",
    ),
    "wordpiece": ("bert", {}, "is 'bert'; expected one of gpt2, llama"),
    "a split of its own": ("gpt2", {"tokenizer_pre": "kimi-k2"}, "pre is 'kimi-k2'"),
    "no split": ("gpt2", {"tokenizer_pre": None}, "tokenizer.ggml.pre is ''"),
    "no merges": ("gpt2", {"token_merges": None}, "no tokenizer.ggml.merges"),
    "a merge of nothing": ("gpt2", {"token_merges": ["a c"]}, "is damaged"),
    "a merge of one": ("gpt2", {"token_merges": ["ab"]}, "is damaged"),
    "twice the same": ("gpt2", {"tokens": ["a", "b", "a"]}, "holds 'a' twice"),
    "types that lack": ("gpt2", {"types": [1, 1]}, "token_type has 2 values for 3"),
    "neither scores": ("llama", {"token_merges": None}, "neither .*scores nor merges"),
    "scores that lack": (
        "llama",
        {"token_merges": None, "token_scores": SCORES[:2]},
        "scores has 2 values for 3 tokens",
    ),
    "BOS that is none": (
        "gpt2",
        {"add_bos_token": True},
        "add_bos_token is true, but tokenizer.ggml.bos_token_id is no token",
    ),
    "EOS out of range": (
        "gpt2",
        {"add_eos_token": True, "eos_token_id": 3},
        "add_eos_token is true, but tokenizer.ggml.eos_token_id is no token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rebuilt_is_refused(name, tmp_path):
    kind, keys, message = REFUSED[name]
    file = write(tmp_path / "m.gguf", kind, **{**BASE, **keys})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(file)
    assert str(file) in str(caught.value) and "Remedy" in str(caught.value)
