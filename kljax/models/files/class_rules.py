"""What the tokenizer classes of `transformers` put in the place of a file's rules.

Its class for GPT-2, for instance, takes vocabulary and merges from tokenizer.json and
brings the rest itself. `CLASSES` has those whose way is followed here, `REBUILT` those
that are recognized, read as the file has them and warned of; any other class takes the
file as it is. What stands around every text (BOS, EOS) is the file's post-processor
alone, unless the class brings one: where there is a tokenizer.json, `add_bos_token` and
`add_eos_token` beside it are not read.
"""

import base64
import functools
import json
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kljax.models.files.facts import facts

__all__ = [
    "QWEN2_SPLIT",
    "SAVED",
    "ClassRules",
    "class_rules",
    "metaspace",
    "registered_class",
]

SAVED = "kljax_complete"
"""The field by which a tokenizer.json that we wrote is known: its rules are all there,
whatever the family of the model beside it."""

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN3_5_SPLIT = QWEN2_SPLIT.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"\s\p{L}", r"\s\p{L}\p{M}"
)


class ClassRules(NamedTuple):
    """How one class changes a tokenizer, and the tokens that it names by default."""

    apply: Callable[[Any, Mapping[str, Any]], None]
    defaults: Mapping[str, str]
    model: str = "BPE"
    """The kind of tokenizer that the class is for; others it leaves as they are."""
    around: Sequence[str] = ()
    """What it puts around every text, by the names of tokens; () is the file's way."""
    further: Sequence[str] = ()
    """Special tokens without a name that it adds where the files list none."""

    def surround(self, core: Any, named: Mapping[str, str]) -> None:
        """Makes a tokenizer put the class's tokens around every text."""
        from tokenizers import processors

        if self.around:
            parts = [named.get(x, x) for x in self.around]
            ids = [(x, core.token_to_id(x)) for x in parts if x != "$A"]
            core.post_processor = processors.TemplateProcessing(parts, None, ids)


def class_rules(
    core: Any, fields: Mapping[str, Any], model: Mapping[str, Any], folder: pathlib.Path
) -> ClassRules:
    """The rules of the class that `AutoTokenizer` takes for these files.

    Args:
      core: the tokenizer as tokenizer.json describes it.
      fields: of tokenizer_config.json.
      model: of config.json.
      folder: where they lie, for the warning of a class that is not followed.
    """
    if fields.get(SAVED):
        return AS_IT_IS
    family = str(model.get("model_type"))
    declared = fields.get("tokenizer_class") or model.get("tokenizer_class")
    declared = declared.removesuffix("Fast") if isinstance(declared, str) else None
    registered = registered_class(family)
    name = registered if declared is None or family in OVERRULED else declared
    if name is None or family in PLAIN_FAMILIES:
        return AS_IT_IS
    name = SAME.get(name, name)
    if name in REBUILT:
        warnings.warn(
            f"{folder}: transformers makes a {name} by rules that are not in "
            "tokenizer.json, which is read as it is: ids may differ. "
            "Remedy: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
            "transformers, then tokenizer_class: PreTrainedTokenizerFast in "
            "tokenizer_config.json.",
            stacklevel=2,
        )
    rules = CLASSES.get(name, AS_IT_IS)
    other = type(core.model).__name__ != rules.model
    # Llama's class would be wrong for a file of bytes, as Llama 3's is.
    bytewise = name == "LlamaTokenizer" and '"ByteLevel"' in _stages(core)
    return AS_IT_IS if other or bytewise else rules


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


def _stages(core: Any) -> str:
    """How a tokenizer splits and joins, in JSON."""
    found = json.loads(core.to_str())
    return json.dumps([found["pre_tokenizer"], found["decoder"]])


def _merging(core: Any, *, fall_back: bool, unknown: str | None = None) -> None:
    model = core.model
    model.dropout, model.unk_token = None, unknown
    model.byte_fallback = model.fuse_unk = fall_back
    model.ignore_merges = False
    core.normalizer = None


def _llama(core: Any, fields: Mapping[str, Any]) -> None:
    _merging(core, fall_back=True)
    prefix = fields.get("add_prefix_space")
    always = "always" if fields.get("legacy") else "first"
    metaspace(core, always if prefix is None or prefix else "never")


def _code_llama(core: Any, fields: Mapping[str, Any]) -> None:
    _llama(core, {"add_prefix_space": fields.get("add_prefix_space")})
    if core.token_to_id("<unk>") is not None:
        core.model.unk_token = "<unk>"


def _gemma(core: Any, fields: Mapping[str, Any]) -> None:
    from tokenizers import decoders, normalizers, pre_tokenizers

    unknown = fields.get("unk_token", "<unk>")
    _merging(core, fall_back=True, unknown=unknown)
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    spaces = decoders.Replace("▁", " ")
    core.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])


