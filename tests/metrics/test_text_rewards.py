"""METEOR by hand, verifiers on texts that are right and wrong, packages that lack."""

import sys
import types

import jax
import numpy as np
import pytest

from kljax.errors import DataError
from kljax.metrics import (
    arithmetic,
    cross_prompt_similarity,
    lexical_reward,
    meteor,
    number_reward,
    problems,
    reasoning_gym,
    rewards,
    sentiment_reward,
    token_constraint,
    token_similarity,
)

# Matches, precision, recall, chunks, all by hand.
PAIRS = {
    ("the cat sat on the mat",) * 2: 1 - 0.5 / 6**3,
    ("on the mat sat the cat", "the cat sat on the mat"): 0.5,  # six chunks of six
    ("the cat was sat on the mat", "the cat sat on the mat"): 6 / 6.1 * (1 - 0.5 / 27),
    ("a a b", "a b"): 20 / 21 * (1 - 0.5 / 8),
    ("x b y d", "b c d e f"): 0.2 / (0.9 * 0.5 + 0.1 * 0.4) * 0.5,
    ("one two", "three"): 0.0,
}


@pytest.mark.parametrize("pair", PAIRS)
def test_meteor_by_hand(pair):
    assert abs(meteor(*pair) - PAIRS[pair]) < 1e-9
    tokens = [one.split() for one in pair]
    assert meteor(*tokens) == meteor(*pair)


def test_meteor_of_nothing_and_of_ids():
    assert meteor("", "a b") == meteor("a", "") == meteor("", "") == 0
    assert abs(meteor(np.array([7, 7, 9]), [7, 9]) - PAIRS["a a b", "a b"]) < 1e-12
    alone = meteor("a b c", "a b", alpha=1, gamma=0)  # recall alone
    assert alone == 1
    with pytest.raises(TypeError, match="text 0 must be text"):
        meteor(3, "a")


def test_similarity_does_not_know_an_order():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 4, rng.integers(1, 7)).tolist() for _ in range(9)]
    pairs = [(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts) if i != j]
    every = np.mean([meteor(a, b) for a, b in pairs])
    assert abs(cross_prompt_similarity(texts) - every) < 1e-12
    assert abs(cross_prompt_similarity(texts[::-1]) - every) < 1e-12
    # Two of them: the mean of both orders, which differ.
    two = ["a a b c", "a b"]
    both = meteor(*two), meteor(*two[::-1])
    assert both[0] != both[1]
    found = {cross_prompt_similarity(x) for x in (two, two[::-1])}
    assert found == {np.mean(both)}
    drawn = [cross_prompt_similarity(texts, pairs=12, seed=s) for s in range(300)]
    assert abs(np.mean(drawn) - every) < 4 * np.std(drawn) / 300**0.5
    # The same of padded arrays, in a program.
    ids = np.stack([np.resize(text, 7) for text in texts])
    inside = np.arange(7) < np.array([len(text) for text in texts])[:, None]
    found = jax.jit(token_similarity)(
        np.stack([ids, ids[::-1]]), inside[[range(9)] * 2]
    )
    assert abs(found[0] - every) < 1e-6 and found[1] != found[0]
    with pytest.raises(ValueError, match="n >= 2 prompts"):
        token_similarity(ids[:1])
    with pytest.raises(ValueError, match="two at least"):
        cross_prompt_similarity(["a"])


@pytest.mark.parametrize(
    "text, answer, right",
    [
        ("it is 42.", 42, True),
        ("it is 42, or 43", 42, False),
        ("= −1,007.50 m", -1007.5, True),
        ("7-3 gives 4", "4", True),
        ("7-3", -3, False),  # a difference, no sign
        ("about 1/4", 0.25, True),
        ("none", 0, False),
        ("1" + 20 * "0", 1e20, True),
    ],
)
def test_numbers_are_found(text, answer, right):
    assert number_reward(text, answer) == right
    with pytest.raises(ValueError, match="holds no number"):
        number_reward(text, "none")


