"""Scaling laws: does the constant of a fitted power law tell the entropy of the data?

The loss of transformers falls as a power law plus a constant in their size, compute and
data (Henighan et al. 2020, arXiv 2010.14701); the paper reads the constant as the
entropy of the data and the rest as the KL divergence to the model. It cannot check
that, as nobody knows the entropy of images: we train on sources whose entropy and KL
are exact. Our fitter also refuses: where the constant is not identified, a number
would be worthless.

Then the paper's own kinds of data, small: images, code (bytes of the standard library),
captions of images with a known mutual information, sums with longer carries than any
that was trained on. Transformers have the standard shape (12 layers width² weights), a
constant learning rate by the paper's rule for its sizes, not tuned by us, and are
judged by averaged weights.

    python -m kljax.data fetch fashion_mnist                   # once, 31 MB
    python -m experiments run scaling_laws                     # minutes on two cores
    python -m experiments run scaling_laws --preset gpu        # up to 100 M weights
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import kit
from experiments.papers.scaling_laws import exact, sweeps
from kljax.theory.compute_optimal import Frontier, frontier
from kljax.theory.scaling import Fit, local_exponents, power_law

PAPER = "Scaling laws for autoregressive generative modeling (arXiv 2010.14701)"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 3
    """Of counted contexts and of captions; the sweeps of sizes have one."""
    draws: int = 30
    contexts: int = 400_000
    samples: tuple[float, float, int] = (1e3, 3e6, 12)
    perceptrons: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Widths; on the contexts of two of `symbols` symbols."""
    symbols: int = 32
    perceptron_steps: int = 6000
    widths: tuple[int, ...] = (8, 10, 12, 16, 20, 24, 32, 48)
    """Of transformers on the source of known entropy."""
    data_widths: tuple[int, ...] = (8, 12, 16, 24, 32, 40)
    depth: int = 2
    rate: float = 2.7e-3
    """At width 32; the paper's, table 4. It falls as width^-0.75."""
    steps: int = 4000
    data_steps: int = 1200
    tokens: int = 2048
    """Per step. Paper: about 500,000."""
    window: int = 64
    """Bytes of code that are read at once."""
    data: tuple[str, ...] = ("images 8x8", "images 16x16", "code", "sums")
    judged: int = 256
    """Held-out rows."""
    stops: int = 16
    """Times at which a run is judged."""
    caption_size: tuple[int, int] = (16, 2)
    caption_steps: int = 2000
    digits: tuple[int, int] = (16, 2)
    """Width and depth of what reads subsets of the digits; no layers: left out."""
    digit_counts: tuple[int, ...] = (100, 180, 320, 560, 1000, 1400)
    digit_steps: int = 600


PRESETS = {
    "smoke": Config(
        seeds=2, draws=2, contexts=2000, samples=(1e2, 1e4, 6), symbols=4,
        perceptrons=(2, 3, 4, 5, 6, 7), perceptron_steps=5, widths=(4, 6, 8, 12),
        data_widths=(4, 6, 8, 12), depth=1, steps=40, data_steps=10, tokens=64,
        window=8, data=("sums",), judged=8, stops=4, caption_size=(4, 1),
        caption_steps=4, digits=(4, 0), decide=False,
    ),
    "cpu": Config(),
    # Neither was run by us: no accelerator was at hand.
    "gpu": Config(
        widths=(64, 96, 128, 192, 256, 384, 512), depth=6, steps=20_000, tokens=65_536,
        data_widths=(64, 128, 256, 384, 512, 768, 1024), data_steps=20_000, window=512,
        judged=2048, caption_size=(64, 2), caption_steps=10_000,
    ),
    # The paper's lengths and batches; its 1e8 images and 3e9 weights are not here.
    "paper": Config(
        widths=(32, 64, 128, 256, 512), data_widths=(32, 64, 128, 256, 512, 1024),
        depth=12, steps=250_000, data_steps=250_000, tokens=500_000, window=512,
        judged=2048, caption_size=(64, 2), caption_steps=10_000,
    ),
}  # fmt: skip

ZIPF, PAIRS, CORRELATION, CAPTION_LEVELS = "known source", 4, 0.8, 8
SHADES = {"identified": "tab:green", "warned": "tab:orange", "refused": "tab:red"}


