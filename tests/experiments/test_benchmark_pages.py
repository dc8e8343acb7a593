"""The page of benchmarks, from rows made here: what it says follows the numbers."""

import json

import pytest

from experiments.benchmarks import pages, recording, transport
from experiments.benchmarks.measuring import Reason
from experiments.cli import main

RUN = {
    "benchmark": "transport",
    "preset": "cpu",
    "device": "1 x cpu",
    "processor": "a processor",
    "date": "2026-11-24T10:11:00+00:00",
    "clock": "process CPU time",
    "cores": 1,
    "load": 0.5,
    "commit": "0123456789",
    "versions": {"jax": "1.2.3"},
}
WORDS = Reason("Their cost fits the cache.", sizes="1024×*", peers="OTT")


def rows(ours: float, theirs: float, n: int, **changes):
    """One size: ours, two peers of which one is slow, and what is no peer."""
    seconds = {"kljax": ours, "OTT": theirs, "plain JAX": 9.0, "a part": 0.01}
    return [
        {
            **RUN,
            "group": "points value+grad",
            "size_n": n,
            "size_d": 16,
            "size_dtype": "float32",
            "contender": name,
            "peer": name not in ("kljax", "a part"),
            "seconds": taken,
            "floor_seconds": 0.5,
            "temp_bytes": 2**20,
            **changes,
        }
        for name, taken in seconds.items()
    ]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Writes the page of some rows and returns its text."""
    monkeypatch.setattr(transport, "REASONS", (WORDS,))

    def of(*parts):
        stored = "".join(json.dumps(row) + "\n" for part in parts for row in part)
        (tmp_path / "benchmarks.jsonl").write_text(stored)
        pages.write(tmp_path, "experiments")
        return (tmp_path / "benchmarks" / "README.md").read_text()

    return of


def slower(text: str) -> str:
    return text.split("## Where we are slower, and why")[1].split("\n## ")[0].strip()


def test_where_we_are_slower_is_computed(page):
    text = page(rows(2.2, 2.0, 1024), rows(3.0, 4.0, 4096), rows(2.08, 2.0, 64))
    assert slower(text) == (
        "- **transport**: Their cost fits the cache. "
        "(points value+grad at 1024×16: 1.10 × OTT)"
    )
    assert "| transport | 3 | 1 | 1 | 1 | 1.04 | 1.10 |" in text
    # Ratio to the floor, to each of the others; bold where a peer is ahead by enough.
    cells = "| 1024×16 | 2,200 | 4.40 | **1.10** | 0.24 | 220.00 | 1 | 1 |"
    assert f"points value+grad {cells}" in text
    assert "| 4096×16 | 3,000 | 6.00 | 0.75 | 0.33 | 300.00 | 1 | 1 |" in text

    text = page(rows(1.9, 2.0, 1024), rows(3.0, 4.0, 4096))
    assert slower(text) == "Nowhere by more than 5%."


def test_what_no_reason_fits_is_said_to_be_unexplained(page):
    text = page(rows(5.0, 4.0, 4096), rows(5.0, 4.0, 1024), rows(5.0, 4.0, 2048))
    unexplained, explained = slower(text).splitlines()
    assert "Not explained yet" in unexplained and "1024×16" not in unexplained
    assert "at 4096×16" in unexplained and "at 2048×16" in unexplained
    assert WORDS.words in explained and "at 1024×16: 1.25 × OTT" in explained


def test_memory_alone_is_shown_and_not_compared(page):
    text = page(rows(1.0, 2.0, 1024), rows(None, None, 4096, seconds=None))
    assert "| transport | 1 | 1 | 0 | 0 | 0.50 | 0.50 |" in text
    assert "| 4096×16 | – | – | – | – | – | 1 | 1 |" in text


def test_pictures_are_those_of_the_questions(page, tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "transport-old.png").write_bytes(b"")
    text = page(rows(1.0, 2.0, 1024), rows(3.0, 4.0, 4096))
    assert [p.name for p in folder.glob("*.png")] == ["transport-points.png"]
    assert "kljax takes 0.50 to 0.75 of the best peer" in text
    assert 'src="transport-points.png"' in text


def test_a_run_takes_the_place_of_the_one_before(page, tmp_path, capsys):
    other = rows(7.0, 8.0, 64, device="2 x gpu")
    page(rows(1.0, 2.0, 1024), other)
    new = rows(4.0, 2.0, 1024)
    recording._store(new, tmp_path, "experiments")
    lines = (tmp_path / "benchmarks.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [*other, *new]
    text = (tmp_path / "benchmarks" / "README.md").read_text()
    assert "1024×16: 2.00 × OTT" in slower(text) and "0.50" not in slower(text)
    # The page alone, by the command line.
    (tmp_path / "benchmarks" / "README.md").unlink()
    assert main(["bench", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "benchmarks" / "README.md").read_text() == text
