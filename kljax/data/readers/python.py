"""The source files of installed packages, read and parsed without importing them.

They are the text that every installation has: prose (docstrings) and code.
"""

import ast
import importlib.util
import inspect
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from kljax.errors import DataError

__all__ = ["code", "docstrings_of", "prose", "source_files", "syntax_tree"]

SHORTEST = 40
"""Characters of a docstring that counts as prose."""


def check_packages(field: str, packages: Iterable[str]) -> None:
    """Whether packages, each with an optional folder inside, are installed.

    Args:
      field: what names them, for the message.
      packages: as in `prose`.

    Raises:
      ValueError: one is not.

    Example:
      >>> check_packages("packages", ["json", "numpy/lib"])
    """
    for package in packages:
        top = re.split(r"[./]", package)[0]
        if not top.isidentifier() or importlib.util.find_spec(top) is None:
            raise ValueError(
                f"{field}: package {package!r} is not installed; install it, or name "
                "others"
            )


def source_files(package: str) -> list[pathlib.Path]:
    """The Python files of a package in order of their names, without its tests.

    Args:
      package: an importable name, with an optional folder inside: "scipy/stats".

    Raises:
      DataError: no such package, or no Python file there.

    Example:
      >>> [path.name for path in source_files("json")][:2]
      ['__init__.py', 'decoder.py']
    """
    name, *inside = re.split(r"[./]", package)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of names that cannot be imported
        spec = None
    if spec is not None and not inside and f"{spec.origin}".endswith(f"{name}.py"):
        return [pathlib.Path(f"{spec.origin}")]  # a package of one file
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"package {name} is not installed. Remedy: install it, name other "
            "packages, or bring text of your own."
        )
    root = pathlib.Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.relative_to(root) for path in root.glob("**/*.py"))
    below = tuple(part for part in inside if part)
    files = [
        root / path
        for path in found
        if "tests" not in path.parts and path.parts[: len(below)] == below
    ]
    if not files:
        raise DataError(
            f"package {package}: no Python files there. Remedy: name other packages."
        )
    return files


def syntax_tree(path: pathlib.Path) -> ast.Module | None:
    """The parsed file, or None where this Python cannot read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own escapes
        try:
            return ast.parse(path.read_text("utf-8", "replace"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def docstrings_of(path: pathlib.Path) -> list[str]:
    """The docstrings of a source file, the module's first; none if unreadable."""
    tree = syntax_tree(path)
    nodes = ast.walk(tree) if tree else ()
    return [text for node in nodes if (text := _docstring(node))]


def _docstring(node: ast.AST) -> str | None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return ast.get_docstring(node) if isinstance(node, kinds) else None


def prose(packages: Sequence[str], characters: int) -> str:
    """The docstrings of packages, one after the other, without their indentation.

    Args:
      packages: names, each with an optional folder inside: "scipy/stats".
      characters: where to stop, at least 1.

    Returns:
      ASCII text of at most that length, blank lines taken out.

    Raises:
      DataError: a package is not installed, or none has a docstring.

    Example:
      >>> len(prose(["json"], 500))
      500
    """
    found = _joined(packages, characters, _prose)
    if not found:
        raise DataError(
            f"no docstrings in {', '.join(packages)}. Remedy: name other packages."
        )
    return found


def code(packages: Sequence[str], characters: int) -> str:
    """The Python code of packages without docstrings and comments.

    Args:
      packages: as in `prose`.
      characters: where to stop.

    Returns:
      ASCII text of at most that length; "" for no package.

    Raises:
      DataError: a package is not installed.

    Example:
      >>> code([], 500)
      ''
    """
    return _joined(packages, characters, _code)


def _joined(
    packages: Sequence[str],
    characters: int,
    read: Callable[[pathlib.Path], Iterator[str]],
) -> str:
    """What is read of the packages' files as ASCII lines, up to a length."""
    found, length = [], 0
    for path in (path for package in packages for path in source_files(package)):
        for text in read(path):
            found.append(text)
            length += len(text)
        if length >= characters:
            break
    return "".join(found)[:characters]


def _prose(path: pathlib.Path) -> Iterator[str]:
    for text in docstrings_of(path):
        # Once more: the first line of many is no summary, but an indented line.
        lines = [one.rstrip() for one in inspect.cleandoc(text).splitlines()]
        plain = _ascii("\n".join(filter(None, lines)))
        if len(plain) > SHORTEST:
            yield plain + "\n"


def _code(path: pathlib.Path) -> Iterator[str]:
    if (tree := syntax_tree(path)) is None:
        return
    for node in ast.walk(tree):
        if _docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]  # pyrefly: ignore
    yield _ascii(ast.unparse(tree)) + "\n"  # unparsed: comments and layout are gone


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode()
