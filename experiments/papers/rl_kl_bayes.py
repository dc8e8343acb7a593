"""Reinforcement learning with a KL penalty is Bayesian inference, checked exactly.

A policy that maximizes reward alone ends on one answer, whatever else is as good; with
a KL penalty to its prior it ends at a posterior, prior times exp(reward / beta)
(Korbak, Perez, Buckley 2022, "RL with KL penalties is better viewed as Bayesian
inference", arXiv 2205.11275). The paper argues and has no experiments: we train
policies over all 1,024 sequences of five tokens out of four by exact gradients, so that
nothing is due to sampling, and hold the best of n samples against the same posterior.
The evidence of a language model, whose texts cannot be enumerated, is put between
bounds. Policies start uniform up to noise: without noise the symmetric ones of equally
good answers would all stay.

    python -m experiments run rl_kl_bayes                 # minutes on two cores
    python -m experiments run rl_kl_bayes --preset gpu    # a larger language model
    python -m experiments run rl_kl_bayes --language.source FOLDER   # your own
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from experiments.kit.language import LanguageConfig, text_rewards, written
from kljax.data.text import TextConfig
from kljax.divergences import entropy, forward_kl, reverse_kl
from kljax.objectives.partition import bracket, estimated
from kljax.theory import posterior as exact
from kljax.theory.best_of_n import best_of_n
from kljax.theory.budget import budget, efficiency
from kljax.theory.sequences import chained, sequences
from kljax.training import Loss, stacked

PAPER = "RL with KL penalties is better viewed as Bayesian inference (arXiv 2205.11275)"

V, T = 4, 5
X = np.asarray(sequences(V, T))
REWARD = -1.5 * (X[:, 0] != X[:, -1]) - 1.0 * ((X == 2).sum(1) != 1)
"""What no bigram can express; 81 sequences share the largest, 0."""


class Method(NamedTuple):
    """How a policy is trained."""

    beta: float = 0.0
    shown: float = 0.5
    """The β of the posterior that its distance is shown to."""
    unique: float = 0.0
    """By how much one of the best sequences is better than the others."""
    from_prior: float = 0.0
    """1: starts there, not from the uniform policy up to noise in its logits."""
    forward: float = 0.0
    """1: by forward KL, from the posterior's samples, not by reward."""


