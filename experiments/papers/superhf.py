"""SuperHF: keep the best of many samples, imitate them, stay near the prior.

Instead of reinforcement learning the paper samples n answers, keeps the one that a
reward model likes best, and fine-tunes on it with a forward KL to the initial model
(Mukobi et al. 2023, "SuperHF: Supervised iterative learning from human feedback", arXiv
2310.16763). We work out exactly what its rounds end at, and train small transformers on
a reward that can be cheated, against PPO and GRPO with the same samples, updates and
learning rates. The method is that of the paper's code, openfeedback/superhf, as its
text was not to be had; its language models and reward models are not run here.

    python -m experiments run superhf                # minutes on two cores
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import kit
from kljax.data.batching import passes
from kljax.decoding import Decoding, Rollouts, log_probs, roll_out, token_logits
from kljax.divergences import Logits, entropy, reverse_kl
from kljax.metrics import token_similarity
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives.policy.advantages import generalized_advantages, group_advantages
from kljax.objectives.policy.losses import policy_loss, value_loss
from kljax.objectives.policy.superhf import best, superhf_loss
from kljax.theory.best_of_n import best_of_n_round
from kljax.theory.posterior import expected
from kljax.training import Loss, Player, adam, init_state, taken
from kljax.typing import Array, PyTree

PAPER = "SuperHF: Supervised iterative learning from human feedback (arXiv 2310.16763)"
CHEAT = 0  # the token that the proxy reward overrates; it is never a good one
OURS = "SuperHF 0.35"
EXACT = {f"λ={c:g}": c for c in (0.0, 0.025, 0.1, 0.35, 1.0, 3.0)}
MEASURES = {
    "proxy": "proxy reward", "gold": "gold reward", "gap": "proxy minus gold",
    "similarity": "similarity across prompts", "kl": "KL from the prior",
}  # fmt: skip
TITLES = MEASURES | {"improved": "improving rates, %"}


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 10
    spaces: int = 20
    """For exact rounds: 1,024 outcomes, priors of Dirichlet(0.3), Gaussian rewards."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # all methods'
    superhf: tuple[float, ...] = (0.0, 0.1, 0.35, 1.0, 3.0)  # λ; the paper's is 0.35
    ppo: tuple[float, ...] = (0.0, 0.05, 0.2)  # of the KL in the reward; paper: 0.2
    grpo: tuple[float, ...] = (0.04,)  # of the KL in the loss, DeepSeekMath's
    prompts: int = 32
    length: int = 8
    samples: int = 16  # the paper's n
    per_step: int = 2  # prompts for each update, as in the paper
    steps: int = 60
    bonus: float = 1.25  # what the proxy pays for the cheat; a good token is worth 1
    width: int = 16
    depth: int = 1
    heads: int = 2
    evaluate_every: int = 5
    copies: int = 4  # answers to each prompt when a policy is judged


LARGE: dict[str, Any] = {"width": 384, "depth": 6, "heads": 6}
PRESETS = {
    "smoke": Config(
        seeds=2, spaces=2, rates=(1e-1,), superhf=(0.0, 0.35), ppo=(0.2,), prompts=8,
        length=3, steps=6, evaluate_every=3, copies=2, samples=4, decide=False,
    ),
    "cpu": Config(evaluate_every=1),
    # Never run by us, as no accelerator was at hand; the last has the paper's numbers.
    "gpu": Config(seeds=4, rates=(1e-5, 1e-4, 1e-3), per_step=8, steps=300, **LARGE),
    "paper": Config(
        seeds=3, rates=(2e-5, 1e-4), superhf=(0.0, 0.05, 0.1, 0.2, 0.35, 0.5),
        ppo=(0.2,), steps=5000, **LARGE,
    ),
}  # fmt: skip


def improvement(found: dict[str, Any]) -> kit.Estimate:
    scores = found["scores"]
    others = scores.part(m for m in scores.methods if m.startswith("PPO"))
    return scores.difference("improved", OURS, others.best("improved"))


def farthest(metric: str, **end: bool) -> Callable[[dict], dict[str, float]]:
    """The value of a claim: the highest (lowest) number of any space, by λ."""
    return lambda found: {
        name: found["exact"].part([name]).extreme(metric, **end)
        for name, c in EXACT.items() if c or metric != "floor"
    }  # fmt: skip


