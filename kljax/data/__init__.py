"""Real data by name or by path, with a manifest of their origin."""

from kljax.data.dataset import Dataset, from_unit, to_unit
from kljax.data.loading import load
from kljax.data.readers.text import read_pairs, read_texts
from kljax.data.routes.wheels import model_file
from kljax.data.sources import names

__all__ = [
    "Dataset",
    "from_unit",
    "load",
    "model_file",
    "names",
    "read_pairs",
    "read_texts",
    "to_unit",
]
