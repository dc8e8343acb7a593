"""The published runs: read from their folders, and what they say together."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness import SCHEMA, Results, Verdict, read_json, results_from

__all__ = [
    "STATES",
    "Run",
    "Section",
    "failing",
    "gather",
    "published_minutes",
    "with_interval",
]

STATES = ("holds", "fails", "not measured")
_PRESETS = ("smoke", "cpu", "gpu", "paper")


@dataclasses.dataclass(frozen=True)
class Run:
    """One published run: `label` names its folder, `cpu` or `gpu-s1`."""

    label: str
    folder: pathlib.Path
    stored: Mapping[str, Any]
    results: Results
    seconds: float | None

    @property
    def synthetic(self) -> bool:
        """Whether any data of the run were made up for want of the real ones."""
        return _says_synthetic(self.stored["metrics"])

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
    def duration(self) -> str:
        """Wall-clock time of all its sessions, `48 s` or `5.2 min`."""
        if self.seconds is None:
            return "time not recorded"
        if self.seconds < 90:
            return f"{self.seconds:.0f} s"
        return f"{self.seconds / 60:.1f} min"


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment with all its published runs, from the smallest preset up."""

    name: str
    title: str
    paper: str
    claims: tuple[Mapping[str, Any], ...]
    runs: tuple[Run, ...]

    def measured(self, claim: str) -> list[tuple[Run, Verdict]]:
        """The runs that measured a claim, each with its verdict."""
        pairs = [(run, run.results.verdicts.get(claim)) for run in self.runs]
        return [(run, v) for run, v in pairs if v and v.holds is not None]

    def notes(self, claim: str) -> list[str]:
        """Why a claim was not measured, in the words of the runs that did not."""
        found = [run.results.verdicts.get(claim) for run in self.runs]
        return list(dict.fromkeys(v.note for v in found if v and v.note))

    def status(self, claim: str) -> str:
        """`fails` when any run says so, `holds` when one does and none fails."""
        verdicts = [verdict.holds for _, verdict in self.measured(claim)]
        if not verdicts:
            return "not measured"
        return "holds" if all(verdicts) else "fails"

    def counts(self) -> dict[str, int]:
        """How many claims hold, fail and were not measured."""
        states = [self.status(claim["id"]) for claim in self.claims]
        return {state: states.count(state) for state in STATES}


def _says_synthetic(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(
            (bool(item) and str(key).replace("/", ".").split(".")[-1] == "synthetic")
            or _says_synthetic(item)
            for key, item in value.items()
        )
    return isinstance(value, list) and any(map(_says_synthetic, value))


def _seconds(folder: pathlib.Path) -> float | None:
    path = folder / "timing.json"
    return read_json(path)["seconds"] if path.is_file() else None


def _load(path: pathlib.Path) -> Run:
    stored = read_json(path)
    if stored.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {stored.get('schema')!r}, expected {SCHEMA}: publish "
            "the run again"
        )
    folder = path.parent
    results = results_from(stored)
    for figure in results.figures:
        if not (folder / "figures" / figure.path).is_file():
            raise FileNotFoundError(
                f"{folder / 'figures' / figure.path} is missing: publish the run again"
            )
    return Run(folder.name, folder, stored, results, _seconds(folder))


def _rank(run: Run) -> tuple[int, str]:
    preset = run.stored["preset"]
    place = _PRESETS.index(preset) if preset in _PRESETS else len(_PRESETS)
    return place, run.label


def gather(folder: pathlib.Path) -> tuple[Section, ...]:
    """Reads every `<folder>/<experiment>/<label>/results.json`.

    Raises:
        ValueError: a file is not JSON or of another schema.
        FileNotFoundError: a picture that a run names is missing.
    """
    by_name: dict[str, list[Run]] = {}
    for path in sorted(folder.glob("*/*/results.json")):
        if not path.parent.name.startswith("."):
            by_name.setdefault(path.parent.parent.name, []).append(_load(path))
    sections = []
    for name, runs in by_name.items():
        runs.sort(key=_rank)
        claims = {c["id"]: c for run in runs for c in run.stored["claims"]}
        last = runs[-1].stored
        sections.append(
            Section(
                name, last["title"], last["paper"], tuple(claims.values()), tuple(runs)
            )
        )
    return tuple(sections)


def published_minutes(folder: pathlib.Path) -> dict[str, float]:
    """Minutes that published runs of an experiment took, by preset."""
    minutes = {}
    for path in sorted(folder.glob("*/results.json"), reverse=True):
        seconds = _seconds(path.parent)
        if seconds is not None:
            minutes[read_json(path)["preset"]] = max(round(seconds / 60, 1), 0.1)
    return minutes


def with_interval(verdict: Verdict) -> str:
    """What was measured, followed by its interval where there is one."""
    return verdict.measured + (f" ({verdict.interval})" if verdict.interval else "")


def failing(sections: Sequence[Section]) -> list[tuple[Section, Any, str]]:
    """Every claim that fails, with what each run measured that says so."""
    found = []
    for section in sections:
        for claim in section.claims:
            words = [
                f"{run.label}: {with_interval(verdict)}"
                for run, verdict in section.measured(claim["id"])
                if not verdict.holds
            ]
            if words:
                found.append((section, claim, "; ".join(words)))
    return found
