"""Rewards that are read off a text, or its tokens: plain functions, no model.

They stand among the measures because that is what they are: an objective is given their
numbers, and knows of no text.
"""

import functools
import importlib
import math
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from kljax.arguments import text as checked_text
from kljax.arguments import whole
from kljax.errors import DataError
from kljax.typing import Array, ArrayLike, Bool, Int

__all__ = ["lexical_reward", "number_reward", "sentiment_reward", "token_constraint"]

_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:/[1-9]\d*)?")


def number_reward(text: str, answer: float | str) -> float:
    """1.0 where the last number of a text is the answer, else 0.0.

    Signs, thousands separators, decimals and fractions are understood. What follows
    the last number does not matter, so that a unit or a full stop is no error.

    Args:
      text: what was written.
      answer: a number, or text that holds it.

    Raises:
      ValueError: an answer without a number.

    Example:
      >>> number_reward("3 + 4 = 7, so it is -1,007.50 m", -1007.5)
      1.0
    """
    wanted = _last_number(answer) if isinstance(answer, str) else float(answer)
    if wanted is None:
        raise ValueError(f"answer {answer!r} holds no number")
    found = _last_number(text)
    same = found is not None and math.isclose(found, wanted, rel_tol=1e-9)
    return float(same)


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    if not found:
        return None
    top, _, bottom = found[-1].replace(",", "").replace("−", "-").partition("/")
    return float(top) / float(bottom or 1)


def lexical_reward(
    text: str,
    *,
    must: Sequence[str] = (),
    must_not: Sequence[str] = (),
    least: int = 0,
    most: int | None = None,
) -> float:
    """1.0 where a text keeps to all constraints, else 0.0.

    Words are runs of letters, digits and apostrophes, compared without case: "cat" is
    not in "catalogue". What is asked for may be several words in a row.

    Args:
      text: what was written.
      must: all of these have to be in it.
      must_not: none of these.
      least, most: words that it has to have, both ends included; None: any number.

    Raises:
      TypeError: a single string where several words are expected.
      ValueError: one that holds no word, or a range that is none.

    Example:
      >>> lexical_reward("The cat sat.", must=["cat"], must_not=["dog"], most=3)
      1.0
    """
    _check_range(least, most)
    words = _words(text)
    found = f" {' '.join(words)} "
    wanted, banned = _phrases("must", must), _phrases("must_not", must_not)
    good = all(one in found for one in wanted)
    good &= not any(one in found for one in banned)
    good &= least <= len(words) <= (math.inf if most is None else most)
    return float(good)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def _phrases(name: str, phrases: Sequence[str]) -> list[str]:
    if isinstance(phrases, str):
        raise TypeError(f"{name} is one string; expected a list of words or phrases")
    found = [_words(checked_text(name, one)) for one in phrases]
    if not all(found):
        raise ValueError(f"{name} {list(phrases)} holds one without a word")
    return [f" {' '.join(one)} " for one in found]


def _check_range(least: int, most: int | None) -> None:
    whole("least", least, 0)
    if most is not None:
        whole("most", most, least)


def token_constraint(
    tokens: Int[ArrayLike, "*b t"],
    where: Bool[ArrayLike, "*b t"],
    *,
    must: Sequence[int] = (),
    must_not: Sequence[int] = (),
    least: int = 0,
    most: int | None = None,
) -> Bool[Array, "*b"]:
    """Whether sequences keep to all constraints: `lexical_reward` of tokens, in jit.

    Args:
      tokens: ids.
      where: which of them count.
      must: ids that all have to be there.
      must_not: ids of which none may be.
      least, most: tokens that have to be there, both ends included; None: any number.

    Returns:
      One boolean per sequence: a constraint of `kljax.objectives.targets`, or a reward.

    Raises:
      ValueError: shapes that differ, or a range that is none.

    Example:
      >>> tokens, where = jnp.array([[3, 1, 2], [3, 1, 2]]), jnp.array([3, 2])
      >>> inside = jnp.arange(3) < where[:, None]
      >>> token_constraint(tokens, inside, must=[3], must_not=[2]).tolist()
      [False, True]
    """
    _check_range(least, most)
    ids, counts = jnp.asarray(tokens), jnp.asarray(where, bool)
    if ids.shape != counts.shape or not ids.ndim:
        raise ValueError(
            f"tokens {ids.shape} and where {counts.shape}: expected the same [*b, t]"
        )
    has = lambda token: jnp.any((ids == token) & counts, axis=-1)  # noqa: E731
    length = jnp.sum(counts, axis=-1)
    good = length >= least
    if most is not None:
        good &= length <= most
    for token in must:
        good &= has(token)
    for token in must_not:
        good &= ~has(token)
    return good


@functools.cache
def _analyzer() -> Any:
    try:
        package = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError as missing:
        raise DataError(
            "sentiment_reward reads VADER's lexicon, and vaderSentiment is not "
            "installed: pip install 'kljax[rewards]'"
        ) from missing
    return package.SentimentIntensityAnalyzer()


def sentiment_reward(text: str) -> float:
    """How glad a text sounds, from −1 to 1: the compound score of VADER.

    A lexicon of 7,500 words with rules for negation, emphasis and punctuation; 0 for a
    text without any of its words.

    Raises:
      DataError: vaderSentiment is not installed; says how to.

    References:
      Hutto and Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment
      analysis of social media text".
    """
    return float(_analyzer().polarity_scores(text)["compound"])
