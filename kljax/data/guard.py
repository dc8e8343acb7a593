"""The door behind which other libraries parse what strangers wrote."""

import functools
import os
import textwrap
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from kljax.errors import DataError

__all__ = ["brief", "reader"]

Arguments = ParamSpec("Arguments")
Path = TypeVar("Path", bound=os.PathLike | str)
Result = TypeVar("Result")


def reader(
    read: Callable[Concatenate[Path, Arguments], Result],
) -> Callable[Concatenate[Path, Arguments], Result]:
    """Makes every failure of `read(path, ...)` a `DataError` that names the path."""

    @functools.wraps(read)
    def guarded(
        path: Path, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        try:
            return read(path, *arguments, **named)
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(
                f"{path}: asks for more memory than there is. Remedy: if the file is "
                "not that large, it is damaged, get it again; else bring fewer data."
            ) from error
        # NumPy, Pillow, PyArrow, zipfile, zlib and json each raise what they like.
        except Exception as error:
            raise DataError(
                f"{path}: cannot be read ({type(error).__name__}: {brief(error)}). "
                "Remedy: the file is damaged or of a foreign kind, save it or get it "
                "again."
            ) from error

    return guarded


def brief(said: Any) -> str:
    """What a library or a file said, in at most one line."""
    return textwrap.shorten(str(said), 200, placeholder=" ...")
