"""Vocabularies of characters or of tokens."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from kljax.typing import Int

__all__ = ["Characters", "Tokens", "checksum"]


def checksum(text: str) -> str:
    """Eight hexadecimal digits of SHA-256.

    Example:
        >>> checksum("")
        'e3b0c442'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Characters:
    """Printable ASCII as ids 1 to 95, the end of a line as 0; others are dropped.

    Example:
        >>> vocabulary = Characters()
        >>> vocabulary.decode(vocabulary.encode("a\\nb"))
        'a\\nb'
    """

    size = 96
    end = 0
    """The id that ends an answer, and stands before a text."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ids = (0 if c == "\n" else ord(c) - 31 for c in text)
        return [i for i in ids if 0 <= i < self.size]

    def decode(self, ids: "Int[np.ndarray, 'n'] | list[int]") -> str:
        """The text of ids."""
        return "".join("\n" if i == 0 else chr(int(i) + 31) for i in ids)


class Tokens:
    """A tokenizer's ids, or the most frequent of them under new numbers.

    Args:
        tokenizer: of `kljax.models.files.tokenizer`.
        texts: what every id is kept of, such as lines of the tasks.
        corpus: text whose most frequent ids fill the rest.
        size: ids to keep; 0 keeps all.

    Fields:
        kept: the tokenizer's ids in their new order, None where all are kept.
    """

    def __init__(self, tokenizer: Any, texts: list[str], corpus: str, size: int = 0):
        self.tokenizer = tokenizer
        self.kept: np.ndarray | None = None
        self.size = tokenizer.vocab_size
        if size:
            needed = {i for text in ["\n", *texts] for i in tokenizer.encode(text)}
            counts = Counter(tokenizer.encode(corpus))
            others = [i for i, _ in counts.most_common() if i not in needed]
            chosen = [*needed, *others[: max(0, size - len(needed))]]
            self.kept = np.sort(np.asarray(chosen))
            self.size = len(chosen)
            self.index = {int(i): n for n, i in enumerate(self.kept)}
        self.end = self.encode("\n")[-1]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; those that were not kept are left out."""
        ids = self.tokenizer.encode(text)
        if self.kept is None:
            return ids
        return [self.index[i] for i in ids if i in self.index]

    def decode(self, ids: "Int[np.ndarray, 'n'] | list[int]") -> str:
        """The text of ids."""
        plain = [int(i) for i in ids]
        if self.kept is not None:
            plain = [int(self.kept[i]) for i in plain]
        return self.tokenizer.decode(plain)
