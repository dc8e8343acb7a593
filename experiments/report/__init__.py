"""The report: an index of all papers and a page for each, as Markdown and as HTML.

It is a function of the stored runs: nothing is imported from the experiments, and two
calls write the same bytes. Published runs alone go into the tree.
"""

import pathlib
from collections.abc import Mapping

from experiments.report.markdown import markdown
from experiments.report.page import page
from experiments.report.pages import index, paper
from experiments.report.stored import Run, Section, gather, measured_minutes

__all__ = ["Run", "Section", "gather", "measured_minutes", "write_report"]


def write_report(
    results: pathlib.Path,
    local: pathlib.Path | None = None,
    *,
    abouts: Mapping[str, str] | None = None,
) -> list[pathlib.Path]:
    """Writes the published runs' pages into their folder, or all runs' elsewhere.

    Args:
        results: the folder of published runs; written to where `local` is None:
            `README.md`, `NAME/README.md` for GitHub, `site/` for a browser.
        local: the folder of local runs, whose `report/` then gets the site with both.
        abouts: a few sentences for papers whose stored runs have none.

    Returns:
        What was written, the index first.
    """
    sections, abouts = gather(results, local), abouts or {}
    target = results if local is None else local / "report"
    site = target / "site" if local is None else target
    pages = {
        "index": ("kljax: papers and measurements", list(index(sections))),
        **{s.name: (f"kljax: {s.name}", list(paper(s, abouts))) for s in sections},
    }
    written = []

    def write(path: pathlib.Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)

    def on_github(name: str) -> pathlib.Path:
        return target / ("" if name == "index" else name) / "README.md"

    def in_browser(name: str) -> pathlib.Path:
        return site / f"{name}.html"

    for name, (title, body) in pages.items():
        write(in_browser(name), page(title, body, site, in_browser))
        if local is None:
            path = on_github(name)
            write(path, markdown(body, path.parent, on_github))
    return written
