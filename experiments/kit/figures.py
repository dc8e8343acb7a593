"""The pictures that most papers need, in one look; each draws into one panel.

`Study.figure` makes the panels, saves and records. Axes are labelled by name and unit:
`xlabel="step", ylabel="nats per token"`. What is drawn of a method has the same color
in all panels of a paper: `colors` gives them by order.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.kit.scores import Scores
from experiments.kit.titles import title
from kljax.data.images import mosaic
from kljax.metrics.estimates import Missing

DPI = 130


def canvas(
    heading: str, panels: int, columns: int, size: tuple[float, float], **share: Any
) -> Any:
    """A figure and its axes, flat; those that are not needed are hidden."""
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure((size[0] * columns, size[1] * rows), layout="constrained")
    wide = max(20, int(12.8 * size[0] * columns))
    heading = textwrap.fill(heading, wide, break_on_hyphens=False)
    figure.suptitle(heading, fontsize=10.5)
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for axis in axes[:panels]:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes[:panels]


def colors(methods: Sequence[str]) -> dict[str, Any]:
    """A color per method, by order."""
    import matplotlib

    palette = matplotlib.colormaps["tab10" if len(methods) <= 10 else "tab20"]
    return {method: palette(i % palette.N) for i, method in enumerate(methods)}


def lines(
    axis: Any,
    series: Mapping[str, tuple[Any, Any]],
    *,
    levels: Mapping[str, float] | None = None,
    marker: str = "",
    shades: Mapping[str, Any] | None = None,
    **labels: Any,
) -> None:
    """Curves by method: y `[n]`, or `[seeds, n]` with the mean thick; levels dotted.

    What stands behind a slash in a method's name is dashed. `shades` are their colors,
    where another panel has more or fewer of them.
    """
    shades = shades or colors(list(series))
    for name in series:
        color = shades[name]
        x, y = (np.asarray(v, np.float64) for v in series[name])
        every = np.atleast_2d(y)
        style = {"ls": "--" if "/" in name else "-", "marker": marker, "ms": 3}
        if len(every) > 1:
            axis.plot(x, every.T, color=color, alpha=0.3, lw=0.8)
        axis.plot(x, every.mean(axis=0), color=color, label=title(name), **style)
    _levels(axis.axhline, levels)
    axis.set(**labels)
    axis.legend(fontsize=8)


def _levels(draw: Any, levels: Mapping[str, float] | None) -> None:
    for i, (name, level) in enumerate((levels or {}).items()):
        draw(level, color="black", ls=(":", "--", "-.")[i % 3], lw=1.2, label=name)


def dots(
    axis: Any,
    scores: Scores,
    metric: str,
    *,
    levels: Mapping[str, float] | None = None,
    label: str = "",
    shades: Mapping[str, Any] | None = None,
) -> None:
    """A metric of all methods, one row each: mean, 95 % interval, a dot per seed."""
    shades = shades or colors(scores.methods)
    for place, method in enumerate(scores.methods):
        color = shades[method]
        try:
            found = scores.estimate(metric, method)
        except Missing:
            continue
        axis.plot(found.value, place, "o", color=color, ms=8)
        if found.count > 1:
            axis.plot(found.interval(), (place, place), color=color, lw=2)
        if len(scores.seeds) > 1:
            seeds = scores.values(metric, method).reshape(len(scores.seeds), -1).mean(1)
            axis.plot(seeds, [place] * len(seeds), ".", color="black", ms=4)
    _levels(axis.axvline, levels)
    axis.set_yticks(range(len(scores.methods)), [title(m) for m in scores.methods])
    axis.set_ylim(len(scores.methods) - 0.5, -0.5)
    axis.set_xlabel(label or scores.title(metric))


def bars(
    axis: Any,
    values: Mapping[str, Any],
    *,
    text: str = "{:.3g}",
    shades: Mapping[str, Any] | None = None,
    **labels: Any,
) -> None:
    """Horizontal bars with their numbers; of `[seeds]` the mean, and a dot per seed.

    `shades` gives some of them a color of their own.
    """
    every = {name: np.atleast_1d(np.asarray(v, float)) for name, v in values.items()}
    place = np.arange(len(every))[::-1]
    means = [v.mean() for v in every.values()]
    shown = [(shades or {}).get(name, "tab:blue") for name in every]
    axis.barh(place, means, color=shown, alpha=0.7)
    for y, seeds, mean in zip(place, every.values(), means, strict=True):
        right = max(mean, *seeds)
        axis.text(right, y, f" {text.format(mean)}", va="center", fontsize=8)
        if len(seeds) > 1:
            axis.plot(seeds, [y] * len(seeds), ".", color="black", ms=4)
    axis.set_yticks(place, [title(name) for name in every])
    axis.margins(x=0.12)
    axis.set(**labels)


def named(
    axis: Any,
    points: Mapping[str, Sequence[float]],
    *,
    shades: Mapping[str, Any] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
    **labels: Any,
) -> None:
    """Points with their names beside them, so that no name lies on another or a point.

    Those with a color in `shades` are large, the others gray; `marks` are stars.
    """
    from matplotlib.transforms import Bbox

    shades = dict.fromkeys(marks or {}, "black") | dict(shades or {})
    every = {**points, **(marks or {})}
    for name, (x, y) in every.items():
        shape = {"marker": "*", "ms": 11} if name in (marks or {}) else {"marker": "o"}
        axis.plot(x, y, color=shades.get(name, "gray"), **shape)
    axis.margins(0.22, 0.1)
    axis.set(**labels)
    axis.figure.draw_without_rendering()
    spots = axis.transData.transform(list(every.values()))
    taken = [Bbox([spot - 6, spot + 6]) for spot in spots]
    for own, (name, (x, y)) in enumerate(every.items()):
        text = axis.annotate(
            title(name), (x, y), (0, 0), textcoords="offset points", va="center",
            color=shades.get(name, "gray"), fontsize=9 if name in shades else 7,
        )  # fmt: skip
        tried = []
        for far, (side, up) in itertools.product((7, 16), _SIDES):
            text.set(position=(side * far, up * far))
            text.set_ha(("right", "center", "left")[side + 1])
            box = text.get_window_extent().padded(1)
            inside = axis.bbox.contains(*box.p0) and axis.bbox.contains(*box.p1)
            away = np.linalg.norm(spots - spots.clip(box.p0, box.p1), axis=1)
            strange = away.argmin() != own  # it would be read as another's
            hits = box.count_overlaps(taken) + 10 * (not inside) + 0.5 * strange
            tried.append((hits, len(tried), text.get_position(), text.get_ha(), box))
        _, _, place, side, box = min(tried)
        text.set(position=place, ha=side)
        taken.append(box)


_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a name may stand: right, left, above, below, the corners."""


def cloud(axis: Any, points: Any, limit: float) -> None:
    """Points `[n, 2]` in the plane."""
    axis.scatter(*np.asarray(points).T, s=2, alpha=0.4)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def pictures(axis: Any, images: Any, levels: int = 256, **labels: Any) -> None:
    """A grid `[rows, columns, h, w, c]` of images with one dark pixel between them."""
    shown = mosaic(np.asarray(images), levels)
    shown = shown[..., 0] if shown.shape[-1] == 1 else shown
    axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set(**labels)
    axis.set_axis_off()
