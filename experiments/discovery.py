"""Finds the papers of a package without importing them."""

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
import symtable
import types

from experiments.harness import sentences

_REQUIRED = ("PAPER", "Config", "PRESETS", "CLAIMS", "run")


class UsageError(ValueError):
    """A command line that cannot be understood; the message says what could."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Where an experiment lies: `load` imports it."""

    name: str
    module: str
    path: pathlib.Path


def _bound_names(path: pathlib.Path) -> set[str]:
    # Reading the source costs a millisecond; importing it would load JAX.
    text = path.read_text(encoding="utf-8")
    symbols = symtable.symtable(text, str(path), "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}


def folder_of(package: str) -> pathlib.Path:
    """The folder of a package, found without importing its modules."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package!r} on the path", name=package)
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def find(package: str = "experiments") -> dict[str, Experiment]:
    """Every paper of the package that binds `CLAIMS` and `run`, by name.

    It is a file of its folder `papers`, or a folder there.

    Example:
        >>> "kit" in find()
        False
    """
    papers, found = folder_of(package) / "papers", {}
    for path in sorted([*papers.glob("*.py"), *papers.glob("*/__init__.py")]):
        name = path.parent.name if path.stem == "__init__" else path.stem
        if path.parent != papers or not name.startswith("_"):
            if {"CLAIMS", "run"} <= _bound_names(path):
                found[name] = Experiment(name, f"{package}.papers.{name}", path)
    return found


def abouts(package: str = "experiments") -> dict[str, str]:
    """Title and three sentences of every experiment, read from its source."""
    return {
        name: sentences(ast.get_docstring(ast.parse(one.path.read_text("utf-8"))), 4)
        for name, one in find(package).items()
    }


def load(experiment: Experiment) -> types.ModuleType:
    """Imports an experiment and checks that it is complete."""
    module = importlib.import_module(experiment.module)
    missing = [name for name in _REQUIRED if not hasattr(module, name)]
    if missing:
        raise TypeError(
            f"{experiment.path.name} lacks {', '.join(missing)}: an experiment defines "
            f"{', '.join(_REQUIRED)}"
        )
    return module
