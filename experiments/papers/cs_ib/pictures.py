"""What a run of CS-IB shows."""

from typing import Any

import numpy as np

from experiments import kit
from experiments.papers.cs_ib.lab import EPSILONS, FGSM, OTHERS
from kljax.data.regression import Regression

TITLES = {
    "RMSE": "error (RMSE)",
    "relevance": "relevance, bits",
    "complexity": "I_CS(x; t)",
    "own units": "I_CS(x; t), t in its own units",
}


def show(study: kit.Study, evidence: dict[str, Any], found: dict, tasks: dict) -> None:
    """Pictures and tables; the wrong labels first, as they are seen best."""
    clean, wrong, plane = (evidence[key] for key in ("clean", "wrong", "plane"))
    study.metrics |= clean.flat() | {f"wrong/{k}": v for k, v in wrong.flat().items()}
    share, shades = tasks["wrong"].wrong, kit.figures.colors(study.config.methods)
    shades |= {f"{name}/": color for name, color in shades.items()}
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
            axis.set_ylim(-4, 9)
        kit.figures.dots(axes[-1], wrong, "RMSE")
    title = "What FGSM does to the error, over what it does to that of squared error"
    about = (
        "Ratio of mean errors; below 1: harmed less. Epsilon in deviations of every "
        "input (of all pixels). Controls are dashed."
    )
    panels = {"panels": len(clean.levels), "columns": 3}
    with study.figure("attack", title, about, **panels) as axes:
        for axis, level in zip(np.atleast_1d(axes), clean.levels):
            at, keys = clean.at(level), ("RMSE", *FGSM.values())
            plain = np.array([at.mean(key, "squared error") for key in keys])
            curves = {
                m if m in (*OTHERS, "CS-IB") else f"{m}/": (
                    (0, *EPSILONS),
                    np.array([at.mean(key, m) for key in keys]) / plain,
                )
                for m in at.methods
                if m != "squared error"
            }
            labels = {"xlabel": "epsilon", "ylabel": "error over that of squared error"}
            kit.figures.lines(axis, curves, shades=shades, **labels, title=level)
    title = "What codes tell of the input and of the target, from beta = 0 on"
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
