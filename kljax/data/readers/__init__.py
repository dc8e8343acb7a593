"""What data are made of: one file per format, and what they have in common."""

from kljax.data.readers.formats import OWN, READERS, read_own, read_row
from kljax.data.readers.raw import Raw

__all__ = ["OWN", "READERS", "Raw", "read_own", "read_row"]
