"""The table of the data sets and models known by name (`sources.toml`)."""

import functools
import importlib.resources
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kljax.errors import DataError, unknown

__all__ = ["KINDS", "Missing", "Source", "find", "known", "names", "rows", "table"]

KINDS = ("images", "volumes", "text", "table", "audio", "pairs", "model")
"""What a row may hold; every kind but the last one is loaded by `kljax.data.load`."""


class Missing(DataError):
    """This route does not lead to the data on this machine; another one may."""


@dataclass(frozen=True)
class Source:
    """One row of `sources.toml`, whose head explains the fields."""

    name: str
    title: str
    route: str
    package: str
    version: str
    member: str
    format: str
    sha256: str
    bytes: int
    content: str
    license: str
    kind: str = "images"
    count: int = 0
    shape: tuple[int, ...] = ()
    levels: int = 0
    num_classes: int = 0
    aliases: tuple[str, ...] = ()
    url: str = ""
    hf: str = ""
    tfds: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: {unknown('kind', self.kind, KINDS)}")


@functools.cache
def table() -> Mapping[str, Source]:
    """All rows by name, in the order of the file."""
    file = importlib.resources.files("kljax.data") / "sources.toml"
    return types.MappingProxyType(rows(file.read_text("utf-8")))


def rows(text: str) -> dict[str, Source]:
    """The rows of a table in the form of `sources.toml`, by name.

    Raises:
      ValueError: a kind that there is not.
      TypeError: a field that there is not, or one that is missing.
    """
    return {
        name: Source(name=name, **_fields(row))
        for name, row in tomllib.loads(text).items()
    }


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def names(kind: str | None = "images") -> tuple[str, ...]:
    """The names that `load` knows without a path, of one kind or of all.

    Example:
      >>> "digits" in names()
      True
      >>> names("model")
      ('smollm2',)
    """
    return tuple(name for name, row in table().items() if kind in (None, row.kind))


def find(name: str, kind: str | None = None) -> Source:
    """The row of `name`, of the given kind if one is given.

    Args:
      name: a name of the table, one of its aliases or what a hub calls it; capitals,
        hyphens, underscores and spaces do not matter.
      kind: as in `names`.

    Raises:
      ValueError: no such name; the message lists the known ones and the nearest.
    """
    row = known(name)
    if row is not None and kind in (None, row.kind):
        return row
    hint = f" That is of the kind {row.kind!r}." if row else ""
    called = "data set" if kind == "images" else kind or "data set or model"
    raise ValueError(
        f"{unknown(called, name, names(kind))}.{hint} For your own {kind or 'images'} "
        "pass a path."
    )


def known(name: str) -> Source | None:
    """The row that is spelled like this, or None."""
    wanted = _plain(name)
    for row in table().values():
        called = (row.name, *row.aliases, row.hf, row.tfds)
        if wanted and wanted in map(_plain, called):
            return row
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", f"{name}".lower())
