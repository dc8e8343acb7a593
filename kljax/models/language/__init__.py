"""Decoder-only transformers: the model, its cache, layouts, adapters and meshes."""
