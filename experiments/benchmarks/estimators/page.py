"""The page of the estimators' benchmark, from what is stored: tables, one picture."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.markdown import image, table

__all__ = ["write"]

Row = dict[str, Any]
_PRESETS = ("cpu", "smoke")


@dataclasses.dataclass(frozen=True)
class _Slice:
    """Cases that are counted together."""

    name: str
    holds: Callable[[Row], bool]


_MAIN = _Slice("n ≥ 2,000, d ≤ 50", lambda r: r["n"] >= 2000 and r["d"] <= 50)
_SLICES = (
    _MAIN,
    _Slice("of these d ≤ 5", lambda r: _MAIN.holds(r) and r["d"] <= 5),
    _Slice("of these d ≥ 10", lambda r: _MAIN.holds(r) and r["d"] >= 10),
    _Slice("n ≤ 300", lambda r: r["n"] <= 300),
    _Slice("d = 100", lambda r: r["d"] == 100),
)


def write(
    folder: pathlib.Path, refused: set[str], whole: Mapping[str, int]
) -> list[pathlib.Path]:
    """README.md and errors.png, of the largest preset stored; [] if there is none.

    Args:
      refused: families that have no answer.
      whole: cases of a whole run, by preset.
    """
    stored = (folder / f"{preset}.jsonl" for preset in _PRESETS)
    path = next((path for path in stored if path.is_file()), None)
    if path is None:
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answerable = [row for row in rows if row["family"] not in refused]
    others = [row for row in rows if row["family"] in refused]
    page, picture = folder / "README.md", folder / "errors.png"
    title = _draw(picture, answerable)
    missing = whole[path.stem] - len(rows)
    parts = [*_page(answerable, others, missing), image(picture.name, 900, title)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [page, picture]


def _error(row: Row, name: str) -> float:
    """Nats; NaN where there is no number."""
    value = row["found"].get(name, {}).get("value")
    return np.nan if value is None else abs(value - row["truth"])


def _mean(errors: Sequence[float]) -> float:
    """Of those that there are."""
    there = [x for x in errors if not np.isnan(x)]
    return float(np.mean(there)) if there else np.nan


def _holds(row: Row, name: str) -> bool:
    """Whether the interval holds the truth, to twice the truth's own error."""
    found, slack = row["found"][name], 2 * row["truth_error"]
    return found["low"] - slack <= row["truth"] <= found["high"] + slack


def _answered(rows: Sequence[Row], name: str = "kljax") -> list[Row]:
    return [row for row in rows if not np.isnan(_error(row, name))]


def _share(flags: Sequence[bool] | np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _number(x: Any) -> str:
    return "" if np.isnan(x) else f"{x:.3f}"


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["found"]))


def _page(rows: Sequence[Row], refused: Sequence[Row], missing: int) -> Iterator[str]:
    yield "# Divergences from samples: error, coverage, abstention"
    yield (
        f"KL(p‖q) of {len(rows) + len(refused)} pairs of samples whose divergence is "
        "known, in closed form or from a million draws of the exact log-ratio. "
        "`kljax.divergences.estimate` and its peers see the samples alone; every value "
        "is cut at 0, peers are compared where we answer. Written by "
        "`python -m experiments bench estimators`."
    )
    if missing:
        yield f"**Not whole yet**: {missing} cases are left; the same command goes on."
    for part in _SLICES:
        chosen = [row for row in rows if part.holds(row)]
        if chosen:
            yield f"## {part.name}: {len(chosen)} cases"
            yield _compared(chosen)
    if refused:
        yield "## Laws with no finite answer, or one beyond what the sample can show"
        yield _refusals(refused)
    yield f"## By family, {_MAIN.name}"
    yield _by_family([row for row in rows if _MAIN.holds(row)] or rows)


