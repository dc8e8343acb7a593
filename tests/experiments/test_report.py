"""The report: nothing from outside, nothing lost, nothing that is not escaped."""

import base64
import html.parser
import json
import pathlib
import re

import pytest

from experiments import report
from experiments.cli import main
from experiments.harness import Results


class Page(html.parser.HTMLParser):
    """Collects tags, text and every attribute that could load something."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "col"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.fixture
def results(package, capsys):
    """Published runs: smoke with synthetic data, cpu, and gpu with an override."""
    for words in ("--preset smoke", "--preset gpu --teacher.steps 8", "--preset cpu"):
        assert main(["run", "ring", "--publish", *words.split()], package=package) == 0
    assert main(["report"], package=package) == 0
    folder = pathlib.Path(package, "results")
    assert str(folder / "report.html") in capsys.readouterr().out
    return folder


def test_html_is_self_contained_and_complete(results):
    page = read(results / "report.html")
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3
    for attrs, label in zip(images, ("smoke", "cpu", "gpu*")):
        kind, _, data = attrs["src"].partition(";base64,")
        (path,) = results.glob(f"ring/{label}/figures/curve.png")
        assert kind == "data:image/png"
        assert base64.b64decode(data) == path.read_bytes()
        assert (attrs["width"], attrs["height"]) == ("4", "2")
        assert attrs["alt"] == 'Curves of "both" <models>.'
    assert all(link.startswith(("data:", "#")) for link in page.links)
    style = (results / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(|<script|<link", style)
    assert "prefers-color-scheme: dark" in style
    text = " ".join(" ".join(page.words).split())
    for part in (
        "One-step students that cover a ring",
        "Nobody, On rings (2025)",
        "Claims that fail: 1",
        "It keeps up & more: a|b <c>.",
        "1.07",
        "table 2",
        "<= 1.1",
        "0.76 to 0.84",
        "✓ holds",
        "✗ fails",
        "– not measured",
        "needs the gpu preset",
        "worst seed 0.2",
        "1 holds, 1 fails, 1 not measured",
        "synthetic stand-in data",
        "teacher.steps = 8",
        "python -m experiments run ring --preset gpu --teacher.steps 8",
        "jax 0.",
    ):
        assert part in text, part
    assert text.count("synthetic stand-in data") == 1


def test_markdown_has_rows_of_equal_length_and_its_pictures(results):
    text = (results / "REPORT.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = [re.sub(r"\\\|", "", row).count("|") for row in block.splitlines()]
        assert len(set(rows)) == 1, block
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 3
    assert all((results / picture).is_file() for picture in pictures)
    assert "- ❌ **ring T2**: The term helps." in text
    assert "Synthetic stand-in data" in text
    assert "python -m experiments run ring --preset smoke" in text


def test_report_is_a_function_of_the_results(results, package):
    names = ("REPORT.md", "report.html")
    before = [(results / name).read_bytes() for name in names]
    assert main(["report", "--results", str(results)], package=package) == 0
    assert [(results / name).read_bytes() for name in names] == before


def test_statuses_over_several_runs(results):
    path = results / "ring" / "cpu" / "results.json"
    stored = json.loads(path.read_text())
    stored["verdicts"]["T1"]["holds"] = False
    stored["verdicts"]["T3"] = {
        "measured": "-0.4",
        "holds": True,
        "interval": "",
        "note": "",
    }
    path.write_text(json.dumps(stored))
    (section,) = report.gather(results)
    assert [run.label[:3] for run in section.runs] == ["smo", "cpu", "gpu"]
    # One failing run is enough to fail; one that measured is enough to have measured.
    assert section.counts() == {"holds": 1, "fails": 2, "not measured": 0}
    assert [len(section.measured(i)) for i in ("T1", "T2", "T3")] == [3, 3, 1]
    assert [claim["id"] for _, claim, _ in report.failing([section])] == ["T1", "T2"]


@pytest.mark.parametrize("damage", ["schema", "json", "figure"])
def test_damaged_results_are_named(results, package, capsys, damage):
    path = results / "ring" / "cpu" / "results.json"
    if damage == "schema":
        path.write_text("{}")
    elif damage == "json":
        path.write_text("{")
    else:
        path = path.parent / "figures" / "curve.png"
        path.unlink()
    assert main(["report"], package=package) == 1
    assert str(path) in capsys.readouterr().err


def test_nothing_published_yet(tmp_path):
    written = report.write_report(tmp_path / "none")
    assert all("Nothing is published yet" in path.read_text() for path in written)
    read(written[1])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(48.3, "48 s"), (312, "5.2 min"), (None, "time not recorded")],
)
def test_durations(seconds, text):
    nothing = Results({}, (), (), {})
    assert report.Run("cpu", pathlib.Path(), {}, nothing, seconds).duration == text
