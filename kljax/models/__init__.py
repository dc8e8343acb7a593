"""Flax NNX modules: denoisers, heads and the classifier that judges samples.

Every denoiser is called as `model(x, noise_label, class_ids, *, features=False)`; see
`kljax.models.functional` for how a module becomes a pure function and its parameters.
"""
