"""Imports are light and point one way."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = (
    "orbax",
    "matplotlib",
    "tyro",
    "rich",
    "sklearn",
    "flax",
    "optax",
    "PIL",
    "scipy",
)

# What every room may import from.
GROUND = {"arguments", "errors", "storing", "typing"}

# Room -> rooms it may import from, beside the ground and itself.
ROOMS = {
    "generators": set(),
    "kernels": {"generators"},
    "divergences": {"generators", "kernels"},
    "objectives": {"generators", "kernels", "divergences"},
    "theory": {"generators", "divergences", "objectives"},
    "training": {"generators", "objectives"},
    "decoding": {"models", "divergences", "kernels", "generators"},
    "models": {"data"},
    "metrics": {"data", "divergences"},
    "data": set(),
}


# From the roof down: a room imports from lower floors alone; the others stand beside.
FLOORS = (
    ("training", "decoding", "theory"),
    ("objectives",),
    ("divergences",),
    ("kernels",),
    ("generators",),
)


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {
    name_of(path): path
    for top in ("kljax", "experiments")
    for path in sorted((ROOT / top).rglob("*.py"))
}


def imported(path: pathlib.Path) -> set[tuple[str, str]]:
    """(module, name) of every import, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name"
            found |= {(node.module, alias.name) for alias in node.names}
    return found


@functools.cache
def imports() -> dict[str, set[tuple[str, str]]]:
    return {name: imported(path) for name, path in FILES.items()}


def target(module: str, name: str) -> str:
    """The file that an import is of."""
    whole = f"{module}.{name}"
    return whole if whole in FILES else module


@functools.cache
def graph() -> dict[str, set[str]]:
    return {
        name: {target(*one) for one in found} & FILES.keys()
        for name, found in imports().items()
    }


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Files that reach each other, sorted."""
    reached = {}
    for start in graph:
        seen, todo = set(), [*graph[start]]
        while todo:
            if (node := todo.pop()) not in seen:
                seen.add(node)
                todo += graph[node]
        reached[start] = seen
    return {
        tuple(sorted(b for b in reached[a] if a in reached[b]))
        for a in graph
        if a in reached[a]
    }


def test_no_circle_of_files():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {("b", "c")}
    assert not circles(graph())


def test_arrows_between_rooms_point_one_way():
    seen = set()
    for name, others in graph().items():
        if not name.startswith("kljax."):
            continue
        room = name.split(".")[1]
        if room in GROUND:
            lowest = {"kljax.errors", "kljax.typing"}
            assert others <= lowest, f"{name} is ground, and imports {others}"
            continue
        seen.add(room)
        for other in others:
            assert not other.startswith("experiments"), f"{name}: {other}"
            if other != "kljax":
                there = other.split(".")[1]
                allowed = ROOMS[room] | GROUND | {room}
                assert there in allowed, f"{name} must not import {other}"
    assert {"generators", "kernels", "divergences"} <= seen
    rooms = {name: others & ROOMS.keys() for name, others in ROOMS.items()}
    assert not circles(rooms)
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    for room, others in ROOMS.items():
        below = [floor[room] < floor[one] for one in others if {room, one} <= {*floor}]
        assert all(below), f"{room} looks up"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_nobody_imports_a_private_name():
    """Files named `_x` are their own folder's; names `_x` are their own file's."""
    for name, found in imports().items():
        folder = name if FILES[name].stem == "__init__" else name.rpartition(".")[0]
        for module, imported_name in found:
            if module.partition(".")[0] not in ("kljax", "experiments"):
                continue
            file = target(module, imported_name)
            of_file = file == module and is_private(imported_name)
            assert not of_file, f"{name} imports {module}.{imported_name}"
            beside = file.rpartition(".")[0] == folder
            private = any(map(is_private, file.split(".")))
            assert beside or not private, f"{name} imports the private {file}"


@pytest.mark.parametrize("module", ["kljax", "kljax.divergences"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in out.stdout.split()}
    assert "jax" in loaded or module == "kljax"
    assert not loaded & set(HEAVY), loaded & set(HEAVY)
