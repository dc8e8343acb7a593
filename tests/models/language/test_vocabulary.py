"""Models on some of their vocabulary, and vocabularies that need no file."""

import jax
import numpy as np
import pytest
import references
from transformer_reference import draw

from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.language.vocabulary import (
    Bytes,
    Characters,
    Kept,
    restricted,
    widened,
)


def test_restricted_model_is_the_law_given_the_kept_ids():
    config = TransformerConfig(vocab_size=12, width=8, depth=3, heads=2, max_length=16)
    apply, initial = transformer(config)
    params, ids = draw(initial), np.array([0, 2, 3, 7, 11])
    smaller, cut = restricted(config, params, ids)
    window = np.array([[1, 4, 0, 2, 3]])
    full = np.asarray(jax.jit(apply)(params, ids[window]))
    kept = references.softmax(full)[..., ids]
    got = references.softmax(jax.jit(transformer(smaller)[0])(cut, window))
    np.testing.assert_allclose(got, kept / kept.sum(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_widened_model_is_the_restricted_one_on_its_ids(tied):
    config = TransformerConfig(12, width=8, depth=2, heads=2, max_length=16, tied=tied)
    initial = transformer(config)[1]
    whole, ids = draw(initial), np.array([0, 2, 3, 7, 11])
    smaller, cut = restricted(config, whole, ids)
    moved = jax.tree.map(lambda x: x + 0.1, cut)  # trained meanwhile
    wide, params = widened(smaller, moved, ids, whole)
    assert wide == config
    again = restricted(wide, params, ids)[1]
    jax.tree.map(np.testing.assert_array_equal, again, moved)
    rest = np.setdiff1d(np.arange(12), ids)
    got, want = (x["head"]["kernel"][:, rest] for x in (params, whole))
    np.testing.assert_array_equal(got, want)
    other = draw(transformer(TransformerConfig(12, width=4, depth=1, heads=2))[1])
    with pytest.raises(ValueError, match="whole has width 4, config 8"):
        widened(smaller, cut, ids, other)


class Words:
    """A tokenizer of three-letter pieces."""

    vocab_size = 1000

    def encode(self, text):
        return [sum(map(ord, text[i : i + 3])) % 1000 for i in range(0, len(text), 3)]

    def decode(self, ids):
        return ",".join(map(str, ids))


def test_trimmed_vocabulary_keeps_what_is_needed():
    needed, text = ["abcdef"], "the the the cat sat on the mat."
    vocabulary = Kept(Words(), needed, text, 6)
    assert vocabulary.size == 6 and vocabulary.kept is not None
    kept = set(vocabulary.kept.tolist())
    assert {*Words().encode("abcdef"), *Words().encode("\n")} <= kept
    assert Words().encode("the")[0] in kept
    ids = vocabulary.encode("abcdef")
    assert vocabulary.decode(ids) == Words().decode(Words().encode("abcdef"))
    assert vocabulary.encode("ZZZ") == []
    assert vocabulary.encode("\n") == [vocabulary.end]
    full = Kept(Words(), needed, text)
    assert full.size == 1000 and full.encode("ZZZ") == Words().encode("ZZZ")


def test_bytes_and_characters_give_their_text_back():
    assert Bytes.decode(Bytes.encode("né\n")) == "né\n" and Bytes.end < Bytes.size
    assert Bytes.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"
    printable = "".join(map(chr, range(32, 127))) + "\n"
    characters = Characters()
    ids = characters.encode(printable)
    assert sorted(ids) == list(range(characters.size)) and ids[-1] == characters.end
    assert characters.decode(ids) == printable
    assert characters.decode(characters.encode("né")) == "n"
