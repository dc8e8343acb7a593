"""Dynamic logit fusion: a large model steered by what small experts learnt.

`weights` finds the weight of every token and applies it, `settings` holds both as one
setting of a generation loop and names the methods of the literature, `grid` is the
search as published; `solver` and `curve` are how weights are found.
"""

from kljax.decoding.fusion.grid import grid_weights
from kljax.decoding.fusion.settings import PRESETS, Fusion, preset
from kljax.decoding.fusion.weights import RULES, Weights, fuse, solve_weights

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
