"""What the tokenizer classes of `transformers` put in the place of a file's rules.

Its classes for Llama, GPT-2, Qwen2 and BERT take vocabulary and merges from
tokenizer.json and bring the rest themselves; any other class takes the file as it is.
What stands around every text (BOS, EOS) is the file's post-processor alone: where there
is a tokenizer.json, `add_bos_token` and `add_eos_token` beside it are not read.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["QWEN2_SPLIT", "SAVED", "ClassRules", "class_rules", "metaspace"]

SAVED = "kljax_complete"
"""The field by which a tokenizer.json that we wrote is known: its rules are all there,
whatever the family of the model beside it."""

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class ClassRules(NamedTuple):
    """How one class changes a tokenizer, and the tokens that it names by default."""

    apply: Callable[[Any, Mapping[str, Any]], None]
    defaults: Mapping[str, str]
    model: str = "BPE"
    """The kind of tokenizer that the class is for; others it leaves as they are."""


def class_rules(
    core: Any, fields: Mapping[str, Any], model: Mapping[str, Any]
) -> ClassRules:
    """The rules of the class that `AutoTokenizer` takes for these files.

    Args:
      core: the tokenizer as tokenizer.json describes it.
      fields: of tokenizer_config.json.
      model: of config.json.
    """
    if fields.get(SAVED):
        return AS_IT_IS
    family = model.get("model_type")
    declared = fields.get("tokenizer_class") or model.get("tokenizer_class")
    declared = declared.removesuffix("Fast") if isinstance(declared, str) else None
    registered = FAMILIES.get(family) if isinstance(family, str) else None
    name = registered if declared is None or family in OVERRULED else declared
    rules = CLASSES.get(name or "", AS_IT_IS)
    as_it_is = type(core.model).__name__ != rules.model or (
        name == "LlamaTokenizer" and (family in PLAIN_FAMILIES or _byte_level(core))
    )
    return AS_IT_IS if as_it_is else rules


def metaspace(core: Any, scheme: str) -> None:
    """SentencePiece's way with spaces, and the decoder that undoes it.

    Args:
      core: the tokenizer; it is changed.
      scheme: where a space is put in front: of the "first" piece of text, "always"
        after a special token too, or "never".
    """
    from tokenizers import decoders, pre_tokenizers

    core.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme=scheme, split=False
    )
    stripped = [] if scheme == "never" else [decoders.Strip(content=" ", left=1)]
    spaces = decoders.Replace("▁", " ")
    core.decoder = decoders.Sequence(
        [spaces, decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )


def _byte_level(core: Any) -> bool:
    """Whether Llama's class would be wrong for this file, as it is for Llama 3."""
    import json

    found = json.loads(core.to_str())
    parts = [found["pre_tokenizer"], found["decoder"]]
    while parts:
        part = parts.pop() or {}
        if part.get("type") == "ByteLevel":
            return True
        parts += [*part.get("pretokenizers", ()), *part.get("decoders", ())]
    return False


def _merging(core: Any, *, byte_fallback: bool) -> None:
    model = core.model
    model.dropout, model.unk_token = None, None
    model.byte_fallback = model.fuse_unk = byte_fallback
    model.ignore_merges = False
    core.normalizer = None


def _llama(core: Any, fields: Mapping[str, Any]) -> None:
    _merging(core, byte_fallback=True)
    prefix = fields.get("add_prefix_space")
    always = "always" if fields.get("legacy") else "first"
    metaspace(core, always if prefix is None or prefix else "never")


def _code_llama(core: Any, fields: Mapping[str, Any]) -> None:
    _llama(core, {"add_prefix_space": fields.get("add_prefix_space")})
    if core.token_to_id("<unk>") is not None:
        core.model.unk_token = "<unk>"


def _bert(core: Any, fields: Mapping[str, Any]) -> None:
    from tokenizers import decoders, normalizers, pre_tokenizers, processors

    core.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(fields.get("tokenize_chinese_chars", True)),
        strip_accents=fields.get("strip_accents"),
        lowercase=bool(fields.get("do_lower_case", True)),
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    ends = [("[CLS]", core.token_to_id("[CLS]")), ("[SEP]", core.token_to_id("[SEP]"))]
    if all(index is not None for _, index in ends):
        core.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends
        )


def _gpt2(core: Any, fields: Mapping[str, Any]) -> None:
    from tokenizers import decoders, pre_tokenizers

    _merging(core, byte_fallback=False)
    prefix = bool(fields.get("add_prefix_space"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    core.decoder = decoders.ByteLevel()


def _qwen2(core: Any, fields: Mapping[str, Any]) -> None:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    _merging(core, byte_fallback=False)
    core.normalizer = normalizers.NFC()
    prefix = bool(fields.get("add_prefix_space"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()


END = "<|endoftext|>"
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
INFILLING = {
    "prefix_token": "▁<PRE>",
    "middle_token": "▁<MID>",
    "suffix_token": "▁<SUF>",
    "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}
AS_IT_IS = ClassRules(lambda core, fields: None, {})
CLASSES = {
    "LlamaTokenizer": ClassRules(_llama, LLAMA),
    "CodeLlamaTokenizer": ClassRules(_code_llama, {**LLAMA, **INFILLING}),
    "BertTokenizer": ClassRules(
        _bert,
        {
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        "WordPiece",
    ),
    "GPT2Tokenizer": ClassRules(
        _gpt2, {"unk_token": END, "bos_token": END, "eos_token": END}
    ),
    "Qwen2Tokenizer": ClassRules(
        _qwen2, {"unk_token": END, "eos_token": END, "pad_token": END}
    ),
}
FAMILIES = {
    "bert": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
}
"""The class of a family whose files name none."""
OVERRULED = ("qwen2",)
"""Families whose published files name a wrong class."""
PLAIN_FAMILIES = ("mistral", "mixtral")
"""Families whose files are taken as they are, whatever class they name."""
