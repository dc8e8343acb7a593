"""Tokenizers of a folder: padding, templates, stop tokens, what is missing."""

import json

import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.models.files.tokenizer import load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

TEMPLATE = """\
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def folder(tmp_path):
    words = {word: i for i, word in enumerate(["[UNK]", "a", "b", "c"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.add_special_tokens(["<|endoftext|>", "<|im_end|>", "<s>"])
    core.save(str(tmp_path / "tokenizer.json"))
    added = {"__type": "AddedToken", "content": "<|im_end|>", "special": True}
    added |= dict.fromkeys(["lstrip", "rstrip", "single_word", "normalized"], False)
    settings = {"eos_token": added, "bos_token": "<s>"}
    settings |= {"pad_token": None, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_ids_that_matter(folder):
    found = load_tokenizer(folder)
    assert (found.bos_id, found.eos_id, found.pad_id) == (6, 5, 4)
    assert found.stop_tokens == (4, 5) and found.vocab_size == 7
    assert found.encode("a <|im_end|> c") == [1, 5, 3]
    assert found.decode(np.array([1, 5, 3])) == "a c"


def test_rows_are_padded_on_either_side(folder):
    found = load_tokenizer(folder)
    tokens, where = found.rows(["a b c", "b"])
    np.testing.assert_array_equal(tokens, [[1, 2, 3], [4, 4, 2]])
    np.testing.assert_array_equal(where, [[1, 1, 1], [0, 0, 1]])
    assert tokens.dtype == np.int32 and where.dtype == bool
    tokens, where = found.rows(["a b c", "b"], length=4, side="right")
    np.testing.assert_array_equal(tokens, [[1, 2, 3, 4], [2, 4, 4, 4]])
    np.testing.assert_array_equal(where, [[1, 1, 1, 0], [1, 0, 0, 0]])
    for arguments, message in (
        ((["a b"], 1), "more than length 1"),
        ((["a", ""], None), "none empty"),
        (([], None), "0 texts"),
    ):
        with pytest.raises(ValueError, match=message):
            found.rows(arguments[0], length=arguments[1])
    with pytest.raises(ValueError, match="side is 'up'"):
        found.rows(["a"], side="up")


def test_chat_is_that_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    found = load_tokenizer(folder)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for answer in (True, False):
        want = theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer
        )
        assert found.chat(messages, answer=answer) == want
    with pytest.raises(ValueError, match="no tools"):
        found.chat([{"role": "tool", "content": "a"}])


def test_templates_run_in_a_sandbox(folder):
    escape = "{{ ().__class__.__base__.__subclasses__() }}"
    (folder / "chat_template.jinja").write_text(escape)
    with pytest.raises(ValueError, match=r"line 1 .*SecurityError: access to"):
        load_tokenizer(folder).chat([{"role": "user", "content": "a"}])
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(ValueError, match="no chat template"):
        load_tokenizer(folder).chat([])


def test_files_that_are_missing_or_damaged(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: damaged"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer.json"):
        load_tokenizer(folder)
