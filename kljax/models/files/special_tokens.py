"""What stands beside a tokenizer.json: names of special tokens, and further tokens.

    tokenizer_config.json     named tokens, `added_tokens_decoder`, the chat template
    special_tokens_map.json   named tokens of older models
    added_tokens.json         further tokens of older models, with their ids
    config.json               the family, and how many rows the model has

The rules are those of `transformers`: a named token is matched whole in a text and left
out of a decoded one, and is appended to the vocabulary where it is missing there.
"""

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.files.facts import facts
from kljax.models.files.tensors import json_object

__all__ = [
    "Beside",
    "add_tokens",
    "foreign_files",
    "no_tokenizer",
    "read_beside",
    "read_templates",
]

FOREIGN = facts("tokenizer_classes.toml")["foreign"]
"""Files of tokenizers that are recognized and not read."""
ORDER = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""The order in which named tokens are appended to a vocabulary."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Beside:
    """The fields that several files give together.

    Attributes:
      folder: where they were read.
      fields: of tokenizer_config.json, completed by special_tokens_map.json.
      added: ids by token, of added_tokens.json.
      model: of config.json.
    """

    folder: pathlib.Path
    fields: Mapping[str, Any]
    added: Mapping[str, Any]
    model: Mapping[str, Any]


def read_beside(folder: pathlib.Path) -> Beside:
    """Reads the files that are there.

    Raises:
      CheckpointError: one of them is no JSON object.
    """
    settings = _fields(folder / "tokenizer_config.json")
    older = _fields(folder / "special_tokens_map.json")
    known = {key: value for key, value in settings.items() if value is not None}
    # Newer files know all tokens themselves; of the others the map has the last word.
    both = {**older, **known} if "added_tokens_decoder" in known else {**known, **older}
    return Beside(
        folder,
        {
            **settings,
            **{key: value for key, value in both.items() if value is not None},
        },
        _fields(folder / "added_tokens.json"),
        _fields(folder / "config.json"),
    )


def _fields(file: pathlib.Path) -> dict[str, Any]:
    return json_object(file, "damaged") if file.is_file() else {}


