"""The report: nothing from outside, nothing lost, nothing that is not escaped."""

import html.parser
import json
import pathlib
import re
import urllib.parse

import pytest

from experiments import report
from experiments.cli import main


class Page(html.parser.HTMLParser):
    """Collects tags, text and every attribute that could load something."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "col"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


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
    assert main(["report", "--publish"], package=package) == 0
    folder = pathlib.Path(package, "results")
    assert str(folder / "README.md") in capsys.readouterr().out
    return folder


def test_pages_are_whole_and_load_nothing_from_outside(results):
    for name in ("index", "ring"):
        path = results / "site" / f"{name}.html"
        page = read(path)
        for link in page.links:
            there = path.parent / urllib.parse.unquote(link)
            assert there.is_file(), f"{path}: {link}"
        text = path.read_text()
        assert not re.search(r"https?://|@import|url\(|<script|<style", text)
        assert text.count("<link") == 1 and "report.css" in page.links
        assert len(text) < 100_000
        images = [attrs for tag, attrs in page.tags if tag == "img"]
        assert len(images) == (1 if name == "index" else 3)
        assert {one["alt"] for one in images} == {'Curves of "both" <models>.'}
        names = {attrs.get("data-is") for tag, attrs in page.tags if tag == "td"}
        assert {"claim", "paper's figure", "ours", "verdict"} < names


def test_the_style_is_one_file_and_loads_nothing(results):
    style = (results / "site" / "report.css").read_text()
    assert not re.search(r"https?://|@import|url\(", style)
    assert "prefers-color-scheme: dark" in style and "max-width: 46rem" in style


def test_what_the_pages_say(results):
    index = read(results / "site" / "index.html").text
    for part in (
        "One-step students that cover a ring.",
        "Nobody, On rings (2025)",
        "It keeps up & more: a|b <c>.",
        "1.07",
        "0.8 (0.75 to 0.85, 3 seeds)",
        "✓ holds",
        "all claims: 1 holds, 1 fails, 1 not measured",
        "Claims that fail: 1",
    ):
        assert part in index, part
    page = read(results / "site" / "ring.html").text
    for part in (
        "All papers · Nobody, On rings (2025)",
        'Paper: nobody, "On rings".',  # the sentences behind the title
        "The paper's claims",
        "Our own extensions",
        "cpu: 0.8 (0.75 to 0.85, 3 seeds)",
        "<= 1.1",
        "✗ fails",
        "– not measured",
        "T3 (a talk; cpu): rank. Not measured: needs the gpu preset.",
        "T2 (table 10; cpu): difference. worst seed 0.2",
        "changed from the preset: teacher.steps = 8",
        "python -m experiments run ring --preset gpu --teacher.steps 8",
        "Run cpu (published; 0.1 minutes)",
        "jax 0.",
        "0.5812",
    ):
        assert part in page, part
    paper, ours = page.index("The paper's claims"), page.index("Our own extensions")
    assert paper < page.index("T1. It keeps up") < ours < page.index("T3. At scale.")


def test_markdown_has_rows_of_equal_length_and_its_pictures(results):
    for path in (results / "README.md", results / "ring" / "README.md"):
        text = path.read_text()
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            rows = [re.sub(r"\\\|", "", row).count("|") for row in block.splitlines()]
            assert len(set(rows)) == 1, block
        pictures = re.findall(r'<img src="(.*?)"', text)
        links = re.findall(r"\]\((.*?)\)", text)
        assert pictures and all((path.parent / one).is_file() for one in pictures)
        assert links and all((path.parent / one).is_file() for one in links)
    assert "`a\\|b` &lt;c>." in text and "❌ **fails**" in text


def test_local_runs_stand_beside_the_published_and_stay_out_of_the_tree(
    results, package, capsys
):
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    assert main(["run", "ring", "--seed", "3"], package=package) == 0
    assert main(["report"], package=package) == 0
    assert "runs/report/index.html" in capsys.readouterr().out
    page = read(pathlib.Path("runs/report/ring.html")).text
    assert "Run cpu (published;" in page
    assert re.search(r"Run cpu-s3-\w+ \(on this machine, not published;", page)
    assert before == {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    for link in read(pathlib.Path("runs/report/index.html")).links:
        assert pathlib.Path("runs/report", urllib.parse.unquote(link)).is_file()


def test_report_is_a_function_of_the_results(results, package):
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    words = ["report", "--publish", "--results", str(results)]
    assert main(words, package=package) == 0
    assert before == {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}


def test_a_short_run_says_what_decides(results, package):
    path = results / "ring" / "smoke" / "results.json"
    stored = json.loads(path.read_text())
    stored["config"]["decide"] = False
    for verdict in stored["verdicts"].values():
        verdict |= {"holds": None, "measured": verdict["measured"] or "1"}
    path.write_text(json.dumps(stored))
    for label in ("cpu", "gpu*"):
        (other,) = results.glob(f"ring/{label}/results.json")
        other.unlink()
    assert main(["report", "--publish"], package=package) == 0
    text = read(results / "site" / "ring.html").text
    assert text.count("? undecided (smoke); --preset cpu decides") == 3
    assert "Synthetic stand-in data" in text


def test_statuses_over_several_runs(results):
    path = results / "ring" / "cpu" / "results.json"
    stored = json.loads(path.read_text())
    stored["verdicts"]["T1"]["holds"] = False
    blank = {"interval": "", "note": "", "measured": "-0.4", "holds": None}
    stored["verdicts"]["T3"] = blank | {"shown": True}
    path.write_text(json.dumps(stored))
    (section,) = report.gather(results)
    assert [run.label[:3] for run in section.runs] == ["cpu", "gpu", "smo"]
    # One failing run is enough to fail; one that measured is enough to have measured.
    assert section.counts() == {"fails": 2, "shown": 1}
    assert [len(section.verdicts(i)) for i in ("T1", "T2", "T3")] == [3, 3, 1]


def test_a_bar_that_was_moved_after_publishing_is_said(results, package):
    path = results / "ring" / "cpu" / "results.json"
    stored = json.loads(path.read_text())
    stored["claims"][0]["bar"] = "<= 1.0"
    path.write_text(json.dumps(stored))
    for _ in range(2):
        assert main(["run", "ring", "--publish"], package=package) == 0
    assert main(["report", "--publish"], package=package) == 0
    said = "the bar of T1 was '<= 1.0' when it was published before, and is '<= 1.1'"
    assert said in read(results / "site" / "ring.html").text


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
    read(written[0])
