"""Text from installed packages, and vocabularies of characters or of tokens.

The text is what every installation has: docstrings, read from the packages' sources
without importing them. Other versions of the packages give a slightly different text;
its checksum is part of a run's configuration.
"""

import ast
import hashlib
import inspect
from collections import Counter
from typing import Any

import numpy as np

from kljax.data.readers.python import source_files, syntax_tree
from kljax.errors import DataError
from kljax.typing import Int

__all__ = ["Characters", "Tokens", "checksum", "docstrings", "source"]


def _doc(node: ast.AST) -> str | None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return ast.get_docstring(node) if isinstance(node, kinds) else None


def docstrings(packages: tuple[str, ...], characters: int) -> str:
    """The docstrings of packages, one after the other, without their indentation.

    Args:
        packages: names, each with an optional folder inside: "scipy/stats".
        characters: where to stop, at least 1.

    Returns:
        ASCII text of at most that length, blank lines taken out.

    Raises:
        DataError: a package is not installed, or has no docstring.

    Example:
        >>> len(docstrings(("numpy/lib",), 500))
        500
    """
    found, length = [], 0
    for package in packages:
        for path in source_files(package):
            tree = syntax_tree(path)
            for node in ast.walk(tree) if tree else ():
                text = inspect.cleandoc(_doc(node) or "")
                lines = [one.rstrip() for one in text.splitlines() if one.strip()]
                text = "\n".join(lines).encode("ascii", "ignore").decode()
                if len(text) > 40:
                    found.append(text + "\n")
                    length += len(text) + 1
            if length >= characters:
                return "".join(found)[:characters]
    if not found:
        raise DataError(f"no docstrings in {', '.join(packages)}: name other packages")
    return "".join(found)


def source(packages: tuple[str, ...], characters: int) -> str:
    """The Python code of packages without its docstrings: another domain of text.

    Args:
        packages: as in `docstrings`.
        characters: where to stop.

    Returns:
        ASCII text of at most that length; "" for no package.

    Raises:
        DataError: a package is not installed.

    Example:
        >>> source((), 500)
        ''
    """
    found, length = [], 0
    for package in packages:
        for path in source_files(package):
            if (tree := syntax_tree(path)) is None:
                continue
            # Unparsed: comments and layout are gone, docstrings taken out.
            for node in ast.walk(tree):
                if _doc(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]  # pyrefly: ignore
            found.append(ast.unparse(tree).encode("ascii", "ignore").decode() + "\n")
            length += len(found[-1])
            if length >= characters:
                return "".join(found)[:characters]
    return "".join(found)


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
        tokenizer: of `kljax.models.tokenizer`.
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