CLAIMS = (
    kit.Claim(
        "PRIOR", "A heavier prior means less cheating, and answers less alike.",
        "similarity as its measure of reward hacking", lambda found: found["rank"],
        kit.all_of(gap=kit.at_most(-0.9), similarity=kit.at_most(-0.9)),
        measure="Spearman correlation with λ, mean over seeds",
    ),
    kit.Claim(
        "STABLE", "SuperHF improves its reward at more learning rates than PPO.",
        "its sweeps: 85 % of the runs against 15 %", improvement,
        kit.both(kit.at_least(30, "points"), kit.interval_above(0)), paper="70 points",
    ),
    kit.Claim(
        "MATCHED", "At equal reward answers are no more alike than PPO's or GRPO's.",
        "abstract: a favorable trade-off", lambda found: found["matched"],
        kit.every(kit.at_most(0)), measure="similarity, SuperHF 0.35 minus each",
    ),
    kit.Claim(
        "CEILING", "Exact rounds leave the best outcome a probability of 1/(1 + λ).",
        "derived here", farthest("off"), kit.every(kit.at_most(0.01)),
        measure="largest distance from it in any space",
    ),
    kit.Claim(
        "FLOOR", "No outcome falls below λ/(1 + λ) of its prior probability.",
        "derived here", farthest("floor", lowest=True),
        kit.every(kit.at_least(1 - 1e-9)), measure="least ratio to it in any space",
    ),
    kit.Claim(
        "ENTROPY", "Where rounds end, entropy grows with λ.", "derived here",
        lambda found: found["exact"].estimates("entropy", *EXACT), kit.order(*EXACT),
    ),
    kit.Claim(
        "REWARD", "Where rounds end, reward falls with λ.", "derived here",
        lambda found: found["exact"].estimates("reward", *[*EXACT][::-1]),
        kit.order(*[*EXACT][::-1]),
    ),
    kit.Claim(
        "FAST", "Three exact rounds give 99 % of the reward that all rounds give.",
        "derived here",
        lambda found: {name: found["exact"].mean("three", name) for name in EXACT},
        kit.every(kit.at_least(0.99)), measure="mean share over spaces",
    ),
)  # fmt: skip


def exact_rounds(spaces: int, seed: int) -> dict[tuple, dict[str, np.ndarray]]:
    """Where rounds of the best of 16 end, for every λ and space; in float64."""
    rng, weights = np.random.default_rng([seed, 1]), np.array([*EXACT.values()])
    prior = np.log(np.maximum(rng.dirichlet(np.full(1024, 0.3), spaces), 1e-300))
    reward = rng.normal(size=prior.shape)

    @jax.jit
    def run(prior: Array, reward: Array) -> dict[str, Array]:
        p, r, c = prior[:, None], reward[:, None], weights[None]
        step = lambda q, _: (best_of_n_round(q, p, r, 16, c),) * 2  # noqa: E731
        start = jnp.broadcast_to(p, (spaces, len(weights), p.shape[-1]))
        end, path = jax.lax.scan(step, start, None, 60)
        floor = p + jnp.log(weights / (1 + weights))[:, None]
        return {
            "reward": expected(end, r), "largest": jnp.exp(end.max(axis=-1)),
            "off": jnp.abs(jnp.exp(end.max(axis=-1)) - 1 / (1 + weights)),
            "entropy": entropy(end), "collision": jnp.exp(2 * end).sum(axis=-1),
            "kl": reverse_kl(start, end),
            "three": expected(path[2], r) / expected(end, r),
            "floor": jnp.exp(jnp.min(end - floor, axis=-1)),
        }  # fmt: skip

    found = {name: np.asarray(x).T for name, x in run(prior, reward).items()}
    return {(name, 0): {k: x[j] for k, x in found.items() if j or k != "floor"}
            for j, name in enumerate(EXACT)}  # fmt: skip


def superhf(apply, params, found: Rollouts, paid: Array, prior, weight) -> Array:
    kept, _ = best(paid, (found.tokens, found.where, found.log_behavior))
    found = Rollouts(found.prompt, found.counted, *kept)
    p, q = (Logits(token_logits((apply, x), found)) for x in (prior, params["net"]))
    return superhf_loss(p, q, found.tokens, coefficient=weight)[0].mean()


def grpo(apply, params, found: Rollouts, paid: Array, prior, weight) -> Array:
    log_p, log_q = (log_probs((apply, x), found) for x in (prior, params["net"]))
    options = {"log_behavior": found.log_behavior, "log_p": log_p, "beta": weight}
    return policy_loss(log_q, group_advantages(paid), **options)[0].mean()


