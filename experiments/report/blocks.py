"""What a page is made of; Markdown and HTML are drawn from the same blocks.

Text between backticks is code. A cell is text, a number, a `Link`, a `Mark` or a list
of them, one below the other.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "Block",
    "Bullets",
    "Cards",
    "Code",
    "Folded",
    "Grid",
    "Heading",
    "Link",
    "Mark",
    "Picture",
    "Text",
]

Cell = Any


class Link(NamedTuple):
    """To a page: "index" or an experiment's name."""

    text: str
    page: str


class Mark(NamedTuple):
    """A verdict: its status, and the words for it."""

    status: str
    words: str


class Heading(NamedTuple):
    level: int
    text: str


class Text(NamedTuple):
    text: str


class Code(NamedTuple):
    text: str


class Bullets(NamedTuple):
    items: Sequence[Cell]


class Grid(NamedTuple):
    """A table; columns whose cells are all numbers stand to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wide: bool = False
    """Whether it is a page's main one: a card per row on a phone."""


class Picture(NamedTuple):
    path: pathlib.Path
    caption: str
    title: str = ""


class Cards(NamedTuple):
    """A gallery: picture, link and a sentence each."""

    items: Sequence[tuple[Picture | None, Link, str]]


class Folded(NamedTuple):
    """Shown when its title is clicked."""

    title: str
    blocks: Sequence[Any]


Block = Heading | Text | Code | Bullets | Grid | Picture | Cards | Folded
