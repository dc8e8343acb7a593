"""Generalization bounds, layer by layer: what a network's features tell of its data.

How much worse a network does on fresh data is bounded by how far its features of
training data lie from those of fresh data, and the bound shrinks from layer to layer
(He and Goldfeld 2024, "Information-theoretic generalization bounds for deep neural
networks", arXiv 2404.03176). We compute it where everything is known, for a linear
network, a Gibbs algorithm and noisy layers, against the true gap; then we estimate it
for perceptrons on scikit-learn's digits, beside what the same estimate says of images
that the network never saw. The paper's text was not to be had: statements are its
abstract's, in the form that can be proved, and its figures are not compared.

    python -m experiments run it_generalization                 # minutes on two cores
    python -m experiments run it_generalization --preset gpu    # Fashion-MNIST
    python -m experiments run it_generalization --data FILE     # images of your own
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from experiments import kit
from experiments.harness import bookkeeping
from experiments.papers.it_generalization import known
from experiments.papers.it_generalization.known import EXACT, GAP, INPUT, LAST, SIGN
from experiments.papers.it_generalization.networks import NAME, OUTPUT, TITLES, networks
from kljax.theory import sdpi
from kljax.theory.generalization import depth_bound
from kljax.theory.linear_network import mean_layer_kl

PAPER = "Information-theoretic generalization bounds for deep networks (2404.03176)"

DEPTHS = (2, 4, 8, 100)
LAYERS = ("KL", "unseen KL", "W1", "unseen W1", "W bound")
NETWORKS = ("error", "gap", "KL", "unseen KL", "excess")
DETAILS = ("loss gap", "bound", "unseen bound", "W bound", "unseen W bound")
"""What tables show of layers, and of networks."""


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 20
    draws: int = 10_000
    """Of the linear network's weights, for each seed."""
    data: str = "digits"
    """A name of `kljax.data.names()`, or a path to images of your own."""
    fetch: bool = bookkeeping(False)
    """Allow a download of a named data set, of a hub too."""
    layers: int = 4
    """Hidden ones, all of one width."""
    widths: tuple[int, ...] = (32, 16, 64)
    """With the first one all sizes and rates are run."""
    sizes: tuple[int, ...] = (500, 100, 300, 900)
    """Training images; with the first one all widths are run."""
    dropout: tuple[float, ...] = (0.0, 0.3, 0.6)
    points: int = 300
    """Images whose features are compared, of each kind (fewer where fewer train)."""
    steps: int = 800
    batch: int = 50
    rate: float = 2e-3


