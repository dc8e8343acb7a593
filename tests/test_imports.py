"""Imports are light and point one way."""

import ast
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

# Room -> rooms it may import from; `errors`, `typing` and its own are always allowed.
ROOMS = {
    "concrete": set(),
    "elementary": set(),
    "sums": {"elementary"},
    "fdivergence": {"textbook", "sums"},
    "textbook": {"fdivergence"},
    "generators": {"elementary", "fdivergence", "sums"},
    "kernels": {"elementary", "fdivergence", "generators", "sums"},
    "divergences": {"concrete", "elementary", "fdivergence", "generators", "kernels"},
    "objectives": {"fdivergence", "generators", "kernels", "divergences"},
    "theory": {"fdivergence", "generators", "divergences", "objectives"},
    "training": set(),
    "decoding": {"models", "divergences", "kernels", "fdivergence", "generators"},
    "models": {"data"},
    "metrics": {"divergences"},
    "data": set(),
}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_arrows_between_rooms_point_one_way():
    seen = set()
    for path in sorted((ROOT / "kljax").rglob("*.py")):
        room = path.relative_to(ROOT / "kljax").parts[0].removesuffix(".py")
        if room in ("__init__", "doors", "errors", "typing"):
            continue
        seen.add(room)
        allowed = ROOMS[room] | {room, "doors", "errors", "typing"}
        for name in imports(path):
            assert not name.startswith("experiments"), f"{path}: {name}"
            if name.startswith("kljax."):
                other = name.split(".")[1]
                assert other in allowed, f"{path} must not import {name}"
                private = other != room and any(
                    part.startswith("_") for part in name.split(".")[1:]
                )
                assert not private, f"{path} imports the private {name}"
    assert {"generators", "kernels", "divergences"} <= seen


@pytest.mark.parametrize("module", ["kljax", "kljax.divergences"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in out.stdout.split()}
    assert "jax" in loaded or module == "kljax"
    assert not loaded & set(HEAVY), loaded & set(HEAVY)
