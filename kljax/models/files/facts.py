"""What other people's files and libraries call things: tables, beside this file."""

import functools
import importlib.resources
import tomllib
from collections.abc import Callable
from typing import Any

__all__ = ["facts"]


@functools.cache
def facts(name: str) -> dict[str, Any]:
    """The tables of one file, by name.

    Of each table all that it is `like` as well, which is the same one of an earlier
    row, and None under what it calls `null`, which TOML has not.

    Example:
      >>> facts("families.toml")["qwen3"]["defaults"]["hidden_act"]
      'silu'
    """
    file = importlib.resources.files("kljax.models.files") / name
    rows: dict[str, Any] = {}
    for key, row in tomllib.loads(file.read_text("utf-8")).items():
        rows[key] = _whole(row, lambda like: rows[like])
    return rows


def _whole(table: Any, found: Callable[[str], Any]) -> Any:
    if not isinstance(table, dict):
        return table
    base = found(table.pop("like")) if "like" in table else {}
    nothing = dict.fromkeys(table.pop("null", ()))
    own = {k: _whole(v, lambda like, k=k: found(like)[k]) for k, v in table.items()}
    return {**base, **nothing, **own}
