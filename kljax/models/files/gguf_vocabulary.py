"""The tokenizer that a GGUF file describes.

The keys `tokenizer.ggml.*` are those of llama.cpp, and what they mean is what it does
with them: `pre` names how text is split before bytes are merged, a vocabulary with
scores is SentencePiece's, and each token has a type.
"""

from collections.abc import Sequence
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.files.class_rules import QWEN2_SPLIT, metaspace
from kljax.models.files.gguf import GgufFile

__all__ = ["gguf_core", "gguf_templates", "surround"]

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6


def gguf_core(file: GgufFile) -> Any:
    """The tokenizer of the `tokenizers` package, without what stands around a text.

    Raises:
      CheckpointError: a kind that is not known here, or keys that contradict each
        other.
    """
    import tokenizers

    kind = file.get("tokenizer.ggml.model")
    if kind not in KINDS:
        raise _unknown(file, "model", kind, KINDS)
    tokens = file.get("tokenizer.ggml.tokens")
    types = _column(file, "token_type", tokens) or [1] * len(tokens)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise CheckpointError(
            f"{file.file}: tokenizer.ggml.tokens holds {twice!r} twice. Remedy: "
            "convert the model again."
        )
    core = KINDS[kind](file, vocabulary, types)
    core.no_truncation()
    for special, kinds in ((True, (UNKNOWN, CONTROL)), (False, (USER_DEFINED,))):
        named = [token for token, kind in zip(tokens, types) if kind in kinds and token]
        add = core.add_special_tokens if special else core.add_tokens
        add([tokenizers.AddedToken(x, normalized=False) for x in named])
    return core


def surround(core: Any, file: GgufFile, bos: int | None, eos: int | None) -> None:
    """Makes a tokenizer put BOS and EOS where the file says so.

    Where it does not say, SentencePiece vocabularies begin with BOS, and so do those
    that are split like Llama 3 or Tekken.

    Raises:
      CheckpointError: it says so and has no such token.
    """
    from tokenizers import processors

    pre = file.get("tokenizer.ggml.pre", "")
    begins = file.get("tokenizer.ggml.model") == "llama" or pre in BEGINNING
    parts = {}
    for name, index, default in (("bos", bos, begins), ("eos", eos, False)):
        key = f"tokenizer.ggml.add_{name}_token"
        if (wanted := file.get(key, default)) and index is not None:
            parts[name] = index
        elif wanted and key in file.metadata:
            raise CheckpointError(
                f"{file.file}: {key} is true, but tokenizer.ggml.{name}_token_id is no "
                "token. Remedy: convert the model again."
            )
    if not parts:
        return
    core.post_processor = processors.TemplateProcessing(
        single=[x for x in ("bos", "$A", "eos") if x == "$A" or x in parts],
        special_tokens=[
            {"id": name, "ids": [index], "tokens": [core.id_to_token(index)]}
            for name, index in parts.items()
        ],
    )


def gguf_templates(file: GgufFile) -> str | dict[str, str]:
    """The chat template, or several by name.

    Raises:
      CheckpointError: one that is no text.
    """
    key = "tokenizer.chat_template"
    default = file.get(key, "")
    names = file.get("tokenizer.chat_templates", [])
    found = {
        name: file.metadata[f"{key}.{name}"]
        for name in names
        if f"{key}.{name}" in file.metadata
    }
    if not all(isinstance(source, str) for source in (default, *found.values())):
        raise CheckpointError(
            f"{file.file}: {key} is no text. Remedy: convert the model again."
        )
    if not found:
        return default
    return {**({"default": default} if default else {}), **found}


def _unknown(file: GgufFile, key: str, found: Any, known: Any) -> CheckpointError:
    return CheckpointError(
        f"{file.file}: tokenizer.ggml.{key} is {found!r}; expected one of "
        f"{', '.join(sorted(known))}. Remedy: put the model's tokenizer.json in a "
        "folder and use load_tokenizer, and load the model with tokenizer=False."
    )


