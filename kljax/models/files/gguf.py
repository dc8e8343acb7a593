"""GGUF files: their metadata, and where their tensors lie.

The `gguf` package parses the head and turns quantised blocks into numbers. Its reader
maps the file, so it is let go before the first tensor is read.
"""

import functools
import math
import pathlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kljax.errors import CheckpointError
from kljax.models.files.facts import facts
from kljax.models.files.tensors import Stored, joined, opened, read, truncated
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.rope import Rope

__all__ = ["FACTORS", "GgufFile", "open_gguf", "read_gguf_config"]

VERSIONS = (2, 3)
PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
FACTORS = "rope_freqs.weight"
"""What Llama 3 divides the frequencies of its rotation by: no parameter."""
_FACTS = facts("gguf_keys.toml")
READ = frozenset(_FACTS["read"].split())
"""Keys of the architecture that are read, or say nothing that is computed."""
PLAIN = {key: tuple(values) for key, values in _FACTS["plain"].items()}
"""Values of other keys that change nothing; where none are named, 0 and nothing."""
KINDS = {str: "text", list: "a list", bool: "true or false", int: "a whole number"}
TYPES = {
    key: (kind, words)
    for kind, words in KINDS.items()
    for key in _FACTS["types"][kind.__name__].split()
}
"""What lies under a key, where it is there."""


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
    """Reads the head of a GGUF file, of all parts where it was split.

    Args:
      file: the file, or any one of its parts; they lie in one folder, under the names
        that they were given (`NAME-00001-of-00003.gguf`).

    Raises:
      CheckpointError: the `gguf` package is not installed; not a GGUF file, of another
        version or byte order, truncated, a part is missing, or a tensor is of a type
        that cannot be turned into numbers.
    """
    one = _open_one(file)
    count = int(_number(one, "split.count", 1))
    if count <= 1:
        return one
    named = PART.fullmatch(file.name)
    if named is None or int(named["count"]) != count:
        raise CheckpointError(
            f"{file}: a part of a model in {count} parts, by another name than it was "
            f"given. Remedy: call it NAME-00001-of-{count:05d}.gguf, by its number, "
            "and put all parts into one folder."
        )
    metadata: dict[str, Any] = {}
    tensors: dict[str, Stored] = {}
    for i in range(count):
        part = file.with_name(f"{named['name']}-{i + 1:05d}-of-{count:05d}.gguf")
        if not part.is_file():
            raise CheckpointError(
                f"{part}: missing, part {i + 1} of {count} of the model. Remedy: put "
                "all parts into one folder."
            )
        opened_part = _open_one(part)
        number, of = (_number(opened_part, f"split.{x}", -1) for x in ("no", "count"))
        if (number, of) != (i, count):
            raise CheckpointError(
                f"{part}: says that it is part {number + 1} of {of}. Remedy: download "
                "it again, or give it its own name."
            )
        metadata = opened_part.metadata | metadata
        tensors = joined(tensors, opened_part.tensors)
    expected = _number(one, "split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise CheckpointError(
            f"{file}: its {count} parts hold {len(tensors)} tensors of {expected}. "
            "Remedy: download the parts again, all of one model."
        )
    return GgufFile(file, metadata, tensors)


def _number(file: GgufFile, key: str, default: float | None = None) -> float:
    value = file.get(key, default)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value):
        raise _other(file.file, key, value, "a finite number")
    return value


def _other(file: pathlib.Path, key: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {key} is {value!r:.60}; expected {expected}. Remedy: convert the "
        "model again with a current converter."
    )


def _open_one(file: pathlib.Path) -> GgufFile:
    try:
        import gguf
        import gguf.quants
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{file}: reading it needs the gguf package. Remedy: pip install "
            "'kljax[hf]'"
        ) from error
    _check_head(file)
    try:
        reader = gguf.GGUFReader(file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _described(file, tensor) for tensor in reader.tensors}
    except CheckpointError:
        raise
    except Exception as error:  # whatever the parser meets in a broken file
        if "GGMLQuantizationType" in str(error):
            raise CheckpointError(
                f"{file}: a tensor is of a type that the gguf package does not know "
                f"({error}). Remedy: pip install -U gguf, or use a file of Q8_0 or F16."
            ) from error
        raise CheckpointError(
            f"{file}: damaged or truncated ({type(error).__name__}: {error}). Remedy: "
            "download it again."
        ) from error
    for key, (kind, expected) in TYPES.items():
        if key in metadata and type(metadata[key]) is not kind:
            raise _other(file, key, metadata[key], expected)
    ordered = sorted(tensors.values(), key=lambda stored: stored.start)
    size = file.stat().st_size
    for stored, after in zip(ordered, [*ordered[1:], None]):
        if stored.end > size:
            raise truncated(file, stored)
        if after is not None and after.start < stored.end:
            raise CheckpointError(
                f"{file}: damaged, {after.name} begins within {stored.name}. Remedy: "
                "download it again."
            )
    return GgufFile(file, metadata, tensors)


def _check_head(file: pathlib.Path) -> None:
    """Magic, version and byte order."""
    with opened(file) as source:
        magic, head = source.read(4), source.read(4)
    if magic != b"GGUF":
        raise CheckpointError(
            f"{file}: not a GGUF file. Remedy: download it again, or give a folder "
            "with model.safetensors."
        )
    version = int.from_bytes(head, "little")
    if version in VERSIONS:
        return
    if int.from_bytes(head, "big") in VERSIONS:
        raise CheckpointError(
            f"{file}: big-endian, and only little-endian files are read. Remedy: turn "
            "it with gguf-convert-endian of the gguf package."
        )
    raise CheckpointError(
        f"{file}: version {version} of GGUF; expected one of {VERSIONS}, or the file "
        "is truncated. Remedy: convert the model again with a current converter."
    )


