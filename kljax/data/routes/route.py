"""What every route to files offers."""

import contextlib
import pathlib
from collections.abc import Callable, Generator
from typing import NamedTuple

from kljax.data.routes.downloads import Report
from kljax.data.sources import Missing, Source

__all__ = ["Opened", "Route"]

Opened = contextlib.AbstractContextManager[pathlib.Path]
"""The file or folder of a row, whose checksum was compared."""


def _itself(source: Source, found: pathlib.Path) -> Opened:
    return contextlib.nullcontext(found)


class Route(NamedTuple):
    """One way to the files of a row.

    Args:
      place: what the data are part of, for messages.
      find: `(row, cache folder)` gives the file or folder that is here, None where it
        is to be downloaded; `Missing` says what else to do.
      check: `(file, row)` compares its checksum.
      download: `(row, cache folder, report)` brings it into the cache.
      content: `(row, file)` gives the data in it, for as long as they are read.
    """

    place: str
    find: Callable[[Source, pathlib.Path], pathlib.Path | None]
    check: Callable[[pathlib.Path, Source], None]
    download: Callable[[Source, pathlib.Path, Report], pathlib.Path] | None = None
    content: Callable[[Source, pathlib.Path], Opened] = _itself

    def state(self, source: Source, root: pathlib.Path) -> str:
        """In a few words: ready, fetched, to fetch, or what else to do."""
        try:
            found = self.find(source, root)
        except Missing as missing:
            return str(missing)
        if found is None:
            return "to fetch"
        fetched = self.download is not None and found.is_relative_to(root)
        return "fetched" if fetched else f"ready, {found.name}"

    def fetch(self, source: Source, root: pathlib.Path, report: Report) -> None:
        """Brings it into the cache, if it is not here."""
        found = self.find(source, root)
        if found is not None:
            self.check(found, source)
            report(f"{source.name}: nothing to fetch, {found} is here")
        elif self.download is not None:
            self.download(source, root, report)

    @contextlib.contextmanager
    def opened(
        self, source: Source, root: pathlib.Path, fetch: bool, report: Report
    ) -> Generator[pathlib.Path]:
        """The data, after a download where `fetch` is true."""
        found = self.find(source, root)
        if found is not None:
            self.check(found, source)
        elif fetch and self.download is not None:
            found = self.download(source, root, report)
        else:
            raise Missing(
                f"{source.bytes / 1e6:.1f} MB to download: fetch=True, or "
                f"`python -m kljax.data fetch {source.name}`"
            )
        with self.content(source, found) as path:
            yield path
