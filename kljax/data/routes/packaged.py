"""Data inside an installed Python package, read but never imported."""

import hashlib
import importlib.metadata
import importlib.util
import pathlib

from kljax.data.routes.route import Route
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

__all__ = ["ROUTE", "package_file", "verify"]


def package_file(source: Source, root: pathlib.Path | None = None) -> pathlib.Path:
    """The data file of `source` in site-packages.

    Raises:
      Missing: the package is not installed, or this release has no such file.
    """
    module, _, member = source.member.partition("/")
    # For a top-level name this looks the package up without running its code.
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise Missing(f"not installed: pip install {source.package}")
    for folder in spec.submodule_search_locations or ():
        if (file := pathlib.Path(folder) / member).is_file():
            return file
    raise Missing(
        f"the installed {source.package} {_version(source)} has no file "
        f"{source.member}: pip install {source.package}=={source.version}"
    )


def _version(source: Source) -> str:
    try:
        return importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError:
        return "(of unknown version)"


def verify(file: pathlib.Path, source: Source, expected: str = "") -> None:
    """Compares the SHA-256 of `file` with the table's `sha256`, or with `expected`.

    Raises:
      DataError: they differ.
    """
    expected = expected or source.sha256
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise DataError(
            f"{file}: SHA-256 {found[:12]}... instead of {expected[:12]}... of "
            f"{source.package} {source.version}. Remedy: delete the file and get that "
            "version again, or pass the path of data of your own."
        )


ROUTE = Route("part of a Python package", package_file, verify)
