"""Tokenizers of folders and of GGUF files, id for id as `transformers` reads them.

Each case is a folder that is made here, tiny, in the manner of one family.
"""

import json
import warnings

import pytest

from kljax.models.files.class_rules import (
    CLASSES,
    OVERRULED,
    PLAIN_FAMILIES,
    REBUILT,
    SAME,
    registered_class,
)
from kljax.models.files.tokenizer import load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
from tokenizers import (  # noqa: E402
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.models.auto import tokenization_auto as auto  # noqa: E402

CORPUS = (
    "The ferry left at 7, twelve minutes late; 1984 gulls watched. Naïve? Yes, Ægir.",
    "  It's the captain's ferry -- isn't it?\n\nThe gulls' island, 20 miles off.",
)
TEXTS = (
    *CORPUS,
    "",
    " ",
    "\n",
    "ferry",
    " ferry",
    "   three  spaces ",
    "<s>late</s> gulls",
    "late <|im_start|> gulls<|im_end|>",
    "a<tool> b <tool>c",
    "12345 1,000 IT'S we'll",
    "naïve nai\u0308ve हिन्दी €5 日本 👋🏽",
    "\ttab\r\n<unk>[UNK]<pad>",
)
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def byte_level(special=("<|endoftext|>",), normalizer=None, split=None, size=320):
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = LEVEL
    if split:
        pieces = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.pre_tokenizer = pre_tokenizers.Sequence([pieces, plain])
    core.decoder = decoders.ByteLevel()
    if normalizer:
        core.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(LEVEL.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 3, trainer)
    return core


def around(core, begin=None, end=None):
    """What a template puts around every text."""
    parts = [*([begin] if begin else []), "$A", *([end] if end else [])]
    ids = [(x, core.token_to_id(x)) for x in parts if x != "$A"]
    core.post_processor = processors.TemplateProcessing(parts, None, ids)
    return core


def sentencepiece(special=("<unk>", "<s>", "</s>")):
    """Llama 2's: BPE with bytes to fall back on, spaces made visible in front."""
    core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*special, *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 3, trainer)
    found = json.loads(core.to_str())
    found["model"] |= {"byte_fallback": True, "fuse_unk": True}
    found["added_tokens"] = found["added_tokens"][: len(special)]
    core = tokenizers.Tokenizer.from_str(json.dumps(found))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return core


def pieces(special):
    """Unigrams without the rules that make them of use."""
    words = sorted({c for text in CORPUS for c in text.replace(" ", "▁")})
    found = [(x, 0.0) for x in special] + [("▁ferry", -3.0)]
    found += [("▁the", -3.5), ("gull", -4.0)] + [(word, -8.0) for word in words]
    unknown = special.index("<unk>")
    return tokenizers.Tokenizer(models.Unigram(found, unknown, False))


