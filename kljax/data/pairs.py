"""Prompts and answers as rows of tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kljax.typing import Bool, Int

__all__ = ["Rows", "Vocabulary", "encoded"]


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
