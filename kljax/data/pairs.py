"""Prompts and answers as rows of tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from kljax.typing import Bool, Int

__all__ = ["Answers", "Rows", "Vocabulary", "answers", "encoded", "prompts"]


@runtime_checkable
class Vocabulary(Protocol):
    """Token ids of text; `end` ends an answer and stands before a text."""

    size: int
    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Any) -> str: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples as tokens: the end token, prompt, answer, end, padding.

    Args:
      tokens: ids, padded with the end token.
      answer: where an answer stands, its end token included.
    """

    tokens: Int[np.ndarray, "n t"]
    answer: Bool[np.ndarray, "n t"]

    def __len__(self) -> int:
        return len(self.tokens)

    def prompt(self, row: int) -> list[int]:
        """The tokens before the answer of a row."""
        return self.tokens[row, : int(self.answer[row].argmax())].tolist()


def encoded(
    vocabulary: Vocabulary,
    pairs: Sequence[tuple[str, str]],
    *,
    multiple: int = 8,
    least: int = 0,
) -> Rows:
    """Pairs of prompt and answer as rows, right-padded.

    Args:
      vocabulary: of the tokens.
      pairs: at least one.
      multiple: the rows' length is a multiple of this.
      least: and not below this.

    Example:
      >>> class Bytes:
      ...     end, encode = 0, staticmethod(lambda text: list(text.encode()))
      >>> rows = encoded(Bytes, [("a=", "b")])
      >>> rows.tokens.tolist(), rows.answer[0].nonzero()[0].tolist()
      ([[0, 97, 61, 98, 0, 0, 0, 0]], [3, 4])
    """
    sides = []
    for prompt, answer in pairs:
        before = [vocabulary.end, *vocabulary.encode(prompt)]
        sides.append((before, [*vocabulary.encode(answer), vocabulary.end]))
    longest = max(len(before) + len(after) for before, after in sides)
    length = -(-max(longest, least) // multiple) * multiple
    tokens = np.full((len(sides), length), vocabulary.end, np.int32)
    target = np.zeros((len(sides), length), bool)
    for row, (before, after) in enumerate(sides):
        end = len(before) + len(after)
        tokens[row, :end] = before + after
        target[row, len(before) : end] = True
    return Rows(tokens, target)


class Answers(NamedTuple):
    """Where answers are predicted, and what the right tokens are."""

    place: Int[np.ndarray, "n m"]
    """Of the tokens before them."""
    target: Int[np.ndarray, "n m"]
    where: Bool[np.ndarray, "n m"]
    """Which of them are an answer's."""


def answers(rows: Rows, length: int = 0) -> Answers:
    """The tokens to be predicted, cut out of the rows.

    Args:
      rows: n examples, each with an answer in one piece.
      length: m; 0 is the longest answer's.

    Example:
      >>> tokens = np.array([[0, 5, 6, 7, 0]])
      >>> found = answers(Rows(tokens, np.array([[0, 0, 1, 1, 0]], bool)))
      >>> found.place.tolist(), found.target.tolist()
      ([[1, 2]], [[6, 7]])
    """
    length = length or int(rows.answer.sum(axis=1).max())
    place = rows.answer.argmax(axis=1)[:, None] - 1 + np.arange(length)
    place = np.minimum(place, rows.tokens.shape[1] - 2)
    target = np.take_along_axis(rows.tokens, place + 1, axis=1)
    inside = np.arange(length) < rows.answer.sum(axis=1)[:, None]
    return Answers(place, target, inside)


def prompts(
    rows: Rows, pad: int
) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """The prompts alone, padded on the left, and where they stand: for `generate`.

    Example:
      >>> tokens = np.array([[0, 5, 6, 0], [0, 5, 7, 8]])
      >>> rows = Rows(tokens, np.array([[0, 0, 1, 1], [0, 0, 0, 1]], bool))
      >>> [part.tolist() for part in prompts(rows, 9)]  # doctest: +NORMALIZE_WHITESPACE
      [[[9, 9, 0, 5], [9, 0, 5, 7]],
       [[False, False, True, True], [False, True, True, True]]]
    """
    width = rows.tokens.shape[1]
    missing = width - rows.answer.argmax(axis=1)[:, None]
    where = np.arange(width) >= missing
    place = np.maximum(np.arange(width) - missing, 0)
    moved = np.take_along_axis(rows.tokens, place, axis=1)
    return np.where(where, moved, pad).astype(np.int32), where
