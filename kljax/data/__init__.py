"""Real images by name or by path, with a manifest that says where they came from."""

from kljax.data.dataset import Dataset, from_unit, to_unit
from kljax.data.loading import load
from kljax.data.sources import names

__all__ = ["Dataset", "from_unit", "load", "names", "to_unit"]
