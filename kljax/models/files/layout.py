"""What the tensors of a checkpoint are called and how they become our parameters.

Linear maps lie in files as `[out, in]` (GPT-2: `[in, out]`) and are `[in, out]` here;
a tied head is the embedding transposed, held once. GPT-2 keeps query, key and value in
one tensor, mixtures of experts one tensor per expert.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kljax.models.files.config import family_of
from kljax.models.files.facts import facts
from kljax.models.language.configuration import TransformerConfig

__all__ = ["GGUF", "LLAMA", "SPELLINGS", "Entry", "Spelling", "entries", "spelling_of"]

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Entry:
    """Tensors of a file and the leaves that they become.

    One tensor and one leaf as a rule; several tensors are stacked on a leading axis
    (experts), several leaves share one tensor along its last axis here (GPT-2).
    """

    names: tuple[str, ...]
    leaves: tuple[Path, ...]
    transposed: bool = False
    heads: int = 0
    """Above 0: the rows of every head are interleaved pairs, to be un-permuted."""


@dataclass(frozen=True)
class Spelling:
    """What the parts are called in one kind of file."""

    parts: Mapping[str, str]
    layer: str
    transposed: bool = True
    fused: str = ""
    """The one map of query, key and value, where there is one."""
    experts: Mapping[str, str] | None = None
    interleaved: bool = False
    prefix: str = ""
    """Of all names but the head's; some files leave it out."""
    ignored: tuple[str, ...] = ()
    """Ends of the names of tensors that hold no parameter."""


SPELLINGS = {
    name: Spelling(**row | {"ignored": tuple(row.get("ignored", ()))})
    for name, row in facts("tensor_names.toml").items()
}
"""By `model_type`, and "gguf"; a family that is not here is spelled as Llama."""
LLAMA, GGUF = SPELLINGS["llama"], SPELLINGS["gguf"]


def spelling_of(config: TransformerConfig) -> Spelling:
    """What the parts of that configuration are called in the Hugging Face layout."""
    return SPELLINGS.get(family_of(config), LLAMA)


def entries(config: TransformerConfig, spelling: Spelling) -> list[Entry]:
    """Every tensor of a checkpoint and where it goes; all leaves, each once.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> entries(config, LLAMA)[0].names
      ('model.embed_tokens.weight',)
    """
    parts = spelling.parts
    found = []
    embedding, head = f"{parts['embedding']}.weight", f"{parts['head']}.weight"
    if config.tied:
        found.append(Entry((embedding,), (("head", "kernel"),), True))
    else:
        found.append(Entry((embedding,), (("embedding", "table"),)))
        found.append(Entry((head,), (("head", "kernel"),), True))
    if config.rope is None:
        found.append(
            Entry((f"{parts['positions']}.weight",), (("positions", "table"),))
        )
    found += _norm(config, parts["final_norm"], ("final_norm",))
    for i in range(config.depth):
        found += _layer(config, spelling, i)
    return found


def _layer(config: TransformerConfig, spelling: Spelling, i: int) -> Iterator[Entry]:
    prefix, parts = spelling.layer.format(i), spelling.parts
    at: Path = ("layers", i)
    for norm in ("attention_norm", "mlp_norm"):
        yield from _norm(config, prefix + parts[norm], (*at, norm))
    attention = (*at, "attention")
    if config.qk_norm:
        for norm in ("query_norm", "key_norm"):
            leaf = (*attention, norm, "scale")
            yield Entry((f"{prefix}{parts[norm]}.weight",), (leaf,))
    three = ("query", "key", "value")
    ends = (("weight", "kernel"), ("bias", "bias"))[: 2 if config.qkv_bias else 1]
    for end, kind in ends:
        swapped = spelling.transposed and kind == "kernel"
        leaves = tuple((*attention, part, kind) for part in three)
        if spelling.fused:
            yield Entry((f"{prefix}{spelling.fused}.{end}",), leaves, swapped)
            continue
        heads = (config.heads, config.kv_heads, 0)
        for part, leaf, count in zip(three, leaves, heads):
            count = count if spelling.interleaved else 0
            yield Entry((f"{prefix}{parts[part]}.{end}",), (leaf,), swapped, count)
    yield from _map(
        spelling, prefix + parts["output"], (*attention, "output"), config.output_bias
    )
    mlp = (*at, "mlp")
    inner = ("gate", "up", "down")[0 if config.mlp == "gated" else 1 :]
    if not config.is_mixture(i):
        for part in inner:
            yield from _map(
                spelling, prefix + parts[part], (*mlp, part), config.mlp_bias
            )
        return
    assert spelling.experts is not None
    router = prefix + spelling.experts["router"]
    yield from _map(spelling, router, (*mlp, "router"), False)
    for part in inner:
        template = prefix + spelling.experts[part] + ".weight"
        names = tuple(template.format(e) for e in range(config.experts))
        yield Entry(names, ((*mlp, part, "kernel"),), spelling.transposed)


def _norm(config: TransformerConfig, name: str, leaf: Path) -> Iterator[Entry]:
    yield Entry((f"{name}.weight",), ((*leaf, "scale"),))
    if config.norm == "layer":
        yield Entry((f"{name}.bias",), ((*leaf, "bias"),))


def _map(spelling: Spelling, name: str, leaf: Path, bias: bool) -> Iterator[Entry]:
    yield Entry((f"{name}.weight",), ((*leaf, "kernel"),), spelling.transposed)
    if bias:
        yield Entry((f"{name}.bias",), ((*leaf, "bias"),))


def stored_shape(entry: Entry, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape in the file of each of an entry's tensors, from its leaves' shapes.

    Example:
      >>> stored_shape(Entry(("w",), ((0,), (1,)), True), [(4, 6), (4, 2)])
      (8, 4)
    """
    shape = shapes[0][1:] if len(entry.names) > 1 else shapes[0]
    shape = (*shape[:-1], sum(leaf[-1] for leaf in shapes))
    return shape[::-1] if entry.transposed else shape


def stored_bytes(entry: Entry, shapes: list[tuple[int, ...]], itemsize: int) -> int:
    """Bytes of all of an entry's tensors together."""
    return len(entry.names) * math.prod(stored_shape(entry, shapes)) * itemsize