def _bert(core: Any, fields: Mapping[str, Any]) -> None:
    from tokenizers import decoders, normalizers, pre_tokenizers

    core.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(fields.get("tokenize_chinese_chars", True)),
        strip_accents=fields.get("strip_accents"),
        lowercase=bool(fields.get("do_lower_case", True)),
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")


def _byte_level(
    core: Any,
    fields: Mapping[str, Any],
    *,
    composed: bool = True,
    split: str = "",
    digits: bool = False,
) -> None:
    """Bytes as characters, merged in the pieces of GPT-2's expression or of `split`."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    _merging(core, fall_back=False)
    core.normalizer = normalizers.NFC() if composed else None
    prefix = bool(fields.get("add_prefix_space"))
    before = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    before += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not split)
    core.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    core.decoder = decoders.ByteLevel()


def _unigram(core: Any, fields: Mapping[str, Any], *, unknown: int) -> None:
    """SentencePiece's unigrams; of a normalizer only its table of characters."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    found = json.loads(core.to_str())
    pieces = [tuple(piece) for piece in found["model"]["vocab"]]
    core.model = models.Unigram(pieces, unknown, False)
    stages = found["normalizer"] or {}
    tables = [
        base64.b64decode(stage["precompiled_charsmap"])
        for stage in stages.get("normalizers", [stages])
        if stage.get("type") == "Precompiled"
    ]
    core.normalizer = normalizers.Precompiled(tables[0]) if tables else None
    scheme = "always" if fields.get("add_prefix_space", True) else "never"
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(prepend_scheme=scheme),
        ]
    )
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)


_FACTS = facts("tokenizer_classes.toml")
_TOKENS = {
    name: {f"{kind}_token": token for kind, token in tokens.items()}
    for name, tokens in _FACTS["tokens"].items()
}
_part = functools.partial
AS_IT_IS = ClassRules(lambda core, fields: None, {})
CLASSES = {
    "LlamaTokenizer": ClassRules(_llama, _TOKENS["Llama"]),
    "CodeLlamaTokenizer": ClassRules(_code_llama, _TOKENS["CodeLlama"]),
    "GemmaTokenizer": ClassRules(_gemma, _TOKENS["Gemma"]),
    "BertTokenizer": ClassRules(
        _bert, _TOKENS["Bert"], "WordPiece", ("cls_token", "$A", "sep_token")
    ),
    "GPT2Tokenizer": ClassRules(_part(_byte_level, composed=False), _TOKENS["GPT2"]),
    "CodeGenTokenizer": ClassRules(_part(_byte_level, composed=False), _TOKENS["GPT2"]),
    "RobertaTokenizer": ClassRules(
        _part(_byte_level, composed=False),
        _TOKENS["Roberta"],
        around=("cls_token", "$A", "sep_token"),
    ),
    "GPTNeoXTokenizer": ClassRules(_byte_level, _TOKENS["GPTNeoX"], around=("$A",)),
    "CohereTokenizer": ClassRules(_part(_byte_level, digits=True), _TOKENS["Cohere"]),
    "Qwen2Tokenizer": ClassRules(
        _part(_byte_level, split=QWEN2_SPLIT), _TOKENS["Qwen2"]
    ),
    "Qwen3_5Tokenizer": ClassRules(
        _part(_byte_level, split=QWEN3_5_SPLIT), _TOKENS["Qwen2"]
    ),
    "T5Tokenizer": ClassRules(
        lambda core, fields: _unigram(core, {}, unknown=2),
        _TOKENS["T5"],
        "Unigram",
        ("$A", "</s>"),
        tuple(f"<extra_id_{i}>" for i in range(100)),
    ),
    "XLMRobertaTokenizer": ClassRules(
        _part(_unigram, unknown=3),
        _TOKENS["Roberta"],
        "Unigram",
        ("bos_token", "$A", "eos_token"),
    ),
}
SAME = {
    f"{name}Tokenizer": f"{other}Tokenizer"
    for other, names in _FACTS["same"].items()
    for name in names.split()
}
"""Classes that do what another does."""
REBUILT = frozenset(f"{name}Tokenizer" for name in _FACTS["rebuilt"].split())
"""Classes that make a tokenizer of their own, in a way that is not followed here."""


def registered_class(family: str) -> str | None:
    """The class of a family: in the table, or the one that is called like it."""
    if family in FAMILIES or family == "llama":
        return FAMILIES.get(family)
    return ALIKE.get(_squeezed(family))


def _squeezed(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


ALIKE = {_squeezed(x.removesuffix("Tokenizer")): x for x in (*CLASSES, *REBUILT)}
FAMILIES = {
    family: f"{name}Tokenizer"
    for name, families in _FACTS["families"].items()
    for family in families.split()
}
"""The class of a family that is not called like it, where its files name none."""
OVERRULED = _FACTS["overruled"].split()
"""Families whose published files name a wrong class."""
PLAIN_FAMILIES = frozenset(_FACTS["plain"].split())
"""Families whose files are taken as they are, whatever class they name."""
