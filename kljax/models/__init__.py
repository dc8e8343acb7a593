"""Flax NNX modules: denoisers, heads, the classifier that judges samples, transformers.

`language` holds the decoder-only transformer, `vision` the networks over images,
`files` checkpoints and tokenizers.

Every denoiser is called as `model(x, noise_label, class_ids, *, features=False)`, a
language model as `apply(params, tokens)`, see `kljax.models.language.transformer`;
`kljax.models.functional` says how a module becomes a pure function and its parameters.
"""

__all__ = [
    "attention",
    "batch_norm",
    "embedding",
    "files",
    "functional",
    "language",
    "layers",
    "mixture",
    "mlp",
    "vision",
]
