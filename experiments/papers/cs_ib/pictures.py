"""What a run of CS-IB shows."""

import contextlib
from typing import Any

import numpy as np

from experiments import kit
from experiments.papers.cs_ib.lab import FGSM
from kljax.data.regression import Regression

TITLES = {
    "RMSE": "error (RMSE)",
    "relevance": "relevance, bits",
    "complexity": "I_CS(x; t)",
    "own units": "I_CS(x; t), t in its own units",
}


def smaller(plane: dict[str, np.ndarray]) -> int:
    """The first of the betas at which I_CS(x; t) is 30 % less than at 0.

    Raises:
        Missing: there is none.
    """
    there = np.flatnonzero(plane["complexity"] <= 0.7 * plane["complexity"][0])
    if not there.size:
        raise kit.Missing("needs a beta that compresses by 30 %")
    return int(there[0])


def paired(scores: kit.Scores, metric: str) -> kit.Scores:
    """A metric of every method over that of squared error, seed by seed."""
    plain = scores.values(metric, "squared error")
    rows = {
        (method, seed): {metric: value}
        for method in scores.methods
        if method != "squared error"
        for seed, value in zip(scores.seeds, scores.values(metric, method) / plain)
    }
    return kit.Scores(rows)


def show(study: kit.Study, evidence: dict[str, Any], found: dict, tasks: dict) -> None:
    """Pictures and tables; the wrong labels first, as they are seen best."""
    clean, wrong, plane = (evidence[key] for key in ("clean", "wrong", "plane"))
    study.metrics |= clean.flat() | {f"wrong/{k}": v for k, v in wrong.flat().items()}
    share, shades = tasks["wrong"].wrong, kit.figures.colors(study.config.methods)
    shown = [
        m for m in ("squared error", "absolute error", "CS-IB") if m in wrong.methods
    ]
    title = (
        f"{100 * share:.0f} % of the training labels are far too high; the error is "
        + (", ".join(f"{wrong.mean('RMSE', m):.2f} with {m}" for m in shown))
    )
    about = (
        "Predictions for test rows, whose labels are right, of one run, in deviations "
        "of the target; black: right. Last panel: small dots are seeds."
    )
    data = Regression.load(tasks["wrong"].data).drawn(study.seeds[0], wrong=share)
    right = data["test"]["y"][:, 0]
    wide = {"panels": len(shown) + 1, "columns": 4, "size": (3.6, 3.4)}
    with study.figure("wrong", title, about, **wide) as axes:
        for axis, method in zip(axes, shown):
            said = found["wrong"][method]["scored"]["predictions"][0]
            axis.scatter(right, said, s=3, alpha=0.4)
            ends = float(right.min()), float(right.max())
            axis.plot(ends, ends, color="black", lw=1)
            axis.set(title=kit.title(method), xlabel="right label", ylabel="prediction")
            axis.set_ylim(-4, 4)
        kit.figures.dots(axes[-1], wrong, "RMSE")
    below = {
        level: paired(clean.at(level), FGSM[0.3]).estimate(FGSM[0.3], "CS-IB").value
        for level in clean.levels
    }
    title = "Moved by FGSM (0.3): the error of CS-IB is " + ", ".join(
        f"{value:.2f} ({level})" for level, value in below.items()
    )
    title += " times that of squared error"
    about = (
        "Ratios by seed (dots), means and their 95 % intervals; below 1: harmed less."
    )
    panels = {"panels": len(clean.levels), "columns": 3, "sharey": True}
    with study.figure("attack", title, about, **panels) as axes:
        for axis, level in zip(np.atleast_1d(axes), clean.levels):
            found_at = paired(clean.at(level), FGSM[0.3])
            label = "error over that of squared error"
            line = {"squared error": 1.0}
            kit.figures.dots(
                axis, found_at, FGSM[0.3], levels=line, label=label, shades=shades
            )
            axis.set_title(level)
    title = "What codes tell of the input and of the target, from beta = 0 on"
    with contextlib.suppress(kit.Missing):
        at, one = smaller(plane["CS-IB"]), plane["CS-IB"]
        fell = [100 * (1 - one[k][at] / one[k][0]) for k in ("complexity", "own units")]
        title = (
            f"At beta = {one['betas'][at]:g} a code of CS-IB has {fell[0]:.0f} % less "
            f"I_CS(x; t) by the kernel of its training, {fell[1]:.0f} % by one of its "
            "own size"
        )
    about = (
        f"Task {study.config.plane}, two seeds. The same codes on both sides, seen by "
        "the kernel of the training of CS-IB, and by one of the size of the codes."
    )
    with study.figure("plane", title, about, panels=2) as axes:
        for axis, key in zip(axes, ("complexity", "own units")):
            curves = {m: (one[key], one["relevance"]) for m, one in plane.items()}
            labels = {"xlabel": TITLES[key], "ylabel": TITLES["relevance"]}
            kit.figures.lines(axis, curves, marker="o", shades=shades, **labels)
    first = evidence["modes"][0]["points"]
    title = "Free points before and after they descend the divergence to two Gaussians"
    with study.figure("modes", title, "One seed; gray: target.", panels=2) as axes:
        for axis, key in zip(axes, ("start", "end")):
            axis.scatter(*first["target"].T, s=3, color="0.7")
            kit.figures.cloud(axis, first[key], 8)
    study.scale = "; ".join(
        f"{name}: {len(Regression.load(task.data).y):,} rows"
        for name, task in tasks.items()
    )
    for metric in ("RMSE", FGSM[0.3], "PGD 0.3"):
        study.level_table(f"{metric} with right labels", clean, metric)
    study.score_table("Wrong labels", wrong, ["RMSE", FGSM[0.3], "training", "epoch"])
    spelt = lambda one: ", ".join(f"{k} {v:g}" for k, v in one.items())  # noqa: E731
    rows = [
        (name, kit.title(method), spelt(one["setting"]))
        for name, every in found.items()
        for method, one in every.items()
    ]
    study.table("Tuned settings", ("task", "method", "setting"), rows, detail=True)
