"""Pictures of the f-distill experiment: a grid of samples, bars of scores."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from experiments.one_step.verdicts import Row, Scores, title_of

SHOWN = 12
"""Images per row."""


def grid_rows(ids: Any, count: int, classes: int) -> np.ndarray:
    """Indices `[rows, SHOWN]`: up to ten classes, the first images of each."""
    if ids is None:
        rows = min(8, count // SHOWN)
        return np.arange(rows * SHOWN).reshape(rows, SHOWN)
    groups = [np.flatnonzero(np.asarray(ids) == c) for c in range(classes)]
    return np.stack([np.resize(g, SHOWN) for g in groups if len(g)][:10])


def keep_images(path: pathlib.Path, images: UInt8[np.ndarray, "r k h w c"]) -> None:
    """Stores images beside and renames: a killed run leaves no half file."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        np.savez(file, images=images)
    beside.replace(path)


def draw_grid(
    path: pathlib.Path,
    panels: dict[str, UInt8[np.ndarray, "r k h w c"]],
    levels: int,
) -> None:
    """One panel per model, side by side; rows are classes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.2), layout="constrained"
    )
    for axis, (title, images) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        rows, columns, height, width, channels = images.shape
        # One dark pixel between pictures.
        framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
        canvas = framed.transpose(0, 2, 1, 3, 4).reshape(
            rows * (height + 1), columns * (width + 1), channels
        )
        canvas = canvas.astype(np.float32) / (levels - 1)
        axis.imshow(
            canvas[..., 0] if channels == 1 else canvas,
            cmap="gray" if channels == 1 else None,
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axis.set_title(title_of(title), fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_bars(path: pathlib.Path, scores: Scores, controls: dict[str, Row]) -> None:
    """FID, precision, recall and coverage of every model, a dot per seed."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in scores))
    kinds = ("fid", "precision", "recall", "coverage")
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(12, 0.35 * len(names) + 1.6),
        sharey=True,
        layout="constrained",
    )
    for axis, kind in zip(axes, kinds, strict=True):
        for place, name in enumerate(names):
            values = [row[kind] for (n, _), row in scores.items() if n == name]
            color = "tab:gray" if name == "teacher" else "tab:blue"
            axis.barh(place, np.mean(values), color=color, alpha=0.5)
            axis.plot(values, [place] * len(values), "o", color="black", markersize=3)
        real = controls["halves"]["floor" if kind == "fid" else kind]
        axis.axvline(real, color="tab:green", linestyle="--", label="real images")
        axis.set_title("FID (lower is better)" if kind == "fid" else kind, fontsize=10)
        if kind != "fid":
            axis.set_xlim(0, 1)
    axes[0].set_yticks(range(len(names)), [title_of(name) for name in names])
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
