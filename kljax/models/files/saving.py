"""A model written into a folder, where another may stand: all of it or nothing.

Everything is written into a folder beside and then renamed. Where the weights alone
change, one rename (or removal) turns the old ones into the new, for every reader that
takes model.safetensors before an index. Where more than they change, config.json is
away while files are renamed: nobody reads a mixture, and a save that was killed then
can be finished. What is replaced is removed after it.
"""

import filecmp
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kljax.models.files.layout import entries, spelling_of, stored_shape
from kljax.models.files.tensors import INDEX, WEIGHTS, json_object, write_safetensors
from kljax.models.files.weights import at, structure
from kljax.models.language.configuration import TransformerConfig
from kljax.storing import write_json
from kljax.typing import PyTree

__all__ = [
    "check_params",
    "finish_save",
    "is_unfinished",
    "replaced",
    "write_weights",
]

CONFIG = "config.json"
STAGE = ".part"
SHARD = re.compile(r"model(-\d+)?-\d{5}-of-\d{5}\.safetensors")
ROWS = 1024
"""How many rows of a tensor are turned and written at a time."""


@contextmanager
def replaced(target: pathlib.Path) -> Generator[pathlib.Path]:
    """A folder to write a model into, which takes its place in `target` at the end.

    Stopped in between, `target` holds the old model or the new one, whole, or has no
    config.json and can be finished (`finish_save`), as the next save does.

    Args:
      target: the folder, made if need be; of its files those of the same names are
        replaced, and weights that are no longer part of the model removed.
    """
    finish_save(target)
    stage = target / STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    _commit(stage, target)


def finish_save(folder: str | os.PathLike) -> None:
    """Ends a save that was killed once all was written; nothing where there is none.

    Args:
      folder: that was saved into. No save may be going on there.
    """
    target = pathlib.Path(folder).expanduser()
    if is_unfinished(target):
        _commit(target / STAGE, target)


def is_unfinished(folder: pathlib.Path) -> bool:
    """Whether a save was killed there while it renamed files."""
    whole = (folder / STAGE / CONFIG).is_file()  # config.json is written last
    return whole and not (folder / CONFIG).is_file()


def _commit(stage: pathlib.Path, target: pathlib.Path) -> None:
    """Renames what was written; again after a kill, it renames the rest."""
    new = {file.name for file in stage.iterdir()}
    shards = {name for name in new if SHARD.fullmatch(name)}
    weights = new & {INDEX, WEIGHTS}
    others = new - shards - weights - {CONFIG}

    def move(*names: str) -> None:
        for name in names:
            (stage / name).replace(target / name)

    def drop() -> None:
        for name in {INDEX, WEIGHTS} - weights if weights else ():
            (target / name).unlink(missing_ok=True)

    move(*sorted(shards))  # nothing leads to them before the index does
    before = [(stage / name, target / name) for name in (*sorted(others), CONFIG)]
    alike = all(y.is_file() and filecmp.cmp(x, y, False) for x, y in before)
    if not alike:
        (target / CONFIG).unlink(missing_ok=True)
        drop()
    move(*sorted(others), *sorted(weights))
    drop()
    move(CONFIG)
    index = target / INDEX
    listed = json_object(index)["weight_map"].values() if index.is_file() else ()
    for file in target.iterdir():
        if SHARD.fullmatch(file.name) and file.name not in listed:
            file.unlink(missing_ok=True)
    shutil.rmtree(stage, ignore_errors=True)


def write_weights(
    stage: pathlib.Path,
    target: pathlib.Path,
    config: TransformerConfig,
    params: PyTree,
    kind: np.dtype,
    shard_bytes: int,
) -> None:
    """Writes the weights, and an index where there are several shards.

    Args:
      stage: the folder that they are written into.
      target: the folder that they will stand in; no shard gets the name of one there.
      config: sizes and choices.
      params: of that configuration, layers as a list.
      kind: dtype in the file.
      shard_bytes: most bytes per file.
    """
    tensors: dict[str, Any] = {}
    for entry in entries(config, spelling_of(config)):
        shape = stored_shape(entry, [at(params, x).shape for x in entry.leaves])
        for i, name in enumerate(entry.names):
            leaves = [at(params, x) for x in entry.leaves]
            index = i if len(entry.names) > 1 else None
            tensors[name] = (shape, _Blocks(leaves, index, entry.transposed))
    sizes = {
        name: int(np.prod(shape)) * kind.itemsize
        for name, (shape, _) in tensors.items()
    }
    placed = {}
    taken = {file.name for file in target.iterdir()}
    for file, group in shards(sizes, shard_bytes, taken):
        write_safetensors(stage / file, {x: tensors[x] for x in group}, kind)
        placed |= dict.fromkeys(group, file)
    if len(set(placed.values())) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": placed}
        write_json(stage / INDEX, index)


@dataclass(frozen=True)
class _Blocks:
    """The numbers of one tensor, some rows at a time."""

    leaves: Sequence[Any]
    index: int | None
    transposed: bool

    def __call__(self) -> Iterator[np.ndarray]:
        parts = [np.asarray(leaf) for leaf in self.leaves]
        if self.index is not None:
            parts = [part[self.index] for part in parts]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        array = array.T if self.transposed else array
        for first in range(0, len(array), ROWS):
            yield array[first : first + ROWS]


def check_params(config: TransformerConfig, params: PyTree) -> None:
    """That the parameters are of that configuration.

    Raises:
      ValueError: a part is missing, foreign or of another shape.
    """
    shapes = structure(config)[1]
    want, have = (
        {jax.tree_util.keystr(k): x.shape for k, x in jax.tree.leaves_with_path(tree)}
        for tree in (shapes, params)
    )
    for name in want | have:
        if want.get(name) != have.get(name):
            raise ValueError(
                f"params{name} has shape {have.get(name)}; config asks for "
                f"{want.get(name)}. Give the config that the parameters were made with"
            )


def shards(
    sizes: Mapping[str, int], limit: int, taken: Collection[str] = ()
) -> Sequence[tuple[str, Sequence[str]]]:
    """Names of the files and of the tensors in each, in order, up to `limit` bytes.

    Example:
      >>> shards({"a": 3, "b": 3, "c": 1}, 10)
      [('model.safetensors', ['a', 'b', 'c'])]
      >>> [name for name, _ in shards({"a": 3, "b": 3, "c": 1}, 4)]
      ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
      >>> shards({"a": 3, "b": 3}, 4, ["model-00002-of-00002.safetensors"])[0]
      ('model-2-00001-of-00002.safetensors', ['a'])
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [(WEIGHTS, groups[0])]
    stems = itertools.chain(["model"], (f"model-{i}" for i in itertools.count(2)))
    ends = [f"{i:05d}-of-{len(groups):05d}" for i in range(1, len(groups) + 1)]
    named = ([f"{stem}-{end}.safetensors" for end in ends] for stem in stems)
    names = next(names for names in named if not set(names) & set(taken))
    return list(zip(names, groups, strict=True))
