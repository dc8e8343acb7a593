"""Pages as Markdown, as GitHub shows it."""

import html
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from experiments.harness import format_cell
from experiments.report import blocks
from experiments.report.blocks import Link, Mark

__all__ = ["markdown"]

SIGNS = {"holds": "✅", "fails": "❌", "shown": "ℹ️", "undecided": "➖"}
ACROSS = 3
"""Cards side by side."""


def escaped(text: Any) -> str:
    """Bars, stars and angle brackets kept literal, but in code."""
    pieces = " ".join(str(text).split()).replace("|", "\\|").split("`")
    for i in range(0, len(pieces), 2):  # the odd ones are code
        pieces[i] = pieces[i].replace("<", "&lt;").replace("*", "\\*")
    return "`".join(pieces)


class _Markdown:
    """Draws blocks; `folder` is where the page will lie, `page_of` where others do."""

    def __init__(self, folder: pathlib.Path, page_of: Callable[[str], pathlib.Path]):
        self.folder, self.page_of = folder, page_of

    def path(self, path: pathlib.Path) -> str:
        return pathlib.Path(os.path.relpath(path, self.folder)).as_posix()

    def cell(self, cell: Any) -> str:
        match cell:
            case Link(text, page):
                return f"[{escaped(text)}]({self.path(self.page_of(page))})"
            case Mark(status, words):
                bold = f"**{words}**" if status == "fails" else words
                return f"{SIGNS.get(status, '–')} {bold}"
            case list():
                return "<br>".join(map(self.cell, cell))
        return escaped(format_cell(cell))

    def row(self, cells: Sequence[Any]) -> str:
        return "| " + " | ".join(map(self.cell, cells)) + " |"

    def image(self, picture: blocks.Picture, width: int) -> str:
        alt = html.escape(picture.title or picture.caption)
        return f'<img src="{self.path(picture.path)}" width="{width}" alt="{alt}">'

    def block(self, block: Any) -> str:
        match block:
            case blocks.Heading(level, text):
                return f"{'#' * level} {escaped(text)}"
            case blocks.Text(text):
                return escaped(text)
            case blocks.Code(text):
                return f"```\n{text}\n```"
            case blocks.Bullets(items):
                return "\n".join(f"- {self.cell(item)}" for item in items)
            case blocks.Grid(columns, rows):
                rule = "|" + " --- |" * len(columns)
                return "\n".join([self.row(columns), rule, *map(self.row, rows)])
            case blocks.Picture(_, caption, _):
                return f"{self.image(block, 720)}\n\n*{escaped(caption)}*"
            case blocks.Cards(items):
                return self.cards(items)
            case blocks.Folded(title, inner):
                head = f"<details><summary>{html.escape(title)}</summary>"
                return "\n\n".join([head, *map(self.block, inner), "</details>"])
        raise TypeError(f"no block: {block!r}")

    def cards(self, items: Sequence[tuple[Any, Link, str]]) -> str:
        cells = []
        for picture, link, sentence in items:
            image = [self.image(picture, 300)] if picture else []
            words = f"**{self.cell(link)}**<br>{escaped(sentence)}"
            cells.append("<br>".join([*image, words]))
        cells += [""] * (-len(cells) % ACROSS)
        rows = [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        head = "|" + "  |" * ACROSS
        return "\n".join([head, "|" + " --- |" * ACROSS, *lines])


def markdown(
    page: Sequence[blocks.Block],
    folder: pathlib.Path,
    page_of: Callable[[str], pathlib.Path],
) -> str:
    """A page's text.

    Args:
        page: its blocks.
        folder: where it will lie: pictures and links are relative to it.
        page_of: where the page of a name lies.
    """
    draw = _Markdown(folder, page_of).block
    return "\n\n".join(map(draw, page)) + "\n"
