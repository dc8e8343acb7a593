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

__all__ = ["Missing", "Source", "find", "names", "table"]


class Missing(DataError):
    """This route does not lead to the data on this machine; another one may."""


@dataclass(frozen=True)
class Source:
    """One entry of `sources.toml`, whose head explains the fields."""

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
    shape: tuple[int, int, int] = (0, 0, 0)
    levels: int = 0
    num_classes: int = 0
    aliases: tuple[str, ...] = ()
    hf: str = ""
    tfds: str = ""


@functools.cache
def table() -> Mapping[str, Source]:
    """All entries by name, in the order of the file."""
    text = (importlib.resources.files("kljax.data") / "sources.toml").read_text("utf-8")
    return types.MappingProxyType(
        {
            name: Source(name=name, **_fields(row))
            for name, row in tomllib.loads(text).items()
        }
    )


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def names(kind: str = "images") -> tuple[str, ...]:
    """The names that `load` knows without a path, or those of another kind.

    Example:
      >>> "digits" in names()
      True
      >>> names("model")
      ('smollm2',)
    """
    return tuple(name for name, entry in table().items() if entry.kind == kind)


def find(name: str, kind: str | None = None) -> Source:
    """The entry of `name`, of the given kind if one is given.

    Args:
      name: a name of the table, one of its aliases or what a hub calls it; capitals,
        hyphens, underscores and spaces do not matter.
      kind: as in `names`.

    Raises:
      ValueError: no such name; the message lists the known ones and the nearest.
    """
    known = table() if kind is None else {x: table()[x] for x in names(kind)}
    if (entry := _spelled(name, known)) is not None:
        return entry
    other = _spelled(name, table())
    hint = f" That is of the kind {other.kind!r}." if other else ""
    called = "data set" if kind == "images" else kind or "data set or model"
    raise ValueError(
        f"{unknown(called, name, known)}.{hint} For your own {kind or 'images'} pass "
        f"{'a path' if kind == 'model' else 'path='}."
    )


def _spelled(name: str, known: Mapping[str, Source]) -> Source | None:
    wanted = _plain(name)
    for entry in known.values():
        called = (entry.name, *entry.aliases, entry.hf, entry.tfds)
        if wanted and wanted in map(_plain, called):
            return entry
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", f"{name}".lower())
