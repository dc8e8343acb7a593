"""The table of the data sets known by name (`sources.toml`)."""

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
    count: int
    shape: tuple[int, int, int]
    levels: int
    num_classes: int
    hf: str = ""
    tfds: str = ""


@functools.cache
def table() -> Mapping[str, Source]:
    """All entries by name, in the order of the file."""
    text = (importlib.resources.files("kljax.data") / "sources.toml").read_text("utf-8")
    return types.MappingProxyType(
        {
            name: Source(name=name, **(entry | {"shape": tuple(entry["shape"])}))
            for name, entry in tomllib.loads(text).items()
        }
    )


def names() -> tuple[str, ...]:
    """The names that `load` knows without a path.

    Example:
      >>> "digits" in names()
      True
    """
    return tuple(table())


def find(name: str) -> Source:
    """The entry of `name`.

    Raises:
      ValueError: no such name; the message lists the known ones and the nearest.
    """
    known = table()
    if name in known:
        return known[name]
    spelled = name.lower().replace("-", "_")
    near = difflib.get_close_matches(spelled, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"name must be one of {', '.join(known)}, got {name!r}.{hint} For your own "
        "images pass path=."
    )