def ppo(apply, params, found: Rollouts, paid: Array, prior, weight) -> Array:
    """One update a batch, as the others have it; the critic is a linear head."""
    log_p, log_q = (log_probs((apply, x), found) for x in (prior, params["net"]))
    states = apply(params["net"], found.text()[0][:, :-1], features=True)[:, 1:]
    values = (states @ params["value"]).reshape(log_q.shape)
    charge = (-weight * (found.log_behavior - log_p)).at[..., -1].add(paid)
    given = jax.lax.stop_gradient((charge, values))
    advantages, returns = generalized_advantages(*given)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
    loss, _ = policy_loss(log_q, advantages, log_behavior=found.log_behavior)
    return (loss + 0.5 * value_loss(values, returns)[0]).mean()


METHODS = {"SuperHF": superhf, "PPO": ppo, "GRPO": grpo}


class Lab:
    """The tasks of all seeds, how policies are trained, and what they are worth."""

    def __init__(self, study: kit.Study):
        self.study, self.config, count = study, study.config, study.config.prompts
        sizes = {k: getattr(study.config, k) for k in ("width", "depth", "heads")}
        sizes |= {"hidden": 2 * sizes["width"], "max_length": 2 + study.config.length}
        self.apply, self.initial = transformer(TransformerConfig(16, **sizes))
        self.prompts = jnp.stack(divmod(jnp.arange(count), 8), axis=1)
        rank = lambda s: np.random.default_rng(s).random((count, 15)).argsort(axis=1)  # noqa: E731
        # Four good tokens for each prompt.
        self.good = {s: np.pad(rank(s) < 4, ((0, 0), (1, 0))) for s in study.seeds}

    @partial(jax.jit, static_argnums=(0, 4))  # traced once for all methods
    def answers(self, net: PyTree, good: Array, rows: Array, group: int, key: Array):
        """Rollouts for prompts of these rows, with proxy and gold rewards `[b, g]`."""
        asked, settings = self.prompts[rows], Decoding(self.config.length)
        found = roll_out((self.apply, net), asked, settings, group=group, key=key)
        gold = good[rows[:, None, None], found.tokens].mean(axis=-1)
        return found, gold + self.config.bonus * (found.tokens == CHEAT).mean(-1), gold

    @partial(jax.jit, static_argnums=0)
    def judge(self, net: PyTree, good: Array, prior: PyTree, key: Array) -> dict:
        """Means over fresh answers to all prompts."""
        rows, copies = jnp.arange(self.config.prompts), self.config.copies
        found, proxy, gold = self.answers(net, good, rows, copies, key)
        p, q = (token_logits((self.apply, one), found) for one in (prior, net))
        alike = token_similarity(found.tokens.swapaxes(0, 1))
        values = proxy, gold, proxy - gold, alike, reverse_kl(p, q)
        return {name: x.mean() for name, x in zip(MEASURES, values)}

    def trained(self, name: str, priors: PyTree) -> dict[str, np.ndarray]:
        """What `judge` says on the way, `[k, weights, rates, seeds]`."""
        config, seeds = self.config, self.study.seeds

        def players(own: dict[str, Any]) -> list[Player]:
            def loss(params, *, state, frozen, batch, key):
                asked = own["good"], batch["rows"], config.samples, key
                found, paid, _ = self.answers(params["net"], *asked)
                given = self.apply, params, found, paid, own["prior"], own["weight"]
                return Loss(None, mean=METHODS[name](*given))

            return [Player("policy", loss, adam(own["rate"]))]

        def state(own: dict[str, Any]):
            params = {"net": own["prior"], "value": jnp.zeros(config.width)}
            key, aux = jax.random.key(own["seed"]), (own["good"], own["prior"])
            return init_state(key, {"policy": params}, players(own), aux=aux)

        def evaluate(state) -> dict[str, Array]:
            net, (good, prior) = state.params["policy"]["net"], state.aux
            key = jax.random.fold_in(state.key, -1 - state.step)
            return self.judge(net, good, prior, key)

        weights = getattr(config, name.lower())
        members = {
            (weight, rate, seed): {
                "weight": weight, "rate": rate, "seed": seed, "good": self.good[seed],
                "prior": taken(priors, seeds.index(seed)),
            }
            for weight, rate, seed in kit.grid(weights, config.rates, seeds)
        }  # fmt: skip
        rows = passes(config.prompts, config.per_step, config.seed)
        self.study.sweep(
            name, players, members, state, lambda n: {"rows": rows(n)},
            steps=config.steps, evaluate=evaluate, evaluate_every=config.evaluate_every,
        )  # fmt: skip
        shape = -1, len(weights), len(config.rates), len(seeds)
        return {m: self.study.curve(name, m)[1].reshape(shape) for m in MEASURES}


