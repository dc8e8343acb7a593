"""Text from language models: sampling, generation, logit fusion.

`sampling` draws a token, `generation` runs one or several models in lockstep, `fusion`
combines their logits with a weight per token, `speculative` makes the same text in
blocks that a small model drafts, `rollouts` are what a policy learns from. `decoders`
says what is asked of a model, `settings` how a text is continued.
"""

from kljax.decoding.decoders import Decoder
from kljax.decoding.fusion import Fusion, Weights, fuse, preset, solve_weights
from kljax.decoding.generation import Generation, generate, stream
from kljax.decoding.rollouts import Rollouts, log_probs, roll_out, token_logits
from kljax.decoding.sampling import Sample, Sampling, greedy, sample, warp
from kljax.decoding.settings import Decoding
from kljax.decoding.speculative import Speculation, speculate

__all__ = [
    "Decoder",
    "Decoding",
    "Fusion",
    "Generation",
    "Rollouts",
    "Sample",
    "Sampling",
    "Speculation",
    "Weights",
    "fuse",
    "generate",
    "greedy",
    "log_probs",
    "preset",
    "roll_out",
    "sample",
    "solve_weights",
    "speculate",
    "stream",
    "token_logits",
    "warp",
]
