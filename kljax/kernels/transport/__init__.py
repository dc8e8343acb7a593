"""Entropic optimal transport: iterations, and the derivatives of their fixed point.

`matrix` iterates on a cost matrix and `points` without one, `gentle` does over what a
large epsilon would lose, `rules` differentiates; a `problem` is one that was checked.
"""

__all__ = ["gentle", "matrix", "points", "problem", "rules"]
