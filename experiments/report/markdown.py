"""The report as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.harness import format_cell
from experiments.report.stored import Run, Section, failing, with_interval

__all__ = ["markdown"]


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
