"""Published language models: from files to parameters and back.

    folder/config.json                    sizes and choices
    folder/model.safetensors              weights, or shards and an index
    folder/tokenizer.json                 vocabulary and rules
    model.gguf                            all of it in one file, weights quantised

Tensors are read one at a time, the largest first, in blocks that are turned to
`[in, out]` on the way: the most memory ever held is what stays, plus one block.
"""

import os
import pathlib
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kljax.arguments import whole
from kljax.data import model_file, names
from kljax.data.sources import known
from kljax.errors import CheckpointError, unknown
from kljax.models.files.config import config_fields, read_config
from kljax.models.files.gguf import FACTORS, open_gguf, read_gguf_config
from kljax.models.files.layout import GGUF, LLAMA, SPELLINGS
from kljax.models.files.saving import (
    check_params,
    is_unfinished,
    replaced,
    write_weights,
)
from kljax.models.files.special_tokens import foreign_files, no_tokenizer
from kljax.models.files.tensors import DTYPES, json_object, open_folder
from kljax.models.files.tokenizer import Tokenizer, load_tokenizer, stop_ids
from kljax.models.files.weights import load_weights, settled, structure
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.stacking import unstack_layers
from kljax.models.language.transformer import PureTransformer
from kljax.storing import write_json
from kljax.typing import PyTree

__all__ = [
    "Pretrained",
    "check_one_tokenizer",
    "from_pretrained",
    "locate",
    "save_pretrained",
]

SHARD_BYTES = 5_000_000_000
ADAPTERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapters.safetensors",
)


@dataclass(frozen=True)
class Pretrained:
    """A model as it was published.

    Attributes:
      config: sizes and choices.
      apply: the model's function, called as `apply(params, tokens, ...)`.
      params: nested dict of arrays, layers as a list.
      tokenizer: text to ids and back; None where there was none, with a warning
        where there was one in a form that is not read.
      stop_tokens: ids that end a text or a turn, of the configuration, the generation
        configuration and the tokenizer together.
      pad_id: what to fill rows up with.
      source: file or folder it came from.
    """

    config: TransformerConfig
    apply: PureTransformer
    params: dict
    tokenizer: Tokenizer | None
    stop_tokens: tuple[int, ...]
    pad_id: int
    source: str


def from_pretrained(
    source: str | os.PathLike,
    *,
    dtype: Any = None,
    tokenizer: bool = True,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Loads a published model: Llama, Mistral, Qwen2, Qwen3, Mixtral or GPT-2 shaped.

    Args:
      source: a folder in the Hugging Face layout, a .gguf file of the llama
        architecture, a name that `python -m kljax.data fetch` knows ("smollm2"), or
        "owner/name" of a model in the Hugging Face cache on this machine (where
        HF_HUB_CACHE or HF_HOME say that it is). Nothing is downloaded.
      dtype: of the parameters. None: float32 on a CPU, which decodes faster from it
        than from bfloat16; elsewhere the files' own, but bfloat16 for float16 and
        GGUF.
      tokenizer: also load the tokenizer, where there is one.
      mesh: cut the parameters over its axes "fsdp" and "tensor" as they are read, see
        `kljax.models.language.sharding`; None is the default device.

    Returns:
      Configuration, function, parameters, tokenizer and stop tokens.

    Where files disagree it is as in transformers, with a warning that names them:
    model.safetensors goes before an index of shards, and a head that differs from the
    embedding is not tied to it. An adapter beside the model is not applied. Fields that
    config.json leaves out are those of the family's configuration class there.

    Raises:
      CheckpointError: a file or tensor is missing, truncated, of another shape or not
        of this model; a pickle (never read); a family or a choice that `Transformer`
        does not have. The message names file and tensor.
      ValueError: no such folder, file or name.

    Example:
      >>> import tempfile, jax
      >>> from kljax.models.language.transformer import transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> apply, initial = transformer(config)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_pretrained(folder, config, initial(jax.random.key(0)))
      ...     model = from_pretrained(folder)
      >>> model.config == config, model.stop_tokens
      (True, ())
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype!r}; expected a floating point type or None")
    path = locate(source)
    load = _from_folder if path.is_dir() else _from_gguf
    return load(path, dtype, tokenizer, mesh)


