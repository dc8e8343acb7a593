"""Text for language models: docstrings of installed packages, or files of one's own.

Nothing is imported or downloaded: sources are parsed. A paragraph counts once, wherever
it stands, so that what is held out has not been read in training.
"""

import dataclasses
import hashlib
import textwrap
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kljax.data.readers.python import docstrings_of, source_files
from kljax.data.readers.text import read_texts
from kljax.errors import DataError
from kljax.typing import Int

__all__ = [
    "Corpus",
    "TextConfig",
    "docstrings",
    "fresh",
    "in_pieces",
    "own_text",
    "read_corpus",
    "windows",
]

SHORTEST = 40
"""Characters of a paragraph that is worth having."""
PARAGRAPHS, FEWEST = 40, 10
"""Paragraphs of a piece of a single text, and how many it should have."""
FIELDS = {"": "tokens", "training": "tokens", "held-out": "held_out"}
"""What says how much text a split has."""
WORDS = 400
"""Characters of a run of words."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Where the text of a language model comes from, and how much of it."""

    path: str | None = None
    """A file of text, JSON lines or parquet, or a folder of them; None: docstrings."""
    packages: tuple[str, ...] = ("numpy", "scipy", "sklearn")
    files: int | None = None
    """At most so many source files."""
    tokens: int = 131_072
    """Training tokens."""
    held_out: int = 16_384
    length: int = 128
    """Tokens per window."""
    seed: int = 0
    """Of the order of the files: which text is held out."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Windows of text as token ids; position t + 1 of a row is the label of t.

    Args:
      train, held_out: ids within the vocabulary, `[n, length + 1]`.
      ids: the tokenizer's ids of the vocabulary, ascending.
      sha256: of both sets of windows and the vocabulary.
      characters: characters per token of the held-out text.
    """

    train: Int[np.ndarray, "n t"]
    held_out: Int[np.ndarray, "m t"]
    ids: Int[np.ndarray, "v"]
    sha256: str
    characters: float


def docstrings(
    packages: Sequence[str], seed: int, files: int | None = None
) -> Iterator[str]:
    """One text per source file of the packages, in an order drawn from the seed.

    Args:
      packages: importable names; they are not imported.
      seed: of the order.
      files: at most so many files.

    Raises:
      DataError: a package is not installed.
    """
    paths = [path for package in packages for path in source_files(package)]
    order = np.random.default_rng(seed).permutation(len(paths))
    for i in order[:files]:
        yield "\n\n".join(docstrings_of(paths[i]))


def own_text(path: str, seed: int) -> Iterator[str]:
    """The texts of a file or a folder (`kljax.data.readers.text`), shuffled.

    One text alone is cut into pieces, since what is held out must come from all of it.

    Raises:
      DataError: nothing there, or no text.
    """
    texts = read_texts(path)
    pieces = texts if len(texts) > 1 else in_pieces(texts[0])
    for i in np.random.default_rng(seed).permutation(len(pieces)):
        yield pieces[i]


def in_pieces(text: str) -> list[str]:
    """A text as pieces of 40 paragraphs, or of fewer where it has few.

    Paragraphs end at blank lines, or at the ends of lines where those are few, or after
    some words where these are few as well.
    """
    parts = text.split("\n\n")
    for cut in (_lines, _words):
        if len(parts) < FEWEST:
            parts = cut(text)
    size = PARAGRAPHS if len(parts) > PARAGRAPHS else max(1, len(parts) // FEWEST)
    return ["\n\n".join(parts[i : i + size]) for i in range(0, len(parts), size)]


def _lines(text: str) -> list[str]:
    """Lines, short ones together with those that follow."""
    parts = [""]
    for line in text.split("\n"):
        if len(parts[-1]) >= SHORTEST:
            parts.append("")
        parts[-1] += "\n" * bool(parts[-1]) + line
    return parts


def _words(text: str) -> list[str]:
    """Runs of words of a few lines' length."""
    return textwrap.wrap(text, WORDS, break_on_hyphens=False) or [text]


def fresh(texts: Iterator[str]) -> Iterator[str]:
    """The texts without paragraphs that came before, and without tiny ones."""
    seen: set[str] = set()
    for text in texts:
        kept = []
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= SHORTEST and key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            yield "\n\n".join(kept)


def windows(
    texts: Iterator[str],
    encode: Callable[[str], Sequence[int]],
    end: int,
    tokens: int,
    length: int,
    split: str = "",
) -> tuple[Int[np.ndarray, "n t"], float]:
    """`tokens // length` windows of `length` + 1 ids, and characters per token.

    Args:
      texts: drawn from until there is enough.
      encode: text to token ids.
      end: id that starts every text.
      tokens: how many are wanted.
      length: of a window, at most `tokens`.
      split: "held-out", "training" or "", for the message.

    Raises:
      DataError: the text is too short; the message names the split and the field.
    """
    field = FIELDS[split]
    if not 0 < length <= tokens:
        raise DataError(
            f"{field} is {tokens}, and one window is length = {length}; choose at "
            "least one window of at least one token"
        )
    count = tokens // length
    parts, size, letters, pieces = [], 0, 0, 0
    for text in texts:
        ids = [end, *encode(text)]
        parts.append(np.asarray(ids, np.int32))
        size, letters, pieces = size + len(ids), letters + len(text), pieces + 1
        if size > count * length:
            break
    if size <= count * length:
        raise DataError(
            f"the {split}{' ' * bool(split)}text has {size} tokens and "
            f"{count * length + 1} are needed ({count} windows of {length}); lower "
            f"{field}, or bring more text (paragraphs of fewer than {SHORTEST} "
            "characters and those that came before do not count)"
        )
    flat = np.concatenate(parts)
    rows = np.arange(count)[:, None] * length + np.arange(length + 1)
    return flat[rows], letters / max(1, size - pieces)


def read_corpus(
    config: TextConfig, encode: Callable[[str], Sequence[int]], end: int
) -> Corpus:
    """The held-out windows first, then the training ones, and the ids that occur.

    Args:
      config: where the text comes from, and how much of it.
      encode: text to token ids.
      end: id that separates texts.

    Raises:
      DataError: no or too little text.
    """
    if config.path is None:
        texts = docstrings(config.packages, config.seed, config.files)
    else:
        texts = own_text(config.path, config.seed)
    texts = fresh(texts)
    length = config.length
    held_out, characters = windows(
        texts, encode, end, config.held_out, length, "held-out"
    )
    train, _ = windows(texts, encode, end, config.tokens, length, "training")
    ids = np.unique(np.concatenate([train.reshape(-1), held_out.reshape(-1)]))
    train, held_out = (
        np.searchsorted(ids, x).astype(np.int32) for x in (train, held_out)
    )
    digest = hashlib.sha256()
    for array in (train, held_out, ids.astype(np.int32)):
        digest.update(np.ascontiguousarray(array).data)
    return Corpus(train, held_out, ids, digest.hexdigest(), characters)
