"""Jensen: the mean of a convex function is at least the function of the mean.

python -m experiments run jensen
"""

import dataclasses

import jax
import jax.numpy as jnp

from experiments import kit

PAPER = "Jensen (1906), Sur les fonctions convexes"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 16
    samples: int = 1000


PRESETS = {"smoke": Config(seeds=2, samples=10, decide=False), "cpu": Config()}
CLAIMS = (
    kit.Claim("J", "E exp(x) is larger than exp(E x).", "Eq. 1",
              lambda scores: scores.difference("mean", "after", "before"),
              kit.interval_above(0)),
)  # fmt: skip


def run(study: kit.Study) -> kit.Scores:
    rows = {}
    for seed in study.seeds:
        x = jax.random.normal(jax.random.key(seed), (study.config.samples,))
        rows["after", seed] = {"mean": float(jnp.exp(x).mean())}
        rows["before", seed] = {"mean": float(jnp.exp(x.mean()))}
    scores = kit.Scores(rows, titles={"mean": "mean of samples"})
    study.score_table("Means with exp after or before", scores)
    with study.figure("means", "The mean of exp is larger", "Dots: seeds.") as axis:
        kit.figures.dots(axis, scores, "mean")
    return scores
