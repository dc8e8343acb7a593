"""Text from language models: sampling, generation, logit fusion.

`sampling` draws a token, `generation` runs one or several models in lockstep, `fusion`
combines their logits with a weight per token.
"""

from kljax.decoding.sampling import Sample, Sampling, greedy, sample, warp

__all__ = ["Sample", "Sampling", "greedy", "sample", "warp"]
