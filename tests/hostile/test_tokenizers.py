"""Folders, texts and ids that no tokenizer should see: what is said of each."""

import json
import sys

import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.models.files.tokenizer import Tokenizer, load_tokenizer, stop_ids

tokenizers = pytest.importorskip("tokenizers")


def core():
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "a", "b"])}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return found


def changed(**parts):
    """tokenizer.json with other parts."""
    return {**json.loads(core().to_str()), **parts}


def added(content, index, **fields):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {str(index): {"content": content, "special": True, **flags, **fields}}


SETTINGS = "tokenizer_config.json"
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "c"]]}
REGEX = {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated"}
SPLIT = {"pre_tokenizer": {**REGEX, "invert": False}}
AROUND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
# Name: files beside or in the place of a sound tokenizer.json (None: none), the error.
FOLDERS = {
    "nothing": ({"tokenizer.json": None}, r"no tokenizer.json. Remedy: save the"),
    "SentencePiece": (
        {"tokenizer.json": None, "tokenizer.model": b"\n\x0e"},
        r"no tokenizer.json, but tokenizer.model \(SentencePiece or tiktoken\), which",
    ),
    "vocabulary and merges": (
        {"tokenizer.json": None, "vocab.json": {"a": 0}, "merges.txt": b"a b"},
        r"but vocab.json \(vocabulary and merges\), which is not read here",
    ),
    "wordpiece": ({"tokenizer.json": None, "vocab.txt": b"a\n"}, r"vocab.txt \(WordP"),
    "tekken": ({"tokenizer.json": None, "tekken.json": {}}, r"tekken.json \(Tekken\)"),
    "an empty file": ({"tokenizer.json": b""}, "tokenizer.json: damaged"),
    "half a file": ({"tokenizer.json": b'{"version": "1.0"'}, "json: damaged"),
    "a list": ({"tokenizer.json": []}, "tokenizer.json: damaged"),
    "no text": ({"tokenizer.json": b"\xff\xfe\x00"}, "tokenizer.json: damaged"),
    "an unknown model": (
        {"tokenizer.json": changed(model={"type": "Magic", "vocab": {}})},
        "tokenizer.json: damaged",
    ),
    "a merge of nothing": ({"tokenizer.json": changed(model=BPE)}, "json: damaged"),
    "a broken expression": ({"tokenizer.json": changed(**SPLIT)}, "json: damaged"),
    "a template of nothing": (
        {"tokenizer.json": changed(post_processor=AROUND)},
        "tokenizer.json: damaged",
    ),
    "settings in a list": (
        {SETTINGS: [1]},
        r"config.json: damaged \(a list, not an ob",
    ),
    "settings that end": ({SETTINGS: b'{"bos_token":'}, "config.json: damaged"),
    "settings in Latin-1": ({SETTINGS: b'{"a": "\xe9"}'}, "config.json: damaged"),
    "settings without end": ({SETTINGS: b"[" * 200_000}, "config.json: damaged"),
    "a map that is a number": (
        {"special_tokens_map.json": 3},
        r"special_tokens_map.json: damaged \(a int",
    ),
    "ids that contradict": (
        {"added_tokens.json": {"<tool>": 9}},
        "'<tool>' is added as id 9, but after tokenizer.json it is 4",
    ),
    "ids of words": ({"added_tokens.json": {"<tool>": "x"}}, "added token is 'x'; exp"),
    "a word under another id": (
        {SETTINGS: {"added_tokens_decoder": added("b", 2)}},
        "'b' is added as id 2, but after tokenizer.json it is 3",
    ),
    "a token that has another id": (
        {
            "tokenizer.json": changed(added_tokens=[{"id": 4, **added("<t>", 4)["4"]}]),
            SETTINGS: {"added_tokens_decoder": added("<t>", 5)},
        },
        "'<t>' is added as id 5, but after tokenizer.json it is 4",
    ),
    "a token of no text": (
        {SETTINGS: {"added_tokens_decoder": {"4": {"special": True}}}},
        r"\{'special': True\} describes no token",
    ),
    "a token of a number": (
        {SETTINGS: {"added_tokens_decoder": {"4": 7}}},
        "7 describes no token",
    ),
    "tokens in a list": (
        {SETTINGS: {"added_tokens_decoder": ["<tool>"]}},
        "added_tokens_decoder is a list; expected tokens by id",
    ),
    "a template that is a number": (
        {SETTINGS: {"chat_template": 3}},
        "chat template ca",
    ),
    "templates without names": (
        {SETTINGS: {"chat_template": [{"template": "a"}]}},
        "its chat template cannot be read",
    ),
    "a template in Latin-1": ({"chat_template.jinja": b"\xe9"}, "chat template cannot"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_understood_is_refused(name, tmp_path):
    files, message = FOLDERS[name]
    core().save(str(tmp_path / "tokenizer.json"))
    for file, content in files.items():
        if content is None:
            (tmp_path / file).unlink()
        elif isinstance(content, bytes):
            (tmp_path / file).write_bytes(content)
        else:
            (tmp_path / file).write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value) and "Remedy" in str(caught.value)


FOUND = Tokenizer(core())
BARE = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})))
# Name: call, expected value or the error and what it says.
INPUTS = {
    "text of bytes": (lambda: FOUND.encode(b"a"), TypeError, "text is a bytes; expect"),
    "no text": (lambda: FOUND.encode(None), TypeError, "text is a NoneType"),
    "half a pair": (
        lambda: FOUND.encode("a\ud83d"),
        ValueError,
        r"'\\ud83d' at 1, half",
    ),
    "words of no vocabulary": (lambda: BARE.encode("zz"), ValueError, "'zz' cannot be"),
    "one text for rows": (lambda: FOUND.rows("a b"), TypeError, "texts is one string"),
    "half a column": (
        lambda: FOUND.rows(["a"], length=2.5),
        TypeError,
        "length must be an int",
    ),
    "a number in rows": (lambda: FOUND.rows(["a", 3]), TypeError, "text is a int"),
    "an id below": (lambda: FOUND.decode([2, -1]), ValueError, "holds -1; .* 0 to 3"),
    "an id above": (lambda: FOUND.decode([4]), ValueError, "ids holds 4; .* 0 to 3"),
    "a huge id": (lambda: FOUND.decode([2**40]), ValueError, "ids holds 1099511627776"),
    "ids of floats": (lambda: FOUND.decode([2.7]), TypeError, "and dtype float64"),
    "rows of ids": (lambda: FOUND.decode(np.ones((1, 2), int)), TypeError, r"\(1, 2\)"),
    "one id": (lambda: FOUND.decode(3), TypeError, r"ids has shape \(\)"),
    "ids of text": (lambda: FOUND.decode("ab"), TypeError, r"ids has shape \(\) and"),
    "ids in rows of their own": (
        lambda: FOUND.decode([[2], [2, 3]]),
        TypeError,
        "ids ",
    ),
    "no ids": (lambda: FOUND.decode([]), "", ""),
    "ids of eight bits": (lambda: FOUND.decode(np.uint8([2, 3])), "a b", ""),
    "an end of text": (
        lambda: stop_ids({"eos_token_id": "2"}),
        CheckpointError,
        "'2'; e",
    ),
    "an end that is true": (
        lambda: stop_ids({"eos_token_id": True}),
        CheckpointError,
        "T",
    ),
    "ends of text": (
        lambda: stop_ids({"eos_token_id": [2, "x"]}),
        CheckpointError,
        "x",
    ),
    "no folder": (lambda: load_tokenizer("/nowhere"), ValueError, "no such folder"),
    "a file of something": (
        lambda: load_tokenizer(__file__),
        CheckpointError,
        "not a GG",
    ),
    "the Python program": (
        lambda: load_tokenizer(sys.executable),
        CheckpointError,
        "not a GGUF file",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_texts_and_ids(name):
    call, expected, message = INPUTS[name]
    if isinstance(expected, str):
        assert call() == expected
        return
    with pytest.raises(expected, match=message) as caught:
        call()
    assert type(caught.value) is expected
