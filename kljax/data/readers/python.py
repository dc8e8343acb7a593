"""The source files of installed packages, read and parsed without importing them."""

import ast
import importlib.util
import pathlib
import re
import warnings

from kljax.errors import DataError

__all__ = ["source_files", "syntax_tree"]


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
