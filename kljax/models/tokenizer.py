"""Tokenizers of published models: `tokenizer.json`, or rebuilt from a GGUF file.

The `tokenizers` package does the work; here are the ids that matter to decoding, rows
of equal length, and the chat template.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kljax.errors import CheckpointError
from kljax.models.gguf_file import GgufFile, open_gguf

__all__ = ["Tokenizer", "load_tokenizer", "stop_ids"]

ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""Tokens that end a turn or a text, by what the families call them."""
CONTROL, USER_DEFINED = 3, 4


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
      core: the tokenizer of the `tokenizers` package.
      bos_id: id that begins a text, or None.
      eos_id: id that the configuration says ends one, or None.
      pad_id: id that fills rows up; what it is does not matter, masks say what counts.
      stop_tokens: all ids that end a turn or a text.
      chat_template: a Jinja template of conversations, or "".
    """

    core: Any
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int = 0
    stop_tokens: tuple[int, ...] = ()
    chat_template: str = ""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, the special ones included."""
        return self.core.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Ids by token; two tokenizers with the same one can share logits."""
        return self.core.get_vocab(with_added_tokens=True)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text.

        Args:
          text: names of special tokens in it become their ids, as a chat needs it.
          special: also add what the tokenizer puts around every text.
        """
        return self.core.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids.

        Args:
          ids: integers below `vocab_size`.
          special: keep the names of special tokens.
        """
        plain = [int(i) for i in ids]
        return self.core.decode(plain, skip_special_tokens=not special)

    def rows(
        self, texts: Sequence[str], *, length: int | None = None, side: str = "left"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of several texts as one array, padded.

        Args:
          texts: at least one, none of them empty.
          length: columns; None is the longest text's.
          side: where the padding goes: "left" (to generate) or "right".

        Returns:
          `tokens [b, t]` int32 and `where [b, t]`, true where there is text.

        Raises:
          ValueError: another side, no text, an empty one, or one longer than `length`.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}; expected 'left' or 'right'")
        rows = [self.encode(text) for text in texts]
        if not rows or not all(rows):
            raise ValueError(f"texts has {len(rows)} texts; expected some, none empty")
        longest = max(map(len, rows))
        width = longest if length is None else length
        if longest > width:
            raise ValueError(f"a text has {longest} tokens, more than length {width}")
        tokens = np.full((len(rows), width), self.pad_id, np.int32)
        where = np.zeros(tokens.shape, bool)
        for i, row in enumerate(rows):
            here = slice(width - len(row), width) if side == "left" else slice(len(row))
            tokens[i, here], where[i, here] = row, True
        return tokens, where

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, answer: bool = True
    ) -> str:
        """The text of a conversation, to be encoded.

        Args:
          messages: each with `role` ("system", "user", "assistant") and `content`.
          answer: end it where the assistant is to speak.

        Raises:
          ValueError: no chat template came with this tokenizer, or it refuses the
            messages.
        """
        if not self.chat_template:
            raise ValueError(
                "this tokenizer has no chat template; write the text of the "
                "conversation as the model was trained on it"
            )
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        # Templates come with weights from anywhere: they run in a sandbox.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: str) -> None:
            raise TemplateError(message)

        try:
            return environment.from_string(self.chat_template).render(
                messages=messages,
                add_generation_prompt=answer,
                raise_exception=refuse,
                bos_token=self._named(self.bos_id),
                eos_token=self._named(self.eos_id),
            )
        except TemplateError as error:
            raise ValueError(f"messages do not fit the template: {error}") from error

    def _named(self, index: int | None) -> str:
        return "" if index is None else self.core.id_to_token(index)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json into a folder."""
        target = pathlib.Path(folder).expanduser()
        target.mkdir(parents=True, exist_ok=True)
        self.core.save(str(target / "tokenizer.json"))
        fields: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for name in ("bos", "eos", "pad"):
            if (index := getattr(self, f"{name}_id")) is not None:
                fields[f"{name}_token"] = self._named(index)
        if self.chat_template:
            fields["chat_template"] = self.chat_template
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        (target / "tokenizer_config.json").write_text(text, "utf-8")


