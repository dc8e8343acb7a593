"""What the pages say: an index of all papers, and a page for each, in Markdown."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.harness import Figure, Verdict, outcome
from experiments.report.markdown import cards, escaped, folded, image, table
from experiments.report.stored import Run, Section

SIGNS = {"holds": "✅", "fails": "❌", "shown": "ℹ️", "undecided": "❔"}
HEADS = ("paper", "claim", "paper's figure", "ours", "scale", "verdict", "minutes")
SEVERAL = {"holds": "hold", "fails": "fail"}


@dataclasses.dataclass(frozen=True)
class Pages:
    """Writes pages into files.

    Args:
        sections: all papers.
        abouts: a few sentences for those whose stored runs have none.
        file_of: where the page of a name ("index" or a paper's) lies.
    """

    sections: Sequence[Section]
    abouts: Mapping[str, str]
    file_of: Callable[[str], pathlib.Path]

    def texts(self) -> dict[str, str]:
        """Every page by its name."""
        pages = {"index": self.index()} | {s.name: self.paper(s) for s in self.sections}
        return {name: "\n\n".join(parts) + "\n" for name, parts in pages.items()}

    def _relative(self, path: pathlib.Path, page: str) -> str:
        start = self.file_of(page).parent
        return pathlib.Path(os.path.relpath(path, start)).as_posix()

    def _link(self, text: str, name: str, page: str) -> str:
        return f"[{escaped(text)}]({self._relative(self.file_of(name), page)})"

    def _image(self, run: Run, figure: Figure, width: int, page: str) -> str:
        path = self._relative(run.folder / "figures" / figure.path, page)
        return image(path, width, figure.title or figure.caption)

    # ------------------------------------------------------------ the index

    def index(self) -> Iterator[str]:
        """A gallery, then one table of headline claims."""
        yield "# Papers, claims and what we measured"
        yield (
            "Each paper is run at a scale that a laptop bears; a claim holds or fails "
            "by a bar that was set before. Written by `python -m experiments report "
            "--publish`."
        )
        speed = self.file_of("benchmarks").parent / "README.md"
        if speed.is_file():
            link = self._relative(speed, "index")
            yield f"How fast the kernels are, beside other libraries: [here]({link})."
        if not self.sections:
            yield "Nothing is published yet: `python -m experiments run NAME --publish`"
            return
        yield cards([self._card(section) for section in self.sections])
        yield "## Headline claims"
        yield table(HEADS, map(self._row, self.sections))
        failing = [
            f"- {self._link(' '.join((s.name, c['id'])), s.name, 'index')}: "
            f"{escaped(c['statement'])}"
            for s in self.sections
            for c in s.claims
            if s.status(c["id"]) == "fails"
        ]
        if failing:
            yield folded(f"Claims that fail: {len(failing)}", ["\n".join(failing)])

    def _card(self, section: Section) -> str:
        main, first = section.main, section.main.results.figures[:1]
        parts = [self._image(main, one, 300, "index") for one in first]
        parts += [f"**{self._link(section.name, section.name, 'index')}**"]
        return "<br>".join([*parts, f"{escaped(main.stored['title'])}."])

    def _row(self, section: Section) -> list[Any]:
        claim, main = section.claims[0], section.main
        words = (
            f"{n} {SEVERAL.get(state, state) if n > 1 else state}"
            for state, n in section.counts().items()
        )
        link = self._link(section.name, section.name, "index")
        return [
            f"{link}<br>{escaped(main.stored['paper'])}",
            escaped(claim["statement"]),
            escaped(claim["paper"] or "–"),
            escaped(_measured(main.results.verdicts[claim["id"]])),
            escaped(main.results.scale or "–"),
            f"{_mark(section, claim)}<br>all claims: {', '.join(words)}",
            main.minutes,
        ]

    # ------------------------------------------------------------ a paper

    def paper(self, section: Section) -> Iterator[str]:
        """Three sentences, a picture, the claims, how to run it; details are folded."""
        main, name = section.main, section.name
        stored, figures = main.stored, main.results.figures
        yield f"{self._link('All papers', 'index', name)} · {escaped(stored['paper'])}"
        yield f"# {escaped(stored['title'])}"
        about = stored.get("about") or self.abouts.get(name, "")
        yield escaped(about.removeprefix(f"{stored['title']}."))
        if main.synthetic:
            yield "**Synthetic stand-in data: the numbers are not comparable.**"
        yield from self._pictures(main, figures[:1], name)
        for ours, title in enumerate(("The paper's claims", "Our own extensions")):
            rows = [_claim(section, c) for c in section.claims if _is_ours(c) == ours]
            if rows:
                yield f"## {title}"
                yield table(("claim", "paper's figure", "bar", "ours", "verdict"), rows)
        yield "## Run it"
        smoke = f"python -m experiments run {name} --preset smoke"
        commands = (run.stored["command"] for run in section.runs)
        yield "\n".join(["```", *dict.fromkeys([smoke, *commands]), "```"])
        yield folded("What was measured for each claim, and remarks", _notes(section))
        for run in section.runs:
            rest = figures[1:] if run is main else run.results.figures
            parts = [*_run(run), *self._pictures(run, rest, name)]
            place = "on this machine, not published" if run.local else "published"
            took = f"{run.minutes:g} minutes" if run.minutes else "time not recorded"
            yield folded(f"Run {run.label} ({place}; {took})", parts)

    def _pictures(
        self, run: Run, figures: Sequence[Figure], page: str
    ) -> Iterator[str]:
        for figure in figures:
            yield self._image(run, figure, 720, page)
            yield f"*{escaped(figure.caption)}*"


def _is_ours(claim: Mapping[str, Any]) -> bool:
    source = claim["source"]
    return claim.get("ours", "not in the paper" in source or source.startswith("ours"))


def _measured(verdict: Verdict) -> str:
    if not verdict.measured:
        return "–"
    return verdict.measured + (f" ({verdict.interval})" if verdict.interval else "")


def _mark(section: Section, claim: Mapping[str, Any]) -> str:
    status = section.status(claim["id"])
    runs = [run for run, v in section.verdicts(claim["id"]) if v.status == status]
    words = outcome(status, (runs or section.runs)[0].stored)
    sign = SIGNS.get(status, "–")
    return f"{sign} **{words}**" if status == "fails" else f"{sign} {words}"


def _claim(section: Section, claim: Mapping[str, Any]) -> list[str]:
    """A row; what runs measured has their names where there are several."""
    found = section.verdicts(claim["id"])
    several = len(section.runs) > 1
    ours = [f"{run.label}: " * several + _measured(verdict) for run, verdict in found]
    return [
        f"{escaped(claim['id'])}. {escaped(claim['statement'])}",
        escaped(claim["paper"] or "–"),
        escaped(claim["bar"]),
        "<br>".join(map(escaped, ours)) or "–",
        _mark(section, claim),
    ]


def _notes(section: Section) -> list[str]:
    items = []
    for claim in section.claims:
        for run, verdict in section.verdicts(claim["id"]):
            measure = verdict.measure or claim["measure"] or "not measured"
            words = f"{claim['id']} ({claim['source']}; {run.label}): {measure}."
            items.append(f"- {escaped(f'{words} {verdict.note}')}")
    return ["\n".join(items)]


def _run(run: Run) -> Iterator[str]:
    facts = [run.device, run.versions, run.results.scale]
    if run.stored["overrides"]:
        changed = (f"`{k} = {v}`" for k, v in run.stored["overrides"].items())
        facts.append(f"changed from the preset: {', '.join(changed)}")
    facts += [*run.results.remarks, *run.stored.get("moved", [])]
    yield "\n".join(f"- {escaped(fact)}" for fact in facts if fact)
    for one in run.results.tables:
        yield f"### {escaped(one.title)}"
        text = lambda cell: escaped(cell) if isinstance(cell, str) else cell  # noqa: E731
        yield table(one.columns, [map(text, row) for row in one.rows])
        yield escaped(one.caption)
    if stages := run.timing.get("stages"):
        yield "### Seconds by stage"
        rows = [(escaped(name), *seconds) for name, seconds in stages.items()]
        yield table(("stage", "CPU", "wall"), rows)
