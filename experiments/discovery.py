"""Finds the papers of a package without importing them."""

import ast
import importlib
import pathlib
import types

from experiments.harness import sentences

_REQUIRED = ("PAPER", "Config", "PRESETS", "CLAIMS", "run")


class UsageError(ValueError):
    """A command line that cannot be understood; the message says what could."""


def folder_of(package: str) -> pathlib.Path:
    """The folder of a package, found without importing its modules."""
    return pathlib.Path(importlib.import_module(package).__path__[0])


def find(package: str = "experiments") -> dict[str, pathlib.Path]:
    """The source of every paper by name: a file of the package's folder `papers`, or a
    folder there; what begins with an underscore is none.

    Example:
        >>> "bd_kd" in find(), "kit" in find()
        (True, False)
    """
    papers = folder_of(package) / "papers"
    found = sorted([*papers.glob("[!_]*.py"), *papers.glob("[!_]*/__init__.py")])
    names = (p.parent.name if p.stem == "__init__" else p.stem for p in found)
    return dict(zip(names, found))


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
