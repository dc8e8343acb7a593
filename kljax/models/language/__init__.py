"""Decoder-only transformers: the model, its cache, layouts, adapters and meshes."""

__all__ = [
    "attention",
    "cache",
    "checks",
    "configuration",
    "lora",
    "rope",
    "sharding",
    "stacking",
    "task_arithmetic",
    "transformer",
    "vocabulary",
]
