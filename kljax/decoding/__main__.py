"""``python -m kljax.decoding generate``: see `kljax.decoding.command`."""

import sys

from kljax.decoding.command import main

if __name__ == "__main__":
    sys.exit(main())
