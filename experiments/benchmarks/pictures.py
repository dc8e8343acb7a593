"""One picture a question: everyone's time over the best peer's, with a line at 1."""

import pathlib
import textwrap
from collections.abc import Sequence

from experiments.benchmarks.measuring import Question
from experiments.benchmarks.places import Place

__all__ = ["draw"]

_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_OURS = {"color": "black", "marker": "o", "linewidth": 2.2, "zorder": 3}


def draw(path: pathlib.Path, question: Question, asked: Sequence[Place]) -> str | None:
    """Draws it; returns its title, which says who is ahead. None without peers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    compared = [(p, p.ratio) for p in asked if p.ratio is not None]
    if not compared:
        return None
    ratios = [ratio for _, ratio in compared]
    low, high = min(ratios), max(ratios)
    spread = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    title = f"{question.text}: kljax takes {spread} of the best peer's time"
    panels = _panels([place for place, _ in compared])
    names = list(dict.fromkeys(r["contender"] for p, _ in compared for r in p.rows))
    names.sort(key=lambda name: name == "kljax")  # drawn last, above the others
    widths = [max(3, len(points)) for points in panels.values()]
    figure = Figure(figsize=(2.6 + 0.62 * sum(widths), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, width_ratios=widths)
    axes = axes if len(panels) > 1 else [axes]
    handles = {}
    for axis, (heading, points) in zip(axes, panels.items()):
        for i, name in enumerate(names):
            style = _OURS if name == "kljax" else {"marker": _MARKERS[i % 8]}
            found = [(x, p.of(name), p) for x, p in enumerate(points.values())]
            there = [(x, r["seconds"] / p.best["seconds"]) for x, r, p in found if r]
            if not there:
                continue
            style = {"color": f"C{i}", "linewidth": 1, "markersize": 5, **style}
            if heading is None:
                style["linestyle"] = "none"
            handles[name] = axis.plot(*zip(*there), label=name, **style)[0]
            for x, y in there if name == "kljax" else ():
                near = {"xytext": (5, -11), "textcoords": "offset points"}
                axis.annotate(f"{y:.2f}", (x, y), fontsize=7, zorder=4, **near)
        axis.axhline(1, color="0.4", linewidth=1, linestyle="--", zorder=0)
        axis.set_xticks(range(len(points)), list(points), rotation=40, ha="right")
        axis.set_xlim(-0.5, len(points) - 0.5)
        axis.set(yscale="log", title=heading)
        axis.tick_params(labelsize=8)
        axis.title.set_fontsize(9)
        axis.grid(axis="y", which="both", linewidth=0.3)
        if heading is not None:
            axis.set_xlabel(next(iter(points.values())).axes, fontsize=8)
    axes[0].set_ylabel("time / best peer's\n(below 1: ahead)", fontsize=9)
    number = FuncFormatter(lambda y, _: f"{y:g}")
    axes[0].yaxis.set_major_formatter(number)
    bottom, top = axes[0].get_ylim()
    # Between two powers of ten, ticks of ten alone would say nothing.
    axes[0].yaxis.set_minor_formatter(number if top < 20 * bottom else NullFormatter())
    ordered = ["kljax", *(name for name in names if name != "kljax")]
    shown = [handles[name] for name in ordered if name in handles]
    figure.legend(handles=shown, loc="outside right center", fontsize=8)
    wide = int(14 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, wide), fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return title


def _panels(compared: Sequence[Place]) -> dict[str | None, dict[str, Place]]:
    """Sizes by title; titles in one panel where each has a single size."""
    titles: dict[str | None, dict[str, Place]] = {}
    for place in compared:
        titles.setdefault(place.title, {})[place.sizes] = place
    if len(titles) > 1 and all(len(sizes) == 1 for sizes in titles.values()):
        return {None: {p.title.removesuffix(" value+grad"): p for p in compared}}
    return titles