def load_tokenizer(source: str | os.PathLike | GgufFile) -> Tokenizer:
    """The tokenizer of a folder in the Hugging Face layout, or of a GGUF file.

    Args:
      source: the folder, or the .gguf file.

    Raises:
      CheckpointError: the `tokenizers` package is not installed, no tokenizer.json, a
        damaged one, or a kind of tokenizer that cannot be rebuilt from GGUF.
    """
    if isinstance(source, GgufFile):
        return _from_gguf(source)
    path = pathlib.Path(source).expanduser()
    return _from_folder(path) if path.is_dir() else _from_gguf(open_gguf(path))


def stop_ids(*fields: Mapping[str, Any]) -> tuple[int, ...]:
    """All of `eos_token_id`, which is an id or a list of them.

    Example:
      >>> stop_ids({"eos_token_id": 2}, {"eos_token_id": [2, 0]}, {})
      (0, 2)
    """
    found = set()
    for values in fields:
        end = values.get("eos_token_id")
        found |= {end} if isinstance(end, int) else set(end or ())
    return tuple(sorted(found))


def _package(source: Any) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{source}: its tokenizer needs the tokenizers package. Remedy: pip "
            "install 'kljax[hf]', or load the model with tokenizer=False"
        ) from error
    return tokenizers


def _from_folder(folder: pathlib.Path) -> Tokenizer:
    tokenizers = _package(folder)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: no tokenizer.json. Remedy: save the model's fast tokenizer "
            "there, or load the model with tokenizer=False."
        )
    try:
        core = tokenizers.Tokenizer.from_file(str(file))
        settings = folder / "tokenizer_config.json"
        fields = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    except Exception as error:  # the package raises Exception itself
        raise CheckpointError(
            f"{file}: damaged ({error}). Remedy: download it again."
        ) from error
    template = fields.get("chat_template") or ""
    if isinstance(template, list):
        template = {x["name"]: x["template"] for x in template}.get("default", "")
    if (beside := folder / "chat_template.jinja").is_file():
        template = beside.read_text("utf-8")

    def index(name: str) -> int | None:
        token = fields.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        return core.token_to_id(token) if token else None

    return _tokenizer(core, index("bos"), index("eos"), index("pad"), template)


def _tokenizer(
    core: Any, bos: int | None, eos: int | None, pad: int | None, template: str
) -> Tokenizer:
    # A base model's file names the end of documents, a chat's the end of turns: both.
    ends = {core.token_to_id(token) for token in ENDS} | {eos}
    stop = tuple(sorted(end for end in ends if end is not None))
    if pad is None:
        pad = stop[0] if stop else 0
    return Tokenizer(core, bos, eos, pad, stop, template)


def _from_gguf(file: GgufFile) -> Tokenizer:
    tokenizers = _package(file.file)
    kind, rules = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "-")
    if kind != "gpt2" or rules not in SPLITTERS:
        raise CheckpointError(
            f"{file.file}: its tokenizer is of the kind {kind}/{rules}; expected gpt2/"
            f"{' or gpt2/'.join(SPLITTERS)}. Remedy: put the model's tokenizer.json in "
            "a folder and use load_tokenizer, and load the model with tokenizer=False."
        )
    tokens = file.get("tokenizer.ggml.tokens")
    pairs = [tuple(x.split(" ", 1)) for x in file.get("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs))
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    before = [
        getattr(tokenizers.pre_tokenizers, name)(**options)
        for name, options in SPLITTERS[rules]
    ]
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*before, level])
    core.decoder = tokenizers.decoders.ByteLevel()
    kinds = file.get("tokenizer.ggml.token_type", [1] * len(tokens))
    for value, add in (
        (CONTROL, core.add_special_tokens),
        (USER_DEFINED, core.add_tokens),
    ):
        named = [token for token, kind in zip(tokens, kinds) if kind == value]
        add([tokenizers.AddedToken(x, normalized=False) for x in named])

    def index(name: str) -> int | None:
        return file.metadata.get(f"tokenizer.ggml.{name}_token_id")

    template = file.get("tokenizer.chat_template", "")
    return _tokenizer(core, index("bos"), index("eos"), index("padding"), template)


SPLITTERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "smollm": [("Digits", {"individual_digits": True})],
    "gpt-2": [],
    "default": [],
}
"""What is split off before the byte-level rule, by `tokenizer.ggml.pre`."""
