"""The evidence of a language model, which the smoke preset leaves out."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from experiments import kit
from experiments.kit.language import LanguageConfig, text_rewards
from experiments.papers import rl_kl_bayes
from kljax.data.text import TextConfig
from kljax.training import silent


def test_evidence_of_a_language_model_is_put_between_bounds(tmp_path):
    words = np.random.default_rng(0).choice(
        ["one ", "two ", "three ", "four\n\n"], 9000
    )
    (tmp_path / "own.txt").write_text("".join(words))
    path = str(tmp_path / "own.txt")
    text = TextConfig(path=path, tokens=4096, held_out=64, length=16)
    config = dataclasses.replace(
        rl_kl_bayes.PRESETS["smoke"],
        language=LanguageConfig(text=text, width=16, depth=1, steps=3),
        texts=700,
        tokens=5,
    )
    study = kit.Study(config, tmp_path / "run", silent())
    found = rl_kl_bayes.evidence(study)
    texts = study.once("texts", lambda: pytest.fail("its texts were not stored"))
    assert texts.shape == (700, 5) and len(np.unique(texts, axis=0)) > 600
    for name, reward in text_rewards(texts).items():
        np.testing.assert_allclose(reward.mean(), 0, atol=0.2)
        row = found.rows[f"{name}, β = 2 σ", 0, None]
        low = special.logsumexp(reward[:350] / 2) - np.log(350)
        np.testing.assert_allclose(row["low"], low, atol=1e-5)
        assert row["width"] < 0.1 and 0.5 < row["effective"] <= 1
        expected = np.exp((reward[350:] - reward.max()) / 2).mean()
        assert abs(row["kept"] - expected) < 4 * 0.5 / np.sqrt(350)
    assert found.extreme("width") == max(r["width"] for r in found.rows.values())
    study.folder.close()
