"""The page of all stored results: who is ahead, by how much, and where we are not.

A function of `benchmarks.jsonl` and of the questions and reasons that stand beside the
definition of each benchmark: nothing is measured here. Pictures that no question asks
for any more are removed.
"""

import dataclasses
import fnmatch
import functools
import importlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.benchmarks import pictures
from experiments.benchmarks.measuring import Question, Reason
from experiments.benchmarks.places import EVEN, Place, places
from experiments.report.markdown import escaped, image, table

__all__ = ["write"]

_UNEXPLAINED = "**Not explained yet.**"


@dataclasses.dataclass(frozen=True)
class _Run:
    rows: Sequence[dict]
    questions: Sequence[Question]
    reasons: Sequence[Reason]

    @property
    def name(self) -> str:
        row = self.rows[0]
        return row["benchmark"] + (f" ({row['preset']})" * (row["preset"] != "cpu"))

    @functools.cached_property
    def places(self) -> list[Place]:
        return places(self.rows)

    def asked(self, question: Question) -> list[Place]:
        return [p for title in question.groups for p in self.places if p.title == title]

    def reason(self, place: Place) -> str:
        """Why the best peer is ahead."""
        for reason in self.reasons:
            wanted = reason.groups, reason.sizes, reason.peers
            found = place.title, place.sizes, place.best["contender"]
            if all(map(fnmatch.fnmatchcase, found, wanted)):
                return reason.words
        return _UNEXPLAINED


def write(results: pathlib.Path, package: str) -> list[pathlib.Path]:
    """`benchmarks/README.md` and its pictures, from what is stored in the folder."""
    runs: dict[tuple, list[dict]] = {}
    with (results / "benchmarks.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            key = row["benchmark"], row["preset"], row["device"]
            runs.setdefault(key, []).append(row)
    found = []
    for key in sorted(runs):
        module = importlib.import_module(f"{package}.benchmarks.{key[0]}")
        found.append(_Run(runs[key], module.QUESTIONS, module.REASONS))
    folder = results / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "README.md"
    written = [page]
    text = []
    for part in _page(found):
        if isinstance(part, str):
            text.append(part)
            continue
        run, question = part
        row = run.rows[0]
        preset = f"{row['preset']}-" * (row["preset"] != "cpu")
        path = folder / f"{row['benchmark']}-{preset}{question.name}.png"
        title = pictures.draw(path, question, run.asked(question))
        if title:
            written.append(path)
            text.append(image(path.name, 900, title))
    for path in folder.glob("*.png"):
        if path not in written:
            path.unlink()
    others = sorted(path.parent.name for path in folder.glob("*/README.md"))
    if others:
        links = ", ".join(f"[{name}]({name}/README.md)" for name in others)
        text.insert(2, f"Not of time, on a page of its own: {links}.")
    page.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return written


def _page(runs: Sequence[_Run]) -> Iterator[str | tuple[_Run, Question]]:
    yield "# How fast, beside what others offer"
    yield (
        "Time and temporary memory of kernels, each beside the same thing in plain JAX "
        "and in the other libraries that run here, in one process and by turns; the "
        "least is kept. A ratio is our time over theirs: **below 1 we are ahead**; in "
        f"bold, and listed below, where we are behind by more than {EVEN - 1:.0%}. "
        "The floor is what this machine's own rates of reading, writing, exponentials "
        "and matrix products allow. Written by `python -m experiments bench`, which "
        "with the name of a benchmark measures it first."
    )
    yield _overview(runs)
    yield "## Where we are slower, and why"
    yield from _slower(runs)
    for run in runs:
        yield f"## {run.name}"
        yield _measured(run)
        for question in run.questions:
            asked = run.asked(question)
            if asked:
                yield f"### {escaped(question.text)}"
                yield run, question
                yield _ratios(asked)


def _overview(runs: Sequence[_Run]) -> str:
    rows = []
    for run in runs:
        ratios = [p.ratio for p in run.places if p.ratio is not None]
        if ratios:
            behind = sum(x > EVEN for x in ratios)
            ahead = sum(x < 1 / EVEN for x in ratios)
            even = len(ratios) - ahead - behind
            middle = sorted(ratios)[len(ratios) // 2]
            middle, most = f"{middle:.2f}", f"{max(ratios):.2f}"
            rows.append([run.name, len(ratios), ahead, even, behind, middle, most])
    heads = "benchmark", "compared at", "ahead", "even", "behind"
    return table((*heads, "median / best peer", "worst / best peer"), rows)


def _slower(runs: Sequence[_Run]) -> Iterator[str]:
    items = []
    for run in runs:
        by_words: dict[str, list[str]] = {}
        for place in run.places:
            if place.ratio is not None and place.ratio > EVEN:
                where = f"{place.title} at {place.sizes}: {place.ratio:.2f} × "
                where += place.best["contender"]
                by_words.setdefault(run.reason(place), []).append(where)
        for words, where in by_words.items():
            items.append(f"- **{run.name}**: {words} ({escaped('; '.join(where))})")
    yield "\n".join(items) or f"Nowhere by more than {EVEN - 1:.0%}."


def _measured(run: _Run) -> str:
    row = run.rows[0]
    parts = [row["date"][:10], f"{row['device']}, {row['processor']}", row["clock"]]
    if row["cores"]:
        parts.append(f"{row['cores']} core{'s' * (row['cores'] > 1)}")
    if row["load"] is not None:
        parts.append(f"load of the machine {row['load']:.1f}")
    parts += [
        f"commit {(row['commit'] or 'unknown')[:7]}",
        ", ".join(f"{k} {v}" for k, v in row["versions"].items()),
    ]
    return escaped("; ".join(parts)) + "."


def _ratios(asked: Sequence[Place]) -> str:
    """Of our time over that of each other contender."""
    names = list(dict.fromkeys(r["contender"] for p in asked for r in p.rows))
    names = [name for name in names if name != "kljax"]
    axes = dict.fromkeys(p.axes for p in asked)
    heads = ["", " or ".join(axes), "kljax, ms", "/ floor"]
    heads += [f"/ {name}" for name in names]
    heads += ["temporaries, MiB", "least of peers"]
    return table(heads, [_row(place, names) for place in asked])


def _row(place: Place, names: Sequence[str]) -> list[Any]:
    seconds = place.ours["seconds"]
    over = seconds and f"{seconds / place.ours['floor_seconds']:.2f}"
    cells = [place.title, place.sizes, seconds and _three(seconds * 1e3), over]
    for name in names:
        other = place.of(name)
        if not seconds or other is None:
            cells.append(None)
            continue
        ratio = seconds / other["seconds"]
        star = "**" * (other["peer"] and ratio > EVEN)
        cells.append(f"{star}{ratio:.2f}{star}")
    others = [r["temp_bytes"] for r in place.rows if r["peer"]]
    least = min((x for x in others if x is not None), default=None)
    sizes = place.ours["temp_bytes"], least
    return [*cells, *(None if x is None else _three(x / 2**20) for x in sizes)]


def _three(x: float) -> str:
    """Three digits, and all before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
