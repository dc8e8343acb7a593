"""What a stage returned, on the disk and back; and which code made it."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.environment import commit
from kljax.errors import CheckpointError
from kljax.training import RunFolder, environment

__all__ = ["Stages", "slug"]

Label = str | tuple
"""Of a stage: words, or ("student", method, seed), whose first word is its kind."""
MAPPED = 16 * 2**20
"""Bytes from which on an array is read from the disk as it is used."""


def slug(label: Label) -> str:
    """A stage's name on the disk.

    Example:
        >>> slug(("train", "forward_kl/on_policy", 0)), slug("d = 20")
        ('train-forward_kl-on_policy-0', 'd-=-20')
    """
    words = label if isinstance(label, tuple) else (label,)
    text = "-".join(map(str, words))
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text).strip("-") or "stage"


def encoded(value: Any, arrays: list[np.ndarray]) -> Any:
    """JSON values; arrays go into the list and leave their place in it."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key[:2] != "__" for key in value):
            return {key: encoded(item, arrays) for key, item in value.items()}
        pairs = [[encoded(one, arrays) for one in pair] for pair in value.items()]
        return {"__pairs__": pairs}
    if isinstance(value, tuple):
        return {"__tuple__": [encoded(item, arrays) for item in value]}
    if isinstance(value, list):
        return [encoded(item, arrays) for item in value]
    if isinstance(value, jax.Array):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim:
        arrays.append(value)
        return {"__array__": len(arrays) - 1}
    if isinstance(value, np.ndarray | np.generic):
        return encoded(value.item(), arrays)
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}
    return value


def decoded(value: Any, array: Callable[[int], np.ndarray]) -> Any:
    """The inverse of `encoded`; `array(i)` gives the arrays."""
    if isinstance(value, list):
        return [decoded(item, array) for item in value]
    if not isinstance(value, dict):
        return value
    inverse: dict[str, Callable[[Any], Any]] = {
        "__pairs__": lambda v: {decoded(k, array): decoded(x, array) for k, x in v},
        "__tuple__": lambda v: tuple(decoded(item, array) for item in v),
        "__array__": array,
        "__float__": float,
    }
    for mark, back in inverse.items():
        if set(value) == {mark}:
            return back(value[mark])
    return {key: decoded(item, array) for key, item in value.items()}


def code_of(*paths: pathlib.Path) -> str:
    """Twelve hexadecimal digits over the sources that can change a number."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@dataclasses.dataclass
class Stages:
    """The stages of a run's folder.

    Args:
        folder: the run's.
        sources: files and folders of the code that makes them.
        claims: a hash of the paper's claims.
    """

    folder: RunFolder
    sources: tuple[pathlib.Path, ...] = ()
    claims: str = ""

    def __post_init__(self):
        names = ("python", "jax", "jaxlib", "numpy", "device")
        self.made = {
            "commit": commit(),
            "code": code_of(*self.sources),
            "claims": self.claims,
            "versions": {k: v for k, v in environment().items() if k in names},
        }

    def begin(self, label: Label) -> None:
        """Notes which code begins, or goes on with, a stage."""
        self.folder.time({"begins": slug(label), "made": self.made})

    def end(self, label: Label, cpu: float, wall: float) -> None:
        """Notes the seconds that were spent, whether it is finished or not."""
        kind = label[0] if isinstance(label, tuple) else label
        self.folder.time({"ends": slug(label), "kind": kind, "seconds": [cpu, wall]})

    def read(self, label: Label) -> tuple[Any] | None:
        """What a finished stage returned, in a tuple of one.

        Raises:
            CheckpointError: another label has the same name on the disk.
        """
        name = slug(label)
        found = self.folder.stage_result(name)
        if found is None:
            return None
        if found["label"] != encoded(label, []):
            raise CheckpointError(
                f"stage {label!r} would lie where {found['label']!r} does, in "
                f"{self.folder.path / 'stages' / name}: call one of them otherwise"
            )
        return (decoded(found["value"], lambda i: _load(self._arrays(name), i)),)

    def write(self, label: Label, value: Any) -> Any:
        """Stores a value, and gives it back as it will be read."""
        name, arrays = slug(label), []
        made = encoded(value, arrays)
        if self.folder.primary and arrays:
            beside = self._arrays(f"{name}.new")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            for i, array in enumerate(arrays):
                np.save(beside / f"{i}.npy", array)
            shutil.rmtree(self._arrays(name), ignore_errors=True)
            beside.rename(self._arrays(name))
        stored = {
            "label": encoded(label, []),
            "value": made,
            "made": self.history(name),
        }
        self.folder.finish_stage(name, stored)
        return decoded(json.loads(json.dumps(made)), arrays.__getitem__)

    def _arrays(self, name: str) -> pathlib.Path:
        return self.folder.path / "stages" / name

    # ------------------------------------------------------------ provenance

    def _times(self) -> list[dict[str, Any]]:
        path = self.folder.path / "timing.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every code that worked on a stage."""
        found = []
        for line in self._times():
            if line.get("begins") == name and line["made"] not in found:
                found.append(line["made"])
        return found or [self.made]

    def costs(self) -> dict[str, list[float]]:
        """CPU and wall seconds by kind of stage, those of interrupted ones included."""
        found: dict[str, np.ndarray] = {}
        for line in self._times():
            if "ends" in line:
                found.setdefault(line["kind"], np.zeros(2))
                found[line["kind"]] += line["seconds"]
        return {kind: spent.round(2).tolist() for kind, spent in found.items()}

    def sessions(self) -> list[dict[str, Any]]:
        """Which code made what: the stages of each, in order."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.folder.path / "stages").glob("*.json")):
            result = self.folder.stage_result(path.stem) or {}
            for made in result.get("made", []):
                one = found.setdefault(json.dumps(made), {**made, "stages": []})
                one["stages"].append(path.stem)
        return list(found.values())

    def remarks(self) -> list[str]:
        """Stages that were made by other code, other versions or with other bars."""
        words = {
            "code": "was made by other code (commit {0}) than what runs now",
            "versions": "was made with other versions or on another device",
            "claims": "is older than the claims as they stand: they were changed since",
        }
        return [
            f"stage {', '.join(one['stages'])}: "
            + about.format((one["commit"] or "unknown")[:10])
            for one in self.sessions()
            for key, about in words.items()
            if one[key] != self.made[key]
        ]


def _load(folder: pathlib.Path, i: int) -> np.ndarray:
    path = folder / f"{i}.npy"
    big = path.stat().st_size > MAPPED
    return np.load(path, mmap_mode="r" if big else None)
