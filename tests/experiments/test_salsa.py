"""SALSA's task: products of two digits, enumerated."""

import jax
import numpy as np
import pytest

from experiments import kit
from experiments.kit.language import forecast, text_rewards
from experiments.papers import salsa
from kljax.models.files.pretrained import save_pretrained
from kljax.models.files.tokenizer import Tokenizer
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.training import silent

CONFIG = salsa.PRESETS["smoke"]


def test_answers_and_their_rewards():
    reward = salsa.rewards(CONFIG)
    for a, b in ((0, 0), (3, 5), (7, 7)):
        row = reward[8 * a + b]
        for answer in range(64):
            said, wanted = divmod(answer, 8), divmod(a * b, 8)
            assert row[answer] == np.mean([x == y for x, y in zip(said, wanted)])
    taught = salsa.labels(CONFIG, 0.3, 5, 1)
    share = np.mean(reward[np.arange(64), taught] == 1)
    assert 0.7 <= share < 0.8 and set(taught) <= set(range(64))
    assert (taught != salsa.labels(CONFIG, 0.3, 5, 2)).any()


def test_references_are_laws_and_the_soup_of_one_is_itself():
    models = [salsa.initial(CONFIG, seed) for seed in (0, 1)]
    laws = jax.tree.map(np.asarray, jax.jit(salsa.references)(*models))
    for law in laws.values():
        np.testing.assert_allclose(np.exp(law).sum(axis=1), 1, rtol=1e-5)
    first, second = (np.exp(laws[name]) for name in (salsa.FIRST, salsa.SECOND))
    np.testing.assert_array_equal(laws[salsa.TWICE], laws[salsa.FIRST])
    mixed = np.exp(laws[salsa.ARITHMETIC])
    np.testing.assert_allclose(mixed, (first + second) / 2, rtol=1e-5)
    # By digit: of the second one, given the first, its root mean is normalized.
    digits = [p.reshape(64, 8, 8) / p.reshape(64, 8, 8).sum(-1, keepdims=True)
              for p in (first, second)]  # fmt: skip
    want = np.sqrt(digits[0] * digits[1])
    want /= want.sum(-1, keepdims=True)
    found = np.exp(laws[salsa.GEOMETRIC]).reshape(64, 8, 8)
    np.testing.assert_allclose(found / found.sum(-1, keepdims=True), want, rtol=1e-4)


def test_language_models_and_their_soup_are_forecast(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {chr(97 + i): i for i in range(24)}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
    config = TransformerConfig(vocab_size=24, width=16, depth=1, heads=2)
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        params = transformer(config)[1](jax.random.key(seed))
        save_pretrained(folder, config, params, tokenizer=Tokenizer(core))
    study = kit.Study(CONFIG, tmp_path / "run", silent())
    found = forecast(study, folders, 600, 6, (1.0, 0.25))
    assert found.methods == ("first model", "second model", "soup")
    for name in found.methods:
        near, far = (found.rows[name, 0, beta] for beta in (1.0, 0.25))
        assert near["own"] < near["reward"] < far["reward"] <= 2
        assert 0 < near["KL"] < far["KL"] < np.log(600)
        assert 1 > near["effective"] > far["effective"] > 0
    texts = [study.once(("texts", name), pytest.fail) for name in found.methods]
    reward = text_rewards(np.concatenate(texts))["count"][-600:]
    weights = np.exp(4 * reward) / np.exp(4 * reward).sum()
    best = found.rows["soup", 0, 0.25]
    np.testing.assert_allclose(best["reward"], weights @ reward, rtol=1e-6)
    cost = np.sum(weights * np.log(600 * weights))
    np.testing.assert_allclose(best["KL"], cost, rtol=1e-4)
    study.folder.close()
