"""Published models on one trimmed vocabulary."""

import dataclasses

import jax
import numpy as np
import pytest
from transformer_reference import draw

from kljax.errors import CheckpointError
from kljax.models.files.pretrained import Pretrained
from kljax.models.files.trimmed import trimmed
from kljax.models.language.transformer import TransformerConfig, transformer


class Letters:
    """A tokenizer of single characters, as far as `trimmed` looks."""

    vocab_size = 128

    def __init__(self, shift=0):
        self.vocabulary = {chr(i): (i + shift) % 128 for i in range(128)}

    def encode(self, text):
        return [self.vocabulary[c] for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


LETTERS = Letters()


def model(seed, width, tokenizer=LETTERS, tied=True):
    config = TransformerConfig(128, width=width, depth=1, heads=2, tied=tied)
    apply, initial = transformer(config)
    return Pretrained(config, apply, draw(initial, seed), tokenizer, (), 0, f"m{seed}")


@pytest.mark.parametrize("tied", [True, False])
def test_trimmed_models_have_the_logits_of_the_kept_tokens(tied):
    models = {"large": model(1, 8, tied=tied), "small": model(2, 4)}
    vocabulary, found = trimmed(models, ["abc"], "ddde", size=6)
    assert vocabulary.size == 6  # the line's end, abc, d, e
    tokens = np.array([vocabulary.encode("adbe")])
    place = np.array([[0, 2]])
    for name, one in models.items():
        config, params = found[name]
        apply = transformer(config)[0]
        whole = one.apply(one.params, vocabulary.kept[tokens])[..., vocabulary.kept]
        np.testing.assert_allclose(apply(params, tokens), whole, atol=1e-5)
        some = jax.jit(apply.logits_at)(params, tokens, place)
        np.testing.assert_allclose(some, whole[:, [0, 2]], atol=1e-5)
    everything, found = trimmed(models, ["abc"], "ddde")
    assert everything.size == 128 and found["small"][1] is models["small"].params


def test_models_must_share_a_tokenizer():
    one, other = model(1, 8), model(2, 4, Letters(shift=1))
    with pytest.raises(
        ValueError, match="m2 has another tokenizer than m1: 128 tokens"
    ):
        trimmed({"large": one, "small": other}, [], "")
    bare = dataclasses.replace(one, tokenizer=None)
    with pytest.raises(CheckpointError, match="m1: no tokenizer"):
        trimmed({"large": bare}, [], "")
