"""Chat templates, rendered as `transformers` renders them.

Templates come with weights from anywhere: they run in a sandbox, see plain data only,
and what goes wrong inside one is said with the line of the template. How long one runs
and how much it writes is not bounded, as it is not in `transformers`.
"""

import datetime
import functools
import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["chosen", "render"]

NAMES_OF_REASONING = ("reasoning_content", "thinking", "reasoning")
PLAIN = (str, int, float, bool, type(None))


def chosen(
    templates: str | Mapping[str, str], name: str | None, tools: Any
) -> tuple[str, str]:
    """One template and its name: the named one, `tool_use` for tools, or `default`.

    Raises:
      ValueError: there is none, or none of that name.
    """
    if isinstance(templates, str):
        templates = {"default": templates} if templates else {}
    if not templates:
        raise ValueError(
            "this tokenizer has no chat template; write the text of the "
            "conversation as the model was trained on it"
        )
    if name is None:
        name = (
            "tool_use" if tools is not None and "tool_use" in templates else "default"
        )
    if name not in templates:
        raise ValueError(
            f"template: there is no chat template {name!r}; give one of "
            f"{', '.join(sorted(templates))}"
        )
    return name, templates[name]


def render(
    name: str,
    template: str,
    /,
    *,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    documents: Sequence[Mapping[str, Any]] | None,
    **variables: Any,
) -> str:
    """The text that a template makes of a conversation.

    Args:
      name: what errors call the template.
      template: Jinja source.
      messages: mappings, at least one; keys whose value is None count as absent.
      tools, documents: mappings, or None.
      variables: everything else that the template may ask for.

    Raises:
      TypeError: messages, tools or documents of another kind.
      ValueError: no message; a template that is not Jinja, that refuses the messages,
        or that fails. The message names the template's line.
    """
    if not (chat := _mappings("messages", messages)):
        raise ValueError("messages is empty; a conversation has at least one message")
    seen: dict[str, Any] = {
        "messages": [_with_reasoning(message) for message in chat],
        "tools": None if tools is None else _mappings("tools", tools),
        "documents": None if documents is None else _mappings("documents", documents),
        **{key: _plain(key, value) for key, value in variables.items()},
    }
    _environment()  # says what is not installed
    refused: list[str] = []

    def refuse(message: Any = "") -> None:
        refused.append(str(message))
        raise ValueError(message)

    try:
        return _compiled(template).render(
            seen, raise_exception=refuse, strftime_now=_strftime_now
        )
    except Exception as error:  # a template may fail in every way that Python knows
        where = f"chat template {name!r}, {_line(error, template)}"
        if refused:
            raise ValueError(
                f"{where} refuses the messages: {refused[-1]}. Remedy: give the roles "
                "and their order as the template wants them"
            ) from error
        raise ValueError(
            f"{where}: {type(error).__name__}: {error}. Remedy: correct the template, "
            "or give the variable that it asks for"
        ) from error


def _line(error: Exception, template: str) -> str:
    """The line of the template where it happened, and how it reads."""
    # That of a SyntaxError is of the Python code that Jinja wrote.
    other = isinstance(error, SyntaxError)
    number = None if other else getattr(error, "lineno", None)
    if number is None:
        # Jinja writes the template's own lines into the traceback.
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame.lineno for frame in frames if frame.filename == "<template>"]
        number = inside[-1] if inside else None
    if number is None:
        return "line not known"
    lines = template.splitlines()
    text = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"line {number} ({text[:60]})"


def _mappings(name: str, values: Any) -> list[dict[str, Any]]:
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise TypeError(
            f"{name} is a {type(values).__name__}; expected a list of mappings"
        )
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{name}[{i}] is a {type(value).__name__}; expected a mapping, for "
                "instance the JSON schema of a tool or a message with role and content"
            )
    return [_plain(f"{name}[{i}]", value) for i, value in enumerate(values)]


def _plain(name: str, value: Any) -> Any:
    """A copy of plain data: other objects have methods that a template could call."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Mapping):
        return {key: _plain(f"{name}[{key!r}]", x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        parts = (_plain(f"{name}[{i}]", x) for i, x in enumerate(value))
        return tuple(parts) if isinstance(value, tuple) else list(parts)
    if isinstance(value, np.generic):
        return _plain(name, value.item())
    for kind in (str, int, float):  # enums
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}; a chat template sees text, numbers, "
        "booleans, lists and mappings only"
    )


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its empty keys, its reasoning under the names in use."""
    message = {key: value for key, value in message.items() if value is not None}
    found = [message[key] for key in NAMES_OF_REASONING if key in message]
    if not found:
        return message
    return {"thinking": found[0], **message, "reasoning_content": found[0]}


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@functools.cache
def _environment() -> Any:
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise ValueError(
            "chat templates need the jinja2 package. Remedy: pip install 'kljax[hf]'"
        ) from error

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says; the text is the same."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models are trained on it; Jinja's own escapes HTML and sorts keys."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
