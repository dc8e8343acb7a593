"""Dynamic logit fusion: a large model steered by what small experts learnt.

`settings` holds how it is done and names the methods of the literature, `rules` says
what a weight is to reach, `logits` applies weights, `grid` is the search as published;
`solver` and `curve` are how weights are found.
"""

from kljax.decoding.fusion.grid import grid_weights
from kljax.decoding.fusion.logits import fuse
from kljax.decoding.fusion.rules import RULES, Weights
from kljax.decoding.fusion.settings import PRESETS, Fusion, preset, solve_weights

__all__ = [
    "PRESETS",
    "RULES",
    "Fusion",
    "Weights",
    "fuse",
    "grid_weights",
    "preset",
    "solve_weights",
]
