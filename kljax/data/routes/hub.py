"""The hub clients, when the user has installed one of them."""

import importlib
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from kljax.data.readers.labels import integer_labels
from kljax.data.readers.raw import Raw
from kljax.data.routes.route import Route
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

__all__ = ["CLIENTS", "read_hub"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def read_hub(source: Source, client: str) -> tuple[Raw, dict[str, Any]]:
    """Loads `source` through `client` ("hf" or "tfds"), in the schema of all readers.

    Raises:
      Missing: the client is not installed or does not have this data set.
      DataError: the client failed or returned something else.
    """
    module_name, called, read = CLIENTS[client]
    name = called(source)
    if not name:
        raise Missing(f"no name for {source.name} on this hub")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise Missing(f"not installed: pip install {module_name}") from error
    try:
        splits = read(module, name)
    except DataError:
        raise
    except Exception as error:  # clients raise whatever their network stack raises
        raise DataError(
            f"{name}: {module_name} failed ({type(error).__name__}: {error}). Remedy: "
            "check the connection, or bring the files and pass their path."
        ) from error
    version = str(getattr(module, "__version__", "unknown"))
    place, classes = f"{module_name}:{name}", source.num_classes
    raw = Raw(place, splits, levels=source.levels, declared_classes=classes)
    return raw, {"source": client, "package": place, "version": version}


def _read_hf(module: ModuleType, name: str) -> dict[str, tuple[np.ndarray, Any]]:
    parts = module.load_dataset(name)
    return {split: _columns(name, _rows(parts[split])) for split in ("train", "test")}


def _rows(part: Any) -> dict[str, list[Any]]:
    """A table of examples, column by column, pictures decoded to arrays."""
    columns: dict[str, list[Any]] = {}
    for row in part:
        for key, value in row.items():
            columns.setdefault(key, []).append(np.asarray(value))
    return columns


def _read_tfds(module: ModuleType, name: str) -> dict[str, tuple[np.ndarray, Any]]:
    order = ("train", "test")
    parts = module.as_numpy(module.load(name, split=list(order), batch_size=-1))
    return {split: _columns(name, part) for split, part in zip(order, parts)}


def _columns(name: str, part: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
    image = next((key for key in IMAGE_COLUMNS if key in part), None)
    label = next((key for key in LABEL_COLUMNS if key in part), None)
    if image is None:
        raise DataError(
            f"{name}: no column {' or '.join(IMAGE_COLUMNS)} among {sorted(part)}. "
            "Remedy: name a data set of images."
        )
    images = np.asarray(part[image])
    images = images[..., None] if images.ndim == 3 else images
    labels = None if label is None else integer_labels(name, np.asarray(part[label]))
    return images, labels


CLIENTS: dict[str, tuple[str, Callable[[Source], str], Callable]] = {
    "hf": ("datasets", lambda source: source.hf, _read_hf),
    "tfds": ("tensorflow_datasets", lambda source: source.tfds, _read_tfds),
}
"""Module to import, the name of a source there, and how to read it."""


def _nowhere(source: Source, root: pathlib.Path) -> None:
    raise Missing(
        f"on a hub alone ({source.hf or source.tfds}): pip install datasets, then "
        "fetch=True; or bring its files and pass their path"
    )


ROUTE = Route("a row of the hubs", _nowhere, lambda file, source: None)