def test_arithmetic_is_verified():
    """Against Python's own evaluation."""
    found = arithmetic(300, seed=1, digits=2, terms=4)
    assert found != arithmetic(300, seed=2, digits=2, terms=4)
    signs = {sign for problem in found for sign in problem.prompt if sign in "+-*"}
    assert signs == set("+-*")
    for problem in found:
        exact = eval(problem.prompt.removesuffix("="))
        assert problem.answer == str(exact)
        assert problem.reward(f"so {exact}.") == 1 and problem.reward(f"{exact}1") == 0
    with pytest.raises(ValueError, match="unknown operation '/'"):
        arithmetic(1, seed=0, operations="+/")


@pytest.mark.parametrize(
    "constraint, right",
    [
        ({"must": ["cat", "sat on"]}, True),
        ({"must": ["at"]}, False),  # no word of it
        ({"must": ["on sat"]}, False),
        ({"must_not": ["dog"]}, True),
        ({"must": ["cat"], "must_not": ["CAT"]}, False),
        ({"least": 6, "most": 6}, True),
        ({"least": 7}, False),
        ({"most": 5}, False),
    ],
)
def test_lexical_constraints(constraint, right):
    assert lexical_reward("The cat’s cat SAT on it.", **constraint) == right


def test_lexical_constraints_are_checked():
    with pytest.raises(TypeError, match="must is one string"):
        lexical_reward("a", must="abc")
    with pytest.raises(ValueError, match="without a word"):
        lexical_reward("a", must_not=["!"])


def test_constraints_of_tokens():
    rng = np.random.default_rng(0)
    tokens, where = rng.integers(0, 5, (500, 4)), rng.random((500, 4)) < 0.7
    found = token_constraint(tokens, where, must=[1], must_not=[0, 4], least=2, most=3)
    for ids, kept, good in zip(tokens, where, np.asarray(found)):
        own = ids[kept].tolist()
        assert good == (1 in own and not {0, 4} & {*own} and 2 <= len(own) <= 3)
    assert 0 < found.sum() < 500
    with pytest.raises(ValueError, match="expected the same"):
        token_constraint(tokens, where[:, 1:])


def test_packages_that_lack_are_named(monkeypatch):
    for name in ("vaderSentiment", "vaderSentiment.vaderSentiment", "reasoning_gym"):
        monkeypatch.setitem(sys.modules, name, None)
    rewards._analyzer.cache_clear()
    with pytest.raises(DataError, match=r"kljax\[rewards\]"):
        sentiment_reward("fine")
    with pytest.raises(DataError, match=r"kljax\[reasoning\].*arithmetic"):
        reasoning_gym("chain_sum", 2, 0)


def test_a_package_that_is_there_scores(monkeypatch):
    """Through a stand-in that is called as reasoning-gym 0.1.25 is."""
    rows = [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(3)]

    class Made(list):
        def score_answer(self, answer, entry):
            return 1.0 if answer == entry["answer"] else 0.01

    def create_dataset(name, size, seed, **settings):
        assert (name, size, seed, settings) == ("sums", 3, 5, {"terms": 2})
        return Made(rows)

    fake = types.SimpleNamespace(create_dataset=create_dataset)
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)
    found = problems.reasoning_gym("sums", 3, 5, terms=2)
    assert [one.reward(one.answer) for one in found] == [1, 1, 1]
    assert found[2].prompt == "2+1=" and found[2].reward("2") == 0.01


def test_sentiment_of_words():
    glad, sad = sentiment_reward("I love it!"), sentiment_reward("I do not love it.")
    assert -1 <= sad < 0 < glad <= 1 and sentiment_reward("a table") == 0


def test_problems_of_reasoning_gym():
    # Twenty packages of its own, so that no extra of the tests brings it.
    pytest.importorskip("reasoning_gym")
    found = reasoning_gym("chain_sum", 3, 0)
    assert all(one.reward(one.answer) == 1 > one.reward("no") for one in found)
    with pytest.raises(ValueError, match="not registered"):
        reasoning_gym("nothing", 1, 0)
