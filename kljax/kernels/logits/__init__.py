"""Rows of logits: one engine for their divergences, and what else is taken of them."""

from kljax.kernels.logits.own import own_divergence
from kljax.kernels.logits.parts import RowState
from kljax.kernels.logits.rows import row_divergence, row_state

__all__ = ["RowState", "own_divergence", "row_divergence", "row_state"]
