"""The weights of a checkpoint as parameters, one tensor at a time."""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from kljax.errors import CheckpointError
from kljax.models.files.layout import (
    Entry,
    Path,
    Spelling,
    entries,
    stored_bytes,
    stored_shape,
)
from kljax.models.files.tensors import DTYPES, Stored, read
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.sharding import partition_specs
from kljax.models.language.transformer import PureTransformer, transformer
from kljax.typing import PyTree

__all__ = ["at", "load_weights", "settled", "structure"]


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
    mesh: Mesh | None = None,
) -> dict:
    """All parameters, from tensors that are of this configuration and no other.

    Args:
      config: sizes and choices.
      spelling: what the tensors are called.
      tensors: by name, not read yet.
      source: file or folder, for the errors.
      dtype: of the parameters, see `from_pretrained`.
      mesh: where they are to live; None is the default device.

    Raises:
      CheckpointError: a tensor is missing, truncated, of another shape or foreign.
    """
    shapes = structure(config)[1]
    wanted = entries(config, spelling)
    _check(config, spelling, wanted, shapes, tensors, source)
    sized = sorted(
        wanted,
        key=lambda e: -stored_bytes(e, [at(shapes, x).shape for x in e.leaves], 1),
    )
    specs = None if mesh is None else partition_specs(config, shapes, mesh)
    params: dict = {}
    # The largest first, while there is still room for the copies of it.
    for entry in sized:
        kind = _dtype(dtype, tensors[entry.names[0]])
        array = _array(entry, tensors, kind)
        widths = [at(shapes, leaf).shape[-1] for leaf in entry.leaves]
        for leaf, part in zip(
            entry.leaves, np.split(array, np.cumsum(widths)[:-1], axis=-1)
        ):
            place = None
            if mesh is not None:
                place = NamedSharding(mesh, at(specs, leaf))
            # A copy that JAX owns, so that a training step may donate it.
            _put(params, leaf, jax.device_put(part, place, may_alias=False))
            jax.block_until_ready(at(params, leaf))
    return _ordered(params)


def settled(
    config: TransformerConfig,
    spelling: Spelling,
    tensors: Mapping[str, Stored],
    source: pathlib.Path,
) -> tuple[TransformerConfig, dict[str, Stored]]:
    """Configuration and tensors, once it is known what the file calls its parts.

    Names may lack the prefix of their family, or have another before it (of a wrapper
    of torch). As in transformers, a head that differs from the embedding is not tied
    to it, whatever the configuration says, and one that stands alone serves as both.

    Args:
      config: what config.json says.
      spelling: what the tensors are called.
      tensors: by name, not read yet.
      source: the folder, for the warning.
    """
    tensors = _by_prefix(spelling, tensors)
    embedding, head = (f"{spelling.parts[x]}.weight" for x in ("embedding", "head"))
    if not config.tied or head not in tensors:
        return config, tensors
    if embedding not in tensors:
        return config, {**tensors, embedding: tensors[head]}
    if _same(tensors[embedding], tensors[head]):
        return config, tensors
    warnings.warn(
        f"{source / 'config.json'}: tie_word_embeddings is true, but {head} differs "
        f"from {embedding}; they are not tied, as in transformers. Remedy: say "
        "tie_word_embeddings: false there, or remove the tensor that is out of date.",
        stacklevel=2,
    )
    return dataclasses.replace(config, tied=False), tensors


def _by_prefix(spelling: Spelling, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    inner = f"{spelling.parts['embedding']}.weight".removeprefix(spelling.prefix)
    found = [x for x in tensors if x == inner or x.endswith(f".{inner}")]
    if len(found) != 1:
        return dict(tensors)
    before = found[0].removesuffix(inner)
    around = before.removesuffix(spelling.prefix)

    def named(name: str) -> str:
        if name == f"{spelling.parts['head']}.weight":
            return name
        if name.startswith(before):
            return spelling.prefix + name.removeprefix(before)
        return name.removeprefix(around)

    return {named(name): tensors[name] for name in tensors}


def _same(one: Stored, other: Stored) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    pairs = zip(one.blocks(), other.blocks(), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in pairs)


def _dtype(dtype: Any, stored: Stored) -> np.dtype:
    """Float32 on a CPU; elsewhere the file's own, bfloat16 for halves and GGUF."""
    if dtype is not None:
        return np.dtype(dtype)
    if jax.default_backend() == "cpu":
        return np.dtype(np.float32)
    narrow = stored.file.suffix == ".gguf" or stored.dtype == np.float16
    return np.dtype(jnp.bfloat16) if narrow else stored.dtype


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
        name: stored_shape(entry, [at(shapes, leaf).shape for leaf in entry.leaves])
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
        if tensors[name].kind:
            raise CheckpointError(
                f"{tensors[name].file}: {name} has dtype {tensors[name].kind}; "
                f"expected one of {', '.join(DTYPES)}. Remedy: get the weights as "
                "they were before quantisation."
            )
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


def at(tree: Any, path: Path) -> Any:
    """What lies in nested dicts at the end of a path."""
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