def locate(source: str | os.PathLike) -> pathlib.Path:
    """The folder or file of a model, see `from_pretrained`.

    Raises:
      ValueError: there is none.
      CheckpointError: the cache leads to a folder that is not there.
      DataError: a name that is known, and was not fetched.
    """
    name = os.fspath(source)
    if not name:
        raise ValueError("source is empty; give a folder, a .gguf file or a name")
    path = pathlib.Path(source).expanduser()
    if path.exists():
        if path.is_dir() or path.suffix == ".gguf":
            return path
        raise ValueError(
            f"source is {os.fspath(source)!r}, a file but no .gguf; give the folder "
            "that holds config.json and model.safetensors"
        )
    row = known(name)
    if row is not None and row.kind == "model":
        return model_file(row.name)
    cached = _hub_cache() / f"models--{'--'.join(path.parts)}"
    revision = cached / "refs" / "main"
    if revision.is_file():
        snapshot = cached / "snapshots" / revision.read_text("utf-8", "replace").strip()
        if snapshot.is_dir():
            return snapshot
        raise CheckpointError(
            f"{snapshot}: no such folder, and {revision} leads there. Remedy: download "
            "the model again."
        )
    raise ValueError(
        f"source is {name!r}: no such folder or file, not in the Hugging Face cache, "
        f"and an {unknown('model', name, names('model'))}. Download the model and give "
        "its folder"
    )


def check_source(source: str) -> None:
    """Whether a model is known by name, fetched or not, or lies on this machine.

    Names of a hub ("owner/name") may yet come into its cache, and are not looked for.

    Raises:
      CheckpointError: it is not.
      ValueError: it is neither a name nor a path.

    Example:
      >>> check_source("smollm2")
    """
    row = known(source)
    if row is not None and row.kind == "model":
        return
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
        locate(source)


def _hub_cache() -> pathlib.Path:
    """Where huggingface_hub keeps models: the first of its variables that is set."""
    given = os.environ.get
    home = given("XDG_CACHE_HOME") or "~/.cache"
    home = given("HF_HOME") or os.path.join(home, "huggingface")
    cache = given("HF_HUB_CACHE") or given("HUGGINGFACE_HUB_CACHE")
    cache = cache or os.path.join(home, "hub")
    return pathlib.Path(os.path.expandvars(os.path.expanduser(cache)))


def _check_adapters(folder: pathlib.Path, model: bool) -> None:
    """Says that there is an adapter, beside a model or in the place of one."""
    there = [name for name in ADAPTERS if (folder / name).is_file()]
    if not there:
        return
    base = (_fields(folder / ADAPTERS[0]) or {}).get("base_model_name_or_path")
    remedy = (
        f"Remedy: merge the adapter into its model ({base or 'unknown'}), with "
        "merge_and_unload of peft, and save that"
    )
    if not model:
        raise CheckpointError(
            f"{folder}: holds an adapter ({there[0]}) and no config.json. {remedy}."
        )
    warnings.warn(
        f"{folder / there[0]}: an adapter beside the model, which is not applied: the "
        f"model is read without it. {remedy}, or move {', '.join(there)} away.",
        stacklevel=2,
    )


def _fields(file: pathlib.Path) -> dict[str, Any] | None:
    return json_object(file) if file.is_file() else None


