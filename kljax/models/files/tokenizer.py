"""Tokenizers of published models: `tokenizer.json`, or rebuilt from a GGUF file.

The `tokenizers` package does the work; here are the ids that matter to decoding, rows
of equal length, and the chat template. What a text becomes is what the model's own
tokenizer makes of it: truncation, padding and dropout that a file happens to store are
off, and what stands around every text is added with `special=True`.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kljax.arguments import whole
from kljax.errors import CheckpointError
from kljax.models.files.chat_template import chosen, render
from kljax.models.files.class_rules import SAVED, class_rules
from kljax.models.files.gguf import GgufFile, open_gguf
from kljax.models.files.gguf_vocabulary import gguf_core, gguf_templates, surround
from kljax.models.files.special_tokens import (
    add_tokens,
    no_tokenizer,
    read_beside,
    read_templates,
)

__all__ = ["Tokenizer", "load_tokenizer", "stop_ids"]

ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""Tokens that end a turn or a text, by what the families call them."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
      core: the tokenizer of the `tokenizers` package.
      bos_id: id that begins a text, or None.
      eos_id: id that the configuration says ends one, or None.
      pad_id: id that fills rows up; what it is does not matter, masks say what counts.
      stop_tokens: all ids that end a turn or a text.
      chat_template: a Jinja template of conversations, several by name, or "".
      named: tokens by the name that templates know them by, for instance
        {"unk_token": "<unk>"}.
    """

    core: Any
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int = 0
    stop_tokens: tuple[int, ...] = ()
    chat_template: str | Mapping[str, str] = ""
    named: Mapping[str, str] = field(default_factory=dict)

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
          special: also add what the model's own tokenizer puts around every text, a
            beginning of text for instance. Not for `chat`, which writes it itself.

        Raises:
          TypeError: text is no string.
          ValueError: text is no Unicode (it holds half of a surrogate pair), or has
            no tokens in a vocabulary without an unknown one.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; expected one string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text holds {text[error.start]!r} at {error.start}, half of a "
                "surrogate pair; decode its bytes as UTF-8 with errors='replace'"
            ) from error
        try:
            return self.core.encode(text, add_special_tokens=special).ids
        except Exception as error:  # the package raises Exception itself
            raise ValueError(
                f"text {text[:40]!r} cannot be encoded ({error}); give text that the "
                "vocabulary has tokens for"
            ) from error

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids.

        Args:
          ids: one row of integers below `end`.
          special: keep the names of special tokens.

        Raises:
          TypeError: ids is not one row of integers.
          ValueError: an id outside the vocabulary.
        """
        try:
            row = np.asarray(ids)
        except ValueError:  # rows of different lengths
            row = np.empty((0, 0))
        if row.ndim != 1 or (row.size and not np.issubdtype(row.dtype, np.integer)):
            raise TypeError(
                f"ids has shape {row.shape} and dtype {row.dtype}; expected one row of "
                "integers"
            )
        outside = row[(row < 0) | (row >= self.end)] if row.size else row
        if outside.size:
            raise ValueError(
                f"ids holds {outside[0]}; expected integers from 0 to {self.end - 1}"
            )
        return self.core.decode(row.tolist(), skip_special_tokens=not special)

    @functools.cached_property
    def end(self) -> int:
        """One more than the largest id; above `vocab_size` where there are gaps."""
        return max(self.vocabulary.values(), default=-1) + 1

    def rows(
        self,
        texts: Sequence[str],
        *,
        length: int | None = None,
        side: str = "left",
        special: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of several texts as one array, padded.

        Args:
          texts: at least one, none of them empty.
          length: columns; None is the longest text's.
          side: where the padding goes: "left" (to generate) or "right".
          special: as in `encode`.

        Returns:
          `tokens [b, t]` int32 and `where [b, t]`, true where there is text.

        Raises:
          TypeError: texts is one string, or holds something else.
          ValueError: another side, no text, an empty one, or one longer than `length`.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}; expected 'left' or 'right'")
        if isinstance(texts, str):
            raise TypeError("texts is one string; expected a list of strings")
        if length is not None:
            whole("length", length)
        rows = [self.encode(text, special=special) for text in texts]
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
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation, to be encoded.

        Args:
          messages: each with `role` ("system", "user", "assistant") and `content`;
            keys whose value is None count as absent.
          answer: end it where the assistant is to speak.
          tools: JSON schemas of functions that the assistant may call.
          documents: mappings with what the assistant may look up.
          template: the name of a template, where there are several; None is "tool_use"
            with tools if there is one, else "default".
          variables: what this template asks for besides, `enable_thinking=False`.

        Raises:
          TypeError: messages, tools or documents are no lists of mappings.
          ValueError: no chat template came with this tokenizer, or it refuses the
            messages, or it fails; the message names the template's line.
        """
        name, source = chosen(self.chat_template, template, tools)
        return render(
            name,
            source,
            messages=messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=answer,
            **{**self._names(), **variables},
        )

    def _names(self) -> dict[str, str]:
        """Named tokens, those of which only the id is known included."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        found = {
            key: self.core.id_to_token(index)
            for key, index in ids.items()
            if index is not None
        }
        return {**found, **self.named}

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json into a folder."""
        target = pathlib.Path(folder).expanduser()
        target.mkdir(parents=True, exist_ok=True)
        self.core.save(str(target / "tokenizer.json"))
        fields: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        fields |= {SAVED: True, "split_special_tokens": self.core.encode_special_tokens}
        fields |= {"pad_token": self.core.id_to_token(self.pad_id), **self._names()}
        if isinstance(self.chat_template, Mapping):
            fields["chat_template"] = [
                {"name": name, "template": source}
                for name, source in self.chat_template.items()
            ]
        elif self.chat_template:
            fields["chat_template"] = self.chat_template
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        (target / "tokenizer_config.json").write_text(text, "utf-8")