def read_gguf_config(file: GgufFile) -> TransformerConfig:
    """The configuration that a GGUF file's metadata describes.

    Raises:
      CheckpointError: another architecture than llama, a key missing, one that asks
        for what `TransformerConfig` cannot do, or a rope scaling other than linear and
        the factors of Llama 3.
    """
    architecture = file.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"{file.file}: general.architecture is {architecture!r}; expected 'llama'. "
            "Remedy: use the model's safetensors."
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(
            f"{file.file}: no tensor token_embd.weight. Remedy: download it again."
        )
    for key, value in file.metadata.items():
        name = key.removeprefix("llama.")
        ours = key.startswith("llama.") and name not in READ
        if ours and value not in PLAIN.get(name, (0, "")):
            raise CheckpointError(
                f"{file.file}: {key} is {value!r}, which this transformer cannot do. "
                "Remedy: use the model's safetensors."
            )
    try:
        return _config(file, embedding.shape[0])
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file.file}: {error}. Remedy: convert the model again with a current "
            "converter."
        ) from error


def _config(file: GgufFile, vocabulary: int) -> TransformerConfig:
    def of(key: str, default: int | None = None) -> int:
        value = file.get(f"llama.{key}", default)
        if isinstance(value, list):  # one number per layer
            if len(set(value)) != 1:
                raise ValueError(f"llama.{key} is {value}; layers must be alike")
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"llama.{key} is {value!r}; expected a number")
        return value

    heads, width = of("attention.head_count"), of("embedding_length")
    head_dim = of("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if of(key, head_dim) != head_dim:
            raise ValueError(
                f"llama.{key} is {of(key)} and not the head's {head_dim}, which is not "
                "supported"
            )
    if of("vocab_size", vocabulary) != vocabulary:
        raise ValueError(
            f"llama.vocab_size is {of('vocab_size')} and token_embd.weight has "
            f"{vocabulary} rows"
        )
    window = of("attention.sliding_window", 0)
    return TransformerConfig(
        vocab_size=vocabulary,
        width=width,
        depth=of("block_count"),
        heads=heads,
        kv_heads=of("attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden=of("feed_forward_length"),
        max_length=of("context_length"),
        norm_eps=_shortest(_number(file, "llama.attention.layer_norm_rms_epsilon")),
        rope=_rope(
            file, _shortest(_number(file, "llama.rope.freq_base", 1e4)), head_dim
        ),
        tied="output.weight" not in file.tensors,
        window=window or None,
    )


def _rope(file: GgufFile, base: float, head_dim: int) -> Rope:
    """As llama.cpp: linear where nothing is said, and a factor in either spelling."""
    kind = file.get("llama.rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise ValueError(
            f"llama.rope.scaling.type is {kind!r}; expected none or linear, or use the "
            "model's safetensors"
        )
    old = _number(file, "llama.rope.scale_linear", 0.0)
    factor = _shortest(_number(file, "llama.rope.scaling.factor", old))
    factor = 1.0 if kind == "none" or factor == 0 else factor
    table = file.tensors.get(FACTORS)
    if table is None:
        linear = Rope(base=base, scaling="linear", factor=factor)
        return Rope(base=base) if factor == 1 else linear
    if table.shape != (head_dim // 2,):
        raise ValueError(f"{FACTORS} has shape {table.shape}, not ({head_dim // 2},)")
    factors = read(table, np.float32)
    known = _llama3(base, factors, head_dim) if factor == 1 else None
    every = tuple(float(x) * factor for x in factors)
    return known or Rope(base=base, scaling="factors", factors=every)


def _llama3(base: float, factors: np.ndarray, head_dim: int) -> Rope | None:
    """Llama 3's own scaling, if these factors are its: only by name can it be saved."""
    largest = max(float(factors.max()), 1.0)
    rope = Rope(base=base, scaling="llama3", factor=round(largest, 3))
    own = Rope(base=base).frequencies(head_dim) / rope.frequencies(head_dim)
    return rope if np.allclose(own, factors, rtol=1e-5, atol=0) else None


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-5, not 9.99999975e-6."""
    return float(str(np.float32(value)))


def _described(file: pathlib.Path, tensor: Any) -> Stored:
    import gguf.quants

    kind = tensor.tensor_type
    # The file has the fastest axis first.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    per_block, block_bytes = gguf.quants.GGML_QUANT_SIZES[kind]
    if shape[-1] % per_block:
        raise ValueError(f"{tensor.name} has rows of {shape[-1]}, no whole blocks")
    if kind.name == "F32":
        decode, dtype = functools.partial(_view, np.dtype(np.float32)), np.float32
    elif kind.name == "F16":
        decode, dtype = functools.partial(_view, np.dtype(np.float16)), np.float16
    else:
        decode, dtype = functools.partial(_numbers, kind), np.float32
        try:
            decode(np.zeros((1, block_bytes), np.uint8))
        except NotImplementedError as error:  # of gguf: it has no such type
            raise CheckpointError(
                f"{file}: {tensor.name} is of type {kind.name}, which cannot be turned "
                "into numbers here. Remedy: use a file of Q8_0, Q4_1, F16 or F32."
            ) from error
    start, row = int(tensor.data_offset), shape[-1] // per_block * block_bytes
    return Stored(file, tensor.name, shape, start, row, decode, np.dtype(dtype))


def _view(dtype: np.dtype, raw: np.ndarray) -> np.ndarray:
    return raw.view(dtype)


def _numbers(kind: Any, raw: np.ndarray) -> np.ndarray:
    import gguf.quants

    return gguf.quants.dequantize(raw, kind)
