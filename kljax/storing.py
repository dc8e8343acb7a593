"""Values on the disk, whole or not at all: as JSON, with arrays in files beside it."""

import dataclasses
import enum
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kljax.errors import CheckpointError

__all__ = [
    "plain",
    "read_back",
    "read_json",
    "read_value",
    "replace_text",
    "write_json",
    "write_text",
    "write_value",
]

MAPPED = 16 * 2**20
"""Bytes from which on an array is read from the disk as it is used."""


def plain(value: Any, name: str = "value") -> Any:
    """JSON values alone; of what they were made one cannot tell.

    Args:
        value: numbers, words, paths, enumerations, arrays, dataclasses and containers
            of them; NaN and infinities become words that `float` reads.
        name: what the message calls it.

    Raises:
        TypeError: something else is among them.

    Example:
        >>> plain({"sizes": (1, 2), 3: float("nan")})
        {'sizes': [1, 2], '3': 'nan'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        value = {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist(), name)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, os.PathLike):
        return pathlib.PurePath(value).as_posix()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} has no JSON form: {value!r}")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes down to the disk, in a folder that nobody reads yet."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes beside, down to the disk, and renames: nobody ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    write_text(beside, text)
    beside.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`plain(value)` as a file, which is replaced as a whole.

    Raises:
        TypeError: a value has no JSON form; the file is as it was.
    """
    text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    replace_text(path, text + "\n")


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not JSON ({error}); restore it, or delete it to redo this part"
        ) from error


def write_value(path: pathlib.Path, value: Any) -> None:
    """A value that `read_value` gives back.

    Args:
        path: of the JSON file; arrays lie in a folder of that name without its suffix.
        value: dicts (with any keys of words, numbers and tuples of them), lists,
            tuples, numbers, words and arrays; arrays come back as NumPy's.

    Raises:
        TypeError: something else is among them.
    """
    arrays: list[np.ndarray] = []
    made, folder = _encoded(value, arrays), path.with_suffix("")
    if arrays:
        beside = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for i, array in enumerate(arrays):
            np.save(beside / f"{i}.npy", array)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    write_json(path, made)


def read_value(path: pathlib.Path) -> Any:
    """What `write_value` was given.

    Raises:
        CheckpointError: the file is not JSON.
    """

    def array(i: int) -> np.ndarray:
        file = path.with_suffix("") / f"{i}.npy"
        big = file.stat().st_size > MAPPED
        return np.load(file, mmap_mode="r" if big else None)

    return _decoded(read_json(path), array)


def read_back(value: Any) -> Any:
    """A value as `read_value` would give it back, without a file.

    Example:
        >>> read_back({("a", 1): np.float32(2)})
        {('a', 1): 2.0}
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_encoded(value, arrays))
    return _decoded(json.loads(text), arrays.__getitem__)


def _encoded(value: Any, arrays: list[np.ndarray]) -> Any:
    """JSON values; arrays go into the list and leave their place in it."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key[:2] != "__" for key in value):
            return {key: _encoded(item, arrays) for key, item in value.items()}
        pairs = [[_encoded(one, arrays) for one in pair] for pair in value.items()]
        return {"__pairs__": pairs}
    if isinstance(value, tuple):
        return {"__tuple__": [_encoded(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encoded(item, arrays) for item in value]
    if hasattr(value, "__array__"):
        value = np.asarray(value)
        if not value.ndim:
            return _encoded(value.item(), arrays)
        arrays.append(value)
        return {"__array__": len(arrays) - 1}
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}
    return value


def _decoded(value: Any, array: Callable[[int], np.ndarray]) -> Any:
    """The inverse of `_encoded`; `array(i)` gives the arrays."""
    if isinstance(value, list):
        return [_decoded(item, array) for item in value]
    if not isinstance(value, dict):
        return value
    inverse: dict[str, Callable[[Any], Any]] = {
        "__pairs__": lambda v: {_decoded(k, array): _decoded(x, array) for k, x in v},
        "__tuple__": lambda v: tuple(_decoded(item, array) for item in v),
        "__array__": array,
        "__float__": float,
    }
    for mark, back in inverse.items():
        if set(value) == {mark}:
            return back(value[mark])
    return {key: _decoded(item, array) for key, item in value.items()}
