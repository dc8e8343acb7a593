"""The table of the data sets and models known by name (`sources.toml`)."""

import difflib
import functools
import importlib.resources
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass

from kljax.errors import DataError

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
    hf: str = ""
    tfds: str = ""


@functools.cache
def table() -> Mapping[str, Source]:
    """All entries by name, in the order of the file."""
    text = (importlib.resources.files("kljax.data") / "sources.toml").read_text("utf-8")
    return types.MappingProxyType(
        {
            name: Source(
                name=name, **(entry | {"shape": tuple(entry.get("shape", (0, 0, 0)))})
            )
            for name, entry in tomllib.loads(text).items()
        }
    )


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

    Raises:
      ValueError: no such name; the message lists the known ones and the nearest.
    """
    known = table() if kind is None else {x: table()[x] for x in names(kind)}
    if name in known:
        return known[name]
    spelled = name.lower().replace("-", "_")
    near = difflib.get_close_matches(spelled, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if name in table():
        hint = f" That is of the kind {table()[name].kind!r}."
    raise ValueError(
        f"name must be one of {', '.join(known)}, got {name!r}.{hint} For your own "
        f"{kind or 'images'} pass {'a path' if kind == 'model' else 'path='}."
    )
