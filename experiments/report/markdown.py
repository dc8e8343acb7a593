"""Parts of a page in Markdown, and the page as HTML with nothing from elsewhere."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.harness import format_cell

ACROSS = 3
"""Cards side by side."""
STYLE = "report.css"
"""Beside the pages of a site."""
SIGNS = {"✅": "✓", "❌": "✗", "ℹ️": "·", "❔": "?"}
"""Of verdicts on GitHub, and in letters that every font has."""


def escaped(text: Any) -> str:
    """One line with bars, stars and angle brackets kept literal, but in code."""
    pieces = " ".join(str(text).split()).replace("|", "\\|").split("`")
    for i in range(0, len(pieces), 2):  # the odd ones are code
        pieces[i] = pieces[i].replace("<", "&lt;").replace("*", "\\*")
    return "`".join(pieces)


def table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Cells are numbers or Markdown; columns of numbers alone stand to the right."""
    rows = [list(row) for row in rows]
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    right = [all(map(_is_number, column)) for column in zip(*rows)]
    rule = ["---:" if one else "---" for one in right or [False] * len(columns)]
    cells = ([format_cell(cell) for cell in row] for row in rows)
    return "\n".join(map(line, (map(escaped, columns), rule, *cells)))


def _is_number(cell: object) -> bool:
    # Non-finite numbers are stored as strings.
    none = cell in (None, "nan", "inf", "-inf")
    return none or (isinstance(cell, int | float) and not isinstance(cell, bool))


def image(path: str, width: int, alt: str) -> str:
    """A picture, as HTML that GitHub keeps."""
    return f'<img src="{html.escape(path)}" width="{width}" alt="{html.escape(alt)}">'


def cards(cells: Sequence[str]) -> str:
    """A gallery."""
    cells = [*cells, *[""] * (-len(cells) % ACROSS)]
    rows = [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)]
    return table([""] * ACROSS, rows)


def folded(title: str, parts: Iterable[str]) -> str:
    """Shown when its title is clicked."""
    head = f"<details><summary>{html.escape(title)}</summary>"
    return "\n\n".join([head, *parts, "</details>"])


def site_page(title: str, text: str) -> str:
    """A page of Markdown as HTML; the cells of its tables know their column."""
    from markdown_it import MarkdownIt

    for sign, letter in SIGNS.items():
        tag = rf'<span class="tag">{letter} \1</span>'
        text = re.sub(rf"{sign} (.*?)(?= \||<br>)", tag, text)
    tokens = (md := MarkdownIt("commonmark").enable("table")).parse(text)
    columns: list[str] = []
    names = iter(columns)
    for token, behind in zip(tokens, [*tokens[1:], None]):
        if token.type == "thead_open":
            columns = []
        elif token.type == "th_open" and behind:
            columns.append(behind.content)
        elif token.type == "tr_open":
            names = iter(columns)
        elif token.type == "td_open" and (name := next(names, None)) is not None:
            token.attrSet("data-is", name)
    body = md.renderer.render(tokens, md.options, {})
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="stylesheet" href="{STYLE}">'
        "</head>\n"
        f"<body><main>\n{body}</main></body></html>\n"
    )
