"""A data set is a row of the table: its route, its reader and its kind."""

import hashlib
import json
import types
import zipfile

import numpy as np
import pytest

import kljax.data.sources
from kljax.data import load, names
from kljax.data.__main__ import main
from kljax.data.readers import OWN, READERS
from kljax.data.routes import ROUTES
from kljax.data.sources import KINDS, find, rows
from kljax.errors import DataError

FILES = {
    "ask/train.jsonl": '{"prompt": "1+1=", "answer": "2"}\n' * 3,
    "ask/test.jsonl": '{"prompt": "1+2=", "answer": "3"}\n',
    "ask/README.md": "what it is",
    "prose/a.txt": "One text.",
    "prose/b.md": "Another text.",
    "flowers.csv": "x,y,label\n" + "".join(f"{i},{i / 4},{i % 2}\n" for i in range(10)),
}
ROW = """
[{name}]
title = "a test"
kind = "{kind}"
route = "archive"
package = "tiny.zip"
version = "1"
url = "https://example.org/tiny.zip"
member = "{member}"
format = "{format}"
sha256 = "{sha256}"
bytes = 1
content = ""
license = "CC0-1.0"
"""


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Adds a row to the real table; its archive lies in the cache."""
    file = tmp_path / "tiny.zip"
    with zipfile.ZipFile(file, "w") as target:
        for name, content in FILES.items():
            target.writestr(name, content)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

    def added(name, **fields):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "tiny.zip").write_bytes(file.read_bytes())
        text = ROW.format(name=name, **({"sha256": sha256} | fields))
        table = types.MappingProxyType({**kljax.data.sources.table(), **rows(text)})
        monkeypatch.setattr(kljax.data.sources, "table", lambda: table)
        return tmp_path

    return added


def test_a_row_is_all_that_a_data_set_needs(archive, capsys):
    root = archive("ask", kind="pairs", member="ask", format="pairs")
    found = load("Ask", kind="pairs", root=root)
    assert found.examples == (("1+1=", "2"),) * 3 and found.kind == "pairs"
    assert load("ask", "all", kind="pairs", root=root).examples[-1] == ("1+2=", "3")
    manifest = found.manifest
    assert manifest["source"] == "archive" and manifest["version"] == "1"
    assert manifest["archive_sha256"] == find("ask").sha256
    assert manifest["split_rule"] == "as published" and manifest["left_alone"]
    assert "ask" in names("pairs") and "ask" not in names()
    json.dumps(dict(manifest))
    assert main(["--root", str(root), "list"]) == 0
    assert "ready, tiny.zip" in capsys.readouterr().out
    assert main(["--root", str(root), "fetch", "ask"]) == 0
    # Another kind is refused by its name, and so is the view that another kind has.
    with pytest.raises(ValueError, match=r"That is of the kind 'pairs'\. For your own"):
        load("ask", root=root)
    with pytest.raises(TypeError, match="ask is of the kind 'pairs', not images"):
        _ = found.images
    with pytest.raises(ValueError, match="That is of the kind 'images'"):
        load("digits", kind="text")


def test_rows_of_text_and_of_numbers(archive):
    root = archive("prose", kind="text", member="prose", format="text")
    archive("flowers", kind="table", member="flowers.csv", format="rows")
    found = load("prose", "all", kind="text", root=root)
    assert found.examples == ("One text.", "Another text.")
    parts = [
        load("prose", s, kind="text", root=root).examples for s in ("train", "test")
    ]
    assert sorted(parts[0] + parts[1]) == sorted(found.examples)
    plain = load("flowers", "all", kind="table", root=root)
    # The row says nothing of classes, so the last column is a number like others.
    assert plain.examples.shape == (10, 3) and plain.labels is None


def test_what_is_wrong_with_a_row_or_its_archive_is_named(archive):
    root = archive("ask", kind="pairs", member="ask", format="pairs")
    (root / "ask" / "tiny.zip").unlink()
    with pytest.raises(DataError, match=r"archive: get tiny.zip from https://example"):
        load("ask", kind="pairs", root=root)
    archive("gone", kind="text", member="nothing", format="text")
    with pytest.raises(DataError, match="holds no nothing"):
        load("gone", kind="text", root=root)
    archive("other", kind="text", member="ask", format="text", sha256="0" * 64)
    with pytest.raises(DataError, match=r"SHA-256 .* instead of 0000"):
        load("other", kind="text", root=root)
    archive("odd", kind="text", member="ask", format="idx")
    with pytest.raises(ValueError, match=r"odd: unknown format of text 'idx'; .*text"):
        load("odd", kind="text", root=root)
    with pytest.raises(ValueError, match="x: unknown kind 'song'"):
        rows(ROW.format(name="x", kind="song", member="", format="", sha256=""))
    (root / "gone" / "tiny.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="SHA-256"):
        load("gone", kind="text", root=root)


def test_the_real_table_names_what_there_is():
    for name in names(None):
        row = find(name)
        assert row.route in ROUTES and row.license
        if row.route == "hub":  # no file of ours, no checksum of theirs
            assert row.hf and row.tfds and not row.format + row.sha256 + row.content
            continue
        assert len(row.sha256) == 64
        assert row.kind == "model" or READERS[row.format].kind == row.kind
    assert set(OWN) <= set(KINDS)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("breast_cancer", (569, 30), [212, 357]), ("wine", (178, 13), [59, 71, 48])],
)
def test_tables_are_those_of_scikit_learn(tmp_path, name, shape, classes):
    datasets = pytest.importorskip("sklearn.datasets")
    found = load(name, "all", kind="table", root=tmp_path)
    theirs = getattr(datasets, f"load_{name}")()
    np.testing.assert_array_equal(found.examples, theirs.data)
    np.testing.assert_array_equal(found.labels, theirs.target)
    assert found.examples.shape == shape
    assert found.manifest["class_counts"] == classes and found.manifest["known_content"]
    test = load(name, "test", kind="table", root=tmp_path)
    assert len(test) == -(-shape[0] // 5) and test.num_classes == len(classes)


def test_a_table_of_spaces_is_that_of_scikit_learn(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    found = load("diabetes", "all", kind="table", root=tmp_path)
    theirs = datasets.load_diabetes(scaled=False)
    np.testing.assert_array_equal(found.examples, theirs.data)
    assert found.labels is None and found.manifest["known_content"]
    (tmp_path / "own.csv").write_text("x  label\n1.5 0\n2 1\n")
    own = load(tmp_path / "own.csv", "all", kind="table")
    assert own.examples.tolist() == [[1.5], [2]] and own.labels.tolist() == [0, 1]


def test_a_table_with_words_and_gaps(tmp_path):
    (tmp_path / "own.csv").write_text(
        'month,"the sky",degrees\nMay,clear,1.5\nJune,"rain, snow",\nMay,clear,-2\n'
    )
    found = load(tmp_path / "own.csv", "all", kind="table")
    numbers = [[0, 0, 1.5], [1, 1, np.nan], [0, 0, -2]]
    np.testing.assert_array_equal(found.examples, numbers)
    assert found.manifest["columns"] == ["month", "the sky", "degrees"]
    words = {"month": ["May", "June"], "the sky": ["clear", "rain, snow"]}
    assert found.manifest["words"] == words
    (tmp_path / "torn.csv").write_text("a,b\nx,1\ny\n")
    with pytest.raises(DataError, match=r"row 2 has 1 cells, not 2"):
        load(tmp_path / "torn.csv", "all", kind="table")


def test_what_is_a_path_and_what_a_name(tmp_path, monkeypatch):
    for missing in ("mine.npz", "some/where", "./digits"):
        with pytest.raises(DataError, match="does not exist"):
            load(missing)
    monkeypatch.chdir(tmp_path)
    x = np.arange(640, dtype=np.uint8).reshape(10, 8, 8)
    for name in ("digits", "mine"):
        np.savez(tmp_path / name, images=x)
        (tmp_path / f"{name}.npz").rename(tmp_path / name)
    assert load("digits", root=tmp_path / "cache").manifest["source"] == "pip"
    with pytest.raises(DataError, match="digits: not an idx file"):
        load("./digits")
    with pytest.raises(DataError, match="mine: not an idx file"):
        load("mine")


def test_own_tables_texts_and_pairs(tmp_path):
    (tmp_path / "own.csv").write_text("1,2,0\n3,4,1\n5,6.5,1\n")
    found = load(tmp_path / "own.csv", "all", kind="table")
    assert found.examples.tolist() == [[1, 2, 0], [3, 4, 1], [5, 6.5, 1]]
    (tmp_path / "named.csv").write_text(FILES["flowers.csv"])
    found = load(str(tmp_path / "named.csv"), "all", kind="table")
    assert found.examples.shape == (10, 2) and found.labels.tolist() == [0, 1] * 5
    (tmp_path / "half.csv").write_text("x,label\n1,0.5\n")
    with pytest.raises(DataError, match="last column is no class index"):
        load(tmp_path / "half.csv", "all", kind="table")
    (tmp_path / "torn.csv").write_text("1,2\n3\n")
    with pytest.raises(DataError, match=r"torn.csv: cannot be read"):
        load(tmp_path / "torn.csv", kind="table")
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(
        DataError, match=r"line 1 has \['prompt'\], expected prompt and"
    ):
        load(tmp_path / "one.jsonl", kind="pairs")
    (tmp_path / "plain.txt").write_text("text")
    with pytest.raises(DataError, match="has no columns, expected prompt and answer"):
        load(tmp_path / "plain.txt", kind="pairs")
    with pytest.raises(ValueError, match="unknown kind of one's own data 'audio'"):
        load(tmp_path / "plain.txt", kind="audio")
    for name in ("train.txt", "training.md"):
        (tmp_path / "twice").mkdir(exist_ok=True)
        (tmp_path / "twice" / name).write_text("text")
    with pytest.raises(DataError, match="both name the train split"):
        load(tmp_path / "twice", kind="text")