def load_tokenizer(source: str | os.PathLike | GgufFile) -> Tokenizer:
    """The tokenizer of a folder in the Hugging Face layout, or of a GGUF file.

    Ids are those of `transformers` for the same folder, of its class (Llama, Gemma,
    GPT-2, GPT-NeoX, Qwen, Cohere, BERT, RoBERTa, T5 and their kin) or of tokenizer.json
    as it stands; a class that it rebuilds in another way is warned of. What comes with
    `special=True` is the post-processor's (in a GGUF file what `add_bos_token` and
    `add_eos_token` say); truncation, padding and the dropout of merges that a file
    stores are off.

    Args:
      source: the folder, or the .gguf file.

    Raises:
      CheckpointError: the `tokenizers` package is not installed, no tokenizer.json, a
        damaged one, files that contradict each other, or a kind of tokenizer that
        cannot be rebuilt from GGUF.
      ValueError: no such folder or file.
    """
    if isinstance(source, GgufFile):
        return _from_gguf(source)
    path = pathlib.Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"source is {os.fspath(source)!r}: no such folder or file; give the folder "
            "with tokenizer.json, or a .gguf file"
        )
    return _from_folder(path) if path.is_dir() else _from_gguf(open_gguf(path))


def stop_ids(*fields: Mapping[str, Any], source: Any = "the model") -> tuple[int, ...]:
    """All of `eos_token_id`, which is an id, a list of them or null.

    Args:
      fields: of config.json, generation_config.json and the like.
      source: their folder, for the error.

    Raises:
      CheckpointError: it is something else.

    Example:
      >>> stop_ids({"eos_token_id": 2}, {"eos_token_id": [2, 0]}, {})
      (0, 2)
    """
    found: set[int] = set()
    for values in fields:
        end = values.get("eos_token_id")
        ends = end if isinstance(end, list) else [] if end is None else [end]
        if not all(isinstance(x, int) and not isinstance(x, bool) for x in ends):
            raise CheckpointError(
                f"{source}: eos_token_id is {end!r}; expected an id, a list of ids or "
                "null. Remedy: correct it in config.json or generation_config.json."
            )
        found |= set(ends)
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
        raise no_tokenizer(folder)
    beside = read_beside(folder)
    try:
        core = tokenizers.Tokenizer.from_file(str(file))
        stored = core.padding or {}
        core.no_truncation()
        core.no_padding()
        if hasattr(core.model, "dropout"):  # of training: it draws other ids each time
            core.model.dropout = None
        core.encode_special_tokens = bool(beside.fields.get("split_special_tokens"))
        rules = class_rules(core, beside.fields, beside.model, folder)
        rules.apply(core, beside.fields)
        pad = {"pad_token": stored["pad_token"]} if stored else {}
        named = add_tokens(core, beside, {**rules.defaults, **pad}, rules.further)
        rules.surround(core, named)
        core.encode("")  # a post-processor that names no token fails only here
    except CheckpointError:
        raise
    except BaseException as error:  # the package raises Exception itself, or panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CheckpointError(
            f"{file}: damaged ({error}). Remedy: download it again."
        ) from error

    def index(name: str) -> int | None:
        token = named.get(f"{name}_token")
        return None if token is None else core.token_to_id(token)

    ids = (index("bos"), index("eos"), index("pad"))
    return _tokenizer(core, *ids, read_templates(beside), named)


def _tokenizer(
    core: Any,
    bos: int | None,
    eos: int | None,
    pad: int | None,
    templates: str | Mapping[str, str],
    named: Mapping[str, str],
    further: Iterable[int | None] = (),
) -> Tokenizer:
    # A base model's file names the end of documents, a chat's the end of turns: both.
    ends = {core.token_to_id(token) for token in ENDS} | {eos, *further}
    stop = tuple(sorted(end for end in ends if end is not None))
    if pad is None:
        pad = stop[0] if stop else 0
    if isinstance(templates, dict) and list(templates) == ["default"]:
        templates = templates["default"]
    return Tokenizer(core, bos, eos, pad, stop, templates, named)


def _from_gguf(file: GgufFile) -> Tokenizer:
    _package(file.file)
    try:
        return _described(file)
    except CheckpointError:
        raise
    except Exception as error:  # the package raises Exception itself
        raise CheckpointError(
            f"{file.file}: its tokenizer is damaged ({error}). Remedy: download the "
            "file again."
        ) from error


def _described(file: GgufFile) -> Tokenizer:
    core = gguf_core(file)
    size = len(file.get("tokenizer.ggml.tokens"))

    def index(name: str) -> int | None:
        # Files say "none" with -1, or with the largest number there is.
        found = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return found if isinstance(found, int) and 0 <= found < size else None

    bos, eos, pad, unk = map(index, ("bos", "eos", "padding", "unknown"))
    surround(core, file, bos, eos)
    ids = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}
    named = {key: core.id_to_token(i) for key, i in ids.items() if i is not None}
    ends = (index("eot"), index("eom"))
    return _tokenizer(core, bos, eos, pad, gguf_templates(file), named, ends)
