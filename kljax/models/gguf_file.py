"""GGUF files: their metadata, and where their tensors lie.

The `gguf` package parses the head and turns quantised blocks into numbers. Its reader
maps the file, so it is let go before the first tensor is read.
"""

import functools
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from kljax.errors import CheckpointError
from kljax.models.configuration import TransformerConfig
from kljax.models.rope import Rope
from kljax.models.tensor_files import Stored, truncated

__all__ = ["GgufFile", "open_gguf", "read_gguf_config"]


@dataclass(frozen=True)
class GgufFile:
    """Metadata by key and tensors by name; no tensor is read yet."""

    file: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; without a default it must be there.

        Raises:
          CheckpointError: no such key.
        """
        if key in self.metadata:
            return self.metadata[key]
        if default is None:
            raise CheckpointError(
                f"{self.file}: its metadata has no {key}. Remedy: convert the model "
                "again with a current converter."
            )
        return default


def open_gguf(file: pathlib.Path) -> GgufFile:
    """Reads the head of a GGUF file.

    Raises:
      CheckpointError: the `gguf` package is not installed; not a GGUF file, truncated,
        or a tensor of a type that it cannot turn into numbers.
    """
    try:
        import gguf
        import gguf.quants
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{file}: reading it needs the gguf package. Remedy: pip install "
            "'kljax[hf]'"
        ) from error
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise CheckpointError(
                f"{file}: not a GGUF file. Remedy: download it again, or give a folder "
                "with model.safetensors."
            )
    try:
        reader = gguf.GGUFReader(file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _described(file, tensor) for tensor in reader.tensors}
    except CheckpointError:
        raise
    except Exception as error:  # whatever the parser meets in a broken file
        raise CheckpointError(
            f"{file}: damaged or truncated ({type(error).__name__}: {error}). Remedy: "
            "download it again."
        ) from error
    size = file.stat().st_size
    for stored in tensors.values():
        if stored.end > size:
            raise truncated(file, stored)
    return GgufFile(file, metadata, tensors)


def read_gguf_config(file: GgufFile) -> TransformerConfig:
    """The configuration that a GGUF file's metadata describes.

    Raises:
      CheckpointError: another architecture than llama, a key missing, or a rope scaling
        other than linear.
    """
    architecture = file.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"{file.file}: general.architecture is {architecture!r}; expected 'llama'. "
            "Remedy: use the model's safetensors."
        )

    def of(key: str, default: Any = None) -> Any:
        return file.get(f"llama.{key}", default)

    heads, width = of("attention.head_count"), of("embedding_length")
    scaling = of("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise CheckpointError(
            f"{file.file}: llama.rope.scaling.type is {scaling!r}; expected none or "
            "linear. Remedy: use the model's safetensors."
        )
    head_dim = of("attention.key_length", width // heads)
    if of("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(
            f"{file.file}: llama.rope.dimension_count is not the head's {head_dim}; "
            "a rotation of part of a head is not supported."
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(
            f"{file.file}: no tensor token_embd.weight. Remedy: download it again."
        )
    base = _shortest(of("rope.freq_base", 1e4))
    rope = Rope(base=base)
    if scaling == "linear":
        factor = _shortest(of("rope.scaling.factor", 1.0))
        rope = Rope(base=base, scaling="linear", factor=factor)
    return TransformerConfig(
        vocab_size=embedding.shape[0],
        width=width,
        depth=of("block_count"),
        heads=heads,
        kv_heads=of("attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden=of("feed_forward_length"),
        max_length=of("context_length"),
        norm_eps=_shortest(of("attention.layer_norm_rms_epsilon")),
        rope=rope,
        tied="output.weight" not in file.tensors,
    )


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-5, not 9.99999975e-6."""
    return float(str(np.float32(value)))


def _described(file: pathlib.Path, tensor: Any) -> Stored:
    import gguf.quants

    kind = tensor.tensor_type
    # The file has the fastest axis first.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    per_block, block_bytes = gguf.quants.GGML_QUANT_SIZES[kind]
    if kind.name == "F32":
        decode, dtype = functools.partial(_view, np.dtype(np.float32)), np.float32
    elif kind.name == "F16":
        decode, dtype = functools.partial(_view, np.dtype(np.float16)), np.float16
    else:
        decode, dtype = functools.partial(_numbers, kind), np.float32
        try:
            decode(np.zeros((1, block_bytes), np.uint8))
        except NotImplementedError as error:
            raise CheckpointError(
                f"{file}: {tensor.name} is of type {kind.name}, which cannot be turned "
                "into numbers here. Remedy: use a file of Q8_0, Q4_1, F16 or F32."
            ) from error
    return Stored(
        file,
        tensor.name,
        shape,
        int(tensor.data_offset),
        shape[-1] // per_block * block_bytes,
        decode,
        np.dtype(dtype),
    )


def _view(dtype: np.dtype, raw: np.ndarray) -> np.ndarray:
    return raw.view(dtype)


def _numbers(kind: Any, raw: np.ndarray) -> np.ndarray:
    import gguf.quants

    return gguf.quants.dequantize(raw, kind)