def _column(file: GgufFile, key: str, tokens: Sequence[str]) -> list[Any]:
    """One value per token; empty where the file has none."""
    values = file.get(f"tokenizer.ggml.{key}", [])
    if values and len(values) != len(tokens):
        raise CheckpointError(
            f"{file.file}: tokenizer.ggml.{key} has {len(values)} values for "
            f"{len(tokens)} tokens. Remedy: convert the model again."
        )
    return values


def _pairs(file: GgufFile) -> list[tuple[str, str]]:
    """Merges as the file lists them, the earliest first."""
    pairs = []
    for merge in file.get("tokenizer.ggml.merges"):
        # The space that parts the two is never the first character.
        left, _, right = merge[1:].partition(" ")
        pairs.append((merge[:1] + left, right))
    return pairs


def _byte_level(file: GgufFile, vocabulary: dict[str, int], types: list[int]) -> Any:
    """Bytes spelled as characters, merged within the pieces that `pre` splits off."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = file.get("tokenizer.ggml.pre", "")
    if pre not in SPLITS:
        raise _unknown(file, "pre", pre, SPLITS)
    core = Tokenizer(
        models.BPE(vocabulary, _pairs(file), ignore_merges=pre in WHOLE_WORDS)
    )
    splits = [pre_tokenizers.Split(Regex(x), "isolated") for x in SPLITS[pre]]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([*splits, level])
    core.decoder = decoders.ByteLevel()
    return core


def _sentencepiece(file: GgufFile, vocabulary: dict[str, int], types: list[int]) -> Any:
    """Characters merged by the scores of what they make; other bytes one by one."""
    from tokenizers import Tokenizer, models

    unknown = next((x for x, kind in zip(vocabulary, types) if kind == UNKNOWN), None)
    if "tokenizer.ggml.merges" in file.metadata:
        pairs = _pairs(file)
    else:
        pairs = _scored(file, vocabulary, types)
    core = Tokenizer(
        models.BPE(
            vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    prefix = file.get("tokenizer.ggml.add_space_prefix", True)
    metaspace(core, "first" if prefix else "never")
    return core


def _scored(
    file: GgufFile, vocabulary: dict[str, int], types: list[int]
) -> list[tuple[str, str]]:
    """The merges that scores imply: whatever makes the token of the highest score."""
    scores = _column(file, "scores", list(vocabulary))
    if not scores:
        raise CheckpointError(
            f"{file.file}: its metadata has neither tokenizer.ggml.scores nor merges. "
            "Remedy: convert the model again with a current converter."
        )
    bare = (UNKNOWN, CONTROL, BYTE)
    text = {x: i for x, i in vocabulary.items() if types[i] not in bare}
    found = []
    for token, index in text.items():
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        inside = [(a, b) for a, b in halves if a in text and b in text]
        inside.sort(key=lambda pair: (text[pair[0]], text[pair[1]]))
        found += [(-scores[index], -len(a), -len(b), a, b) for a, b in inside]
    found.sort(key=lambda x: x[:3])
    return [(a, b) for *_, a, b in found]


KINDS = {"gpt2": _byte_level, "llama": _sentencepiece}
"""By `tokenizer.ggml.model`."""

_DIGIT, _THREE_DIGITS = r"\p{N}", "[0-9][0-9][0-9]"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = QWEN2_SPLIT.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(after: str, numbers: str) -> str:
    """Words end where an upper-case letter follows a lower-case one."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{head}{_UPPER}*{_LOWER}+{after}|{head}{_UPPER}+{_LOWER}*{after}|{numbers}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


SPLITS: dict[str, tuple[str, ...]] = {
    # Not GPT-2's: what llama.cpp does where a converter knew no name.
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE_DIGITS),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREE_DIGITS),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4"), (_GPT2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
        (_DIGIT, _GPT2),
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
        (_LLAMA3,),
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), (_LLAMA3,)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), (QWEN2_SPLIT,)
    ),
    "tekken": (_cased("", _DIGIT),),
    **dict.fromkeys(("gpt-4o", "llama4"), (_cased(_CONTRACTIONS, r"\p{N}{1,3}"),)),
}
"""What text is split into before bytes are merged, one expression after the other, by
`tokenizer.ggml.pre`."""
WHOLE_WORDS = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
    "tekken",
)
"""Where a piece that is a token is taken whole, whatever the merges say."""
BEGINNING = WHOLE_WORDS