def scored(base: dict[str, np.ndarray], curves: dict[str, np.ndarray]) -> tuple:
    """Scores at the rate that other seeds choose, and paths from the prior on."""
    pick = kit.tuned(curves["proxy"][-1]), np.arange(len(base["proxy"]))
    paths = {m: np.vstack([base[m], x[:, *pick]]) for m, x in curves.items()}
    scores = {m: x[-1] for m, x in paths.items()}
    improved = 100 * (curves["proxy"][-1] > base["proxy"] + 0.02)  # rates, seeds
    scores["improved"], paths["rates"] = improved.mean(axis=0), improved.mean(axis=1)
    return scores, paths


def matched(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> kit.Estimate:
    """Similarity, one minus other, at nine tenths of the smaller of both gains."""
    # Straight lines between evaluations lie above a convex path: fast ones look alike.
    start, (a, b) = one["proxy"][0], (p["proxy"].max(axis=0) for p in (one, other))
    level = start + 0.9 * (np.minimum(a, b) - start)
    at = [kit.at_level(p["proxy"], p["similarity"], level) for p in (one, other)]
    return kit.Estimate((at[0] - at[1],))


def run(study: kit.Study) -> dict[str, Any]:
    """Exact rounds, priors, three methods at all rates."""
    config, seeds = study.config, study.seeds
    with jax.enable_x64(True):
        rows = study.once("exact", lambda: exact_rounds(config.spaces, config.seed))
    lab = Lab(study)
    keys = jax.vmap(jax.random.key)(np.array(seeds))
    priors, good = jax.vmap(lab.initial)(keys), jnp.stack([*lab.good.values()])
    ask = jax.jit(jax.vmap(lambda net, *rest: lab.judge(net, rest[0], net, rest[1])))
    base = study.once("base", lambda: jax.device_get(ask(priors, good, keys)))
    every, paths = {"prior": base}, {}
    for name in METHODS:
        curves = lab.trained(name, priors)
        for j, weight in enumerate(getattr(config, name.lower())):
            label, own = f"{name} {weight:g}", {m: x[:, j] for m, x in curves.items()}
            every[label], paths[label] = scored(base, own)
    table = {
        (label, s): {m: float(x[i]) for m, x in own.items()}
        for label, own in every.items() for i, s in enumerate(seeds)
    }  # fmt: skip
    rank = {}
    for m in ("gap", "similarity"):
        found = np.array([every[f"SuperHF {c:g}"][m] for c in config.superhf]).T
        found = [stats.spearmanr(config.superhf, x).statistic for x in found]
        rank[m] = kit.Estimate((np.array(found),))
    evidence = {
        "exact": kit.Scores(rows, over="spaces"), "rank": rank,
        "scores": kit.Scores(table, titles=TITLES),
        "matched": {k: matched(paths[OURS], p) for k, p in paths.items() if k < "S"},
    }  # fmt: skip
    show(study, evidence, paths)
    return evidence


def show(study: kit.Study, found: dict[str, Any], paths: dict[str, Any]) -> None:
    """Tables and pictures."""
    scores, exact, rates = found["scores"], found["exact"], study.config.rates
    study.metrics |= scores.flat() | exact.flat()
    study.scale = f"{len(paths)} settings at {len(rates)} rates, 16 tokens"
    title, shown = "At the rate that the other seeds choose", [*TITLES]
    study.score_table(title, scores, shown[:4], every=shown, spread=False)
    study.difference_table(f"Minus {OURS}", scores, OURS, [*MEASURES], detail=True)
    study.score_table("Where exact rounds end", exact, spread=False)
    pairs = kit.grid(("gap", "similarity"), ("SuperHF 0", OURS))
    title = (
        "The proxy overpays SuperHF by {:.2f} without its prior, by {:.2f} at λ 0.35, "
        "and answers to different prompts are {:.2f} and {:.2f} alike"
    ).format(*(scores.mean(*pair) for pair in pairs))
    about = (
        "After training at the rate that other seeds choose; small dots are seeds. "
        "Similarity: METEOR. Right: runs that gain 0.02 or more of the proxy reward."
    )
    with study.figure("cheating", title, about, panels=3) as axes:
        kit.figures.dots(axes[0], scores, "gap")
        kit.figures.dots(axes[1], scores, "similarity")
        names = [k for k in paths if k == OURS or "SuperHF" not in k]
        shown = {k: (rates, paths[k]["rates"]) for k in names}
        labels = {"xlabel": "learning rate", "ylabel": "improving runs, %"}
        kit.figures.lines(axes[2], shown, marker="o", xscale="log", **labels)
