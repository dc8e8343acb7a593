"""Kernel density estimates in large dimensions: three regimes of the bandwidth.

With n = exp(alpha d) points a Gaussian kernel estimate averages itself only above a
bandwidth h_G, has Gaussian fluctuations only above a larger one, h_CLT, and is carried
by a handful of points below h_G, where the bandwidth of the least KL lies (Biroli and
Mezard 2024, "Kernel density estimators in large dimensions", arXiv 2408.05807). We
compare simulations of 20 to 100 dimensions with formulas for Gaussian data, and ask
four real data sets in which phase the bandwidth that practice would choose lies. The
paper's text was not to be had: the statements are its abstract's, the formulas are ours
(`kljax.theory.kde`), and its figures are not compared.

    python -m experiments run kde_large_dims                # minutes on two cores
    python -m experiments run kde_large_dims --preset gpu   # three million points
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import kit
from kljax.data import load
from kljax.data.batching import in_parts
from kljax.theory import concentration, kde

PAPER = "Kernel density estimators in large dimensions (arXiv 2408.05807)"

PLACES = {"at 0.5": 0.5, "at 0.7": 0.7, "at 1.41": math.sqrt(2)}
"""h / h_G at which the participation ratio is looked at; the last one is h_CLT."""
INDICES = (0.5, 0.8, 1.25, 1.5, 2.0, 3.0)
"""(h / h_G)^2 at which the stable index is measured."""
RATIOS = ("best h / h_G", "best h / formula", "least KL / formula", "found / true h_G")
GRID = "over all h"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 16
    dims: tuple[int, ...] = (20, 60, 40)
    alphas: tuple[float, ...] = (0.5, 0.15, 0.3)
    """One for each of `dims`; distances are drawn from their exact law."""
    replicas: int = 60
    """Data sets per seed, each with one x."""
    points: tuple[int, float] = (30, 0.3)
    """The same with points in space, and the streaming kernel over them."""
    queries: int = 60
    bandwidths: int = 41
    """On a grid from 0.4 to 2.2 times h_G."""
    index: tuple[int, float] = (100, 0.08)
    """Dimension and alpha at which the stable index is measured."""
    index_replicas: int = 5000
    data: tuple[str, ...] = ("digits", "diabetes", "wine", "breast_cancer")
    control: tuple[int, int] = (1797, 61)
    """Points and dimension of Gaussian data that are treated like the real ones."""


PRESETS = {
    "smoke": Config(
        seeds=2, dims=(40,), alphas=(0.15,), replicas=12, points=(20, 0.3), queries=12,
        bandwidths=19, index=(20, 0.2), index_replicas=200, data=("wine",),
        control=(100, 10), decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(
        seeds=4, replicas=200, points=(30, 0.5), queries=1000, index_replicas=20_000
    ),
    # Never run by us. The paper's sizes are not known; these come closer to its limit.
    "paper": Config(dims=(30, 60, 100), alphas=(0.5, 0.25, 0.15), replicas=100),
}  # fmt: skip


def size_of(n: float, d: int) -> tuple[int, Any]:
    """Points, and the thresholds at this finite size."""
    return round(n), kde.gaussian_phases(math.log(round(n)) / d, dims=d)


def by_size(metric: str, bar: kit.Bar, place: str = GRID, least: int = 0) -> tuple:
    """Value and bar of a claim: each of the sizes of so many dimensions."""

    def value(found: dict[str, Any]) -> dict[str, kit.Estimate]:
        every = found["sizes"].by_level(lambda scores: scores.estimate(metric, place))
        kept = {k: v for k, v in every.items() if int(k.strip("d= points")) >= least}
        if not kept:
            raise kit.Missing(f"needs a size of {least} dimensions")
        return kept

    return value, kit.every(bar)


def practice(found: dict[str, Any]) -> dict[str, float]:
    """mean participation ratio at the likeliest bandwidth, leaving each point out"""
    return {name: row["participation"] for name, row in found["data"].items()}


def off_formula(found: dict[str, Any]) -> dict[str, float]:
    """|measured - formula| by (h / h_G)^2"""
    mean = lambda mu: found["index"].mean("index", str(mu))  # noqa: E731
    return {str(mu): abs(mean(mu) - min(mu, 2)) for mu in INDICES}


FEW = "abstract: only a few points matter; the law is derived here"
CLAIMS = (
    kit.Claim(
        "OPTIMUM",
        "The bandwidth of the least KL lies where a few points carry the estimate, "
        "below h_G.",
        "abstract", *by_size("best h / h_G", kit.below(1)), paper="in the new regime",
    ),
    kit.Claim(
        "OPTIMUM-FORMULA",
        "That bandwidth is the nearest point's distance over the root of d.",
        "derived here; the abstract has no formula",
        *by_size("best h / formula", kit.near(1, rel=0.07), least=40),
    ),
    kit.Claim(
        "LEAST-KL",
        "The least KL per dimension is log(1 + q) / 2 - q (1 - q) / 2, with "
        "q = h_G^2 / (1 + h_G^2).",
        "derived here", *by_size("least KL / formula", kit.near(1, rel=0.15), least=40),
    ),
    kit.Claim(
        "AVERAGE",
        "Above h_G the estimate averages itself.",
        "abstract", lambda found: found["average"], kit.every(kit.at_most(0.002)),
        measure="largest |mean log-density - formula| per dimension, h >= 1.2 h_G",
    ),
    kit.Claim(
        "VARIANCE",
        "At h_CLT an estimate still varies as a sum of independent terms does.",
        "abstract: classical regime",
        lambda found: found["deviation"], kit.every(kit.near(1, rel=0.12)),
        measure="relative standard deviation over the exact one",
    ),
    kit.Claim(
        "CONDENSED-HALF",
        "At half of h_G the sum of squared shares is 1 - (1/2)^2.",
        FEW, *by_size("participation", kit.near(0.75, tol=0.05), "at 0.5"),
    ),
    kit.Claim(
        "CONDENSED-0.7",
        "At 0.7 h_G the sum of squared shares is 1 - 0.7^2.",
        FEW, *by_size("participation", kit.near(0.51, tol=0.06), "at 0.7"),
    ),
    kit.Claim(
        "SPREAD",
        "At h_CLT no point has a share that counts.",
        "abstract", *by_size("participation", kit.at_most(0.015), "at 1.41"),
    ),
    kit.Claim(
        "STABLE",
        "The stable index of the fluctuations grows with the bandwidth.",
        "abstract: an alpha-stable law",
        lambda found: found["index"].estimates("index", *map(str, INDICES)),
        kit.order(*map(str, INDICES)),
    ),
    kit.Claim(
        "STABLE-INDEX",
        "The stable index is min(2, (h / h_G)^2).",
        "derived here", off_formula, kit.every(kit.at_most(0.35)),
    ),
    kit.Claim(
        "NORMAL",
        "Fluctuations are normal far above h_CLT, (h / h_G)^2 = 3, and not below, 1.5.",
        "abstract",
        lambda found: {f"at {mu:g}": found["normal"][mu] for mu in (3.0, 1.5)},
        kit.all_of(**{"at 3": kit.at_most(0.02), "at 1.5": kit.at_least(0.1)}),
        measure="Kolmogorov-Smirnov distance to the normal law of that mean, variance",
    ),
    kit.Claim(
        "PRACTICE",
        "The bandwidths that practice chooses lie in the condensed phase.",
        "ours: four real data sets", practice, kit.every(kit.at_least(0.3)), ours=True,
    ),
    kit.Claim(
        "CONTROL",
        "On Gaussian data of the digits' size the likeliest bandwidth is h_KL.",
        "ours", lambda found: found["control"], kit.near(1, rel=0.07), ours=True,
    ),
    kit.Claim(
        "DIAGNOSIS",
        "h_G is found without knowing the law: the participation ratio is 1/2 at "
        "h_G / sqrt(2).",
        "ours", *by_size("found / true h_G", kit.near(1, rel=0.1)), ours=True,
    ),
)  # fmt: skip


def drawn_distances(config: Config, d: int, n: int, seed: int, h: np.ndarray):
    """Log-densities and participation ratios, `[h, replicas]`, without any points."""
    rng = np.random.default_rng([seed, d])
    squared = rng.noncentral_chisquare(d, d, (config.replicas, n))
    return concentration.from_distances(jnp.asarray(squared), jnp.asarray(h), d)[:2]


def drawn_points(config: Config, d: int, n: int, seed: int, h: np.ndarray):
    """The same at `[h, queries]` of one data set, in float32 and tiles."""
    keys = jax.random.split(jax.random.key(seed))
    data = jax.random.normal(keys[0], (n, d), jnp.float32)
    x = jax.random.normal(keys[1], (config.queries, d), jnp.float32)
    x *= math.sqrt(d) / jnp.linalg.norm(x, axis=1, keepdims=True)
    ask = jax.jit(lambda width: concentration.concentration(x, data, width)[:2])
    return np.array([ask(jnp.float32(width)) for width in h], np.float64).swapaxes(0, 1)


def simulated(study: kit.Study, d: int, alpha: float, draw: Callable):
    """Rows of scores by place and seed, and what is pooled over the seeds."""
    n, ends = size_of(math.exp(alpha * d), d)
    h_g, grid = float(ends.h_g), study.config.bandwidths
    scale = np.linspace(0.4, 2.2, grid)
    h = h_g * np.concatenate([scale, [*PLACES.values()]])
    label = draw.__name__.removeprefix("drawn_"), d
    runs = study.each(label, lambda s: draw(study.config, d, n, s, h), study.seeds)
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    log_p, ratio = map(np.stack, zip(*runs.values()))
    kl, mean = -entropy - log_p[:, :grid].mean(2) / d, ratio.mean(2)
    rows: dict[tuple, dict[str, float]] = {}
    for seed, own, shares in zip(study.seeds, kl, mean):
        found = concentration.condensation_bandwidth(scale, shares[:grid])
        best = scale[own.argmin()]
        values = best, best * h_g / ends.h_kl, own.min() / ends.kl, found
        rows[GRID, seed] = dict(zip(RATIOS, map(float, values)))
        for place, value in zip(PLACES, shares[grid:]):
            rows[place, seed] = {"participation": value}
    curve = kl.mean(0)
    gap = np.abs(curve + entropy + kde.log_density_rate(h[:grid], alpha))
    p = np.exp(log_p[:, -1] - log_p[:, -1].max())  # at h_CLT
    exact = math.sqrt(float(kde.relative_variance(h[-1], n, np.ones(d))))
    return rows, {
        "n": n,
        "KL / d, nats": (scale, curve),
        "participation ratio Y": (scale, mean[:, :grid].mean(0)),
        "average": float(gap[scale >= 1.2].max()),
        "deviation": float(p.std(ddof=1) / p.mean() / exact),
    }


def fluctuations(config: Config, seed: int) -> np.ndarray:
    """Estimates over their medians, `[index, replicas]`."""
    d, alpha = config.index
    n, ends = size_of(math.exp(alpha * d), d)
    h = ends.h_g * np.sqrt(INDICES)
    rng = np.random.default_rng([seed, 7])
    squared = rng.noncentral_chisquare(d, d, (config.index_replicas, n))
    ask = lambda part: concentration.from_distances(part, h, d).log_density.T  # noqa: E731
    log_p = in_parts(ask, 500, squared).T
    return np.exp(log_p - np.median(log_p, axis=1, keepdims=True))


def likeliest(x: np.ndarray) -> dict[str, float]:
    """The likeliest bandwidth for every point from the others, and its phase."""
    found = concentration.likeliest_bandwidth(x, np.geomspace(0.1, 3, 80))._asdict()
    return {"n": len(x), "d": x.shape[1], **found}


def standardized(name: str) -> np.ndarray:
    """A real data set; pixels share one scale, measures have one each."""
    kind = "images" if name == "digits" else "table"
    x = np.asarray(load(name, "all", kind=kind).examples, np.float64)
    x = x.reshape(len(x), -1)
    x = x[:, x.std(axis=0) > 0]
    return (x - x.mean(axis=0)) / (x.std() if kind == "images" else x.std(axis=0))


def run(study: kit.Study) -> dict[str, Any]:
    """Simulations by size, the stable index, real data."""
    config, rows, pooled = study.config, {}, {}
    with jax.enable_x64(True):
        sizes = [(drawn_distances, "", *one) for one in zip(config.dims, config.alphas)]
        for draw, kind, d, alpha in [*sizes, (drawn_points, " points", *config.points)]:
            level = f"d={d}{kind}"
            found, pooled[level] = simulated(study, d, alpha, draw)
            rows |= {(*key, level): row for key, row in found.items()}
        drawn = study.each("index", lambda s: fluctuations(config, s), study.seeds)
        data = study.each("data", lambda one: likeliest(standardized(one)), config.data)
        gaussian = lambda seed: np.random.default_rng(seed).normal(size=config.control)  # noqa: E731
        found = study.each("control", lambda s: likeliest(gaussian(s)), study.seeds)
        h_kl = float(size_of(*config.control)[1].h_kl)
    indices = {
        (str(mu), seed): {"index": concentration.stable_index(x)}
        for seed, every in drawn.items()
        for mu, x in zip(INDICES, every)
    }
    normal = lambda x: stats.kstest((x - x.mean()) / x.std(), "norm").statistic  # noqa: E731
    every = np.concatenate([*drawn.values()], axis=1)
    control = [*found.values()]
    titles = {"participation": "participation ratio", "index": "stable index"}
    mean = {k: float(np.mean([row[k] for row in control])) for k in control[0]}
    ratio = np.array([row["h"] for row in control]) / h_kl
    evidence: dict[str, Any] = {
        "sizes": kit.Scores(rows, titles=titles, factor="sizes"),
        "average": {level: one["average"] for level, one in pooled.items()},
        "deviation": {level: one["deviation"] for level, one in pooled.items()},
        "index": kit.Scores(indices, titles=titles),
        "normal": {mu: float(normal(x)) for mu, x in zip(INDICES, every)},
        "data": data,
        "control": kit.Estimate((ratio,), what="likeliest bandwidth over h_KL"),
    }
    show(study, evidence, pooled, data | {"Gaussian": mean})
    return evidence


def show(study: kit.Study, found: dict[str, Any], pooled: dict, data: dict) -> None:
    """Tables and pictures."""
    scores = found["sizes"]
    most = max(one["n"] for one in pooled.values())
    study.scale = f"up to {most:,} points, 20 to 100 dimensions"
    study.metrics |= scores.flat() | found["index"].flat()
    rows = [(x, *(scores.at(x).mean(k, GRID) for k in RATIOS)) for x in pooled]
    about = f"Means over {len(study.seeds)} seeds."
    study.table("Simulations", ("", *RATIOS), rows, about)
    title = "Participation ratio by h / h_G"
    study.level_table(title, scores.part(PLACES), "participation")
    study.table(
        "The likeliest bandwidth of data, leaving each point out",
        ("data", "n", "d", "h", "over found h_G", "participation", "perplexity"),
        [(name, *row.values()) for name, row in data.items()],
        "Median perplexity: how many points carry the estimate at a typical point.",
    )
    title = "KL, and how few points carry the estimate, below and above h_G"
    about = (
        "Means over data sets and seeds; formulas, of the limit of many dimensions, "
        "dashed and in the last panel. Y of data: at the likeliest bandwidth."
    )
    with study.figure("regimes", title, about, panels=5) as axes:
        scale = np.linspace(0.4, 2.2, 100)
        limit = {"formula/limit": (scale, np.maximum(0, 1 - scale**2))}
        curves = {"KL / d, nats": {}, "participation ratio Y": limit}
        for axis, (key, formula) in zip(axes, curves.items()):
            series = {one: pooled[one][key] for one in sorted(pooled)}
            kit.figures.lines(axis, series | formula, xlabel="h / h_G", ylabel=key)
            axis.axvline(1, color="black", ls=":", lw=1)
        measured = [found["index"].mean("index", str(mu)) for mu in INDICES]
        series = {"measured": measured, "formula/limit": np.minimum(INDICES, 2)}
        series = {name: (INDICES, index) for name, index in series.items()}
        labels = {"xlabel": "(h / h_G)²", "ylabel": "stable index"}
        kit.figures.lines(axes[2], series, marker="o", **labels)
        bars = {name: row["participation"] for name, row in data.items()}
        kit.figures.bars(axes[3], bars, xlabel="participation ratio Y")
        alphas = np.linspace(0.02, 1, 50)
        ends = kde.gaussian_phases(alphas)
        names = ("the CLT fails", "averaging fails", "least KL", "Silverman's rule")
        every = (ends.h_clt, ends.h_g, ends.h_kl, np.exp(-alphas))
        series = {name: (alphas, h / ends.h_g) for name, h in zip(names, every)}
        kit.figures.lines(axes[4], series, xlabel="log(n) / d", ylabel="h / h_G")
