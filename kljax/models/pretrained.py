"""Published language models: from files to parameters and back.

    folder/config.json                    sizes and choices
    folder/model.safetensors              weights, or shards and an index
    folder/tokenizer.json                 vocabulary and rules
    model.gguf                            all of it in one file, weights quantised

Tensors are read one at a time, the largest first, in blocks that are turned to
`[in, out]` on the way: the most memory ever held is what stays, plus one block.
"""

import json
import os
import pathlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kljax.data import model_file, names
from kljax.errors import CheckpointError
from kljax.models.configuration import TransformerConfig
from kljax.models.gguf_file import open_gguf, read_gguf_config
from kljax.models.pretrained_config import config_fields, read_config
from kljax.models.pretrained_layout import GGUF, spelling_of
from kljax.models.pretrained_weights import (
    load_weights,
    structure,
    write_json,
    write_weights,
)
from kljax.models.stacking import unstack_layers
from kljax.models.tensor_files import open_folder
from kljax.models.tokenizer import Tokenizer, load_tokenizer, stop_ids
from kljax.models.transformer import PureTransformer
from kljax.typing import PyTree

__all__ = ["Pretrained", "from_pretrained", "save_pretrained"]

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Pretrained:
    """A model as it was published.

    Attributes:
      config: sizes and choices.
      apply: the model's function, called as `apply(params, tokens, ...)`.
      params: nested dict of arrays, layers as a list.
      tokenizer: text to ids and back; None where there was none.
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
    source: str | os.PathLike, *, dtype: Any = None, tokenizer: bool = True
) -> Pretrained:
    """Loads a published model: Llama, Mistral, Qwen2, Qwen3, Mixtral or GPT-2 shaped.

    Args:
      source: a folder in the Hugging Face layout, a .gguf file of the llama
        architecture, a name that `python -m kljax.data fetch` knows ("smollm2"), or
        "owner/name" of a model in the Hugging Face cache on this machine. Nothing is
        downloaded.
      dtype: of the parameters. None: float32 on a CPU, which decodes faster from it
        than from bfloat16; elsewhere the files' own (quantised ones: bfloat16).
      tokenizer: also load the tokenizer, where there is one.

    Returns:
      Configuration, function, parameters, tokenizer and stop tokens.

    Raises:
      CheckpointError: a file or tensor is missing, truncated, of another shape or not
        of this model; a pickle (never read); a family or a choice that `Transformer`
        does not have. The message names file and tensor.
      ValueError: no such folder, file or name.

    Example:
      >>> import tempfile, jax
      >>> from kljax.models.transformer import transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> apply, initial = transformer(config)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_pretrained(folder, config, initial(jax.random.key(0)))
      ...     model = from_pretrained(folder)
      >>> model.config == config, model.stop_tokens
      (True, ())
    """
    path = _locate(source)
    return (_from_folder if path.is_dir() else _from_gguf)(path, dtype, tokenizer)


def _locate(source: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(source).expanduser()
    if path.exists():
        if path.is_dir() or path.suffix == ".gguf":
            return path
        raise ValueError(
            f"source is {os.fspath(source)!r}, a file but no .gguf; give the folder "
            "that holds config.json and model.safetensors"
        )
    name = os.fspath(source)
    if name in names("model"):
        return model_file(name)
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cached = (
        pathlib.Path(home).expanduser() / "hub" / f"models--{'--'.join(path.parts)}"
    )
    revision = cached / "refs" / "main"
    if revision.is_file():
        return cached / "snapshots" / revision.read_text().strip()
    raise ValueError(
        f"source is {name!r}: no such folder or file, not one of the names "
        f"{', '.join(names('model'))}, and not in the Hugging Face cache; download the "
        "model and give its folder"
    )


def _from_folder(folder: pathlib.Path, dtype: Any, with_tokenizer: bool) -> Pretrained:
    fields = _json(folder / "config.json")
    if fields is None:
        raise CheckpointError(
            f"{folder}: no config.json. Remedy: give the folder that save_pretrained "
            "wrote, or a .gguf file."
        )
    config = read_config(fields, folder / "config.json")
    tensors = open_folder(folder)
    apply, _ = structure(config)
    params = load_weights(config, spelling_of(config), tensors, folder, dtype)
    there = with_tokenizer and (folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(folder) if there else None
    ends = stop_ids(fields, _json(folder / "generation_config.json") or {})
    pad = fields.get("pad_token_id")
    return _finished(config, apply, params, tokenizer, ends, pad, folder)


def _from_gguf(file: pathlib.Path, dtype: Any, with_tokenizer: bool) -> Pretrained:
    opened = open_gguf(file)
    config = read_gguf_config(opened)
    tokenizer = load_tokenizer(opened) if with_tokenizer else None
    tokens = "tokenizer.ggml.{}_token_id"
    end = opened.metadata.get(tokens.format("eos"))
    pad = opened.metadata.get(tokens.format("padding"))
    tensors = opened.tensors
    del opened  # what its head took is to be free again before the weights come
    apply, _ = structure(config)
    params = load_weights(config, GGUF, tensors, file, dtype)
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
        if tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{source}: the tokenizer has {tokenizer.vocab_size} tokens and the "
                f"model {config.vocab_size}. Remedy: get the model's own tokenizer."
            )
        ends = {*ends, *tokenizer.stop_tokens}
        pad = tokenizer.pad_id if pad is None else pad
    # Older configurations say -1 or an id that the vocabulary does not have.
    known = sorted({end for end in ends if 0 <= end < config.vocab_size})
    if pad is None or not 0 <= pad < config.vocab_size:
        pad = known[0] if known else 0
    return Pretrained(
        config, apply, params, tokenizer, tuple(known), int(pad), str(source)
    )


def _json(file: pathlib.Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise CheckpointError(
            f"{file}: not readable JSON ({error}). Remedy: download it again."
        ) from error
    return found


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

    Tensor by tensor and every file by one rename, weights last but for their index.

    Args:
      folder: made if need be; files of the same names are replaced.
      config: sizes and choices, of a combination that a published family has.
      params: of the model, layers as a list or stacked.
      tokenizer: written beside, with its chat template.
      stop_tokens: ids that end a text; the tokenizer's where none are given.
      dtype: of the tensors in the file; None: that of the head.
      shard_bytes: most bytes per file of weights.

    Raises:
      ValueError: no family has this combination, or `params` is of another config.
    """
    target = pathlib.Path(folder).expanduser()
    params = unstack_layers(params)
    fields = config_fields(config)
    kind = np.dtype(params["head"]["kernel"].dtype if dtype is None else dtype)
    ends = list(stop_tokens or (tokenizer.stop_tokens if tokenizer else ()))
    target.mkdir(parents=True, exist_ok=True)
    special: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    special = special if ends else {}
    if tokenizer is not None:
        tokenizer.save(target)
        special |= {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    write_json(target / "generation_config.json", special)
    fields = fields | special | {"dtype": kind.name, "torch_dtype": kind.name}
    write_weights(target, config, params, kind, shard_bytes)
    write_json(target / "config.json", fields)
