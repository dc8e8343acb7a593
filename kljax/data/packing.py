"""Rows for the training of a language model: text from anywhere, packed examples.

Every batch is a function of its step alone: `batches(n)` is {"tokens": [b, t],
"answer": [b, t]}, the second where a token is to be predicted.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kljax.data.pairs import Rows, Vocabulary
from kljax.typing import Int

__all__ = ["Packed", "Text", "joined", "mixed"]

Batches = Callable[[int], dict[str, np.ndarray]]


def _row(values: np.ndarray, start: int, length: int, first: int | bool) -> np.ndarray:
    """What follows a place, behind a first value."""
    row = np.resize(values[start : start + length - 1], length - 1)
    return np.append(np.asarray(first, row.dtype), row)


class Text:
    """One text as tokens, of which rows are cut anywhere, each behind the end token.

    Every token of a row is to be predicted; a row that the end comes too early for
    repeats itself.

    Args:
      ids: the text's tokens.
      length: tokens of a row, the end token before it included.
      end: what stands before a text.

    Example:
      >>> rows = Text(np.arange(5, 9), 3, 0).at([0, 2])
      >>> rows.tokens.tolist(), rows.answer[0].tolist()
      ([[0, 5, 6], [0, 7, 8]], [False, True, True])
    """

    def __init__(self, ids: Int[np.ndarray, "n"], length: int, end: int):
        self.ids, self.length, self.end = ids, length, end

    def at(self, starts: Sequence[int]) -> Rows:
        """The rows that begin at these places, at least one."""
        rows = [_row(self.ids, start, self.length, self.end) for start in starts]
        tokens = np.stack(rows)
        target = np.ones(tokens.shape, bool)
        target[:, 0] = False
        return Rows(tokens, target)

    def rows(self, count: int, random: np.random.Generator) -> Rows:
        """Rows from places that are drawn."""
        high = max(len(self.ids) - self.length, 1)
        return self.at(random.integers(0, high, count).tolist())

    def batches(self, size: int, *stream: int) -> Batches:
        """Batches of such rows; `stream` seeds them."""
        return _drawn(lambda n, random: self.rows(size, random), stream)


class Packed:
    """Solved examples as one stream, of which rows are cut that begin with an example.

    In a row answers alone are to be predicted, each with the end token behind it.

    Args:
      vocabulary: of the tokens.
      pairs: prompts and answers, at least one.
      length: tokens of a row, the end token before it included.

    Example:
      >>> class Bytes:
      ...     end, encode = 0, staticmethod(lambda text: list(text.encode()))
      >>> packed = Packed(Bytes, [("a=", "b")], 6)
      >>> row = packed.rows(1, np.random.default_rng(0))
      >>> row.tokens.tolist(), row.answer[0].nonzero()[0].tolist()
      ([[0, 97, 61, 98, 0, 97]], [3, 4])
    """

    def __init__(
        self, vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], length: int
    ):
        self.end, self.length = vocabulary.end, length
        ids: list[int] = []
        target: list[bool] = []
        starts = []
        for prompt, answer in pairs:
            starts.append(len(ids))
            before = vocabulary.encode(prompt)
            after = [*vocabulary.encode(answer), self.end]
            ids += before + after
            target += [False] * len(before) + [True] * len(after)
        last = max(len(ids) - length, 0)
        self.tokens, self.answer = np.array(ids, np.int32), np.array(target)
        self.starts = np.array([start for start in starts if start <= last])

    def rows(self, count: int, random: np.random.Generator) -> Rows:
        """Rows from examples that are drawn."""
        starts = [int(random.choice(self.starts)) for _ in range(count)]
        cut = lambda values, first: np.stack(  # noqa: E731
            [_row(values, start, self.length, first) for start in starts]
        )
        return Rows(cut(self.tokens, self.end), cut(self.answer, False))

    def batches(self, size: int, *stream: int) -> Batches:
        """Batches of such rows; `stream` seeds them."""
        return _drawn(lambda n, random: self.rows(size, random), stream)


def mixed(
    text: Text, packed: Sequence[Packed], size: int, share: float, *stream: int
) -> Batches:
    """Batches of text with a share of rows of examples, from all kinds in turn.

    Args:
      text: of the other rows.
      packed: kinds of examples, rows of the text's length.
      size: rows of a batch.
      share: of them that are examples, in [0, 1].
      stream: seeds them.
    """
    solved = round(share * size)

    def rows(n: int, random: np.random.Generator) -> Rows:
        parts = [text.rows(size - solved, random)] if size > solved else []
        for turn in range(n * solved, (n + 1) * solved):
            parts.append(packed[turn % len(packed)].rows(1, random))
        return joined(parts)

    return _drawn(rows, stream)


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of one length, one after the other."""
    tokens, answer = zip(*((part.tokens, part.answer) for part in parts), strict=True)
    return Rows(np.concatenate(tokens), np.concatenate(answer))


def _drawn(
    rows: Callable[[int, np.random.Generator], Rows], stream: Sequence[int]
) -> Batches:
    def batches(n: int) -> dict[str, np.ndarray]:
        found = rows(n, np.random.default_rng([*stream, n]))
        return {"tokens": found.tokens, "answer": found.answer}

    return batches
