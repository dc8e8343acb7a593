"""What a stage returned, and which code made it."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.harness import commit
from kljax.errors import CheckpointError
from kljax.storing import read_back
from kljax.training import RunFolder, environment

Label = str | tuple
"""Of a stage: words, or ("student", method, seed), whose first word is its kind."""


def slug(label: Label) -> str:
    """A stage's name on the disk.

    Example:
        >>> slug(("train", "forward_kl/on_policy", 0)), slug("d = 20")
        ('train-forward_kl-on_policy-0', 'd-=-20')
    """
    words = label if isinstance(label, tuple) else (label,)
    text = "-".join(map(str, words))
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text).strip("-") or "stage"


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
        self._inside = [np.zeros(2)]  # seconds of stages inside the running one
        machine, names = environment(), ("jax", "jaxlib", "numpy")
        versions = {name: machine["versions"][name] for name in names}
        kinds = {"python": machine["python"], "devices": machine["devices"]}
        code = hashlib.sha256()
        for path in self.sources:
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                code.update(file.read_bytes())
        self.made = {
            "commit": commit(),
            "code": code.hexdigest()[:12],
            "claims": self.claims,
            "versions": versions | kinds,
        }

    @contextlib.contextmanager
    def clock(self, label: Label) -> Iterator[None]:
        """Notes the code that begins, or goes on with, a stage, and its CPU and wall
        seconds without those of the stages inside, whether it is finished or not."""
        now = lambda: np.array([time.process_time(), time.perf_counter()])  # noqa: E731
        kind, name = label[0] if isinstance(label, tuple) else label, slug(label)
        self.folder.time({"begins": name, "made": self.made})
        start = now()
        self._inside.append(np.zeros(2))
        try:
            yield
        finally:
            spent = now() - start
            own = (spent - self._inside.pop()).round(2).tolist()
            self._inside[-1] += spent
            self.folder.time({"ends": name, "kind": kind, "seconds": own})

    def read(self, label: Label) -> tuple[Any] | None:
        """What a finished stage returned, in a tuple of one.

        Raises:
            CheckpointError: another label has the same name on the disk.
        """
        name = slug(label)
        found = self.folder.stage_result(name)
        if found is None:
            return None
        if found["label"] != label:
            raise CheckpointError(
                f"stage {label!r} would lie where {found['label']!r} does, in "
                f"{self.folder.path / 'stages' / name}: call one of them otherwise"
            )
        return (found["value"],)

    def write(self, label: Label, value: Any) -> Any:
        """Stores a value, and gives it back as it will be read."""
        name = slug(label)
        stored = {"label": label, "value": value, "made": self.history(name)}
        self.folder.finish_stage(name, stored)
        return read_back(value)

    # ------------------------------------------------------------ provenance

    def _times(self) -> list[dict[str, Any]]:
        path = self.folder.path / "timing.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every code that worked on a stage."""
        found = [line["made"] for line in self._times() if line.get("begins") == name]
        once = [one for i, one in enumerate(found) if one not in found[:i]]
        return once or [self.made]

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
