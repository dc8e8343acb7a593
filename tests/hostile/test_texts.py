"""Texts as they come: the right value, or an error by file and place."""

import gzip
import sys

import pytest

from kljax.data.readers.text import read_texts
from kljax.errors import DataError

TEXTS = {
    "mark": ("a.txt", b"\xef\xbb\xbfh\xc3\xa9\r\nx\ry", ["hé\nx\ny"]),
    "UTF-16": ("a.txt", "hé\n".encode("utf-16"), ["hé\n"]),
    "UTF-32": ("a.txt", "hé".encode("utf-32"), ["hé"]),
    "compressed": ("a.md.gz", gzip.compress("hé".encode()), ["hé"]),
    "lines": (
        "a.jsonl",
        b'{"text": "a\xe2\x80\xa8b", "id": 1}\n\n"c"\n',
        ["a\u2028b", "c"],
    ),
    "array": ("a.json", b'[{"content": "a"}, "b"]', ["a", "b"]),
    "lines called json": ("a.json", b'{"text": "a"}\n{"text": "b"}', ["a", "b"]),
    "read as latin-1 before": ("a.txt", "Ã©".encode(), ["Ã©"]),
    "latin-1": ("a.txt", b"123\xe9", "a.txt: is not UTF-8, byte 3 is 0xe9"),
    "odd UTF-16": ("a.txt", b"\xff\xfea\0b", "not UTF-16-LE, byte 4 is 0x62"),
    "zeros": ("a.txt", "ab".encode("utf-16-le"), "the character 0 at 1"),
    "empty": ("a.txt", b"", "a.txt: is empty"),
    "blank": ("a.jsonl", b'{"text": " "}', "is empty"),
    "cut": ("a.txt.gz", gzip.compress(b"text")[:-9], "a.txt.gz: cannot be read"),
    "zip": ("a.txt", b"PK\x03\x04", "is a zip archive. Remedy: unpack it"),
    "not JSON": ("a.jsonl", b'"a"\n{"text": ', "line 2 is not JSON"),
    "other column": ("a.jsonl", b'{"prompt": "a"}', r"line 1 has \['prompt'\]"),
    "null": ("a.jsonl", b'{"text": null}', "line 1 holds NoneType"),
    "numbers": ("a.json", b"[1]", "record 1 holds int"),
    "half a pair": ("a.jsonl", b'"\\ud83d"', "line 1 holds half a character at 0"),
    "deep": ("a.json", b"[" * 100_000, "cannot be read .RecursionError|not JSON"),
    "no parquet": ("a.parquet", b"PAR1", "pip install pyarrow"),
}


def refused(path, expected):
    with pytest.raises(DataError, match=expected) as caught:
        read_texts(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and "Remedy: " in said and len(said) < 900


def test_parquet_with_pyarrow(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"id": [1, 2], "text": ["é", "b"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read_texts(tmp_path) == ["é", "b"]
    parquet.write_table(arrow.table({"text": ["a", None]}), tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", "row 2 holds NoneType")


@pytest.mark.parametrize(("name", "content", "expected"), TEXTS.values(), ids=TEXTS)
def test_texts(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert read_texts(tmp_path / name) == expected
    else:
        refused(tmp_path / name, expected)
