"""The report: an index of all papers and a page for each, as Markdown and as HTML.

It is a function of the stored runs: nothing is imported from the experiments, and two
calls write the same bytes. Published runs alone go into the tree.
"""

import pathlib
import shutil
from collections.abc import Mapping

from experiments.report.markdown import STYLE, site_page
from experiments.report.pages import Pages
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
    site = results / "site" if local is None else local / "report"
    places = {True: lambda name: site / f"{name}.html"}
    if local is None:
        places[False] = lambda name: results / name.removeprefix("index") / "README.md"
    written = []
    for is_site, file_of in places.items():
        for name, text in Pages(sections, abouts, file_of).texts().items():
            path = file_of(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = site_page(f"kljax: {name}", text) if is_site else text
            path.write_text(text, encoding="utf-8")
            written.append(path)
    shutil.copyfile(pathlib.Path(__file__).with_name(STYLE), site / STYLE)
    return written
