"""Gathers published results into one page: `REPORT.md` and a self-contained HTML file.

The page is a function of `experiments/results/*/*/` alone: nothing is imported from the
experiments, and two calls write the same bytes.
"""

import pathlib

from experiments.report.markdown import markdown
from experiments.report.page import page
from experiments.report.stored import Run, Section, failing, gather, published_minutes

__all__ = ["Run", "Section", "failing", "gather", "published_minutes", "write_report"]


def write_report(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `REPORT.md` and `report.html` into the folder of published results."""
    sections = gather(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "REPORT.md", folder / "report.html"
    paths[0].write_text(markdown(sections), encoding="utf-8")
    paths[1].write_text(page(sections), encoding="utf-8")
    return paths
