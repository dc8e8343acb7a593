"""Text by path: plain files, JSON lines and parquet, compressed or not, and folders.

Pairs of texts, such as prompts and answers, come from the same files of records.
"""

import codecs
import gzip
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from kljax.data.guard import brief, reader
from kljax.errors import DataError

__all__ = ["COLUMNS", "ENDINGS", "PAIR", "read_pairs", "read_texts"]

COLUMNS = ("text", "content")
"""Where a record has its text, in this order."""
PAIR = ("prompt", "answer")
"""Where a record has the two texts of a pair."""

ENDINGS = (".txt", ".rst", ".md", ".jsonl", ".ndjson", ".parquet")
"""Of the files that count in a folder, with or without .gz."""

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"%PDF": "a PDF: convert it to text",
    b"\x89PNG": "a picture: give a file of text",
    b"\xff\xd8\xff": "a picture: give a file of text",
    b"PAR1": "a parquet file: call it .parquet",
}
"""How files start that hold no text as they are, and what to do about it."""


@reader
def read_texts(path: str | os.PathLike) -> list[str]:
    """The texts of a file or of the files of a folder, in a fixed order.

    A plain file is one text. Files of records hold one text per record: JSON lines, a
    JSON array, or parquet (with PyArrow); the text is the record itself or its column
    `text` or `content`. In a folder count the files with one of `ENDINGS`, with or
    without .gz, in all folders below it, in order of their names; hidden ones do not.
    Text is UTF-8, or UTF-16 and UTF-32 that start with their mark; ends of lines
    become "\\n".

    Args:
      path: the file or folder.

    Returns:
      At least one text, of which at least one is not blank.

    Raises:
      DataError: nothing there, empty, damaged, of another encoding, or a record without
        text. The message names the file and the byte or the record.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder) / "two.jsonl"
      ...     _ = file.write_text('{"text": "one"}\\n"two"\\n')
      ...     read_texts(file)
      ['one', 'two']
    """
    texts = _records(path, _text)
    if not any(map(str.strip, texts)):
        raise DataError(f"{path}: is empty. Remedy: give a file with text in it.")
    return texts


@reader
def read_pairs(path: str | os.PathLike) -> list[tuple[str, str]]:
    """The pairs of texts of a file of records or of the files of a folder.

    Args:
      path: as in `read_texts`; every record has the columns `prompt` and `answer`.

    Returns:
      At least one pair `(prompt, answer)`.

    Raises:
      DataError: as in `read_texts`, or a record without one of the columns.
    """
    pairs = _records(path, _pair)
    if not pairs:
        raise DataError(f"{path}: is empty. Remedy: give a file with records in it.")
    return pairs


Record = Any
Pick = Callable[[pathlib.Path, str, Record], Any]
"""What is taken of a record of a file; the place where it stands is for messages."""


def _records(path: str | os.PathLike, pick: Pick) -> list[Any]:
    root = pathlib.Path(path).expanduser()
    files = _files(root) if root.is_dir() else [root]
    if not os.fspath(path) or not root.exists() or not files:
        raise DataError(
            f"{root}: no text file there. Remedy: give a file, or a folder with "
            f"{', '.join(ENDINGS)} files."
        )
    return [found for file in files for found in _read_file(file, pick)]


def _files(root: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for file in sorted(root.rglob("*")):
        hidden = any(part[0] == "." for part in file.relative_to(root).parts)
        if not hidden and _ending(file) in ENDINGS and file.is_file():
            found.append(file)
    return found


def _ending(file: pathlib.Path) -> str:
    return pathlib.PurePath(file.name.lower().removesuffix(".gz")).suffix


@reader
def _read_file(file: pathlib.Path, pick: Pick) -> list[Any]:
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    read = FORMATS.get(_ending(file), _plain)
    return [pick(file, where, record) for where, record in read(file, content)]


Located = Iterable[tuple[str, Record]]


def _plain(file: pathlib.Path, content: bytes) -> Located:
    return [("", _decoded(file, content))]


def _lines(file: pathlib.Path, content: bytes) -> Located:
    # Not splitlines(), which also ends a line inside of a JSON string.
    for number, line in enumerate(_decoded(file, content).split("\n"), start=1):
        if line.strip():
            where = f"line {number}"
            yield where, _parsed(file, where, line)


def _array(file: pathlib.Path, content: bytes) -> Located:
    text = _decoded(file, content)
    if not text.lstrip().startswith("["):
        yield from _lines(file, content)
        return
    for number, record in enumerate(_parsed(file, "the file", text), start=1):
        yield f"record {number}", record


def _parquet(file: pathlib.Path, content: bytes) -> Located:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(
            f"{file}: parquet is read with PyArrow. Remedy: pip install pyarrow, or "
            "save the column as JSON lines."
        ) from error
    table = parquet.ParquetFile(arrow.BufferReader(content))
    names = table.schema_arrow.names
    wanted = [name for name in names if name in (*COLUMNS, *PAIR)] or names
    rows = table.read(columns=wanted).to_pylist()
    return [(f"row {number}", record) for number, record in enumerate(rows, start=1)]


FORMATS: dict[str, Callable[[pathlib.Path, bytes], Located]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _array,
    ".parquet": _parquet,
}
"""By ending; every other file is plain text."""


def _parsed(file: pathlib.Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{file}: {where} is not JSON ({brief(error)}). Remedy: write one record "
            "per line, or call plain text .txt."
        ) from error


def _text(file: pathlib.Path, where: str, record: Record) -> str:
    if not isinstance(record, dict):
        return _checked(file, where, record)
    for column in COLUMNS:
        if column in record:
            return _checked(file, where, record[column])
    raise DataError(
        f"{file}: {where} has {brief(sorted(record))}, expected {' or '.join(COLUMNS)}."
        " Remedy: rename the column that holds the text."
    )


def _pair(file: pathlib.Path, where: str, record: Record) -> tuple[str, str]:
    if not isinstance(record, dict) or not set(PAIR) <= set(record):
        has = brief(sorted(record)) if isinstance(record, dict) else "no columns"
        raise DataError(
            f"{file}: {where} has {has}, expected {' and '.join(PAIR)}. Remedy: write "
            "one JSON object per line, with these two texts."
        )
    prompt, answer = (_checked(file, where, record[column]) for column in PAIR)
    return prompt, answer


def _checked(file: pathlib.Path, where: str, text: Any) -> str:
    if not isinstance(text, str):
        raise DataError(
            f"{file}: {where} holds {type(text).__name__} where text is expected. "
            "Remedy: write strings, and leave out records without text."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{file}: {where} holds half a character at {error.start} "
            f"({text[error.start]!a}). Remedy: write whole characters, not halves of "
            "UTF-16 pairs."
        ) from error
    return text


def _decoded(file: pathlib.Path, content: bytes) -> str:
    for start, said in FOREIGN.items():
        if content.startswith(start):
            what, remedy = said.split(": ")
            raise DataError(f"{file}: is {what}. Remedy: {remedy}.")
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        byte = error.start + len(mark)
        raise DataError(
            f"{file}: is not {encoding.upper()}, byte {byte} is "
            f"0x{content[byte]:02x}. Remedy: save it as UTF-8, for example with "
            f"iconv -f latin1 -t utf8."
        ) from error
    if "\0" in text:
        raise DataError(
            f"{file}: holds the character 0 at {text.index(chr(0))}, so it is no text "
            "or UTF-16 without its mark. Remedy: save it as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
