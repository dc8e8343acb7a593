"""Finds the experiments of a package without importing them."""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import pathlib
import types
from collections.abc import Iterable

__all__ = ["Experiment", "UsageError", "find", "folder_of", "load", "unknown"]

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
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return names


def folder_of(package: str) -> pathlib.Path:
    """The folder of a package, found without importing its modules."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package!r} on the path", name=package)
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def find(package: str = "experiments") -> dict[str, Experiment]:
    """Every module of the package that binds `CLAIMS` and `run`, by name.

    Example:
        >>> "harness" in find()
        False
    """
    found = {}
    for path in sorted(folder_of(package).glob("*.py")):
        name = path.stem
        if not name.startswith("_") and {"CLAIMS", "run"} <= _bound_names(path):
            found[name] = Experiment(name, f"{package}.{name}", path)
    return found


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


def unknown(kind: str, name: str, known: Iterable[str], show: str = "{}") -> UsageError:
    """The error for a name that is not known: the nearest one, then all of them.

    Example:
        >>> print(unknown("preset", "cpux", ["cpu", "gpu"]))
        unknown preset 'cpux'; nearest: cpu
        known: cpu, gpu
    """
    known = list(known)
    message = f"unknown {kind} {show.format(name)!r}"

    def likeness(entry: str) -> float:
        # `steps` is near to `teacher.steps`: the last part counts as well.
        forms = {entry.lower(), entry.lower().rpartition(".")[2]}
        match = difflib.SequenceMatcher(b=name.lower())
        ratios = []
        for form in forms:
            match.set_seq1(form)
            ratios.append(match.ratio())
        return max(ratios)

    nearest = max(known, key=likeness, default="")
    if known and likeness(nearest) >= 0.5:
        message += f"; nearest: {show.format(nearest)}"
    listing = ", ".join(show.format(entry) for entry in known) or "none"
    return UsageError(f"{message}\nknown: {listing}")
