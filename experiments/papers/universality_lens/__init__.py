"""The universality lens: why models with too many parameters predict well all the same.

A mixture of all models of a class pays, beyond whoever knows the law of the data, at
most what the prior weight of the models near that law says, and the number of
parameters does not enter (Feder, Urbanke and Fogel 2025, "The universality lens: why
even highly over-parametrized models learn well", arXiv 2506.07661). We measure the
price for coins, for linear regression with up to 5,000 parameters and for random
networks with up to 4,609 weights that predict noisy Boolean functions, also where the
prior is wrong and the mixture does worse than guessing. Then we ask whether mixing pays
on real digits, by Langevin dynamics against the mode of the same posterior. The paper's
abstract alone was to be had: formulas and their numbers are ours
(`kljax.theory.universal`), and it announces no experiments to compare with.

    python -m experiments run universality_lens                 # minutes on two cores
    python -m experiments run universality_lens --preset gpu    # Fashion-MNIST
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from experiments import kit
from experiments.harness import bookkeeping
from experiments.papers.universality_lens import findings, lab
from experiments.papers.universality_lens.lab import MODE
from kljax.data.pool import Pool
from kljax.metrics import classification_scores
from kljax.theory import conjugate

PAPER = "The universality lens (arXiv 2506.07661)"

MEANS = (lab.LOGITS, lab.WEIGHTS)


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 10
    networks: int = 20_000
    """Draws of the prior: the class that is mixed, exactly."""
    widths: tuple[int, ...] = (8, 64, 512)
    runs: int = 20
    """Sequences of labels per seed."""
    sizes: tuple[int, ...] = (5, 50, 500, 5000)
    """Parameters of linear regression on 50 examples."""
    chains: tuple[int, int] = (4000, 400)
    """On quadratic energies, and of linear regression on the diabetes data."""
    thin: int = 300
    """Steps of the latter between two of ten snapshots, after five times as many."""
    data: str = "digits"
    """A name of `kljax.data.names()`, or a path to images of your own."""
    fetch: bool = bookkeeping(False)
    """Allow a download of a named data set, of a hub too."""
    learning: lab.Learning = dataclasses.field(default_factory=lab.Learning)


PRESETS = {
    "smoke": Config(
        seeds=2, networks=500, widths=(8, 64), runs=4, sizes=(5, 50), chains=(200, 100),
        thin=20,
        learning=lab.Learning((50, 50, 200), 16, 60, 20, 5, (2.0,)), decide=False,
    ),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(
        networks=200_000, data="fashion_mnist",
        learning=lab.Learning((3000, 2000, 10_000), 256, 20_000, 200),
    ),
    # Never run by us. The paper announces no experiments: larger class, longer chains.
    "paper": Config(
        seeds=20, networks=100_000, runs=100, learning=lab.Learning(steps=20_000)
    ),
}  # fmt: skip

CLAIMS = (
    kit.Claim(
        "SIZE",
        "What a mixture of random networks pays until it predicts a constant does not "
        "grow with the number of weights.",
        "abstract: over-parametrized models learn well", findings.growth,
        kit.every(kit.within(-1, 1)),
    ),
    kit.Claim(
        "BOUND",
        "Prior weight near the truth bounds the regret (3), for every function and "
        "size.",
        "abstract; (3)", findings.beyond, kit.at_most(3),
    ),
    kit.Claim(
        "SIMPLE",
        "It also says what is simple: functions are dear in the order of their bounds.",
        "abstract: simple models weigh much", findings.ranked, kit.at_least(0.95),
    ),
    kit.Claim(
        "FAILURE",
        "Where no network is near (parity, random functions) the mixture does worse "
        "than guessing.",
        "what (3) leaves open", findings.dearer, kit.every(kit.above(0, "nats")),
    ),
    kit.Claim(
        "INSURANCE",
        "One per cent of prior weight for a fair coin bounds that, and costs nothing "
        "elsewhere.",
        "ours", findings.insured,
        kit.all_of(
            dearest=kit.at_most(round(-math.log(lab.COIN), 2), "nats"),
            constant=kit.at_most(0.02, "nats"),
        ),
        ours=True,
    ),
    kit.Claim(
        "LINEAR",
        "Linear regression with 5,000 parameters on 50 examples pays at most a tenth "
        "more than with 500.",
        "(13)", lambda found: found["linear"].ratio_of_means("exact", "5000", "500"),
        kit.at_most(1.1),
    ),
    kit.Claim(
        "LINEAR-EXACT",
        "Its regret in closed form is what simulated data pay.",
        "(13)", findings.simulated, kit.every(kit.at_most(0.05, "nats")),
    ),
    kit.Claim(
        "COIN-SOFT",
        "For coins the bound is half a nat above the regret, as for any one parameter.",
        "(11)", findings.coins("soft gap"), kit.every(kit.near(0.5, tol=0.005)),
        measure="bound (3) minus exact regret, nats", digits=4,
    ),
    kit.Claim(
        "COIN-BALL",
        "The bound by a single ball is 1.226 nats above it.",
        "(11)", findings.coins("ball gap"), kit.every(kit.near(1.226, tol=0.01)),
        measure="bound (4) minus exact regret, nats", digits=4,
    ),
    kit.Claim(
        "CHAIN",
        "What single predictions cost sums up to the regret, in float32 too.",
        "(2)", lambda found: found["chain"], kit.every(kit.at_most(1e-5)),
        measure="largest difference of both sides, over the regret",
    ),
    kit.Claim(
        "LANGEVIN",
        "Langevin dynamics of a step that is not small has the variance of (16).",
        "abstract: SGLD; (16)", lambda found: found["quadratic"],
        kit.every(kit.near(1, rel=0.04)),
        measure="variance of chains on a quadratic energy, over that of (16)",
    ),
    kit.Claim(
        "POSTERIOR",
        "Corrected by (16), SGLD by batches of 64 has mean and covariance of the "
        "posterior (linear regression, diabetes).",
        "abstract: SGLD", lambda found: found["diabetes"],
        kit.all_of(mean=kit.at_most(0.05), covariance=kit.at_most(0.05)),
        measure="relative error, Frobenius norm; whitened: in the posterior's units",
    ),
    kit.Claim(
        "DIGITS",
        "On digits the mixture of 20 snapshots has less log loss than the mode of the "
        "same posterior, by 0.02 nats or more.",
        "proposed from the abstract", findings.against("nats", lab.RIGHT, MODE),
        kit.every(kit.both(kit.at_most(-0.02, "nats"), kit.interval_below(0))),
    ),
    kit.Claim(
        "DIGITS-ECE",
        "It is better calibrated than the mode.",
        "proposed from the abstract", findings.against("ECE", lab.RIGHT, MODE),
        kit.every(kit.interval_below(0)),
    ),
    kit.Claim(
        "PROBABILITIES",
        "It is probabilities that are to be averaged: averages of snapshots' logits or "
        "weights, with settings of their own, have more log loss.",
        "(17)", findings.against("nats", lab.RIGHT, *MEANS),
        kit.every(kit.interval_below(0)), ours=True,
    ),
    kit.Claim(
        "UNTOLD",
        "Where 30 % of the labels turn out to be wrong, at settings that right ones "
        "chose, the mixture has less log loss than the mode, of the same prior too.",
        "ours", findings.against("nats", lab.UNTOLD, MODE, lab.SAME),
        kit.every(kit.interval_below(0)), ours=True,
    ),
)  # fmt: skip


def networks(study: kit.Study) -> tuple[kit.Scores, dict[tuple, Any]]:
    """Mixtures of random networks on Boolean functions; and their curves."""
    config, rows, curves = study.config, {}, {}
    for width in config.widths:
        work = lambda s, w=width: lab.mixed(config.networks, w, config.runs, s)  # noqa: E731
        size = (lab.BITS + 2) * width + 1
        for seed, found in study.each(("networks", width), work, study.seeds).items():
            for i, name in enumerate(lab.FUNCTIONS):
                one = {k: np.asarray(v, np.float64)[i] for k, v in found.items()}
                last = {"regret": one["regret"][-1], "soft": one["soft"][-1]}
                last |= {k: one[k] for k in ("ball", "coin", "off")}
                last["beyond"] = last["regret"] - last["soft"]
                rows[name, seed, size] = last
                curves[name, seed, size] = one
    return kit.Scores(rows, titles=findings.TITLES, factor="sizes"), curves


def digits(study: kit.Study) -> kit.Scores:
    """Mixture and mode on real images, with right labels and with wrong ones."""
    config, rows = study.config, {}
    pool = Pool.load(config.data, fetch=config.fetch)
    study.pin(data=pool.sha256)
    work = lambda: config.learning.predictions(pool, study.seeds, config.seed)  # noqa: E731
    for level, (logits, labels) in study.once("digits", work).items():
        for name, (i, seed) in kit.grid(lab.PREDICTORS, enumerate(study.seeds)):
            found = classification_scores(logits[name][i], labels[i])
            rows[name, seed, level] = found
    return kit.Scores(rows, titles=findings.TITLES, factor="labels")


def run(study: kit.Study) -> dict[str, Any]:
    """Networks, closed forms, chains, digits."""
    config = study.config
    scores, curves = networks(study)
    with jax.enable_x64(True):
        linear = study.each(
            "linear",
            lambda seed: lab.regression(config.sizes, config.chains[0], seed),
            study.seeds,
        )
        summed = lab.one_by_one(0.1, 500)
        chain = abs(summed / conjugate.bernoulli_regret(0.1, 500) - 1)
        of_coins = study.once("coins", lab.coins)
    of_size = {(d, seed): row for seed, one in linear.items() for d, row in one.items()}
    evidence = {
        "networks": scores,
        "coins": of_coins,
        "linear": kit.Scores(of_size, titles=findings.TITLES),
        "chain": {"coin": chain, "networks": scores.extreme("off")},
        "quadratic": study.once(
            "quadratic", lambda: lab.quadratic(config.chains[0], config.seed)
        ),
        "diabetes": study.once(
            "diabetes", lambda: lab.diabetes(config.chains[1], config.thin, config.seed)
        ),
        "digits": digits(study),
    }
    findings.show(study, evidence)
    findings.draw(study, evidence, curves)
    return evidence
