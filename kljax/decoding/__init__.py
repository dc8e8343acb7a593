"""Text from language models: sampling, generation, logit fusion.

`sampling` draws a token, `generation` runs one or several models in lockstep, `fusion`
combines their logits with a weight per token, `fusion_settings` names the methods.
"""

from kljax.decoding.fusion import Weights, fuse, solve_weights
from kljax.decoding.fusion_settings import Fusion, preset
from kljax.decoding.generation import Generation, generate, stream
from kljax.decoding.sampling import Sample, Sampling, greedy, sample, warp

__all__ = [
    "Fusion",
    "Generation",
    "Sample",
    "Sampling",
    "Weights",
    "fuse",
    "generate",
    "greedy",
    "preset",
    "sample",
    "solve_weights",
    "stream",
    "warp",
]