BETAS = (2.0, 1.0, 0.5, 0.25)
WITH_KL = [f"KL, β = {beta:g}" for beta in BETAS]
ALONE, AGAIN, TIED = "no KL, one best", "the same, from the prior", "no KL, 81 best"
REVERSE, FORWARD = "bigram, reverse KL", "bigram, forward KL"
METHODS = {
    "table": {  # of policies with a row of logits for every prefix
        ALONE: Method(unique=0.5),
        AGAIN: Method(unique=0.5, from_prior=1.0),
        TIED: Method(),
        **{name: Method(beta, beta) for name, beta in zip(WITH_KL, BETAS)},
    },
    "bigram": {  # with a row for every token
        REVERSE: Method(0.25, 0.25),
        FORWARD: Method(0.25, 0.25, forward=1.0),
    },
}
SAMPLED, best = (2, 4, 8, 16), "best of {}".format
MAIN, SWEPT = ("reward", "entropy", "KL", "gap"), ("reward", "KL")
TITLES = {
    "entropy": "entropy, nats", "top": "largest probability", "gain": "reward gained",
    "KL": "KL to prior", "gap": "KL to posterior, nats",
    "share": "gain, share of a posterior's at equal KL", "low": "log Z from",
    "high": "to", "effective": "effective share", "kept": "share accepted",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 12
    steps: int = 2000
    rate: float = 0.2
    """Of Adam, which does not see the scale of J, with cosine decay: one for all."""
    language: LanguageConfig = dataclasses.field(default_factory=LanguageConfig)
    texts: int = 16_384
    """By the language model; 0: none, and no such model."""
    tokens: int = 24


PRESETS = {
    "smoke": Config(seeds=2, steps=40, texts=0, decide=False),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand. Six layers, as ten minutes allow.
    "gpu": Config(
        seeds=20, texts=2**16, tokens=64,
        language=LanguageConfig(
            text=TextConfig(tokens=2**22, length=128), width=256, depth=6, steps=5000
        ),
    ),
    # Never run by us. The paper has no experiments and names no model: any by path.
    "paper": Config(seeds=20, texts=2**16, tokens=64, language=LanguageConfig("prior")),
}  # fmt: skip


def collapse(found: dict[str, kit.Scores]) -> kit.Noted:
    """of the worst seed"""
    ends = [found["laws"].part([method]) for method in (ALONE, AGAIN)]
    ends = [(s.extreme("entropy"), s.extreme("top", lowest=True)) for s in ends]
    note = "From the prior: entropy {:.3g}, largest p {:.3g}.".format(*ends[1])
    return kit.Noted(dict(zip(("entropy", "largest p"), ends[0])), note)


def at_posterior(found: dict[str, kit.Scores]) -> dict[str, float]:
    """over all seeds, β = 0.5 and 0.25"""
    laws = found["laws"].part(WITH_KL[2:])
    return {"KL": laws.extreme("gap"), "entropy off": laws.extreme("entropy off")}


CLAIMS = (
    kit.Claim(
        "COLLAPSE",
        "Reward alone, by exact gradients, leaves one sequence (one is the best).",
        "section 2", collapse,
        kit.all_of(entropy=kit.below(0.05, "nats"), largest_p=kit.above(0.99)),
    ),
    kit.Claim(
        "COLLAPSE-TIES",
        "Where 81 sequences are equally good (4.39 nats) all but one are lost.",
        "section 2", lambda found: found["laws"].estimate("top", TIED),
        kit.at_least(0.9),
    ),
    kit.Claim(
        "POSTERIOR",
        "With a KL penalty the same training ends at the posterior.",
        "Eq. 5", at_posterior,
        kit.all_of(KL=kit.below(1e-4, "nats"), entropy_off=kit.at_most(0.01)),
    ),
    kit.Claim(
        "IDENTITY",
        "J = β log Z − β KL(policy‖posterior), of all laws in the table.",
        "Eq. 7", lambda found: found["laws"].extreme("identity"), kit.at_most(1e-10),
        measure="largest difference of the two sides",
    ),
    kit.Claim(
        "SWEEP",
        "The smaller β, the larger the policy's reward, the further it is from the "
        "prior.",
        "Eq. 5",
        lambda found: {k: found["laws"].estimates(k, *WITH_KL) for k in SWEPT},
        kit.every(kit.order(*WITH_KL)), measure="means, from the largest β on",
    ),
    kit.Claim(
        "BEST-OF-N",
        "The best of n samples has nearly the reward of the posterior at equal KL, and "
        "never more.",
        "section 4: another way to infer the same",
        lambda found: {best(n): found["laws"].mean("share", best(n)) for n in SAMPLED},
        kit.every(kit.within(0.9, 1)), ours=True,
        measure="gain over the prior, share of the posterior's",
    ),
    kit.Claim(
        "MISSPECIFIED",
        "A bigram policy cannot reach the posterior (β = 0.25), and the penalty's "
        "reverse KL then picks a mode: less entropy than by forward KL.",
        "section 3",
        lambda found: {
            "gap": found["laws"].part([REVERSE]).extreme("gap", lowest=True),
            "entropy": found["laws"].difference("entropy", REVERSE, FORWARD),
        },
        kit.all_of(gap=kit.above(0.1, "nats"), entropy=kit.interval_below(0)),
        measure="gap: the smallest KL to the posterior of all seeds",
    ),
    kit.Claim(
        "BRACKET",
        "Samples put the evidence of a language model between bounds (β ≥ σ of r).",
        "ours", lambda found: found["texts"].extreme("width"), kit.below(0.1, "nats"),
        measure="between the bounds, widest of three rewards and three β", ours=True,
    ),
)  # fmt: skip


def bigram(tables: list[Any]) -> Any:
    """Log-probabilities of all sequences, from one table of `[V + 1, V]` logits."""
    log_next = jax.nn.log_softmax(tables[0])
    rows = [jnp.tile(log_next[:V], (V**t, 1)) for t in range(T - 1)]
    return chained([log_next[V:], *rows])


def of_prefixes(levels: list[Any]) -> Any:
    """The same from a row of logits for every prefix."""
    return chained([*map(jax.nn.log_softmax, levels)])


def world(seed: Any) -> dict[str, Any]:
    """A random bigram prior, and the one of the best sequences that may be better."""
    keys = jax.random.split(jax.random.key(seed))
    table = 0.8 * jax.random.normal(keys[0], (V + 1, V))
    chosen = jax.random.choice(keys[1], np.flatnonzero(REWARD == 0))
    return {"table": table, "log_prior": bigram([table]), "chosen": chosen}


def measured(log_q: Any, own: dict[str, Any]) -> dict[str, Any]:
    """A law of sequences, beside the posterior that its distance is shown to."""
    reward, prior, beta = own["reward"], own["log_prior"], own["shown"]
    p, gain = exact.posterior(prior, reward, beta), budget(prior, reward, beta)
    gap, mean = reverse_kl(p, log_q), exact.expected(log_q, reward)
    right = beta * (gain.log_partition - gap)
    return {
        "reward": mean,
        "entropy": entropy(log_q),
        "KL": reverse_kl(prior, log_q),
        "gap": gap,
        "top": jnp.exp(log_q.max()),
        "share": efficiency(log_q, prior, reward),
        "gain": mean - exact.expected(prior, reward),
        "entropy off": jnp.abs(entropy(log_q) / entropy(p) - 1),
        "identity": jnp.abs(exact.objective(log_q, prior, reward, beta) - right),
        "posterior's reward": gain.reward,
        "posterior's entropy": entropy(p),
    }


def trained(study: kit.Study, kind: str, worlds: dict[str, Any]) -> dict[tuple, Any]:
    """Laws after exact gradient ascent, and what each was to become."""
    policy, members = of_prefixes if kind == "table" else bigram, {}
    config = study.config
    every = kit.grid(METHODS[kind].items(), enumerate(study.seeds))
    for (method, how), (i, seed) in every:
        x, noise = how.from_prior * worlds["table"][i], np.random.default_rng(seed)
        rows = [x[V:], *(np.tile(x[:V], (V**t, 1)) for t in range(T - 1))]
        start = rows if kind == "table" else [x]
        start = [row + 0.1 * noise.normal(size=row.shape) for row in start]
        better = how.unique * (np.arange(V**T) == worlds["chosen"][i])
        law = {"log_prior": worlds["log_prior"][i], "reward": REWARD + better}
        members[method, seed] = how._asdict() | law | {"start": start, "seed": 0}

    def loss(params: Any, own: dict[str, Any], key: Any) -> Loss:
        log_q, law = policy(params), (own["log_prior"], own["reward"])
        p = exact.posterior(*law, own["shown"])
        objective = exact.objective(log_q, *law, own["beta"])
        mean = jnp.where(own["forward"] > 0, forward_kl(p, log_q), -objective)
        seen = {"reward": exact.expected(log_q, own["reward"])}
        seen |= {"entropy": entropy(log_q), "gap": reverse_kl(p, log_q)}
        return Loss(None, seen, mean=mean)

    rule = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    ends = study.learn(kind, loss, members, rule, steps=config.steps)
    laws = np.asarray(jax.jit(jax.vmap(policy))(stacked([*ends.values()])))
    owns = ({k: v for k, v in x.items() if k != "start"} for x in members.values())
    return dict(zip(members, zip(laws, owns)))


def evidence(study: kit.Study) -> kit.Scores:
    """The log evidence of a language model by samples, for all rewards and β."""
    config, rng, rows = study.config, np.random.default_rng(study.config.seed), {}
    if not config.texts:
        return kit.Scores({})
    made = written(study, config.language, config.texts, config.tokens)
    for (name, r), beta in kit.grid(text_rewards(made).items(), (1.0, 2.0, 4.0)):
        half = len(r) // 2  # the bounds share no samples
        keep = rng.uniform(size=half) < np.exp((r[half:] - r.max()) / beta)
        low, high = map(float, bracket(r[:half] / beta, r[half:][keep] / beta))
        found = {"low": low, "high": high, "width": abs(high - low)}
        found |= {"effective": float(estimated(r / beta).effective) / len(r)}
        rows[f"{name}, β = {beta:g} σ", config.seed] = found | {"kept": keep.mean()}
    scores, about = kit.Scores(rows, titles=TITLES), "Half of the texts for each bound."
    study.score_table("Evidence of a language model", scores, caption=about)
    return scores


def run(study: kit.Study) -> dict[str, kit.Scores]:
    """Training, best of n, a language model."""
    stored = lambda f, *x: jax.tree.map(np.asarray, jax.jit(jax.vmap(f))(*x))  # noqa: E731
    with jax.enable_x64(True):
        worlds = stored(world, np.asarray(study.seeds))
        laws = {}
        for kind in METHODS:
            laws |= trained(study, kind, worlds)
        names = kit.grid(SAMPLED, study.seeds)
        owns = [laws[TIED, seed][1] for _, seed in names]
        of_n = lambda own, n: best_of_n(own["log_prior"], own["reward"], n)  # noqa: E731
        kept = stored(of_n, stacked(owns), np.array([n for n, _ in names], float))
        for (n, seed), law, own in zip(names, kept, owns):
            laws[best(n), seed] = law, own
        found = stored(measured, *stacked([*laws.values()]))
        one = lambda beta: budget(worlds["log_prior"][0], REWARD, beta)  # noqa: E731
        path = stored(one, np.geomspace(0.1, 100, 60))
    rows = {name: {k: v[i] for k, v in found.items()} for i, name in enumerate(laws)}
    scores = kit.Scores(rows, titles=TITLES)
    study.scale = f"1,024 sequences, {len(study.seeds)} priors"
    study.metrics |= scores.flat()
    about = "In nats. The posterior: of the policy's β; without penalty, of β = 0.5."
    every = scores.metrics()
    study.score_table("Laws of sequences", scores, MAIN, every=every, caption=about)
    draw(study, scores, path)
    return {"laws": scores, "texts": evidence(study)}


def draw(study: kit.Study, scores: kit.Scores, path: Any) -> None:
    """What becomes of a policy with and without a penalty; reward for KL."""
    one, seeds = WITH_KL[2], study.seeds
    title = (
        f"Reward alone keeps {np.exp(scores.mean('entropy', TIED)):.2g} of 81 equally "
        f"good answers; with a KL penalty {np.exp(scores.mean('entropy', one)):.3g} "
        f"sequences are in play, {scores.mean('gap', one):.1g} nats from the posterior"
    )
    about = (
        f"Exact gradients, {len(seeds)} priors (thin lines). Dotted: the posterior of "
        "β = 0.5, to which the distance is. Sequences are counted by exp(entropy)."
    )
    with study.figure("training", title, about, panels=3) as axes:
        for axis, metric in zip(axes, ("reward", "entropy", "gap")):
            steps, y = study.curve("table", metric)
            curves = dict(zip(METHODS["table"], y.T.reshape(-1, len(seeds), len(y))))
            lines = {method: (steps, curves[method]) for method in (TIED, one)}
            labels = {"xlabel": "step", "ylabel": scores.title(metric)}
            kit.figures.lines(axis, lines, **labels)
        for axis, metric in zip(axes, ("reward", "entropy")):
            axis.axhline(scores.mean(f"posterior's {metric}", one), c="black", ls=":")
        axes[2].set(yscale="log", ylim=(1e-6, None))

    shares = [100 * scores.mean("share", best(n)) for n in SAMPLED]
    title = (
        f"The best of n samples has {min(shares):.0f} to {max(shares):.0f} % of the "
        "reward that the posterior of equal KL gains over the prior"
    )
    about = "The first prior. Dashed: σ √(2 KL). No bigram policy is the posterior."
    with study.figure("budget", title, about, size=(6.4, 4)) as axis:
        root, tilt = np.sqrt(path.kl), "law/small tilt"
        lines = {"posterior": (root, path.gain), tilt: (root, path.root_law)}
        labels = {"xlabel": "√KL to the prior", "ylabel": "reward gained"}
        kit.figures.lines(axis, lines, ylim=(0, 1.1 * path.gain.max()), **labels)
        marks = {"best of n": [*map(best, SAMPLED)], "trained with KL": WITH_KL}
        for name, mark in zip((*marks, REVERSE), "osD"):
            rows = [scores.rows[k, seeds[0], None] for k in marks.get(name, [name])]
            x, y = ([row[k] for row in rows] for k in ("KL", "gain"))
            axis.plot(np.sqrt(x), y, mark, ms=5, label=name)
        axis.legend(fontsize=8)