def _from_folder(
    folder: pathlib.Path, dtype: Any, with_tokenizer: bool, mesh: Mesh | None
) -> Pretrained:
    fields = _fields(folder / "config.json")
    _check_adapters(folder, fields is not None)
    if is_unfinished(folder):
        raise CheckpointError(
            f"{folder}: a save was stopped while it replaced the model there. Remedy: "
            "save again, or, if no save is going on, end that one with finish_save "
            "(kljax.models.files)."
        )
    if fields is None:
        inside = sorted(x.name for x in folder.glob("*.gguf"))
        raise CheckpointError(
            f"{folder}: no config.json. Remedy: give the folder that save_pretrained "
            f"wrote, or a .gguf file{': ' if inside else ''}{', '.join(inside)}."
        )
    config = read_config(fields, folder / "config.json")
    spelling = SPELLINGS.get(fields["model_type"], LLAMA)
    config, tensors = settled(config, spelling, open_folder(folder), folder)
    apply, _ = structure(config)
    params = load_weights(config, spelling, tensors, folder, dtype, mesh)
    there = with_tokenizer and (folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(folder) if there else None
    if with_tokenizer and not there and foreign_files(folder):
        warnings.warn(f"tokenizer is None: {no_tokenizer(folder)}", stacklevel=3)
    generation = _fields(folder / "generation_config.json") or {}
    ends = stop_ids(fields, generation, source=folder)
    pad = fields.get("pad_token_id")
    return _finished(config, apply, params, tokenizer, ends, pad, folder)


def _from_gguf(
    file: pathlib.Path, dtype: Any, with_tokenizer: bool, mesh: Mesh | None
) -> Pretrained:
    opened = open_gguf(file)
    config = read_gguf_config(opened)
    tokenizer = load_tokenizer(opened) if with_tokenizer else None
    tokens = "tokenizer.ggml.{}_token_id"
    end = opened.metadata.get(tokens.format("eos"))
    pad = opened.metadata.get(tokens.format("padding"))
    tensors = {x: opened.tensors[x] for x in opened.tensors if x != FACTORS}
    del opened  # what its head took is to be free again before the weights come
    apply, _ = structure(config)
    params = load_weights(config, GGUF, tensors, file, dtype, mesh)
    ends = () if end is None else (int(end),)
    return _finished(config, apply, params, tokenizer, ends, pad, file)


def _finished(
    config: TransformerConfig,
    apply: PureTransformer,
    params: dict,
    tokenizer: Tokenizer | None,
    ends: Collection[int],
    pad: int | None,
    source: pathlib.Path,
) -> Pretrained:
    if tokenizer is not None:
        if tokenizer.end > config.vocab_size:
            raise CheckpointError(
                f"{source}: the tokenizer has ids up to {tokenizer.end - 1} and the "
                f"model {config.vocab_size} tokens. Remedy: get the model's own "
                "tokenizer."
            )
        ends = {*ends, *tokenizer.stop_tokens}
        pad = tokenizer.pad_id if pad is None else pad
    # Older configurations say -1 or an id that the vocabulary does not have.
    known = sorted({end for end in ends if 0 <= end < config.vocab_size})
    if type(pad) is not int or not 0 <= pad < config.vocab_size:
        pad = known[0] if known else 0
    return Pretrained(config, apply, params, tokenizer, tuple(known), pad, str(source))


def save_pretrained(
    folder: str | os.PathLike,
    config: TransformerConfig,
    params: PyTree,
    *,
    tokenizer: Tokenizer | None = None,
    stop_tokens: Sequence[int] = (),
    dtype: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a model in the Hugging Face layout, which `transformers` also loads.

    All of it is written beside and then renamed; a save that is killed leaves the model
    that was there, the new one, or a folder that says that `finish_save` ends it.

    Args:
      folder: made if need be; files of the same names are replaced, and weights of
        another form (shards, their index, a single file) removed.
      config: sizes and choices, of a combination that a published family has.
      params: of the model, layers as a list or stacked.
      tokenizer: written beside, with its chat template.
      stop_tokens: ids that end a text; the tokenizer's where none are given.
      dtype: of the tensors in the file; None: that of the head.
      shard_bytes: most bytes per file of weights.

    Raises:
      ValueError: no family has this combination, `params` is of another config, a
        dtype that the files have not, or a `folder` that is a file.
    """
    target = pathlib.Path(folder).expanduser()
    params = unstack_layers(params)
    fields = config_fields(config)
    check_params(config, params)
    kind = np.dtype(params["head"]["kernel"].dtype if dtype is None else dtype)
    _check_saving(target, kind, shard_bytes)
    ends = list(stop_tokens or (tokenizer.stop_tokens if tokenizer else ()))
    special: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    special = special if ends else {}
    if tokenizer is not None:
        special |= {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    fields = fields | special | {"dtype": kind.name, "torch_dtype": kind.name}
    with replaced(target) as stage:
        write_weights(stage, target, config, params, kind, shard_bytes)
        if tokenizer is not None:
            tokenizer.save(stage)
        write_json(stage / "generation_config.json", special)
        write_json(stage / "config.json", fields)


def _check_saving(target: pathlib.Path, kind: np.dtype, shard_bytes: int) -> None:
    if kind not in DTYPES.values():
        known = ", ".join(x.name for x in DTYPES.values())
        raise ValueError(f"dtype is {kind.name}; expected one of {known}")
    whole("shard_bytes", shard_bytes)
    if target.exists() and not target.is_dir():
        raise ValueError(f"folder is {str(target)!r}, a file; give a folder")


def check_one_tokenizer(large: Pretrained, small: Pretrained) -> None:
    """Whether the logits of two models are of the same tokens.

    A small model without a tokenizer is taken at its word where it has as many.

    Raises:
      ValueError: they are not; names a token.
    """
    if small.tokenizer is None:
        if small.config.vocab_size != large.config.vocab_size:
            raise ValueError(
                f"{small.source} has {small.config.vocab_size} tokens and no "
                f"tokenizer.json, {large.source} has {large.config.vocab_size}; fusion "
                "needs models of one vocabulary"
            )
        return
    ours = large.tokenizer.vocabulary if large.tokenizer else {}
    theirs = small.tokenizer.vocabulary
    if ours == theirs:
        return
    differing = sorted(
        token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token)
    )
    token = differing[0]
    raise ValueError(
        f"{small.source} has another tokenizer than {large.source}: {len(differing)} "
        f"tokens differ, the first is {token!r} (id {theirs.get(token)} there, "
        f"{ours.get(token)} here). Fusion adds logits of the same tokens: use small "
        "models that share the large one's tokenizer"
    )
