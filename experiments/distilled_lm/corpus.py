"""Text for language models: docstrings of installed packages, or files of one's own.

Nothing is imported or downloaded: sources are parsed. A paragraph counts once, wherever
it stands, so that what is held out has not been read in training.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kljax.errors import DataError
from kljax.typing import Int

SHORTEST = 40
"""Characters of a paragraph that is worth having."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    path: str | None = None
    """A text file, or a folder of .txt, .rst and .md files; None: docstrings."""
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
    paths: list[pathlib.Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                f"package {package} is not installed; install it, or give text of your "
                "own with --data.path"
            )
        root = pathlib.Path(next(iter(spec.submodule_search_locations)))
        inside = ((path.relative_to(root), path) for path in root.rglob("*.py"))
        paths += [path for name, path in sorted(inside) if "tests" not in name.parts]
    order = np.random.default_rng(seed).permutation(len(paths))
    for i in order[:files]:
        found = [
            text
            for node in ast.walk(_parsed(paths[i]))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and (text := ast.get_docstring(node))
        ]
        yield "\n\n".join(found)


def _parsed(path: pathlib.Path) -> ast.AST:
    """A source file; one that this Python cannot read has no docstrings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own escapes
        try:
            return ast.parse(path.read_text("utf-8", "replace"))
        except SyntaxError:
            return ast.Module([], [])


def own_text(path: str, seed: int) -> Iterator[str]:
    """The text of a file, or of the .txt, .rst and .md files of a folder, shuffled.

    Raises:
      DataError: nothing there.
    """
    root = pathlib.Path(path).expanduser()
    if root.is_file():
        # Pieces of one file: held-out text must come from all of it.
        text = root.read_text("utf-8", "replace").split("\n\n")
        pieces = ["\n\n".join(text[i : i + 40]) for i in range(0, len(text), 40)]
    else:
        kinds = (".txt", ".rst", ".md")
        names = sorted(p for p in root.rglob("*") if p.suffix in kinds)
        pieces = [name.read_text("utf-8", "replace") for name in names]
    if not pieces:
        raise DataError(f"{root}: no text file there; give a file, or a folder of .txt")
    for i in np.random.default_rng(seed).permutation(len(pieces)):
        yield pieces[i]


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
) -> tuple[Int[np.ndarray, "n t"], float]:
    """`tokens // length` windows of `length` + 1 ids, and characters per token.

    Raises:
      DataError: the text is too short.
    """
    count = tokens // length
    parts, size, letters, pieces = [], 0, 0, 0
    for text in texts:
        ids = [end, *encode(text)]
        parts.append(np.asarray(ids, np.int32))
        size, letters, pieces = size + len(ids), letters + len(text), pieces + 1
        if size > count * length:
            break
    if size <= count * length or not count:
        raise DataError(
            f"the text has {size} tokens and {count * length + 1} are needed (at least "
            f"one window of {length}); lower data.tokens, or bring more text"
        )
    flat = np.concatenate(parts)
    rows = np.arange(count)[:, None] * length + np.arange(length + 1)
    return flat[rows], letters / (size - pieces)


def read_corpus(
    config: DataConfig, encode: Callable[[str], Sequence[int]], end: int
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
    held_out, characters = windows(texts, encode, end, config.held_out, length)
    train, _ = windows(texts, encode, end, config.tokens, length)
    ids = np.unique(np.concatenate([train.reshape(-1), held_out.reshape(-1)]))
    train, held_out = (
        np.searchsorted(ids, x).astype(np.int32) for x in (train, held_out)
    )
    digest = hashlib.sha256()
    for array in (train, held_out, ids.astype(np.int32)):
        digest.update(np.ascontiguousarray(array).data)
    return Corpus(train, held_out, ids, digest.hexdigest(), characters)
