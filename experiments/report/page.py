"""The report as one HTML file that needs nothing else: styles and pictures inside."""

import base64
import html
import mimetypes
import pathlib
import struct
from collections.abc import Iterator, Sequence

from experiments.harness import Table, Verdict, format_cell
from experiments.report.stored import STATES, Run, Section, failing

__all__ = ["page"]

_MARK = {"holds": "✓ holds", "fails": "✗ fails", "not measured": "– not measured"}


def _text(value: object) -> str:
    """Escaped text; what stands between backticks becomes code."""
    pieces = html.escape(str(value)).split("`")
    if len(pieces) % 2 == 0:  # an unpaired backtick is a backtick
        return "`".join(pieces)
    for i in range(1, len(pieces), 2):
        pieces[i] = f"<code>{pieces[i]}</code>"
    return "".join(pieces)


def _tag(state: str) -> str:
    return f'<span class="tag {state.split()[0]}">{_MARK[state]}</span>'


def _size(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _picture(path: pathlib.Path, caption: str) -> str:
    data = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    size, shape, wide = _size(data), "", ""
    if size:
        shape = f' width="{size[0]}" height="{size[1]}"'
        wide = ' class="wide"' if size[0] > 1.6 * size[1] else ""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure{wide}><div class="mat"><img src="{source}"{shape} '
        f'alt="{html.escape(caption)}"></div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _is_number(cell: object) -> bool:
    # Non-finite numbers are stored as strings.
    return (
        cell is None
        or cell in ("nan", "inf", "-inf")
        or (isinstance(cell, int | float) and not isinstance(cell, bool))
    )


def _table(table: Table) -> str:
    numeric = [all(map(_is_number, column)) for column in zip(*table.rows)]
    numeric = numeric or [False] * len(table.columns)
    marks = [' class="n"' if is_number else "" for is_number in numeric]
    head = "".join(f"<th{m}>{_text(c)}</th>" for m, c in zip(marks, table.columns))
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{m}>{_text(format_cell(c))}</td>" for m, c in zip(marks, row))
        + "</tr>"
        for row in table.rows
    )
    caption = (
        f'<p class="soft small">{_text(table.caption)}</p>' if table.caption else ""
    )
    return (
        f'<h4>{_text(table.title)}</h4>\n<div class="scroll"><table><thead><tr>{head}'
        f"</tr></thead><tbody>\n{rows}\n</tbody></table></div>{caption}"
    )


def _ours(run: Run, verdict: Verdict) -> str:
    made_up = '<span class="tag warn">synthetic data</span>' if run.synthetic else ""
    note = verdict.note and f'<br><span class="soft small">{_text(verdict.note)}</span>'
    interval = verdict.interval and f"<br>{_text(verdict.interval)}"
    return (
        f'<div class="ours">{_tag(verdict.status)}{made_up}'
        f'<span class="soft small">{_text(run.label)}</span><br>'
        f"<b>{_text(verdict.measured)}</b>{interval}{note}</div>"
    )


def _claims(section: Section) -> Iterator[str]:
    yield (
        '<div class="scroll"><table class="claims"><colgroup><col style="width:30%">'
        '<col style="width:20%"><col style="width:21%"><col></colgroup><thead><tr>'
        "<th>claim</th><th>paper's figure</th><th>bar</th><th>ours</th></tr></thead>"
        "<tbody>"
    )
    for claim in section.claims:
        measured = section.measured(claim["id"])
        ours = "".join(_ours(run, verdict) for run, verdict in measured)
        if not ours:
            why = _text("; ".join(section.notes(claim["id"])))
            ours = f'{_tag("not measured")}<br><span class="soft small">{why}</span>'
        yield (
            f'<tr class="{section.status(claim["id"]).split()[0]}">'
            f"<td><b>{_text(claim['id'])}</b> {_text(claim['statement'])}</td>"
            f'<td data-is="paper">{_text(claim["paper"] or "–")}<br>'
            f'<span class="soft small">{_text(claim["source"])}</span></td>'
            f'<td data-is="bar">{_text(claim["bar"])}<br>'
            f'<span class="soft small">{_text(claim["measure"])}</span></td>'
            f'<td data-is="ours">{ours}</td></tr>'
        )
    yield "</tbody></table></div>"