def unigram():
    core = pieces(("<unk>", "<s>", "</s>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["<s>", "</s>"])
    return around(core, "<s>", "</s>")


def wordpiece():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "fer", "##ry", "gull", "##s"]
    vocabulary = {word: i for i, word in enumerate(words)}
    core = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.add_special_tokens(words[:4])
    return around(core, "[CLS]", "[SEP]")


def stored(core):
    """With the truncation and the padding that somebody left on."""
    core.enable_truncation(max_length=3)
    core.enable_padding(length=12, pad_token="<|endoftext|>")
    return core


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
END = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def added(content, **flags):
    return {**AddedToken(content, **flags).__getstate__(), "__type": "AddedToken"}


def plain(content, **flags):
    return AddedToken(content, **flags).__getstate__()


# Name: the tokenizer, tokenizer_config.json, and further files.
KINDS = {
    "byte-level": lambda: (byte_level(), {**FAST, **END}, {}),
    "byte-level with a template": lambda: (
        around(byte_level(("<s>", "</s>")), "<s>"),
        {**FAST, "bos_token": "<s>", "eos_token": "</s>"},
        {},
    ),
    "template with both ends": lambda: (
        around(byte_level(("<s>", "</s>")), "<s>", "</s>"),
        {**FAST, "bos_token": "<s>", "eos_token": "</s>"},
        {},
    ),
    "add_bos_token true, no template": lambda: (
        byte_level(("<s>", "</s>")),
        {**FAST, "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
        {},
    ),
    "add_bos_token false, template": lambda: (
        around(byte_level(("<s>", "</s>")), "<s>"),
        {**FAST, "add_bos_token": False, "add_eos_token": True, "bos_token": "<s>"},
        {},
    ),
    "truncation and padding stored": lambda: (stored(byte_level()), FAST | END, {}),
    "llama 2": lambda: (
        around(sentencepiece(), "<s>"),
        {**LLAMA, "add_bos_token": True, "legacy": False},
        {"config.json": {"model_type": "llama"}},
    ),
    "llama 2, legacy, no space in front": lambda: (
        sentencepiece(),
        {**LLAMA, "add_prefix_space": False, "legacy": True},
        {},
    ),
    "llama 2, legacy": lambda: (
        around(sentencepiece(), "<s>"),
        {**LLAMA, "tokenizer_class": "LlamaTokenizerFast", "legacy": True},
        {},
    ),
    "mistral with llama's class": lambda: (
        around(sentencepiece(), "<s>"),
        {**LLAMA, "legacy": True},
        {"config.json": {"model_type": "mistral"}},
    ),
    "llama 3": lambda: (
        around(byte_level(("<|begin_of_text|>",), split=LLAMA3), "<|begin_of_text|>"),
        {**FAST, "bos_token": "<|begin_of_text|>"},
        {"config.json": {"model_type": "llama"}},
    ),
    "llama's class over bytes": lambda: (
        around(byte_level(("<s>", "</s>"), split=LLAMA3), "<s>"),
        LLAMA,
        {"config.json": {"model_type": "llama"}},
    ),
    "qwen2": lambda: (
        byte_level(CHAT, normalizers.NFC(), QWEN2),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "add_bos_token": False,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
        {"config.json": {"model_type": "qwen2"}},
    ),
    "qwen2 that names another class": lambda: (
        byte_level(CHAT),
        {**FAST, "eos_token": "<|im_end|>"},
        {"config.json": {"model_type": "qwen2"}},
    ),
    "qwen3 without a class": lambda: (
        byte_level(CHAT),
        {"eos_token": "<|im_end|>"},
        {"config.json": {"model_type": "qwen3"}},
    ),
    "gpt-2": lambda: (
        byte_level(),
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False},
        {"config.json": {"model_type": "gpt2"}},
    ),
    "gpt-2 with a space in front": lambda: (
        byte_level(),
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        {},
    ),
    "code llama": lambda: (
        around(sentencepiece(), "<s>"),
        {**LLAMA, "tokenizer_class": "CodeLlamaTokenizer"},
        {},
    ),
    "bert": lambda: (
        wordpiece(),
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
        {},
    ),
    "bert, by its family": lambda: (
        wordpiece(),
        {},
        {"config.json": {"model_type": "bert"}},
    ),
    "gemma": lambda: (
        around(sentencepiece(("<pad>", "<eos>", "<bos>", "<unk>")), "<bos>"),
        {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>"},
        {"config.json": {"model_type": "gemma2"}},
    ),
    "gemma, by its family": lambda: (
        sentencepiece(("<pad>", "<eos>", "<bos>", "<unk>")),
        {"add_bos_token": True},
        {"config.json": {"model_type": "gemma"}},
    ),
    "roberta": lambda: (
        byte_level(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), normalizers.NFKC()),
        {"tokenizer_class": "RobertaTokenizer"},
        {},
    ),
    "roberta with a space in front": lambda: (
        around(byte_level(("<s>", "</s>")), "<s>"),
        {"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True},
        {"config.json": {"model_type": "roberta"}},
    ),
    "bart with its own ends": lambda: (
        byte_level(("[A]", "[B]", "<unk>")),
        {"tokenizer_class": "BartTokenizer", "cls_token": "[A]", "sep_token": "[B]"},
        {"config.json": {"model_type": "bart"}},
    ),
    "gpt-neox": lambda: (
        around(byte_level(("<|endoftext|>", "<|padding|>")), "<|endoftext|>"),
        {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False},
        {"config.json": {"model_type": "gpt_neox"}},
    ),
    "olmo without a class": lambda: (
        byte_level(split=LLAMA3),
        {"eos_token": "<|endoftext|>"},
        {"config.json": {"model_type": "olmo"}},
    ),
    "codegen": lambda: (
        around(byte_level(split=LLAMA3), "<|endoftext|>"),
        {"tokenizer_class": "CodeGenTokenizer"},
        {},
    ),
    "cohere": lambda: (
        around(byte_level(("<PAD>", "<UNK>", "<BOS_TOKEN>")), "<BOS_TOKEN>"),
        {"tokenizer_class": "CohereTokenizerFast"},
        {"config.json": {"model_type": "cohere2"}},
    ),
    "qwen3.5": lambda: (
        byte_level(CHAT, split=QWEN2),
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
        {"config.json": {"model_type": "qwen3_5"}},
    ),
    "t5": lambda: (
        pieces(("<pad>", "</s>", "<unk>")),
        {"tokenizer_class": "T5Tokenizer"},
        {"config.json": {"model_type": "t5"}},
    ),
    "t5 with sentinels of its own": lambda: (
        pieces(("<pad>", "</s>", "<unk>")),
        {"additional_special_tokens": ["<extra_id_0>"], "extra_ids": 1},
        {"config.json": {"model_type": "mt5"}},
    ),
    "xlm-roberta": lambda: (
        pieces(("<s>", "<pad>", "</s>", "<unk>")),
        {"tokenizer_class": "XLMRobertaTokenizer"},
        {"config.json": {"model_type": "xlm-roberta"}},
    ),
    "xlm-roberta, no space in front": lambda: (
        pieces(("<s>", "<pad>", "</s>", "<unk>")),
        {"tokenizer_class": "XLMRobertaTokenizerFast", "add_prefix_space": False},
        {},
    ),
    "distilbert": lambda: (
        wordpiece(),
        {"tokenizer_class": "DistilBertTokenizer"},
        {"config.json": {"model_type": "distilbert"}},
    ),
    "phi-3 with llama's class": lambda: (
        around(sentencepiece(), "<s>"),
        {**LLAMA, "legacy": True},
        {"config.json": {"model_type": "phi3"}},
    ),
    "qwen2 with tokens that it lacks": lambda: (
        byte_level(CHAT),
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>", "bos_token": "<s>"},
        {},
    ),
    "unigram": lambda: (
        unigram(),
        {**FAST, "unk_token": "<unk>", "eos_token": "</s>"},
        {},
    ),
    "wordpiece": lambda: (
        wordpiece(),
        {**FAST, "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"},
        {},
    ),
    "named in special_tokens_map.json": lambda: (
        byte_level(("<s>", "</s>")),
        FAST,
        {
            "special_tokens_map.json": {
                "bos_token": "<s>",
                "eos_token": plain("</s>", lstrip=True),
                "additional_special_tokens": ["<tool>"],
            }
        },
    ),
    "added_tokens.json": lambda: (
        byte_level(size=320),
        FAST | END,
        {"added_tokens.json": {"<tool>": 320, "gulls": 321}},
    ),
    "eos as an object, vocabulary has it": lambda: (
        byte_level(("<s>",), size=330),
        {**FAST, "eos_token": added("ferry", special=True), "bos_token": "<s>"},
        {},
    ),
    "added_tokens_decoder": lambda: (
        byte_level(CHAT),
        {
            **FAST,
            "eos_token": "<|im_end|>",
            "added_tokens_decoder": {
                "0": plain("<|endoftext|>", special=True),
                "2": plain("<|im_end|>", special=True, lstrip=True),
                "320": plain("<tool>", rstrip=True),
            },
        },
        {},
    ),
    "a token that no vocabulary has": lambda: (
        byte_level(),
        {**FAST, **END, "pad_token": "<pad>", "extra_special_tokens": ["<tool>"]},
        {},
    ),
    "tokens of its own names": lambda: (
        byte_level(),
        {**FAST, "image_token": "<tool>", "eos_token": "<|endoftext|>"},
        {},
    ),
    "names of its own in a table": lambda: (
        byte_level(),
        {**FAST, **END, "extra_special_tokens": {"image_token": "<tool>"}},
        {},
    ),
    "further tokens as objects": lambda: (
        byte_level(),
        {**FAST, "additional_special_tokens": [added("<tool>", lstrip=True), "</s>"]},
        {},
    ),
    "special tokens split": lambda: (
        byte_level(CHAT),
        {**FAST, "eos_token": "<|im_end|>", "split_special_tokens": True},
        {},
    ),
    "no configuration at all": lambda: (byte_level(CHAT), None, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(kind, tmp_path):
    core, settings, files = KINDS[kind]()
    core.save(str(tmp_path / "tokenizer.json"))
    if settings is not None:
        files = {**files, "tokenizer_config.json": settings}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        for special in (False, True):
            want = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, special=special) == want, (text, special)
        for special in (False, True):
            want = theirs.decode(theirs.encode(text), skip_special_tokens=not special)
            assert ours.decode(theirs.encode(text), special=special) == want
    assert ours.vocabulary == theirs.get_vocab()
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.named == theirs.special_tokens_map
    ours.save(tmp_path / "saved")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    # Whatever family the model is written as.
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "qwen2"}')
    again = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        for special in (False, True):
            want = ours.encode(text, special=special)
            assert again.encode(text, special=special) == want
            assert theirs.encode(text, add_special_tokens=special) == want
    assert again.vocabulary == ours.vocabulary and again.eos_id == ours.eos_id


PARTS = ("BasicTokenizer", "CharacterTokenizer", "MecabTokenizer", "WordpieceTokenizer")
BASES = ("AutoTokenizer", "PreTrainedTokenizer", "RagTokenizer", *PARTS)


def theirs(name):
    """The class of a name there; None: there is none, or it takes files as they are."""
    if name in BASES:
        return None
    found = auto.tokenizer_class_from_name(name)
    base = transformers.TokenizersBackend
    if found is None or found is base:
        return None
    plain = issubclass(found, base) and "__init__" not in vars(found)
    return None if plain else found.__name__


def test_every_class_that_leaves_the_file_is_followed_or_warned_of():
    found = {x for x in dir(transformers) if x.endswith("Tokenizer")}
    found |= {
        x.removesuffix("Fast") for x in auto.TOKENIZER_MAPPING_NAMES.values() if x
    }
    own = {x for x in found if theirs(x)}
    assert len(own) > 80
    assert own <= SAME.keys() | CLASSES.keys() | REBUILT
    for name, other in SAME.items():
        assert theirs(name) in (other, name)


def test_a_family_has_the_class_that_it_has_there():
    names = auto.TOKENIZER_MAPPING_NAMES
    plain = ("TokenizersBackend", "MistralCommonBackend")
    # A family that the installed version does not know yet is none of its own.
    found = {x for x, name in names.items() if name in plain}
    assert found == {x for x in PLAIN_FAMILIES if x in names}
    wrong = auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS - PLAIN_FAMILIES
    assert wrong == set(OVERRULED)
    for family, name in names.items():
        kind = auto.tokenizer_class_from_name(name) if name and theirs(name) else int
        if name in plain or not issubclass(kind, transformers.TokenizersBackend):
            continue
        ours, want = registered_class(family), name.removesuffix("Fast")
        assert SAME.get(ours, ours) == SAME.get(want, want), family


def test_a_class_that_is_not_followed_is_named(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"tokenizer_class": "WhisperTokenizerFast"}')
    with pytest.warns(UserWarning, match="makes a WhisperTokenizer by rules") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught[0].message) and "Remedy" in str(
        caught[0].message
    )
    settings.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(tmp_path)
