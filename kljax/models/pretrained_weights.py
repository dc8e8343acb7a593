"""The weights of a checkpoint as parameters, and back, one tensor at a time."""

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.errors import CheckpointError
from kljax.models.configuration import TransformerConfig
from kljax.models.pretrained_layout import (
    Entry,
    Path,
    Spelling,
    entries,
    spelling_of,
    stored_bytes,
    stored_shape,
)
from kljax.models.tensor_files import INDEX, Stored, read, shards, write_safetensors
from kljax.models.transformer import PureTransformer, transformer
from kljax.typing import PyTree

__all__ = ["load_weights", "structure", "write_json", "write_weights"]

ROWS = 1024
"""How many rows of a tensor are turned and written at a time."""


@functools.lru_cache(maxsize=8)
def structure(config: TransformerConfig) -> tuple[PureTransformer, PyTree]:
    """The model's function and the shapes of its parameters, as the module says them.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> structure(config)[1]["head"]["kernel"].shape
      (32, 97)
    """
    apply, initial = transformer(config)
    return apply, jax.eval_shape(initial, jax.random.key(0))


def load_weights(
    config: TransformerConfig,
    spelling: Spelling,
    tensors: Mapping[str, Stored],
    source: pathlib.Path,
    dtype: Any,
) -> dict:
    """All parameters, from tensors that are of this configuration and no other.

    Args:
      config: sizes and choices.
      spelling: what the tensors are called.
      tensors: by name, not read yet.
      source: file or folder, for the errors.
      dtype: of the parameters, see `from_pretrained`.

    Raises:
      CheckpointError: a tensor is missing, truncated, of another shape or foreign.
    """
    shapes = structure(config)[1]
    prefix = spelling.prefix
    if prefix and not any(name.startswith(prefix) for name in tensors):
        head = f"{spelling.parts['head']}.weight"
        tensors = {x if x == head else prefix + x: tensors[x] for x in tensors}
    wanted = entries(config, spelling)
    _check(config, spelling, wanted, shapes, tensors, source)
    sized = sorted(
        wanted,
        key=lambda e: -stored_bytes(e, [_at(shapes, x).shape for x in e.leaves], 1),
    )
    params: dict = {}
    # The largest first, while there is still room for the copies of it.
    for entry in sized:
        kind = _dtype(dtype, tensors[entry.names[0]])
        array = _array(entry, tensors, kind)
        widths = [_at(shapes, leaf).shape[-1] for leaf in entry.leaves]
        for leaf, part in zip(
            entry.leaves, np.split(array, np.cumsum(widths)[:-1], axis=-1)
        ):
            # A copy that JAX owns, so that a training step may donate it.
            _put(params, leaf, jax.device_put(part, may_alias=False))
            jax.block_until_ready(_at(params, leaf))
    return _ordered(params)


def _dtype(dtype: Any, stored: Stored) -> np.dtype:
    if dtype is not None:
        return np.dtype(dtype)
    if jax.default_backend() == "cpu":
        return np.dtype(np.float32)
    quantised = stored.file.suffix == ".gguf" and stored.dtype == np.float32
    return np.dtype(jnp.bfloat16) if quantised else stored.dtype


def _array(entry: Entry, tensors: Mapping[str, Stored], kind: np.dtype) -> np.ndarray:
    one, *others = entry.names
    first = read(tensors[one], kind, transposed=entry.transposed)
    if not others:
        return _unpermuted(first, entry.heads) if entry.heads else first
    array = np.empty((len(entry.names), *first.shape), kind)
    array[0] = first
    for i, name in enumerate(others, 1):
        array[i] = read(tensors[name], kind, transposed=entry.transposed)
    return array


def _unpermuted(array: np.ndarray, heads: int) -> np.ndarray:
    """Outputs of every head from (pair, member) order to (member, pair): half-split."""
    *rest, size = array.shape
    pairs = array.reshape(*rest, heads, size // heads // 2, 2)
    return np.ascontiguousarray(np.swapaxes(pairs, -1, -2)).reshape(array.shape)


def _check(
    config: TransformerConfig,
    spelling: Spelling,
    wanted: Sequence[Entry],
    shapes: PyTree,
    tensors: Mapping[str, Stored],
    source: pathlib.Path,
) -> None:
    """That the tensors are there, of the right shapes, and no others."""
    expected = {
        name: stored_shape(entry, [_at(shapes, leaf).shape for leaf in entry.leaves])
        for entry in wanted
        for name in entry.names
    }
    missing = [name for name in expected if name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{source}: no tensor {missing[0]}{more} of the {len(expected)} that its "
            "configuration asks for. Remedy: get configuration and weights of the same "
            "model."
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{tensors[name].file}: {name} has shape {tensors[name].shape}, its "
                f"configuration says {shape}. Remedy: get configuration and weights of "
                "the same model."
            )
    ignored = spelling.ignored
    if config.tied:
        ignored = (*ignored, f"{spelling.parts['head']}.weight")
    foreign = [x for x in tensors if x not in expected and not x.endswith(ignored)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CheckpointError(
            f"{tensors[foreign[0]].file}: {foreign[0]}{more} belongs to no part of the "
            "model that its configuration describes. Remedy: get configuration and "
            "weights of the same model."
        )


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: dict, path: Path, leaf: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


def _ordered(tree: Any) -> Any:
    return (
        {k: _ordered(tree[k]) for k in sorted(tree)} if isinstance(tree, dict) else tree
    )


def write_weights(
    target: pathlib.Path,
    config: TransformerConfig,
    params: PyTree,
    kind: np.dtype,
    shard_bytes: int,
) -> None:
    """Writes the weights, and an index where there are several shards.

    Args:
      target: the folder.
      config: sizes and choices.
      params: of that configuration, layers as a list.
      kind: dtype in the file.
      shard_bytes: most bytes per file.

    Raises:
      ValueError: `params` is of another configuration.
    """
    _check_params(config, params)
    tensors: dict[str, Any] = {}
    for entry in entries(config, spelling_of(config)):
        shape = stored_shape(entry, [_at(params, x).shape for x in entry.leaves])
        for i, name in enumerate(entry.names):
            leaves = [_at(params, x) for x in entry.leaves]
            index = i if len(entry.names) > 1 else None
            tensors[name] = (shape, _Blocks(leaves, index, entry.transposed))
    sizes = {
        name: int(np.prod(shape)) * kind.itemsize
        for name, (shape, _) in tensors.items()
    }
    # An index that is left over would lead a reader to the weights before these.
    (target / INDEX).unlink(missing_ok=True)
    placed = {}
    for file, group in shards(sizes, shard_bytes):
        write_safetensors(target / file, {x: tensors[x] for x in group}, kind)
        placed |= dict.fromkeys(group, file)
    if len(set(placed.values())) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": placed}
        write_json(target / INDEX, index)


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


def _check_params(config: TransformerConfig, params: PyTree) -> None:
    shapes = structure(config)[1]
    want = {
        jax.tree_util.keystr(k): x.shape for k, x in jax.tree.leaves_with_path(shapes)
    }
    have = {
        jax.tree_util.keystr(k): x.shape for k, x in jax.tree.leaves_with_path(params)
    }
    for name in want | have:
        if want.get(name) != have.get(name):
            raise ValueError(
                f"params{name} has shape {have.get(name)}; config asks for "
                f"{want.get(name)}. Give the config that the parameters were made with"
            )


def write_json(file: pathlib.Path, value: Any) -> None:
    """Writes JSON beside the file, then renames it."""
    part = file.with_name(f".part-{file.name}")
    part.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    part.replace(file)
