"""What is stored of a run: what is wrong with it, read back, and how it is spelt."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness import Figure, Results, Table, Verdict

SCHEMA = 1


def problems(
    results: Results, claims: Sequence[Any], folder: pathlib.Path
) -> list[str]:
    """What is wrong with the results of a run, in words; empty when nothing is."""
    found = []
    said = {claim.id: claim.measure for claim in claims}
    for name, verdict in results.verdicts.items():
        if verdict.measured and not (verdict.measure or said[name]):
            found.append(f"claim {name} does not say in words what it measures")
    for figure in results.figures:
        if not (folder / "figures" / figure.path).is_file():
            found.append(f"figures/{figure.path} was not written")
    for table in results.tables:
        lengths = {len(row) for row in table.rows} - {len(table.columns)}
        if lengths:
            found.append(
                f"table {table.title!r} has {len(table.columns)} columns and rows of "
                f"{sorted(lengths)} cells"
            )
    return found


def sentences(doc: str | None, count: int) -> str:
    """The first sentences of a docstring, without its commands.

    Example:
        >>> sentences("One: two. Three in arXiv 1.2? Four. Five.", 2)
        'One: two. Three in arXiv 1.2?'
    """
    paragraphs = re.split(r"\n\s*\n", (doc or "").strip())
    text = " ".join(p for p in paragraphs if not p.startswith("    python -m"))
    found = re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(text.split()))
    return " ".join(found[:count])


def outcome(status: str, stored: Mapping[str, Any]) -> str:
    """A verdict's status as it is shown; one that a short run left open says how."""
    if status == "undecided" and not stored["config"].get("decide", True):
        return f"undecided ({stored['preset']}); --preset cpu decides"
    return status


def results_from(stored: Mapping[str, Any]) -> Results:
    """The `Results` inside what `results.json` holds."""
    return Results(
        metrics=stored["metrics"],
        tables=tuple(Table(**table) for table in stored["tables"]),
        figures=tuple(Figure(**figure) for figure in stored["figures"]),
        verdicts={k: Verdict(**v) for k, v in stored["verdicts"].items()},
        **{k: stored[k] for k in ("scale", "made", "remarks") if k in stored},
    )


def format_cell(value: Any) -> str:
    """A cell of a table as text: four significant digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return str(value)
