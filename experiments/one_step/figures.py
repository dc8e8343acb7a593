"""Pictures of the f-distill experiment: a grid of samples, bars of scores."""

import pathlib

import numpy as np
from jaxtyping import UInt8

from experiments.one_step.verdicts import Row, Scores, title_of
from kljax.data.images import mosaic


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
        canvas = mosaic(images, levels)
        channels = canvas.shape[-1]
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