def _compared(rows: Sequence[Row]) -> str:
    answered = _answered(rows)
    cells = []
    for name in _names(rows):
        both = [row for row in answered if not np.isnan(_error(row, name))]
        ours = np.array([_error(row, "kljax") for row in both])
        theirs = np.array([_error(row, name) for row in both])
        seen = [row for row in rows if name in row["found"]]
        seconds = [row["found"][name]["seconds"] for row in seen]
        cells.append(
            [
                name,
                _percent(1 - len(_answered(seen, name)) / len(seen)),
                _number(theirs.mean()) if len(both) else "",
                _number(np.median(theirs)) if len(both) else "",
                "" if name == "kljax" else _over(ours, theirs),
                "" if name == "kljax" else _percent(_share(ours <= theirs)),
                _percent(_share([_holds(row, name) for row in both])),
                _number(np.median([_width(row, name) for row in both])),
                f"{np.median(seconds):.2g}",
            ]
        )
    heads = ("", "abstains", "mean error, nats", "median error", "ours / theirs")
    heads += ("we are nearer", "interval holds", "half-width", "seconds")
    return table(heads, cells)


def _over(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The ratio of mean errors, where the other makes any."""
    return _number(ours.mean() / theirs.mean()) if theirs.any() else ""


def _width(row: Row, name: str) -> float:
    found = row["found"][name]
    return (found["high"] - found["low"]) / 2


def _refusals(rows: Sequence[Row]) -> str:
    cells = []
    for family in dict.fromkeys(row["family"] for row in rows):
        chosen = [row for row in rows if row["family"] == family]
        no = [row for row in chosen if row["found"]["kljax"]["value"] is None]
        reasons = {row["found"]["kljax"]["reason"].split(":")[0] for row in no}
        words = "; ".join(sorted(reasons)[:3])
        cells.append([family, len(chosen), _percent(len(no) / len(chosen)), words])
    return table(("", "cases", "refused", "among the reasons"), cells)


def _by_family(rows: Sequence[Row]) -> str:
    cells = []
    for family in dict.fromkeys(row["family"] for row in rows):
        chosen = [row for row in rows if row["family"] == family]
        answered = _answered(chosen)
        errors = [_error(row, "kljax") for row in answered]
        peers = {
            name: _mean([_error(row, name) for row in answered])
            for name in _names(chosen)
            if name != "kljax" and answered
        }
        best = min(peers, key=lambda name: peers[name], default="")
        cells.append(
            [
                family,
                len(chosen),
                _percent(1 - len(answered) / len(chosen)),
                _percent(_share([_holds(row, "kljax") for row in answered])),
                _number(np.mean(errors)) if errors else "",
                f"{peers[best]:.3f} ({best})" if best else "",
            ]
        )
    heads = ("", "cases", "abstains", "interval holds", "mean error, nats", "best peer")
    return table(heads, cells)


def _draw(path: pathlib.Path, rows: Sequence[Row]) -> str:
    """Errors by dimension, and our intervals around the truth."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if _MAIN.holds(row)] or list(rows)
    answered = _answered(rows)
    names = _names(rows)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    dims = sorted({row["d"] for row in answered})
    for name in reversed(names):
        means = [
            _mean([_error(r, name) for r in answered if r["d"] == d]) for d in dims
        ]
        ours = name == "kljax"
        style = {"color": "black", "linewidth": 2.4} if ours else {"linewidth": 1}
        left.plot(range(len(dims)), means, "o-", markersize=4, label=name, **style)
    left.set(yscale="log", xlabel="d", ylabel="mean error, nats")
    left.set_xticks(range(len(dims)), list(map(str, dims)))
    left.grid(axis="y", which="both", linewidth=0.3)
    left.legend(fontsize=7)
    order = sorted(answered, key=lambda row: row["truth"])
    for x, row in enumerate(order):
        found, good = row["found"]["kljax"], _holds(row, "kljax")
        ends = [found["low"] - row["truth"], found["high"] - row["truth"]]
        right.plot([x, x], ends, color="C0" if good else "C3", linewidth=1)
        right.plot(x, found["value"] - row["truth"], ".", color="black", markersize=3)
    right.axhline(0, color="0.4", linewidth=1)
    right.set(xlabel="cases by their divergence", ylabel="estimate − truth, nats")
    right.set_yscale("symlog", linthresh=0.1)
    held = _share([_holds(row, "kljax") for row in answered])
    title = f"{len(rows)} cases: kljax answers {len(answered)}, its interval holds "
    title += f"{_percent(held)} of them"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return title
