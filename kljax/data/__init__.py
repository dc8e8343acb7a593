"""Real images by name or by path, with a manifest that says where they came from."""

from kljax.data.dataset import Dataset, from_unit, to_unit
from kljax.data.loading import load
from kljax.data.sources import names
from kljax.data.wheels import model_file

__all__ = ["Dataset", "from_unit", "load", "model_file", "names", "to_unit"]
