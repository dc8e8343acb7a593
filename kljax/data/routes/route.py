"""What every route to files offers."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from kljax.data.routes.downloads import Report
from kljax.data.sources import Missing, Source

__all__ = ["Opened", "Route", "to_fetch"]

Opened = contextlib.AbstractContextManager[pathlib.Path]
"""The file or folder of a row, whose checksum was compared."""


class Route(NamedTuple):
    """One way to the files of a row.

    Args:
      place: what the data are part of, for messages.
      state: `(row, cache folder)` in a few words: ready, fetched, to fetch.
      fetch: `(row, cache folder, report)` brings it into the cache.
      opened: `(row, cache folder, fetch, report)` gives the file or folder, after a
        download where `fetch` is true; `Missing` where there is none.
    """

    place: str
    state: Callable[[Source, pathlib.Path], str]
    fetch: Callable[[Source, pathlib.Path, Report], None]
    opened: Callable[[Source, pathlib.Path, bool, Report], Opened]


def to_fetch(source: Source) -> Missing:
    """What may be downloaded, and was not."""
    return Missing(
        f"{source.bytes / 1e6:.1f} MB to download: fetch=True, or "
        f"`python -m kljax.data fetch {source.name}`"
    )
