"""f-DPG: the sheet of exact optima, and a small transformer by the larger presets."""

import dataclasses
import types

import numpy as np
import pytest

from experiments import kit
from experiments.papers import f_dpg
from experiments.papers.f_dpg.lab import PROBLEMS, X, tuned
from experiments.papers.f_dpg.language import aligned, holding
from kljax.training import silent


def test_a_policy_that_can_be_any_law_has_a_row_for_each_prefix():
    rows = PROBLEMS["well specified"].rows
    assert np.unique(rows).tolist() == [*range(341)]
    for place in range(5):
        pairs = {
            (*x, int(row)) for x, row in zip(X[:, :place].tolist(), rows[:, place])
        }
        assert len(pairs) == 4**place


def test_holding():
    tokens = np.array([[1, 2, 3, 4], [1, 3, 2, 2], [2, 3, 0, 0]])
    assert holding(tokens, (2, 3)).tolist() == [True, False, True]
    assert holding(tokens, (4,)).tolist() == [True, False, False]


MEASURED = {
    "forward_kl": {"reward": -1.580, "entropy": 5.58, "KL base": 0.74,
                   "forward_kl": 1.826, "reverse_kl": 4.031, "total_variation": 0.805},
    "reverse_kl": {"reward": -0.022, "entropy": 0.99, "KL base": 4.34,
                   "forward_kl": 11.68, "reverse_kl": 1.405, "jensen_shannon": 0.383},
}  # fmt: skip
"""Of the first base model's optima, by another program when the set-up was chosen."""


def test_optima_are_those_that_were_measured_before():
    config = f_dpg.Config(seeds=1, rates=(0.1,), exact_steps=400)
    study = types.SimpleNamespace(config=config, seeds=(0,))
    for name, measures in MEASURED.items():
        found = tuned(study, "exact", name, f_dpg.FOUR)
        for key, want in measures.items():
            near = pytest.approx(want, rel=0.02, abs=0.005)
            assert float(found[key][0]) == near, (name, key)


def test_a_transformer_is_drawn_to_a_word(tmp_path):
    language = f_dpg.Language(
        width=8, depth=1, heads=2, vocabulary=8, text_steps=2, word=(7,),
        length=4, samples=64, steps=2,
    )  # fmt: skip
    config = dataclasses.replace(f_dpg.PRESETS["gpu"], seeds=1, language=language)
    study = kit.Study(config, tmp_path / "run", silent())
    scores = aligned(study)
    assert scores.methods == f_dpg.FINITE
    for name in scores.methods:
        assert 0 <= scores.mean("holds", name) <= 100
        assert np.isfinite(scores.mean("KL base", name))
    study.folder.close()
