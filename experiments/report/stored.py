"""Stored runs, published and local: read from their folders, and what they say."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import harness
from experiments.harness import Results, Verdict
from kljax.storing import read_json

_PRESETS = ("cpu", "gpu", "paper")
"""Whose verdict stands first; other presets follow, smoke runs come last."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One stored run; its label is `cpu` or `gpu-s1`, a local one's its folder."""

    label: str
    folder: pathlib.Path
    stored: Mapping[str, Any]
    results: Results
    timing: Mapping[str, Any]
    local: bool = False

    @property
    def decides(self) -> bool:
        """Whether it is long enough for verdicts."""
        return self.stored["config"].get("decide", True)

    @property
    def synthetic(self) -> bool:
        """Whether any data of the run were made up for want of the real ones."""
        metrics = harness.settings(self.stored["metrics"]).items()
        return any(v and re.search(r"(^|[/.])synthetic$", k) for k, v in metrics)

    @property
    def device(self) -> str:
        """The accelerators, or the processor and its cores."""
        env = self.stored["environment"]
        if env["backend"] == "cpu":
            return f"CPU, {env['processor']}, {env['cores']} cores"
        return ", ".join(env["devices"])

    @property
    def versions(self) -> str:
        """Python, the packages that compute, and the commit."""
        env = self.stored["environment"]
        names = ("kljax", "jax", "jaxlib", "flax", "optax", "numpy")
        parts = [f"Python {env['python']}"]
        parts += [f"{n} {env['versions'][n]}" for n in names if n in env["versions"]]
        if env["commit"]:
            changed = " with local changes" if env["dirty"] else ""
            parts.append(f"commit {env['commit'][:10]}{changed}")
        return ", ".join(parts)

    @property
    def minutes(self) -> float | None:
        """Of all its sessions; None where that was not recorded."""
        return _minutes(self.timing)


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment with its runs, the one that stands for it first."""

    name: str
    runs: tuple[Run, ...]

    @property
    def main(self) -> Run:
        return self.runs[0]

    @property
    def claims(self) -> Sequence[Mapping[str, Any]]:
        """As the main run has them, and those that other runs have beside."""
        found = {c["id"]: c for run in self.runs[::-1] for c in run.stored["claims"]}
        first = [c["id"] for c in self.main.stored["claims"]]
        return [found[i] for i in dict.fromkeys([*first, *found])]

    def verdicts(self, claim: str) -> list[tuple[Run, Verdict]]:
        """What the runs say of a claim: decided, else shown, else undecided."""
        pairs = [
            (run, verdict)
            for run in self.runs
            if (verdict := run.results.verdicts.get(claim))
        ]
        for states in (("holds", "fails", "shown"), ("undecided",)):
            if said := [pair for pair in pairs if pair[1].status in states]:
                return said
        return pairs[:1]

    def status(self, claim: str) -> str:
        """`fails` when any run says so, else the best that one says."""
        states = {verdict.status for _, verdict in self.verdicts(claim)}
        order = ("fails", "holds", "shown", "undecided")
        return next((state for state in order if state in states), "not measured")

    def counts(self) -> dict[str, int]:
        """How many claims hold, fail, ..."""
        states = [self.status(claim["id"]) for claim in self.claims]
        return {
            state: states.count(state) for state in harness.STATES if state in states
        }


def _load(path: pathlib.Path, local: bool) -> Run:
    stored, folder = read_json(path), path.parent
    if (schema := stored.get("schema")) != harness.SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}, expected {harness.SCHEMA}: "
            "publish the run again"
        )
    results = harness.results_from(stored)
    for figure in results.figures:
        if not (picture := folder / "figures" / figure.path).is_file():
            raise FileNotFoundError(f"{picture} is missing: publish the run again")
    return Run(folder.name, folder, stored, results, _timing(folder), local)


def _timing(folder: pathlib.Path) -> Mapping[str, Any]:
    path = folder / "timing.json"
    return read_json(path) if path.is_file() else {}


def _minutes(timing: Mapping[str, Any]) -> float | None:
    seconds = timing.get("seconds")
    return None if seconds is None else max(round(seconds / 60, 1), 0.1)


def _rank(run: Run) -> tuple[bool, bool, int, bool, str]:
    preset = run.stored["preset"]
    place = _PRESETS.index(preset) if preset in _PRESETS else len(_PRESETS)
    changed = bool(run.stored["overrides"] or run.stored["seed"])
    return run.local, not run.decides, place, changed, run.label


def gather(
    published: pathlib.Path, local: pathlib.Path | None = None
) -> tuple[Section, ...]:
    """Reads every `<folder>/<experiment>/<label>/results.json`.

    Raises:
        ValueError: a file is not JSON or of another schema.
        FileNotFoundError: a picture that a run names is missing.
    """
    by_name: dict[str, list[Run]] = {}
    for folder in filter(None, (published, local)):
        for path in sorted(folder.glob("*/[!.]*/results.json")):
            name = path.parent.parent.name
            by_name.setdefault(name, []).append(_load(path, folder == local))
    return tuple(
        Section(name, tuple(sorted(runs, key=_rank)))
        for name, runs in sorted(by_name.items())
    )


def measured_minutes(*folders: pathlib.Path) -> dict[str, float]:
    """What runs of an experiment took, by preset; earlier folders go first."""
    minutes: dict[str, float] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/results.json")):
            took, stored = _minutes(_timing(path.parent)), read_json(path)
            if took is not None and not stored.get("overrides"):
                minutes.setdefault(stored["preset"], took)
    return minutes
