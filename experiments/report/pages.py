"""What the pages say: an index of all papers, and a page for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.harness import Verdict, outcome
from experiments.report.blocks import (
    Block,
    Bullets,
    Cards,
    Code,
    Folded,
    Grid,
    Heading,
    Link,
    Mark,
    Picture,
    Text,
)
from experiments.report.stored import Run, Section

__all__ = ["index", "paper"]


def _about(section: Section, abouts: Mapping[str, str]) -> str:
    """The sentences behind the title."""
    stored = section.main.stored
    about = stored.get("about") or abouts.get(section.name, "")
    return about.removeprefix(f"{stored['title']}.").strip()


def _picture(run: Run, place: int = 0) -> Picture | None:
    figures = run.results.figures
    if not figures:
        return None
    one = figures[place]
    return Picture(run.folder / "figures" / one.path, one.caption, one.title)


def _is_ours(claim: Mapping[str, Any]) -> bool:
    source = claim["source"]
    return claim.get("ours", "not in the paper" in source or "ours" in source)


def _measured(verdict: Verdict) -> str:
    if not verdict.measured:
        return "–"
    return verdict.measured + (f" ({verdict.interval})" if verdict.interval else "")


def _mark(section: Section, claim: Mapping[str, Any]) -> Mark:
    status = section.status(claim["id"])
    runs = [run for run, v in section.verdicts(claim["id"]) if v.status == status]
    stored = (runs or section.runs)[0].stored
    return Mark(status, outcome(status, stored))


def _ours(section: Section, claim: str) -> Any:
    """What the runs measured, each in a line with its name where there are several."""
    found = section.verdicts(claim)
    if len(section.runs) == 1:
        return [_measured(verdict) for _, verdict in found] or "–"
    return [f"{run.label}: {_measured(verdict)}" for run, verdict in found] or "–"


def _counted(section: Section) -> str:
    several = {"holds": "hold", "fails": "fail"}
    return ", ".join(
        f"{count} {several.get(state, state) if count > 1 else state}"
        for state, count in section.counts().items()
    )


def index(sections: Sequence[Section]) -> Iterator[Block]:
    """A gallery, then one table of headline claims."""
    yield Heading(1, "Papers, claims and what we measured")
    yield Text(
        "Each paper is run at a scale that a laptop bears; a claim holds or fails by a "
        "bar that was set before. Written by `python -m experiments report --publish`."
    )
    if not sections:
        command = "`python -m experiments run NAME --publish`"
        yield Text(f"Nothing is published yet: {command}")
        return
    yield Cards(
        [
            (_picture(s.main), Link(s.name, s.name), f"{s.main.stored['title']}.")
            for s in sections
        ]
    )
    rows = []
    for section in sections:
        claim = section.claims[0]
        verdict = section.main.results.verdicts[claim["id"]]
        rows.append(
            [
                [Link(section.name, section.name), section.main.stored["paper"]],
                claim["statement"],
                claim["paper"] or "–",
                _measured(verdict),
                section.main.results.scale or "–",
                [_mark(section, claim), f"all claims: {_counted(section)}"],
                section.main.minutes,
            ]
        )
    yield Heading(2, "Headline claims")
    columns = (
        "paper",
        "claim",
        "paper's figure",
        "ours",
        "scale",
        "verdict",
        "minutes",
    )
    yield Grid(columns, rows, wide=True)
    failing = [
        [Link(f"{s.name} {c['id']}", s.name), c["statement"]]
        for s in sections
        for c in s.claims
        if s.status(c["id"]) == "fails"
    ]
    if failing:
        yield Folded(f"Claims that fail: {len(failing)}", [Bullets(failing)])


def _claim_table(section: Section, claims: Sequence[Mapping[str, Any]]) -> Grid:
    rows = [
        [
            f"{claim['id']}. {claim['statement']}",
            claim["paper"] or "–",
            claim["bar"],
            _ours(section, claim["id"]),
            _mark(section, claim),
        ]
        for claim in claims
    ]
    return Grid(("claim", "paper's figure", "bar", "ours", "verdict"), rows, wide=True)


def paper(section: Section, abouts: Mapping[str, str]) -> Iterator[Block]:
    """Three sentences, a picture, the claims, how to run it; details are folded."""
    main = section.main
    yield Text(f"Paper: {main.stored['paper']}")
    yield Heading(1, main.stored["title"])
    yield Text(_about(section, abouts))
    if main.synthetic:
        yield Text("Synthetic stand-in data: the numbers are not comparable.")
    first = _picture(main)
    if first:
        yield first
    commands = dict.fromkeys(
        [
            f"python -m experiments run {section.name} --preset smoke",
            *(run.stored["command"] for run in section.runs),
        ]
    )
    groups = {"The paper's claims": False, "Our own extensions": True}
    for title, ours in groups.items():
        claims = [claim for claim in section.claims if _is_ours(claim) == ours]
        if claims:
            yield Heading(2, title)
            yield _claim_table(section, claims)
    yield Heading(2, "Run it")
    yield Code("\n".join(commands))
    yield Folded("What was measured for each claim, and remarks", [_notes(section)])
    for run in section.runs:
        yield Folded(_run_title(run), list(_run(run, run is main)))
    yield Bullets([[Link("All papers", "index")]])


def _notes(section: Section) -> Bullets:
    items = []
    for claim in section.claims:
        for run, verdict in section.verdicts(claim["id"]):
            measure = verdict.measure or claim["measure"] or "not measured"
            words = f"{claim['id']} ({claim['source']}; {run.label}): {measure}."
            items.append(f"{words} {verdict.note}".strip())
    return Bullets(items)


def _run_title(run: Run) -> str:
    place = "on this machine, not published" if run.local else "published"
    took = "time not recorded" if run.minutes is None else f"{run.minutes:g} minutes"
    return f"Run {run.label} ({place}; {took})"


def _run(run: Run, main: bool) -> Iterator[Block]:
    facts = [run.device, run.versions, run.results.scale]
    if run.stored["overrides"]:
        changed = (f"`{k} = {v}`" for k, v in run.stored["overrides"].items())
        facts.append(f"changed from the preset: {', '.join(changed)}")
    facts += run.results.remarks
    facts += run.stored.get("moved", [])
    yield Bullets([fact for fact in facts if fact])
    for table in run.results.tables:
        yield Heading(3, table.title)
        yield Grid(table.columns, table.rows)
        if table.caption:
            yield Text(table.caption)
    stages = run.timing.get("stages")
    if stages:
        yield Heading(3, "Seconds by stage")
        yield Grid(("stage", "CPU", "wall"), [(k, *v) for k, v in stages.items()])
    for place in range(1 if main else 0, len(run.results.figures)):
        picture = _picture(run, place)
        if picture:
            yield picture