def _name(value: Any) -> str | None:
    """The text of a token that a file spells as text or as an object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def foreign_files(folder: pathlib.Path) -> list[str]:
    """The files of tokenizers there that are not read, with their kind."""
    return [f"{x} ({kind})" for x, kind in FOREIGN.items() if (folder / x).is_file()]


def no_tokenizer(folder: pathlib.Path) -> CheckpointError:
    """The error for a folder without tokenizer.json: what it has instead."""
    found = " and ".join(foreign_files(folder))
    other = f", but {found}, which is not read here" if found else ""
    return CheckpointError(
        f"{folder}: no tokenizer.json{other}. Remedy: save the model's fast tokenizer "
        "there (AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
        "transformers), or load the model with tokenizer=False."
    )


def read_templates(beside: Beside) -> str | dict[str, str]:
    """The chat template, or several by name.

    Files of their own come before what the configuration holds.

    Raises:
      CheckpointError: a template that is no text.
    """
    folder = beside.folder
    files = {
        x.stem: x
        for x in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    if (single := folder / "chat_template.jinja").is_file():
        files["default"] = single
    try:
        found = {name: file.read_text("utf-8") for name, file in files.items()}
        if not found:
            found = beside.fields.get("chat_template") or ""
        if isinstance(found, list):
            found = {x["name"]: x["template"] for x in found}
        sources = found.values() if isinstance(found, dict) else [found]
        if not all(isinstance(source, str) for source in sources):
            raise TypeError(f"a template is no text but {found!r:.60}")
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: its chat template cannot be read ({error}). Remedy: download "
            "tokenizer_config.json and the .jinja files again."
        ) from error
    return found


def add_tokens(
    core: Any, beside: Beside, defaults: Mapping[str, str], further: Sequence[str] = ()
) -> dict[str, str]:
    """Makes a tokenizer match the tokens that the files name.

    Args:
      core: the tokenizer of the `tokenizers` package; it is changed.
      beside: what the files say.
      defaults: tokens that the model's class names where no file does.
      further: tokens without a name that it adds where no file lists any.

    Returns:
      Named tokens, for instance {"bos_token": "<s>"}.

    Raises:
      CheckpointError: a token that is none, or that would get another id than the file
        says.
    """
    values = dict(defaults)
    extra = beside.fields.get("extra_special_tokens")
    for key, value in (*beside.fields.items(), *_pairs(extra)):
        if key.endswith("_token"):
            values[key] = value
    ordered = [key for key in dict.fromkeys((*ORDER, *values)) if key in values]
    named = {key: name for key in ordered if (name := _name(values[key]))}
    special = [_added(beside, values[key], special=True) for key in named]
    special += [_added(beside, x) for x in _further(beside.fields) or further]
    _add_numbered(core, beside, _numbered(beside, special))
    rows, there = beside.model.get("vocab_size"), _contents(core)
    for token in special:
        # What the model has no row for could never be read by it.
        full = isinstance(rows, int) and core.get_vocab_size() >= rows
        if core.token_to_id(token.content) is None and full:
            continue
        if token.content not in there:
            core.add_tokens([token])
    return named


def _pairs(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _further(fields: Mapping[str, Any]) -> list[Any]:
    """Special tokens without a name of their own."""
    found = fields.get("extra_special_tokens") or fields.get(
        "additional_special_tokens", []
    )
    if not isinstance(found, list):
        return []
    return [value for value in found if _name(value)]


def _numbered(beside: Beside, special: list[Any]) -> dict[int, Any]:
    """Tokens whose ids the files give."""
    decoder = beside.fields.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        return {_index(beside, i): _added(beside, x) for i, x in decoder.items()}
    if decoder is not None:
        raise CheckpointError(
            f"{beside.folder}: added_tokens_decoder is a {type(decoder).__name__}; "
            "expected tokens by id. Remedy: download tokenizer_config.json again."
        )
    names = {token.content for token in special}
    return {
        _index(beside, i): _added(
            beside, token, special=token in names, normalized=token not in names
        )
        for token, i in beside.added.items()
    }


def _index(beside: Beside, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{beside.folder}: the id of an added token is {value!r}; expected an "
            "integer. Remedy: download tokenizer_config.json and added_tokens.json "
            "again."
        ) from error


def _added(beside: Beside, value: Any, **flags: bool) -> Any:
    from tokenizers import AddedToken

    try:
        text = {"content": value, "special": True}
        fields: dict[str, Any] = text if isinstance(value, str) else dict(value)
        known = {key: fields[key] for key in FLAGS if key in fields}
        return AddedToken(fields["content"], **{**known, **flags})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{beside.folder}: {value!r} describes no token. Remedy: download "
            "tokenizer_config.json again."
        ) from error


def _contents(core: Any) -> dict[str, Any]:
    """The tokens that are matched whole in a text."""
    return {token.content: token for token in core.get_added_tokens_decoder().values()}


def _add_numbered(core: Any, beside: Beside, numbered: Mapping[int, Any]) -> None:
    # Legacy files only add: what tokenizer.json says of a token stands.
    legacy = beside.fields.get("added_tokens_decoder") is None
    there = _contents(core)
    new = [
        token
        for _, token in sorted(numbered.items())
        if token.content not in there
        or not (legacy or repr(there[token.content]) == repr(token))
    ]
    # All at once: each call builds the automaton of all of them again.
    core.add_tokens(new)
    for index, token in numbered.items():
        if (given := core.token_to_id(token.content)) != index:
            raise CheckpointError(
                f"{beside.folder}: {token.content!r} is added as id {index}, but after "
                f"tokenizer.json it is {given}. Remedy: get the tokenizer.json that "
                "belongs to these files."
            )