PRESETS = {
    "smoke": Config(
        seeds=2, draws=200, widths=(10,), layers=2, sizes=(100, 200), points=100,
        dropout=(0.0, 0.5), steps=20, decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(
        data="fashion_mnist", widths=(128, 64, 256), points=2000, steps=6000,
        sizes=(2000, 500, 1000, 3000), batch=128,
    ),
    # Never run by us. Which networks and data the paper has, if any, is not known.
    "paper": Config(
        data="mnist", widths=(512, 256, 1024), points=2000, steps=20_000,
        sizes=(2000, 500, 1000, 3000), batch=128,
    ),
}  # fmt: skip


def ranking(found: dict[str, Any]) -> kit.Noted:
    """mean over seeds of a correlation over sizes and dropout"""
    note = "Of the KL of unseen images {:.2f}, of what exceeds it {:.2f}."
    rest = (found["ranks"].mean("rank", name) for name in ("unseen KL", "excess"))
    return kit.Noted(found["ranks"].estimate("rank", "KL"), note.format(*rest))


CLAIMS = (
    kit.Claim(
        "HIERARCHY",
        "From layer to layer the KL bound shrinks, and stays above the true gap (a "
        "linear network, exactly).",
        "abstract: the bound shrinks as the layer index increases",
        lambda found: found["exact"].estimates("bound", *[*EXACT, GAP][::-1]),
        kit.order(*[*EXACT, GAP][::-1]),
    ),
    kit.Claim(
        "RANK",
        "A layer of rank r costs -(r/2) log(1 - 1/n) nats; more if it is learnt, as "
        "the last one is.",
        "analytic expressions for binary Gaussian classification",
        lambda found: found["rank"],
        kit.all_of(fixed=kit.near(1, rel=0.01), learnt=kit.above(1)),
        measure="mean KL over it; r = 20, and the last layer",
    ),
    kit.Claim(
        "WASSERSTEIN",
        "The Wasserstein bound shrinks to the last layer and stays above the gap "
        "(logistic loss of a linear network).",
        "abstract: the Wasserstein bound",
        lambda found: found["exact"].estimates("W bound", GAP, LAST, INPUT),
        kit.order(GAP, LAST, INPUT),
    ),
    kit.Claim(
        "FUNNEL",
        "Of a network for digits, W1 between training and test features is least at a "
        "layer inside.",
        "abstract: a layer that attains a minimal 1-Wasserstein distance",
        lambda found: kit.Noted(
            found["funnel"]["W1"],
            "But scaling a layer down and the next one up moves it anywhere, and the "
            "network says the same.",
        ),
        kit.holds_for(1, kit.at_least(0.5)), measure="share of networks, by width",
    ),
    kit.Claim(
        "FUNNEL-BOUND",
        "Of a network for digits, the Wasserstein bound is least at a layer inside.",
        "abstract: a layer that serves as a generalization funnel",
        lambda found: kit.Noted(
            found["funnel"]["W bound"],
            "It cannot be: a layer stretches W1 by its norm at most.",
        ),
        kit.holds_for(1, kit.at_least(0.5)), measure="share of networks, by width",
    ),
    kit.Claim(
        "CONTRACTION", "Noisy layers contract KL by their coefficient exactly.",
        "abstract: strong data processing for dropout and Gaussian noise",
        lambda found: found["contraction"], kit.every(kit.near(1, tol=1e-6)),
        measure="the worst laws' ratio over it (three signs; two points)",
    ),
    kit.Claim(
        "GIBBS",
        "The Gibbs algorithm's gap is its symmetric information over gamma, below "
        "sqrt(I / 2n) and gamma / 2n.",
        "abstract: the Gibbs algorithm", lambda found: found["gibbs"],
        kit.all_of(
            off=kit.at_most(1e-12), of_sqrt=kit.at_most(1), of_gamma=kit.at_most(1)
        ),
        measure="distance of the two sides; gap as a share of each bound",
    ),
    kit.Claim(
        "DEPTH",
        "Of networks with 10,000 weights of 16 levels the deeper and narrower ones "
        "have the smaller bound (dropout 0.9).",
        "abstract: deeper and narrower", lambda found: found["depth"],
        kit.order(*(f"L = {depth}" for depth in DEPTHS[::-1])),
        measure="bound on the gap of a loss in [0, 1]",
    ),
    kit.Claim(
        "DEPTH-PRICE",
        "Where dropout 0.9 makes that bound say anything, at L = 100, nothing of the "
        "input is left.",
        "ours: the same contraction", lambda found: found["price"],
        kit.at_most(1e-6, "nats"), ours=True,
        measure="most that the output can tell about one of 10 classes",
    ),
    kit.Claim(
        "PROCESSING",
        "On digits the estimated KL does not grow to a layer that is no wider.",
        "ours: does the estimate keep data processing?",
        lambda found: found["falling"]["KL"], kit.every(kit.at_least(0.8)), ours=True,
        measure="share of adjacent pairs, by width",
    ),
    kit.Claim(
        "PROCESSING-EXCESS",
        "On digits what the estimated KL exceeds that of images never seen by does not "
        "grow to a layer that is no wider.",
        "ours: the same without sampling error",
        lambda found: kit.Noted(
            found["falling"]["excess"],
            "The estimate shrinks with the width, as sampling error does; at the input "
            "no sample shows what the weights know.",
        ),
        kit.every(kit.at_least(0.8)), ours=True,
        measure="share of adjacent pairs, by width",
    ),
    kit.Claim(
        "MEMORY",
        "At the output training images lie further from test images than images never "
        "seen do, at all sizes (no dropout).",
        "ours: the control of the estimate", lambda found: found["memory"],
        kit.every(kit.interval_above(0)), ours=True,
    ),
    kit.Claim(
        "RANKING", "Networks with a larger KL at the output have a larger gap.",
        "ours: over training sizes and dropout", ranking, kit.at_least(0.5), ours=True,
    ),
)  # fmt: skip


@jax.jit
def by_depth(delta: Any, depths: Any) -> Any:
    """The bound of 10,000 weights of 16 levels, and the log of what passes."""
    return depth_bound(depths, 1e4, 16.0, 1e4, delta=delta)


def run(study: kit.Study) -> dict[str, Any]:
    """Where all is known, then networks on images."""
    config = study.config
    with jax.enable_x64(True):
        work = lambda seed: known.linear(config.draws, seed)  # noqa: E731
        every = study.each("linear", work, study.seeds)
        small = lambda: {"contraction": known.contraction(), "gibbs": known.coins(3.0)}  # noqa: E731
        found: dict[str, Any] = study.once("small", small)
        bound, passed = by_depth(0.9, np.array(DEPTHS, float))
        expected = [float(mean_layer_kl(r, 50)) for r in (known.RANKS[0], 1)]
    pairs = kit.grid([*EXACT, GAP], study.seeds)
    rows = {(name, seed): every[seed][name] for name, seed in pairs}
    found["exact"] = exact = kit.Scores(rows, titles=TITLES)
    ratios = (exact.mean("KL", k) / e for k, e in zip((INPUT, LAST), expected))
    found["rank"] = dict(zip(("fixed", "learnt"), ratios))
    found["depth"] = bound[::-1].tolist()
    found["price"] = math.exp(passed[-1]) * math.log(10)
    found |= networks(study)
    show(study, found)
    return found


def show(study: kit.Study, found: dict[str, Any]) -> None:
    """Tables and pictures."""
    exact, nets, config = found["exact"], found["networks"], study.config
    width = found["layers"].levels[0]
    main = found["layers"].at(width)
    study.scale = (
        f"{config.layers} hidden layers, {config.sizes[0]} images ({config.data})"
    )
    study.metrics |= exact.flat() | found["layers"].flat() | nets.flat()
    study.score_table("A linear network, exactly", exact)
    of_first = NAME.format(config.sizes[0], config.dropout[0])
    about = f"{width}, {of_first}."
    every = main.metrics()
    study.score_table("Layers", main, LAYERS, every=every, caption=about)
    about = f"{width}; n training images, distances at the output."
    study.score_table("Sizes and dropout", nets, NETWORKS, every=DETAILS, caption=about)
    levels = {"gap of errors": nets.mean("gap", of_first) / 100}
    title = (
        f"Known exactly, a bound on the gap of errors falls from "
        f"{exact.mean('bound', INPUT):.2f} at the input to "
        f"{exact.mean('bound', SIGN):.2f}, the gap is {exact.mean('bound', GAP):.2f}; "
        f"as estimated for {config.data} it is {main.mean('bound', OUTPUT):.2f} at the "
        f"output, {main.mean('unseen bound', OUTPUT):.2f} for images never seen, the "
        f"gap is {levels['gap of errors']:.2f}"
    )
    about = (
        "Left: a linear network that averages 50 points, dots are seeds. Middle: the "
        f"KL bound as estimated for perceptrons of {width} on {config.sizes[0]} "
        "images, and what the same estimate says of images that they never saw. Right: "
        "W1, in units of each layer, and the bound that it gives on the gap of losses."
    )
    places = range(len(main.methods))
    with study.figure("layers", title, about, panels=3, size=(4.6, 3.6)) as axes:
        values = {name: exact.units("bound", name) for name in [*EXACT, GAP]}
        kit.figures.bars(
            axes[0], values, shades={GAP: "tab:red"}, xlabel="bound on gap"
        )
        names = {"training images": "bound", "never seen": "unseen bound"}
        stack = lambda k, of: np.stack([of.units(k, m) for m in of.methods], -1)  # noqa: E731
        series = {name: (places, stack(k, main)) for name, k in names.items()}
        labels = {"ylabel": "estimated KL bound", "ylim": (0, None)}
        kit.figures.lines(axes[1], series, levels=levels, **labels)
        names = {"bound: W1 times norms behind": "W bound", "W1 alone": "W1"}
        series = {name: (places, stack(k, main)) for name, k in names.items()}
        levels = {"gap of losses": nets.mean("loss gap", of_first)}
        labels = {"ylabel": "nats; W1 in units of features", "yscale": "log"}
        kit.figures.lines(axes[2], series, levels=levels, **labels)
        for axis in axes[1:]:
            axis.set_xticks(places, main.methods, rotation=35, ha="right")

    rank = found["ranks"].mean("rank", "KL")
    title = (
        f"Ranks of estimated KL and of gap correlate by {rank:.2f}; how much of KL "
        "noise lets pass; bounds by depth"
    )
    about = (
        "Left: means over seeds, a point per training size, joined in their order. "
        "Middle: the coefficient of a noisy layer. Right: 10,000 weights of 16 levels, "
        "as many examples."
    )
    with study.figure("noise", title, about, panels=3) as axes:
        at = lambda k, rate: [  # noqa: E731
            nets.mean(k, NAME.format(n, rate)) for n in sorted(config.sizes)
        ]
        series = {f"dropout {p:g}": (at("KL", p), at("gap", p)) for p in config.dropout}
        labels = {"xlabel": "KL at the output, nats", "ylabel": TITLES["gap"]}
        kit.figures.lines(axes[0], series, marker="o", **labels)
        r = np.linspace(0.01, 6, 100)
        series = {
            "Gaussian, exact": (r, np.exp(jax.jit(sdpi.log_eta_gaussian)(r))),
            "Gaussian, Dobrushin": (r, np.exp(jax.jit(sdpi.log_eta_dobrushin)(r))),
        }
        labels = {"xlabel": "diameter / noise", "ylabel": "coefficient"}
        kit.figures.lines(axes[1], series, **labels)
        depths, series = np.geomspace(2, 400, 100), {}
        for delta in (0.9, 0.7, 0.5):
            series[f"dropout {delta:g}"] = (depths, by_depth(delta, depths)[0])
        labels = {"xlabel": "layers", "ylabel": "bound on the gap", "xscale": "log"}
        kit.figures.lines(axes[2], series, **labels)
