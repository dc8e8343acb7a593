"""`python -m kljax.data list | fetch NAME ... | prepare NAME ...`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from kljax.data.loading import prepare
from kljax.data.routes import ROUTES
from kljax.data.routes.cache import cache_folder, prepared_file
from kljax.data.sources import Source, find, names
from kljax.errors import DataError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 on success, 1 with a line on stderr otherwise."""
    options = _parser().parse_args(arguments)
    root = cache_folder(options.root)
    try:
        if options.command == "list":
            _list(root)
            return 0
        for entry in [find(name) for name in options.names]:
            if options.command == "fetch":
                _fetch(entry, root)
            else:
                prepare(entry.name, root=root)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was kept", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kljax.data",
        description="Data and models known by name: what is here, and how to get it.",
    )
    parser.add_argument("--root", help="cache folder (default: $KLJAX_CACHE, ...)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what is here, what it would cost, license")
    fetch = commands.add_parser("fetch", help="download into the cache")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    written = commands.add_parser("prepare", help="write one .npz file per data set")
    written.add_argument("names", nargs="+", metavar="NAME")
    return parser


def _list(root: pathlib.Path) -> None:
    rows = [("name", "count", "shape", "MB", "license", "state", "what")]
    for one in map(find, names(None)):
        shape = "x".join(map(str, one.shape)) if one.shape else one.kind
        measured = str(one.count), shape, f"{one.bytes / 1e6:.1f}"
        rows.append((one.name, *measured, one.license, _state(one, root), one.title))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths))
        print(line.rstrip())
    print(f"cache: {root}")


def _state(entry: Source, root: pathlib.Path) -> str:
    if prepared_file(entry, root).is_file():
        return "prepared"
    return ROUTES[entry.route].state(entry, root)


def _fetch(entry: Source, root: pathlib.Path) -> None:
    if prepared_file(entry, root).is_file():
        print(f"{entry.name}: prepared already")
    else:
        ROUTES[entry.route].fetch(entry, root, print)


if __name__ == "__main__":
    sys.exit(main())
