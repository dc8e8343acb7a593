"""Pages as HTML: a style inside, pictures beside, nothing from elsewhere."""

import html
import os
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from experiments.harness import format_cell
from experiments.report import blocks
from experiments.report.blocks import Link, Mark

__all__ = ["page"]

SIGNS = {"holds": "✓", "fails": "✗", "shown": "·", "undecided": "?"}


def marked(value: object) -> str:
    """Escaped text; what stands between backticks becomes code."""
    pieces = html.escape(str(value)).split("`")
    if len(pieces) % 2 == 0:  # an unpaired backtick is a backtick
        return "`".join(pieces)
    for i in range(1, len(pieces), 2):
        pieces[i] = f"<code>{pieces[i]}</code>"
    return "".join(pieces)


def _is_number(cell: object) -> bool:
    # Non-finite numbers are stored as strings.
    if cell is None or cell in ("nan", "inf", "-inf"):
        return True
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _size(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        head = file.read(24)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
        return ""
    width, height = struct.unpack(">II", head[16:24])
    return f' width="{width}" height="{height}"'


class _Html:
    """Draws blocks; `folder` is where the page will lie, `page_of` where others do."""

    def __init__(self, folder: pathlib.Path, page_of: Callable[[str], pathlib.Path]):
        self.folder, self.page_of = folder, page_of

    def path(self, path: pathlib.Path) -> str:
        return quote(pathlib.Path(os.path.relpath(path, self.folder)).as_posix())

    def cell(self, cell: Any) -> str:
        match cell:
            case Link(text, page):
                return f'<a href="{self.path(self.page_of(page))}">{marked(text)}</a>'
            case Mark(status, words):
                sign = SIGNS.get(status, "–")
                kind = status.split()[0]
                return f'<span class="tag {kind}">{sign} {html.escape(words)}</span>'
            case list():
                return "<br>".join(map(self.cell, cell))
        return marked(format_cell(cell))

    def image(self, picture: blocks.Picture) -> str:
        alt = html.escape(picture.title or picture.caption)
        source = self.path(picture.path)
        return f'<img src="{source}"{_size(picture.path)} alt="{alt}" loading="lazy">'

    def grid(self, block: blocks.Grid) -> str:
        columns = list(zip(*block.rows)) or [()] * len(block.columns)
        kinds = [' class="n"' if all(map(_is_number, c)) else "" for c in columns]
        heads = [f"<th{k}>{marked(c)}</th>" for k, c in zip(kinds, block.columns)]
        rows = []
        for row in block.rows:
            flat = [x for one in row for x in (one if isinstance(one, list) else [one])]
            status = [one.status.split()[0] for one in flat if isinstance(one, Mark)]
            cells = [
                f'<td{kind} data-is="{html.escape(name)}">{self.cell(cell)}</td>'
                for kind, name, cell in zip(kinds, block.columns, row)
            ]
            rows.append(f'<tr class="{" ".join(status)}">{"".join(cells)}</tr>')
        wide = ' class="claims"' if block.wide else ""
        return (
            f'<div class="scroll"><table{wide}><thead><tr>{"".join(heads)}</tr></thead>'
            "<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
        )

    def block(self, block: Any) -> str:
        match block:
            case blocks.Heading(level, text):
                return f"<h{level}>{marked(text)}</h{level}>"
            case blocks.Text(text):
                return f"<p>{marked(text)}</p>"
            case blocks.Code(text):
                return f"<pre>{html.escape(text)}</pre>"
            case blocks.Bullets(items):
                lines = (f"<li>{self.cell(item)}</li>" for item in items)
                return f"<ul>{''.join(lines)}</ul>"
            case blocks.Grid():
                return self.grid(block)
            case blocks.Picture(_, caption, _):
                return (
                    f'<figure><div class="mat">{self.image(block)}</div>'
                    f"<figcaption>{marked(caption)}</figcaption></figure>"
                )
            case blocks.Cards(items):
                return f'<div class="cards">{"".join(map(self.card, items))}</div>'
            case blocks.Folded(title, inner):
                body = "\n".join(map(self.block, inner))
                head = f"<summary>{html.escape(title)}</summary>"
                return f"<details>{head}\n{body}</details>"
        raise TypeError(f"no block: {block!r}")

    def card(self, item: tuple[blocks.Picture | None, Link, str]) -> str:
        picture, link, sentence = item
        image = f'<div class="mat">{self.image(picture)}</div>' if picture else ""
        words = f"<b>{html.escape(link.text)}</b><br>{marked(sentence)}"
        return (
            f'<a class="card" href="{self.path(self.page_of(link.page))}">{image}'
            + (f"<span>{words}</span></a>")
        )


def page(
    title: str,
    body: Sequence[blocks.Block],
    folder: pathlib.Path,
    page_of: Callable[[str], pathlib.Path],
) -> str:
    """A page's text.

    Args:
        title: of the window.
        body: its blocks.
        folder: where it will lie: pictures and links are relative to it.
        page_of: where the page of a name lies.
    """
    drawn = "\n".join(map(_Html(folder, page_of).block, body))
    style = pathlib.Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{drawn}\n</main></body></html>\n"
    )
