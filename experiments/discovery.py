"""Finds the papers of a package without importing them."""

import ast
import importlib
import pathlib
import symtable
import types

from experiments.harness import sentences

_REQUIRED = ("PAPER", "Config", "PRESETS", "CLAIMS", "run")


class UsageError(ValueError):
    """A command line that cannot be understood; the message says what could."""


def _bound_names(path: pathlib.Path) -> set[str]:
    # Reading the source costs a millisecond; importing it would load JAX.
    text = path.read_text(encoding="utf-8")
    symbols = symtable.symtable(text, str(path), "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}


def folder_of(package: str) -> pathlib.Path:
    """The folder of a package, found without importing its modules."""
    return pathlib.Path(importlib.import_module(package).__path__[0])


def find(package: str = "experiments") -> dict[str, pathlib.Path]:
    """The source of every paper that binds `CLAIMS` and `run`, by name.

    It is a file of the package's folder `papers`, or a folder there.

    Example:
        >>> "kit" in find()
        False
    """
    papers, found = folder_of(package) / "papers", {}
    for path in sorted([*papers.glob("*.py"), *papers.glob("*/__init__.py")]):
        name = path.parent.name if path.stem == "__init__" else path.stem
        if path.parent != papers or not name.startswith("_"):
            if {"CLAIMS", "run"} <= _bound_names(path):
                found[name] = path
    return found


def abouts(package: str = "experiments") -> dict[str, str]:
    """Title and three sentences of every paper, read from its source."""
    return {
        name: sentences(ast.get_docstring(ast.parse(path.read_text("utf-8"))), 4)
        for name, path in find(package).items()
    }


def load(name: str, package: str = "experiments") -> types.ModuleType:
    """Imports a paper and checks that it is complete."""
    module = importlib.import_module(f"{package}.papers.{name}")
    missing = [name for name in _REQUIRED if not hasattr(module, name)]
    if missing:
        raise TypeError(
            f"{module.__name__} lacks {', '.join(missing)}: an experiment defines "
            f"{', '.join(_REQUIRED)}"
        )
    return module
