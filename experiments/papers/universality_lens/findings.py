"""The numbers that claims are decided by; tables and pictures."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from experiments import kit
from experiments.papers.universality_lens import lab
from experiments.papers.universality_lens.lab import CONSTANT, ENSEMBLE, MODE, STOPS

TITLES = {
    "nats": "log loss, nats", "ECE": "ECE, %", "accuracy": "accuracy, %",
    "Brier": "Brier score", "regret": "regret, nats", "soft": "bound (3), nats",
    "ball": "bound by a ball (4), nats", "coin": "regret with a coin, nats",
    "exact": "regret (13), nats", "counted": "effective parameters",
}  # fmt: skip
GUESSING = lab.GUESS * STOPS[-1]
"""What a fair coin pays on all labels."""
Found = Mapping[str, Any]


def cells(found: Found, metric: str) -> dict[str, kit.Estimate]:
    """A metric of every function at every size of network."""
    levels = found["networks"].levels
    names = kit.grid(found["networks"].methods, levels)
    at = {level: found["networks"].at(level) for level in levels}
    return {f"{name}, {size}": at[size].estimate(metric, name) for name, size in names}


def growth(found: Found) -> dict[str, kit.Estimate]:
    """by number of weights, minus that of the smallest network"""
    of_size = found["networks"].by_level(lambda s: s.estimate("regret", CONSTANT))
    first, *rest = of_size
    return {size: of_size[size] - of_size[first] for size in rest}


def beyond(found: Found) -> float:
    """(regret - bound) over its standard error, largest of all functions and sizes"""
    gaps = [one.units for one in cells(found, "beyond").values()]
    return float(max(x.mean() / x.std(ddof=1) * math.sqrt(len(x)) for x in gaps))


def ranked(found: Found) -> float:
    """rank correlation of regret and bound over all functions and sizes"""
    pair = [[x.value for x in cells(found, m).values()] for m in ("regret", "soft")]
    return float(stats.spearmanr(*pair).statistic)


def dearer(found: Found) -> dict[str, float]:
    """regret minus that of a fair coin"""
    far = (lab.PARITY, lab.RANDOM)
    every = cells(found, "regret").items()
    return {name: x.value - GUESSING for name, x in every if name.startswith(far)}


def insured(found: Found) -> dict[str, float]:
    """dearest: regret beyond a fair coin's; constant: what it then pays more"""
    with_coin, without = (cells(found, metric) for metric in ("coin", "regret"))
    more = [with_coin[x] - without[x] for x in without if x.startswith(CONSTANT)]
    dearest = max(x.value for x in with_coin.values()) - GUESSING
    return {"dearest": dearest, "constant": max(x.value for x in more)}


def coins(metric: str) -> Callable[[Found], dict[str, float]]:
    """The value of a claim on large samples of coins."""
    return lambda found: {
        f"θ = {theta:g}": row[metric]
        for (theta, n), row in found["coins"].items()
        if n >= 1000
    }


def simulated(found: Found) -> dict[str, float]:
    """|simulated - (13)| by number of parameters, mean over seeds"""
    linear = found["linear"]
    return {f"d = {d}": abs(linear.mean("gap", d)) for d in linear.methods}


def against(metric: str, level: str, *others: str) -> Callable[[Found], Any]:
    """The value of a claim: the mixture minus something else, on digits."""
    return lambda found: {
        other: found["digits"].at(level).difference(metric, ENSEMBLE, other)
        for other in others
    }


# ------------------------------------------------------------------ tables, pictures


def show(study: kit.Study, found: Found) -> None:
    """Tables."""
    scores, linear, digits = (found[k] for k in ("networks", "linear", "digits"))
    levels = scores.levels
    config, sizes = study.config, f"{levels[0]:,} to {levels[-1]:,} weights"
    study.scale = f"{config.networks:,} networks of {sizes}, "
    study.scale += f"{config.learning.images[0]:,} images"
    for one in (scores, linear, digits):
        study.metrics |= one.flat()
    about = f"After {STOPS[-1]} labels; a fair coin pays {GUESSING:.1f} nats."
    study.level_table("Regret by number of weights", scores, "regret", caption=about)
    some = ("soft", "ball", "coin")
    study.score_table("Bounds, and regret with a coin", scores, some, detail=True)
    coins = [(f"{x:g}", n, *row.values()) for (x, n), row in found["coins"].items()]
    names = ("θ", "flips", *next(iter(found["coins"].values())))
    study.table("Coins, in nats", names, coins, "Gaps: bound minus exact regret.")
    some = ("exact", "soft", "counted")
    study.score_table("Linear regression by parameters", linear, some)
    for metric in ("nats", "ECE"):
        title = f"{study.config.data}: {TITLES[metric]}"
        about = "Untold: at settings that right labels chose. Same: as the mixture's."
        study.level_table(title, digits, metric, caption=about)
    rows = [(f"diabetes: {k}", v) for k, v in found["diabetes"].items()]
    rows += [(f"variance, {k}", v) for k, v in found["quadratic"].items()]
    about = "Relative errors of a posterior by SGLD; variances of chains over (16)."
    study.table("Langevin dynamics", ("", "measured"), rows, about, detail=True)


