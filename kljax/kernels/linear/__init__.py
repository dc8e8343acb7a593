"""Losses of linear heads, a chunk of tokens at a time."""

__all__: list[str] = []
