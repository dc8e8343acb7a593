"""The code blocks of README.md and CONTRIBUTING.md."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = (ROOT / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def block(document: str, word: str) -> str:
    """The one Python block that contains a word."""
    (found,) = (code for code in blocks(document, "python") if word in code)
    return found


def executed(code: str, name: str) -> dict:
    """The names that a block binds when it is a program of its own."""
    names = {"__name__": name}
    exec(compile(code, name, "exec"), names)
    return names