def sources(config: Config) -> dict[str, Callable[[], sweeps.Source]]:
    """What the transformers read, by name."""
    rows = lambda tokens: max(1, config.tokens // tokens)  # noqa: E731
    judged, seed = config.judged, config.seed
    fashion = lambda side: sweeps.pictures(  # noqa: E731
        "fashion_mnist", side, rows(side**2), judged
    )
    return {
        ZIPF: lambda: sweeps.zipf(0.5, rows(sweeps.DIGITS), seed, 8 * judged),
        "images 8x8": lambda: fashion(8),
        "images 16x16": lambda: fashion(16),
        "code": lambda: sweeps.code(rows(config.window), config.window, judged),
        "sums": lambda: sweeps.carries(4, rows(13), 8 * judged, 1),
    }


# ------------------------------------------------------------ claims


def said(*words: str) -> kit.Bar:
    """The verdict of a fit is one of these words."""
    return kit.Bar(" or ".join(words), lambda value: value in words)


def of_fit(name: str) -> Callable[[dict[str, Any]], Any]:
    """What the fitter says of a curve."""

    def value(found: dict[str, Any]) -> kit.Noted:
        """verdict of the fit"""
        spoken = asked(found["fits"], name).verdict()
        return kit.Noted(spoken.status, "; ".join(spoken.reasons).capitalize())

    return value


def asked(found: dict[str, Any], name: str) -> Any:
    if name not in found:
        raise kit.Missing(f"needs {name}")
    return found[name]


def entropy_ratio(name: str) -> Callable[[dict[str, Any]], Any]:
    def value(found: dict[str, Any]) -> kit.Noted:
        """fitted constant over the exact entropy"""
        fit, entropy = asked(found["fits"], name), found["entropy"][name]
        low, high = (float(end) / entropy for end in fit.floor_interval)
        note = f"95 % interval of the fit {low:.4g} to {high:.4g}: {fit.verdict()}."
        return kit.Noted(float(fit.law.floor) / entropy, note)

    return value


def counted_errors(found: dict[str, Any]) -> dict[str, kit.Estimate]:
    """by counts of Zipf contexts, a = 0.5"""
    return {k: kit.Estimate((np.array(v),)) for k, v in found["counted"].items()}


def recovered(key: str, noise: float, some: str = "x") -> Callable[..., dict]:
    return lambda found: {
        name: row[key] for name, row in found["recovery"][noise].items()
        if some in name and (key[:2] != "sd" or "VQ" not in name)
    }  # fmt: skip


BETA = "fitted exponent of N_opt(C)"
CLAIMS = (
    kit.Claim(
        "ENTROPY",
        "The constant of L(C) is the entropy of the source: transformers of eight "
        "sizes that read one whose entropy is known.",
        "Eq. 1.2", entropy_ratio(f"{ZIPF}, C"), kit.near(1, rel=0.02),
        paper="not checked there: no source's entropy is known",
    ),
    kit.Claim(
        "ENTROPY-SAID", "The fitter stands by that constant.", "ours",
        of_fit(f"{ZIPF}, C"), said("identified", "warned"), ours=True,
    ),
    kit.Claim(
        "KL", "The reducible loss is the KL: of the largest model it is small.",
        "Eq. 1.2", lambda found: found["kl"], kit.at_most(0.05),
        measure="exact KL of the largest model over the entropy",
    ),
    kit.Claim(
        "TABLE", "The laws per token give those per image.", "tables 1 and 3",
        lambda found: {k: v[1] / exact.DERIVED[k] for k, v in found["images"].items()},
        kit.every(kit.near(1, rel=0.01)), measure="scale over its value by hand",
    ),
    kit.Claim(
        "TABLE-8x8", "The scale of 8x8 images in table 3 follows from table 1.",
        "table 3", lambda found: found["images"]["8x8"][1] / exact.PER_IMAGE["8x8"][1],
        kit.near(1, rel=0.2), measure="scale by table 1 over table 3's",
        paper="1.9e3 PF-days",
    ),
    kit.Claim(
        "FITTER", "Without noise the fitter finds the law.", "ours",
        lambda found: {
            k: max(row["L_inf off"], row["alpha off"])
            for k, row in found["recovery"][0.0].items()
        },
        kit.every(kit.at_most(1e-6)), measure="largest error", ours=True,
    ),
    kit.Claim(
        "FITTER-L", "At 0.1 % of noise 12 points tell L_inf to 0.01 nats.", "ours",
        recovered("sd of L_inf", 0.001), kit.every(kit.at_most(0.01)),
        measure="standard deviation of L_inf over noise, nats", ours=True,
    ),
    kit.Claim(
        "FITTER-alpha", "At 0.1 % of noise 12 points tell alpha to 0.005.", "ours",
        recovered("sd of alpha", 0.001), kit.every(kit.at_most(0.005)),
        measure="standard deviation of alpha over noise", ours=True,
    ),
    kit.Claim(
        "FITTER-NOISE", "At 0.5 % of noise alpha is hardly known.", "ours",
        lambda found: {k: r["sd of alpha"] for k, r in found["recovery"][0.005].items()},
        kit.shown(), measure="standard deviation of alpha over noise", ours=True,
    ),
    kit.Claim(
        "FRONTIER", "The exponent of N_opt(C) is b / (a + b).", "ours",
        lambda found: {k: abs(v[0] - v[1]) for k, v in found["betas"].items()},
        kit.every(kit.at_most(0.002)), measure="error of beta, by a, b", ours=True,
    ),
    kit.Claim(
        "COUNTS", "Where the law holds, data alone tell the entropy.", "ours",
        counted_errors,
        kit.all_of(**{
            "L_inf over H": kit.near(1, rel=0.002), "alpha": kit.near(1 / 3, tol=0.02),
        }),
        ours=True, digits=4,
    ),
    kit.Claim(
        "COUNTS-SAID", "The fitter stands by that constant.", "ours",
        of_fit("counts, a = 0.5"), said("identified"), ours=True,
    ),
    kit.Claim(
        "EARLY", "Where the law is not yet reached (a = 1), the fitter warns.", "ours",
        of_fit("counts, a = 1"), said("warned"), ours=True,
    ),
    kit.Claim(
        "MEMORIZED", "A finite table that is memorized is no power law: the fitter "
        "refuses.", "ours", of_fit("perceptrons"), said("refused"), ours=True,
    ),
    kit.Claim(
        "BETA", "The best size grows with compute as in the paper.", "Eq. 1.4, table 1",
        lambda found: {k: v.beta for k, v in found["frontiers"].items()},
        kit.every(kit.within(0.45, 0.8)), measure=BETA, paper="0.64 to 0.75",
    ),
    kit.Claim(
        "FORM", "L(C) is a power law and a constant on all data.", "Eq. 1.1",
        lambda found: found["R2"], kit.every(kit.at_least(0.98)),
        measure="R² of log(L - L_inf), fitted constant",
    ),
    kit.Claim(
        "DATA-SAID", "What the fitter says of the constants of real data.", "ours",
        lambda found: {
            k.removesuffix(", C"): v.verdict().status for k, v in found["fits"].items()
            if k.endswith(", C") and ZIPF not in k
        },
        kit.shown(), measure="verdict", ours=True,
    ),
    kit.Claim(
        "CAPTIONS", "Blank-caption loss minus captioned loss is the mutual information.",
        "Eq. 1.5, E", lambda found: found["captions"]["mixed"], kit.near(1, rel=0.05),
        measure="measured nats over the true ones, half of the captions blank",
    ),
    kit.Claim(
        "CAPTIONS-UNMIXED", "Without blank captions in training it is an overestimate.",
        "E", lambda found: found["captions"]["unmixed"], kit.interval_above(1),
        measure="measured nats over the true ones", paper="about 2",
    ),
    kit.Claim(
        "SUMS", "How well a model extrapolates depends on its training loss alone.",
        "section 5", lambda found: asked(found, "collapse"),
        kit.every(kit.at_least(0.9)),
        measure="R² of one curve for all sizes, log loss by log loss",
    ),
    kit.Claim(
        "DIGITS", "Held-out loss by the number of digits that were seen.", "ours",
        lambda found: asked(found, "digits"), kit.shown(),
        measure="exponent of L(D), no constant", ours=True,
    ),
)  # fmt: skip


# ------------------------------------------------------------ the run


def counted(study: kit.Study) -> dict[float, dict[int, dict]]:
    low, high, count = study.config.samples
    samples, contexts = np.geomspace(low, high, count).round(), study.config.contexts
    return {
        a: study.each(
            ("counts", a),
            lambda seed, a=a: exact.counted(a, contexts, samples, seed),
            study.seeds,
        )
        for a in (0.5, 1.0)
    }


def swept(study: kit.Study, name: str, widths: tuple[int, ...], steps: int):
    """All sizes on one source: losses `[m s]` by what is judged, N and C."""
    config, loaded = study.config, []

    def work(width: int) -> dict[str, Any]:
        loaded[:] = loaded or [sources(config)[name]()]
        rate = config.rate * (32 / width) ** 0.75
        found = sweeps.curve(
            loaded[0], width, config.depth, rate,
            sweeps.stops_of(steps, config.stops), config.seed,
        )  # fmt: skip
        return {**found, "H": loaded[0].entropy, "what": loaded[0].what}

    every = [*study.each(name, work, widths).values()]
    stack = lambda pick: np.stack([pick(one) for one in every])  # noqa: E731
    return {
        "N": np.array([one["N"] for one in every], float),
        "C": stack(lambda one: one["C"]),
        "H": every[0]["H"],
        "what": every[0]["what"],
        "loss": {k: stack(lambda one, k=k: one["loss"][k]) for k in every[0]["loss"]},
    }


def by_compute(edge: Frontier, points: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """L(C) at some points of the frontier."""
    at = np.linspace(0, len(edge.grid) - 1, points).round().astype(int)
    return edge.grid[at], edge.least[at]


def straightness(fit: Fit, x: np.ndarray, loss: np.ndarray) -> float:
    """R² of the line through log(L - L_inf) by log x."""
    y = np.log(np.maximum(loss - float(fit.law.floor), 1e-12))
    return float(np.corrcoef(np.log(x), y)[0, 1] ** 2)


def collapsed(own: np.ndarray, other: np.ndarray) -> float:
    """R² of one curve (a parabola) for all sizes' log-losses there by those here."""
    x, y = np.log(own.ravel()), np.log(other.ravel())
    left = y - np.polyval(np.polyfit(x, y, 2), x)
    return float(1 - left.var() / y.var())


def run(study: kit.Study) -> dict[str, Any]:
    """Exact curves, sweeps of sizes, captions."""
    import jax

    config = study.config
    found: dict[str, Any] = {"fits": {}, "entropy": {}, "frontiers": {}, "R2": {}}
    seed = study.seeds[0]
    with jax.enable_x64(True):
        found["images"] = exact.per_image()
        recover = lambda noise: exact.recovery(noise, config.draws)  # noqa: E731
        found["recovery"] = study.each("recovery", recover, (0.0, 0.001, 0.005))
        found["betas"] = study.once("frontier", exact.betas)
        tables = counted(study)
    sizes = config.perceptrons, config.perceptron_steps, config.symbols, config.seed
    learned = study.once("perceptrons", lambda: exact.memorized(*sizes))
    curves = {f"counts, a = {a:g}": each[seed] for a, each in tables.items()}
    curves["perceptrons"] = learned
    every = {ZIPF: swept(study, ZIPF, config.widths, config.steps)}
    for name in config.data:
        every[name] = swept(study, name, config.data_widths, config.data_steps)
    with jax.enable_x64(True):
        for name, one in every.items():
            loss = one["loss"]["held out"]
            try:
                edge = frontier(one["C"], loss, one["N"])
            except ValueError as why:  # too few sizes are ever the best
                study.metrics[f"frontier/{name}"] = str(why)
                continue
            found["frontiers"][name] = edge
            x, least = by_compute(edge)
            curves[f"{name}, C"] = {"x": x, "loss": least, "H": one["H"]}
        for name, one in curves.items():
            found["fits"][name] = fit = exact.fitted(one)
            found["entropy"][name] = one["H"]
            if name.endswith(", C"):
                place = name.removesuffix(", C")
                found["R2"][place] = straightness(fit, one["x"], one["loss"])
        fits = [exact.fitted(one) for one in tables[0.5].values()]
    found["counted"] = {
        "L_inf over H": [
            float(fit.law.floor) / one["H"] for fit, one in zip(fits, tables[0.5].values())
        ],
        "alpha": [float(fit.law.alpha) for fit in fits],
    }
    source = every[ZIPF]
    found["kl"] = float(source["loss"]["held out"][-1, -1] / source["H"] - 1)
    if "sums" in every:
        own, *other = every["sums"]["loss"].items()
        found["collapse"] = {name: collapsed(own[1], loss) for name, loss in other}
    told(study, found)
    subsets(study, found)
    show(study, found, every, curves)
    return found


def told(study: kit.Study, found: dict[str, Any]) -> None:
    """Captions that tell of their images, with blank ones in training and without."""
    config = study.config
    given = PAIRS, CORRELATION, CAPTION_LEVELS, max(1, config.tokens // 2 // PAIRS)
    work = lambda: sweeps.captions(  # noqa: E731
        config.caption_size, *given, 8 * config.judged, config.rate * 2,
        config.caption_steps, study.seeds,
    )  # fmt: skip
    made = study.once("captions", work)
    true = PAIRS * sweeps.pair_information(CORRELATION, CAPTION_LEVELS)
    nats = (made["blank"] - made["captioned"])[..., -1]
    found["captions"] = {
        name: kit.Estimate((row / true,)) for name, row in zip(("mixed", "unmixed"), nats)
    }
    text = made["text"][0, :, -1]
    study.table(
        "What a caption tells of its image",
        ("", "nats", "share of the caption"),
        [
            ("true", true, true / (PAIRS * np.log(CAPTION_LEVELS))),
            ("half of the captions blank", nats[0].mean(), (nats[0] / text).mean()),
            ("no caption blank", nats[1].mean(), (nats[1] / text).mean()),
        ],
        f"Means over {len(study.seeds)} seeds.",
    )
    found["told"] = {
        "true": true, "blank captions too": nats[0], "no blank captions": nats[1]
    }  # fmt: skip


def subsets(study: kit.Study, found: dict[str, Any]) -> None:
    """Held-out loss of the digits by how many were seen."""
    config = study.config
    if not config.digits[1]:
        return
    counts = config.digit_counts
    rate = config.rate * (32 / config.digits[0]) ** 0.75

    def work() -> np.ndarray:
        source = sweeps.pictures("digits", 8, max(1, config.tokens // 128), 360)
        stops = sweeps.stops_of(config.digit_steps, config.stops)
        given = config.digits, counts, rate, stops, study.seeds
        return sweeps.subsets(source, *given)

    loss = study.once("digits", work)
    slopes = np.array([-np.polyfit(np.log(counts), np.log(row), 1)[0] for row in loss])
    found["digits"] = kit.Estimate((slopes,))
    rows = [(n, loss[:, i].mean()) for i, n in enumerate(counts)]
    study.table("Digits", ("images", "nats per pixel"), rows, "Held out.", detail=True)


def show(study: kit.Study, found: dict, every: dict, curves: dict) -> None:
    """Tables and pictures."""
    largest = max(one["N"].max() for one in every.values())
    study.scale = f"transformers of up to {largest:,.0f} weights, {len(every)} sources"
    fits, names = found["fits"], {}
    for name, fit in fits.items():
        low, high = np.asarray(fit.floor_interval)
        entropy = found["entropy"][name]
        names[name] = (
            name, None if np.isnan(entropy) else entropy, float(fit.law.floor),
            f"{low:.4g} to {high:.4g}", float(fit.law.alpha), fit.verdict().status,
        )  # fmt: skip
        study.metrics[f"fit/{name}"] = str(fit.verdict())
    study.table(
        "Fitted constants",
        ("curve", "H", "L_inf", "95 %", "alpha", "verdict"),
        list(names.values()),
        "Nats per token. C: the least loss of all sizes by compute.",
    )
    study.table(
        "Fits of the paper's laws with noise",
        ("law", "noise, %", "sd of L_inf", "sd of alpha", "intervals cover"),
        [
            (name, 100 * noise, row["sd of L_inf"], row["sd of alpha"], row["covered"])
            for noise, rows in found["recovery"].items() if noise
            for name, row in rows.items()
        ],
        f"12 points from 1e-6 to 10 PF-days, {study.config.draws} draws.",
        detail=True,
    )  # fmt: skip
    rows = [
        (name, edge.beta, len(edge.size), f"{edge.grid[0]:.2g} to {edge.grid[-1]:.2g}",
         every[name]["what"])
        for name, edge in found["frontiers"].items()
    ]  # fmt: skip
    if rows:
        columns = "source", "beta", "sizes on it", "compute", "data"
        study.table("Compute frontiers", columns, rows, "N_opt grows as C^beta.")
    draw_entropy(study, found, every[ZIPF], curves)
    draw_data(study, found, every, curves)
    draw_rest(study, found, every)


def draw_entropy(study: kit.Study, found: dict, source: dict, curves: dict) -> None:
    """The headline: learning curves over the entropy, and what fits make of them."""
    title = "Loss over a known entropy, and the constant that a fit finds"
    about = (
        "Left: transformers of all sizes on a source of known entropy (dotted), and the "
        "fit of the lowest loss by compute (dashed). Middle: what is left over the "
        "entropy, the exact KL. Right: fitted constant over the exact entropy, with its "
        "interval; green identified, orange warned of, red refused."
    )
    key, entropy = f"{ZIPF}, C", source["H"]
    with study.figure("entropy", title, about, panels=3) as axes:
        curves_of(axes[0], source, found, ZIPF, curves)
        axes[0].axhline(entropy, color="black", ls=":", label="entropy")
        axes[0].legend(fontsize=7)
        for name, one in curves.items():
            if np.isfinite(one["H"]) and one["H"] > 0:
                kl = one["loss"] - one["H"]
                axes[1].plot(one["x"] / one["x"][0], kl, "o-", ms=3, label=name)
        axes[1].set(xscale="log", yscale="log", xlabel="x over its first value")
        axes[1].set(ylabel="KL, nats")
        axes[1].legend(fontsize=7)
        known = [k for k in found["fits"] if k in curves and found["entropy"][k] > 0]
        for place, name in enumerate(known):
            fit, entropy = found["fits"][name], found["entropy"][name]
            color = SHADES[fit.verdict().status]
            ends = np.asarray(fit.floor_interval) / entropy
            axes[2].plot(ends, (place, place), color=color, lw=2)
            axes[2].plot(float(fit.law.floor) / entropy, place, "o", color=color, ms=9)
        axes[2].axvline(1, color="black", ls=":", lw=1)
        axes[2].set_yticks(range(len(known)), [k.replace(key, "transformers") for k in known])
        axes[2].set(xlabel="fitted constant / entropy", ylim=(len(known) - 0.5, -0.5))


def curves_of(axis: Any, one: dict, found: dict, name: str, curves: dict) -> None:
    """Learning curves of all sizes, and the fit of their lower edge."""
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0, 0.9, len(one["N"])))
    for c, loss, color in zip(one["C"], one["loss"]["held out"], shades):
        axis.plot(c, loss, color=color, lw=1)
    if (key := f"{name}, C") in found["fits"]:
        x, law = curves[key]["x"], found["fits"][key].law
        x = np.geomspace(x[0], x[-1] * 10, 50)
        axis.plot(x, np.asarray(law(x)), "--", color="tab:red", label="fit")
        if law.floor > 0:
            axis.axhline(float(law.floor), color="tab:red", lw=0.8, label="its constant")
        axis.legend(fontsize=7)
    axis.set(xscale="log", xlabel="operations", ylabel="nats per token", title=name)


def draw_data(study: kit.Study, found: dict, every: dict, curves: dict) -> None:
    title = "Learning curves of all sizes by compute, and the best size"
    about = (
        "Held-out loss, dark small models, light large ones; the fit of their lower edge "
        "dashed, carried on by a decade. Last: the size that is the lowest by compute."
    )
    some = [name for name in every if name != ZIPF]
    with study.figure("data", title, about, panels=len(some) + 1) as axes:
        for axis, name in zip(axes, some):
            curves_of(axis, every[name], found, name, curves)
        for name, edge in found["frontiers"].items():
            label = f"{name}: {edge.beta:.2f}"
            axes[-1].plot(edge.compute, edge.size, "o-", ms=3, label=label)
        axes[-1].set(xscale="log", yscale="log", xlabel="operations")
        axes[-1].set(ylabel="weights", title="exponents of the best size")
        if found["frontiers"]:
            axes[-1].legend(fontsize=7)


def draw_rest(study: kit.Study, found: dict, every: dict) -> None:
    title = "What captions tell of images; sums beyond those that were trained on"
    about = (
        "Left: blank-caption loss minus captioned loss, and the true mutual information; "
        "dots are seeds. Right: loss on sums with longer carries by that on sums like "
        "those of training, a color per size, a dot per evaluation."
    )
    panels = 1 + ("sums" in every)
    with study.figure("captions", title, about, panels=panels) as axes:
        axes = np.atleast_1d(axes)
        kit.figures.bars(axes[0], found["told"], xlabel="nats per image")
        if "sums" in every:
            from matplotlib import colormaps

            one = every["sums"]
            own, *other = one["loss"].items()
            shades = colormaps["viridis"](np.linspace(0, 0.9, len(one["N"])))
            for (name, loss), marker in zip(other, "osv^"):
                for i, color in enumerate(shades):
                    label = name if i == 0 else None
                    axes[1].plot(own[1][i], loss[i], marker, ms=3, color=color, label=label)
            axes[1].set(xscale="log", yscale="log", xlabel="carries as in training, nats")
            axes[1].set(ylabel="longer carries, nats per digit")
            axes[1].legend(fontsize=7)