def _run(run: Run) -> Iterator[str]:
    yield (
        f"<details open><summary><h3>{_text(run.label)}</h3> "
        f'<span class="soft small">{_text(run.device)}; {_text(run.duration)}</span>'
        "</summary>"
    )
    if run.synthetic:
        yield (
            '<p><span class="tag warn">synthetic stand-in data</span> The real data '
            "were not available to this run: its numbers are not comparable.</p>"
        )
    yield f'<p class="soft small">{_text(run.versions)}</p>'
    if run.stored["overrides"]:
        changed = (f"<code>{_text(k)} = {_text(v)}</code>" for k, v in
                   run.stored["overrides"].items())  # fmt: skip
        yield f"<p>Changed from the preset: {', '.join(changed)}</p>"
    yield f"<pre>{html.escape(run.stored['command'])}</pre>"
    for table in run.results.tables:
        yield _table(table)
    if run.results.figures:
        yield '<div class="pictures">'
        for figure in run.results.figures:
            yield _picture(run.folder / "figures" / figure.path, figure.caption)
        yield "</div>"
    yield "</details>"


def _overview(sections: Sequence[Section]) -> Iterator[str]:
    yield (
        '<div class="scroll"><table><thead><tr><th>experiment</th><th>paper</th>'
        "<th>claims</th><th>published runs</th></tr></thead><tbody>"
    )
    for section in sections:
        counts = section.counts()
        verbs = {"holds": "hold", "fails": "fail"}
        words = ", ".join(
            f"{counts[s]} {s if counts[s] == 1 else verbs.get(s, s)}"
            for s in STATES
            if counts[s]
        )
        bar = "".join(
            f'<i class="{state.split()[0]}" style="flex:{counts[state]}"></i>'
            for state in STATES
            if counts[state]
        )
        labels = ", ".join(run.label for run in section.runs)
        yield (
            f'<tr><td><a href="#{section.name}">{_text(section.name)}</a></td>'
            f"<td>{_text(section.paper)}</td>"
            f'<td>{words}<div class="bar" aria-hidden="true">{bar}</div></td>'
            f"<td>{_text(labels)}</td></tr>"
        )
    yield "</tbody></table></div>"


def _body(sections: Sequence[Section]) -> Iterator[str]:
    yield "<h1>Claims and what we measured</h1>"
    yield (
        '<p class="soft">Each experiment states what a paper claims, the bar that '
        "decides it, and what kljax measured. Written by <code>python -m experiments "
        "report</code> from the published runs.</p>"
    )
    if not sections:
        command = "python -m experiments run NAME --publish"
        yield f"<p>Nothing is published yet: <code>{command}</code></p>"
        return
    failed = failing(sections)
    if failed:
        yield f'<div class="alarm"><h2>Claims that fail: {len(failed)}</h2><ul>'
        for section, claim, measured in failed:
            yield (
                f'<li><a href="#{section.name}"><b>{_text(section.name)} '
                f"{_text(claim['id'])}</b></a>: {_text(claim['statement'])} Bar: "
                f"{_text(claim['bar'])}. Measured: <b>{_text(measured)}</b></li>"
            )
        yield "</ul></div>"
    yield from _overview(sections)
    for section in sections:
        yield f'<section id="{section.name}"><h2>{_text(section.title)}</h2>'
        yield (
            f'<p class="soft">{_text(section.paper)} · '
            f"<code>{_text(section.name)}</code></p>"
        )
        yield from _claims(section)
        for run in section.runs:
            yield from _run(run)
        yield "</section>"


def page(sections: Sequence[Section]) -> str:
    """The whole page as HTML; it loads nothing from anywhere."""
    body = "\n".join(_body(sections))
    style = pathlib.Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>kljax: claims and measurements</title>\n"
        f"<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