def draw(study: kit.Study, found: Found, curves: Mapping[tuple, Any]) -> None:
    """What a function costs, why, and what a mixture is worth on digits."""
    price(study, found, curves)
    config, scores, digits = study.config, found["networks"], found["digits"]
    shades, levels = kit.figures.colors(scores.methods), scores.levels
    title = (
        "What a function costs is said by the prior weight near it: bound and regret "
        f"have rank correlation {ranked(found):.3f}"
    )
    about = (
        "Left: weight W(ε) of the networks within ε nats per label of a function, "
        f"{levels[-1]:,} weights, first seed. Right: every function and size; dots "
        "below the line keep the bound."
    )
    with study.figure("weight", title, about, panels=2, size=(5.2, 3.8)) as axes:
        for name, color in shades.items():
            far = curves[name, study.seeds[0], levels[-1]]["far"]
            share = np.arange(1, len(far) + 1) / len(far)
            axes[0].step(far, share, where="post", color=color, label=name)
            every = [scores.at(level) for level in levels]
            pair = [[one.mean(k, name) for one in every] for k in ("soft", "regret")]
            axes[1].plot(*pair, "o", color=color, label=name)
        ends = np.array([1, 1.2 * scores.extreme("soft")])
        axes[1].plot(ends, ends, "k:")
        axes[0].set(
            yscale="log", xlabel="ε, nats per label", ylabel="prior weight W(ε)"
        )
        labels = {"xlabel": "bound (3), nats", "ylabel": "regret, nats"}
        axes[1].set(xscale="log", yscale="log", **labels)
        axes[0].legend(fontsize=8)

    gains = digits.by_level(lambda one: one.difference("nats", ENSEMBLE, MODE).value)
    title = (
        "By a mixture in place of the mode the log loss of images changes by "
        f"{gains[lab.RIGHT]:+.2f} nats with right labels, by {gains[lab.UNTOLD]:+.2f} "
        "where 30 % are wrong and nobody tuned for it"
    )
    about = (
        f"{config.learning.images[0]:,} images to learn from; settings chosen alike, "
        "untold: for right labels; same prior: the mixture's. Small dots: seeds; "
        "lines: 95 % intervals of the means."
    )
    size = {"panels": 3, "size": (4.2, 2.8), "sharey": True}
    with study.figure("digits", title, about, **size) as axes:
        for axis, level in zip(axes, digits.levels):
            kit.figures.dots(axis, digits.at(level), "nats")
            axis.set_title(level, fontsize=9)


def price(study: kit.Study, found: Found, curves: Mapping[tuple, Any]) -> None:
    """Regret by number of parameters and of labels."""
    scores, linear = found["networks"], found["linear"]
    shades, levels = kit.figures.colors(scores.methods), scores.levels
    first, last = (scores.at(levels[i]).mean("regret", CONSTANT) for i in (0, -1))
    dear = scores.at(levels[-1]).mean("regret", lab.PARITY)
    title = (
        f"Predicting a constant costs {first:.1f} nats with {levels[0]:,} weights and "
        f"{last:.1f} with {levels[-1]:,}; parity costs {dear:.0f}, and guessing costs "
        f"{GUESSING:.0f}"
    )
    about = (
        "Regret: nats paid beyond whoever knows the law. Left: mixtures of "
        f"{study.config.networks:,} random networks after {STOPS[-1]} labels, 5 % of "
        f"them wrong. Middle: as labels come, {levels[-1]:,} weights. Right: linear "
        "regression on 50 examples, and what d/2 log n for d parameters would be. Thin "
        "lines: seeds."
    )
    with study.figure("price", title, about, panels=3, size=(4.4, 3.6)) as axes:
        labels: Any = {"ylabel": "regret, nats", "marker": "o"}
        guess = {"guessing": GUESSING}
        series = {name: (levels, scores.by_levels("regret", name)) for name in shades}
        log = {"xscale": "log", "yscale": "log"}
        kit.figures.lines(axes[0], series, levels=guess, **log, **labels)
        curve = lambda *one: np.append(0, curves[one]["regret"])  # noqa: E731
        series = {
            name: (
                (0, *STOPS),
                [curve(name, seed, levels[-1]) for seed in study.seeds],
            )
            for name in shades
        }
        kit.figures.lines(axes[1], series, xlabel="labels seen", **labels)
        axes[1].plot((0, STOPS[-1]), (0, GUESSING), "k:", label="guessing")
        axes[1].legend(fontsize=8)
        d = study.config.sizes
        paid = np.transpose([linear.values("exact", str(one)) for one in d])
        counted = np.array(d) / 2 * math.log(50)
        series = {"Bayes": (d, paid), "counting parameters": (d, counted)}
        kit.figures.lines(axes[2], series, **log, **labels)
        for axis, ticks, what in (
            (axes[0], levels, "weights"),
            (axes[2], d, "parameters"),
        ):
            axis.set_xticks(ticks, [f"{one:,}" for one in ticks])
            axis.minorticks_off()
            axis.set_xlabel(f"{what} of the model")
        axes[0].get_legend().remove()
