"""Rows of text and of packed examples: what is in them, and what is to be predicted."""

import numpy as np
import pytest

from kljax.data.packing import Packed, Text, joined, mixed
from kljax.data.pairs import Rows, answers, encoded, prompts
from kljax.data.tasks import TaskConfig, draw
from kljax.models.language.vocabulary import Characters

VOCABULARY = Characters()
WORDS = "".join(f"{i} pens and {i * i} books; " for i in range(300))


@pytest.fixture(scope="module")
def text():
    return Text(np.asarray(VOCABULARY.encode(WORDS), np.int32), 64, VOCABULARY.end)


@pytest.fixture(scope="module")
def packed():
    return [
        Packed(
            VOCABULARY,
            [
                (one.prompt, one.answer)
                for one in draw(task, "train", 60, TaskConfig(), 3)
            ],
            64,
        )
        for task in ("add", "date")
    ]


def test_batches_are_functions_of_the_step(text, packed):
    batches = mixed(text, packed, 10, 0.5, 3, 1)
    first, again, other = batches(4), batches(4), batches(5)
    for key in ("tokens", "answer"):
        np.testing.assert_array_equal(first[key], again[key])
        assert first[key].shape == (10, 64)
    assert (first["tokens"] != other["tokens"]).any()
    for own in (text, packed[0]):
        one, two = (own.batches(6, 3, seed)(0)["tokens"] for seed in (1, 2))
        assert one.shape == (6, 64) and (one != two).any()


def test_of_text_every_token_is_predicted_and_of_examples_the_answers(text, packed):
    batch = mixed(text, packed, 10, 0.5, 3, 1)(4)
    assert not batch["answer"][:, 0].any() and (batch["tokens"][:, 0] == 0).all()
    assert batch["answer"][:5, 1:].all()
    for row in batch["tokens"][:5]:
        assert VOCABULARY.decode(row[1:]) in WORDS
    kinds = []
    for tokens, target in zip(batch["tokens"][5:], batch["answer"][5:], strict=True):
        lines = VOCABULARY.decode(tokens[1:]).split("\n")
        asked = VOCABULARY.decode(tokens[target]).split("\n")
        for line, answer in zip(lines[:-1], asked[:-1], strict=True):
            assert line.endswith("=" + answer) and "=" in line
        kinds.append("-" in lines[0])  # a date
    assert kinds == [False, True, False, True, False]  # in turn
    every = mixed(text, packed, 4, 1.0, 0)(0)["answer"]
    assert not every[:, 1:4].any() and every.any(axis=1).all()
    assert mixed(text, packed, 4, 0.0, 0)(0)["answer"][:, 1:].all()


def test_short_texts_repeat_and_examples_start_rows():
    short = Text(np.arange(1, 4), 9, 0).rows(2, np.random.default_rng(0))
    assert short.tokens[0].tolist() == [0, 1, 2, 3, 1, 2, 3, 1, 2]
    packed = Packed(VOCABULARY, [("a=", "bcd"), ("ef=", "g")] * 9, 12)
    for row in packed.rows(20, np.random.default_rng(1)).tokens:
        assert VOCABULARY.decode(row[1:]).startswith(("a=bcd\n", "ef=g\n"))


def test_rows_are_joined_in_order():
    parts = [Rows(np.full((n, 3), n), np.full((n, 3), n > 1)) for n in (1, 2)]
    found = joined(parts)
    assert found.tokens[:, 0].tolist() == [1, 2, 2]
    assert found.answer[:, 0].tolist() == [False, True, True]


def test_answers_are_cut_out_of_rows():
    rows = encoded(VOCABULARY, [("ab=", "c"), ("a=", "xyz")], least=12)
    assert rows.tokens.shape == (2, 16) and rows.prompt(0) == [0, 66, 67, 30]
    cut = answers(rows, length=5)
    taken = np.take_along_axis(rows.tokens, cut.place + 1, axis=1)
    np.testing.assert_array_equal(taken, cut.target)
    words = [VOCABULARY.decode(t[w]) for t, w in zip(cut.target, cut.where)]
    assert words == ["c\n", "xyz\n"] and cut.where.shape == (2, 5)
    assert answers(rows).where.sum(axis=1).tolist() == [2, 4]


def test_prompts_end_where_the_rows_end():
    rows = encoded(VOCABULARY, [("ab=", "c"), ("abcdef=", "xyz"), ("", "z")])
    tokens, where = prompts(rows, 95)
    assert tokens.shape == where.shape == rows.tokens.shape
    for i in range(3):
        prompt = rows.prompt(i)
        assert tokens[i][where[i]].tolist() == prompt
        assert where[i].sum() == len(prompt) and where[i, -len(prompt) :].all()
        assert (tokens[i][~where[i]] == 95).all()
