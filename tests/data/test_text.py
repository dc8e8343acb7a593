"""Text for language models: paragraphs, windows, and what is held out."""

import re

import numpy as np
import pytest

from kljax.data.text import TextConfig, docstrings, fresh, read_corpus, windows
from kljax.errors import DataError

WORDS = [f"Paragraph {i} tells something about a number, no more." for i in range(60)]


def encode(text):
    return list(text.encode())


def test_paragraphs_count_once_and_windows_overlap_by_a_token():
    texts = ["\n\n".join([*WORDS[:3], WORDS[1], "tiny"]), WORDS[2], WORDS[3]]
    kept = list(fresh(iter(texts)))
    assert kept == ["\n\n".join(WORDS[:3]), WORDS[3]]
    encode = lambda text: [len(word) for word in text.split()]
    rows, characters = windows(iter(kept), encode, 99, 12, 4)
    flat = [99, *encode(kept[0]), 99, *encode(kept[1])][:13]
    assert rows.tolist() == [flat[0:5], flat[4:9], flat[8:13]]
    assert characters == pytest.approx(len(kept[0]) / len(encode(kept[0])))
    with pytest.raises(DataError, match=r"the text has \d+ tokens and 4001 are needed"):
        windows(iter(kept), encode, 99, 4000, 4)


def test_own_text_is_split_by_file_and_trimmed_to_what_occurs(tmp_path):
    for i in range(0, len(WORDS), 2):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(WORDS[i : i + 2]))
    config = TextConfig(path=str(tmp_path), tokens=512, held_out=64, length=16, seed=3)
    found = read_corpus(config, encode, 0)
    assert found.train.shape == (32, 17) and found.held_out.shape == (4, 17)
    used = np.union1d(found.train, found.held_out)
    assert used.tolist() == list(range(len(found.ids)))  # every id occurs
    assert found.sha256 == read_corpus(config, encode, 0).sha256

    def numbers(rows):
        text = "".join(map(chr, found.ids[rows[:, :-1].reshape(-1)]))
        return {part.split()[0] for part in text.split("graph ")[1:-1]}

    assert numbers(found.train) and not numbers(found.train) & numbers(found.held_out)
    with pytest.raises(DataError, match="no text file there"):
        read_corpus(TextConfig(path=str(tmp_path / "none")), encode, 0)
    with pytest.raises(DataError, match="package nowhere_to_be_found is not installed"):
        next(docstrings(["nowhere_to_be_found"], 0))


SENTENCES = [f"Number {i} of the sentences that someone wrote down." for i in range(99)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n\n".join(SENTENCES)),
        ("a.txt", "\n\n".join(SENTENCES[:12])),
        ("a.txt", "\r\n".join(SENTENCES)),
        ("a.txt", "Title\n\n" + "\n".join(SENTENCES)),
        ("a.txt", "\n".join(" ".join(SENTENCES).split(" "))),
        ("a.txt", " ".join(SENTENCES)),
        ("a.txt", "".join(SENTENCES).replace(" ", "")),
        ("a.jsonl", "\n".join(f'{{"text": "{one}"}}' for one in SENTENCES)),
        ("a.jsonl", f'{{"text": "{" ".join(SENTENCES)}"}}'),
    ],
)
def test_one_file_gives_both_splits(tmp_path, name, text):
    """Whatever parts it into paragraphs; and no sentence is in both."""
    (tmp_path / name).write_bytes(text.encode())
    config = TextConfig(path=str(tmp_path / name), tokens=384, held_out=64, length=16)
    found = read_corpus(config, encode, 0)
    assert found.train.shape == (24, 17) and found.held_out.shape == (4, 17)
    letters = [
        "".join(map(chr, found.ids[rows[:, :-1].reshape(-1)]))
        for rows in (found.train, found.held_out)
    ]
    numbers = [set(re.findall(r"umber\s*(\d+)\s*of", one)) for one in letters]
    assert all(numbers) and not numbers[0] & numbers[1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"held_out": 9_999},
            r"held-out text has \d+ tokens and 9985 .*\(624 .*lower held_out,",
        ),
        (
            {"tokens": 9_999},
            r"training text has \d+ tokens and 9985 .*lower tokens,",
        ),
        ({"held_out": 15}, "held_out is 15, and one window is length = 16"),
        ({"tokens": 0}, "tokens is 0"),
        ({"length": 0}, "at least one token"),
    ],
)
def test_the_split_that_is_too_small_is_named(tmp_path, sizes, message):
    (tmp_path / "a.txt").write_text("\n\n".join(SENTENCES))
    config = TextConfig(
        **({"path": str(tmp_path), "tokens": 64, "held_out": 64, "length": 16} | sizes)
    )
    with pytest.raises(DataError, match=message):
        read_corpus(config, encode, 0)


def test_docstrings_of_a_package_without_importing_it(tmp_path, monkeypatch):
    texts = list(docstrings(["kljax"], seed=1, files=3))
    assert len(texts) == 3
    again = list(docstrings(["kljax"], seed=1, files=3))
    assert texts == again and texts != list(docstrings(["kljax"], 2, 3))
    package = tmp_path / "brittle_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Read, not run."""\nraise SystemExit')
    (package / "old.py").write_text("print 'no such Python'")
    (package / "escape.py").write_text('def f():\n    """Do it."""\n    "\\d"')
    (package / "tests" / "test_it.py").write_text('"""Not this one."""')
    monkeypatch.syspath_prepend(tmp_path)
    texts = docstrings(["brittle_package"], seed=0)
    assert sorted(texts) == ["", "Do it.", "Read, not run."]
