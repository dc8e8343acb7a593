"""A Debian archive, downloaded with apt-get and unpacked, never installed."""

import contextlib
import io
import pathlib
import shutil
import tarfile
import tempfile
from collections.abc import Generator

from kljax.data.guard import reader
from kljax.data.routes.downloads import Report, run
from kljax.data.routes.packaged import verify
from kljax.data.routes.route import Route
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

__all__ = ["ROUTE", "archive_file", "download", "extract", "installed_member"]

SYSTEM = pathlib.Path("/")
"""Where installed packages have their files."""


def archive_file(source: Source, root: pathlib.Path) -> pathlib.Path:
    """Where the downloaded archive of `source` lies below the cache folder."""
    return root / source.name / f"{source.package}.deb"


def installed_member(source: Source) -> pathlib.Path | None:
    """The data folder when the package happens to be installed on this machine."""
    folder = SYSTEM / source.member
    return folder if folder.is_dir() else None


def download(source: Source, root: pathlib.Path, report: Report) -> pathlib.Path:
    """Downloads and checks the archive, unless it lies in the cache already.

    `apt-get download` needs no root and installs nothing. The download happens in a
    private folder; the archive is renamed into the cache after its SHA-256 was checked,
    so an interruption leaves nothing that looks whole.

    Raises:
      Missing: no apt-get here, or it does not find or reach this version.
      DataError: what came is not the archive of the table.
    """
    target = archive_file(source, root)
    if target.is_file():
        verify(target, source)
        return target
    if shutil.which("apt-get") is None:
        raise Missing("apt-get is not on this machine (Debian and Ubuntu have it)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = pathlib.Path(folder)
        _run_apt(source, part, report)
        archives = list(part.glob("*.deb"))
        if len(archives) != 1:
            raise DataError(
                f"{source.package}: apt-get left {len(archives)} archives. Remedy: run "
                "`apt-get update` (needs root) and fetch again."
            )
        report(f"{source.name}: checking the SHA-256")
        verify(archives[0], source)
        archives[0].replace(target)
    report(f"{source.name}: {target}")
    return target


def _run_apt(source: Source, folder: pathlib.Path, report: Report) -> None:
    wanted = f"{source.package}={source.version}"
    report(f"{source.name}: apt-get download {wanted} ({source.bytes / 1e6:.1f} MB)")
    printed = run(["apt-get", "download", wanted], folder, "*.deb*", source, report)
    if printed is not None:
        said = next((x for x in printed if x.startswith("E:")), "no reason given")
        raise Missing(
            f"`apt-get download {wanted}` failed ({said}); if its index is stale, run "
            "`apt-get update` (needs root) and fetch again"
        )


@reader
def extract(archive: pathlib.Path, member: str, target: pathlib.Path) -> pathlib.Path:
    """Unpacks the folder `member` of a .deb below `target`, without dpkg.

    A .deb is an `ar` archive whose `data.tar.*` holds the files. Only regular files
    below `member` are written; the tar filter "data" refuses links and paths that lead
    out of `target`.

    Returns:
      The folder `target / member`.

    Raises:
      DataError: the archive is damaged or holds no such folder.
    """
    content = io.BytesIO(_data_member(archive))
    with tarfile.open(fileobj=content, mode="r:*") as files:
        for entry in files:
            name = entry.name.removeprefix("./")
            if entry.isfile() and name.startswith(f"{member}/"):
                files.extract(entry, target, filter="data")
    if not (target / member).is_dir():
        raise DataError(
            f"{archive}: holds no folder {member}. Remedy: delete it and fetch "
            "it again."
        )
    return target / member


def _data_member(archive: pathlib.Path) -> bytes:
    """The bytes of `data.tar.*` in an `ar` archive."""
    damaged = DataError(
        f"{archive}: not a Debian archive, or truncated. Remedy: delete it and fetch "
        "it again."
    )
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise damaged
        while len(head := file.read(60)) == 60:
            name, size = head[:16].decode("latin-1").strip(" /"), head[48:58].strip()
            if not size.isdigit() or head[58:] != b"`\n":
                raise damaged
            if name.startswith("data.tar"):
                content = file.read(int(size))
                if len(content) == int(size):
                    return content
                raise damaged
            # Members start at even offsets.
            file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise damaged


def _found(source: Source, root: pathlib.Path) -> pathlib.Path | None:
    archive = archive_file(source, root)
    return installed_member(source) or (archive if archive.is_file() else None)


def _check(found: pathlib.Path, source: Source) -> None:
    if found.is_file():  # else it is installed, and what was read is compared
        verify(found, source)


@contextlib.contextmanager
def _content(source: Source, found: pathlib.Path) -> Generator[pathlib.Path]:
    if found.is_dir():
        yield found
        return
    with tempfile.TemporaryDirectory(prefix=".part-", dir=found.parent) as folder:
        yield extract(found, source.member, pathlib.Path(folder))


ROUTE = Route("part of a Debian package", _found, _check, download, _content)
