"""An archive that the user put into the cache: what nobody may download unasked."""

import contextlib
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Generator

from kljax.data.guard import reader
from kljax.data.routes.packaged import verify
from kljax.data.routes.route import Route
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

__all__ = ["ROUTE"]


def _file(source: Source, root: pathlib.Path) -> pathlib.Path:
    file = root / source.name / source.package
    if file.is_file():
        return file
    raise Missing(f"get {source.package} from {source.url} and put it at {file}")


@contextlib.contextmanager
def _content(source: Source, archive: pathlib.Path) -> Generator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix=".part-", dir=archive.parent) as folder:
        _unpack(archive, pathlib.Path(folder))
        member = pathlib.Path(folder) / source.member
        if not member.exists():
            raise DataError(
                f"{archive}: holds no {source.member}. Remedy: correct member in the "
                "table of sources."
            )
        yield member


@reader
def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """A zip or tar file, compressed or not; nothing is written outside of `folder`."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
    else:
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")


ROUTE = Route("an archive of one's own", _file, verify, content=_content)
