"""What data are made of: one file per format, and what they have in common."""

from kljax.data.readers.formats import READERS, read_path
from kljax.data.readers.raw import Raw

__all__ = ["READERS", "Raw", "read_path"]
