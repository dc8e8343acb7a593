"""Gathers published results into one page: `REPORT.md` and a self-contained HTML file.

The page is a function of `experiments/results/*/*/` alone: nothing is imported from the
experiments, and two calls write the same bytes.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.harness import SCHEMA, Results, Verdict, read_json, results_from

__all__ = ["Run", "Section", "gather", "published_minutes", "write_report"]

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


# ------------------------------------------------------------------ Markdown


def _escape(text: str) -> str:
    """Text for a Markdown table's cell: bars, stars and angle brackets kept literal."""
    pieces = " ".join(str(text).split()).replace("|", "\\|").split("`")
    for i in range(0, len(pieces), 2):  # the odd ones are code
        pieces[i] = pieces[i].replace("<", "&lt;").replace("*", "\\*")
    return "`".join(pieces)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


_MARK = {
    "holds": "✅ holds",
    "fails": "❌ **fails**",
    "not measured": "➖ not measured",
}


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


def _claim_rows(section: Section) -> Iterator[str]:
    for claim in section.claims:
        fixed = [
            f"{claim['id']}: {claim['statement']}",
            claim["source"],
            claim["paper"] or "–",
            f"{claim['measure']}: {claim['bar']}",
        ]
        measured = section.measured(claim["id"])
        for run, verdict in measured:
            note = f". {verdict.note}" if verdict.note else ""
            ours = f"{run.label}: {with_interval(verdict)}{note}"
            yield _row([*fixed, ours])[:-1] + f"| {_MARK[verdict.status]} |"
            fixed = ["", "", "", ""]
        if not measured:
            why = "; ".join(section.notes(claim["id"])) or "–"
            yield _row([*fixed, why, _MARK["not measured"]])


def _markdown_run(section: Section, run: Run) -> Iterator[str]:
    from experiments.harness import format_cell

    yield f"### {section.name}: {run.label}\n"
    if run.synthetic:
        yield "> **Synthetic stand-in data.** Its numbers are not comparable.\n"
    yield f"{run.device}; {run.duration}; {run.versions}.\n"
    if run.stored["overrides"]:
        changed = (f"`{k} = {v}`" for k, v in run.stored["overrides"].items())
        yield f"Changed from the preset: {', '.join(changed)}.\n"
    yield f"```\n{run.stored['command']}\n```\n"
    for table in run.results.tables:
        yield f"**{_escape(table.title)}**\n"
        yield _row(table.columns)
        yield "|" + " --- |" * len(table.columns)
        for row in table.rows:
            yield _row([format_cell(cell) for cell in row])
        yield f"\n{_escape(table.caption)}\n" if table.caption else ""
    for figure in run.results.figures:
        path = f"{section.name}/{run.label}/figures/{figure.path}"
        caption = _escape(figure.caption)
        yield f"![{caption}]({path})\n\n*{caption}*\n"


def markdown(sections: Sequence[Section]) -> str:
    """The report as Markdown, with pictures by relative path."""
    lines = [
        "# Claims and what we measured\n",
        "Written by `python -m experiments report` from the published runs; do not "
        "edit by hand.\n",
    ]
    if not sections:
        lines.append(
            "Nothing is published yet: `python -m experiments run NAME --publish`."
        )
    failed = failing(sections)
    if failed:
        lines.append("## Claims that fail\n")
        for section, claim, measured in failed:
            lines.append(
                f"- ❌ **{section.name} {claim['id']}**: {_escape(claim['statement'])} "
                f"Bar: {_escape(claim['bar'])}. Measured: {_escape(measured)}."
            )
        lines.append("")
    if sections:
        lines.append("| experiment | paper | holds | fails | not measured | runs |")
        lines.append("| --- | --- | --- | --- | --- | --- |")
    for section in sections:
        counts, labels = section.counts(), ", ".join(r.label for r in section.runs)
        link = f"[{section.name}](#{section.name})"
        lines.append(_row([link, section.paper, *counts.values(), labels]))
    for section in sections:
        lines += [f"\n## {section.name}\n", f"{_escape(section.title)}.\n"]
        lines.append(f"{_escape(section.paper)}\n")
        lines.append("| claim | source | paper's figure | bar | ours | verdict |")
        lines.append("| --- | --- | --- | --- | --- | --- |")
        lines += [*_claim_rows(section), ""]
        for run in section.runs:
            lines += _markdown_run(section, run)
    return "\n".join(lines).rstrip() + "\n"


def write_report(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `REPORT.md` and `report.html` into the folder of published results."""
    from experiments.report_html import page

    sections = gather(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "REPORT.md", folder / "report.html"
    paths[0].write_text(markdown(sections), encoding="utf-8")
    paths[1].write_text(page(sections), encoding="utf-8")
    return paths
