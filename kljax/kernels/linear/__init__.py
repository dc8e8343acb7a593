"""Losses of linear heads, a chunk of tokens at a time, on one device or a mesh."""

__all__ = ["fused", "listed", "operands", "products", "recompute", "rows", "sharded"]
