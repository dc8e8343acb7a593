"""Checkpoints and tokenizers, in and out."""

__all__ = [
    "chat_template",
    "class_rules",
    "config",
    "facts",
    "fields",
    "gguf",
    "gguf_vocabulary",
    "layout",
    "pretrained",
    "saving",
    "special_tokens",
    "tensors",
    "tokenizer",
    "trimmed",
    "weights",
]
