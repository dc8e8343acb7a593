"""Worlds of 1,024 sequences, policies on them, samples, and a language model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.data.batching import passes
from kljax.data.text import TextConfig, read_corpus
from kljax.decoding import Decoding, generate
from kljax.divergences import Logits, entropy, forward_kl, reverse_kl
from kljax.models.files.pretrained import from_pretrained
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.language.vocabulary import Bytes
from kljax.objectives.distillation import sequence_level_loss
from kljax.objectives.partition import bracket, estimated
from kljax.theory import posterior as exact
from kljax.theory.best_of_n import best_of_n
from kljax.theory.budget import beta_at, budget
from kljax.theory.sequences import chained, sequences
from kljax.training import Loss, Player, init_state

V, T = 4, 5
X = np.asarray(sequences(V, T))
REWARD = -1.5 * (X[:, 0] != X[:, -1]) - 1.0 * ((X == 2).sum(1) != 1)
"""What no bigram can express; 81 sequences share the largest, 0."""
BETAS = (2.0, 1.0, 0.5, 0.25)
ALONE, TIED = "no KL, one best", "no KL, 81 best"
REVERSE, FORWARD = "bigram, reverse KL", "bigram, forward KL"
SAMPLED = (2, 4, 8, 16)
"""n of the best of n."""
POSTERIOR = "posterior's "
TITLES = {
    "entropy": "entropy, nats", "top": "largest probability", "gain": "reward gained",
    "KL": "KL to the prior, nats", "gap": "KL to the posterior, nats",
}  # fmt: skip
name_of = "KL, β = {:g}".format
best = "best of {}".format


@dataclasses.dataclass(frozen=True)
class Language:
    """A language model as the prior, whose sequences cannot be enumerated."""

    source: str | None = None
    """Name or folder for `from_pretrained`; None: bytes of docstrings, trained here."""
    text: TextConfig = dataclasses.field(
        default_factory=lambda: TextConfig(packages=("numpy",), length=64)
    )
    width: int = 64
    depth: int = 2
    steps: int = 300
    samples: int = 4096
    tokens: int = 24
    """Of each sample."""
    betas: tuple[float, ...] = (1.0, 2.0, 4.0)
    """In standard deviations of the rewards."""


def bigram(table: Any) -> list[Any]:
    """A table's conditional log-probabilities by prefix, from `[V + 1, V]` logits."""
    log_next = jax.nn.log_softmax(table)
    return [log_next[V:], *(jnp.tile(log_next[:V], (V**t, 1)) for t in range(T - 1))]


def world(seed: int, unique: bool = False) -> dict[str, Any]:
    """A random bigram prior and the reward; `unique`: one of the best gets 0.5 more."""
    table = 0.8 * jax.random.normal(jax.random.key(seed), (V + 1, V))
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(REWARD == 0))
    reward = jnp.asarray(REWARD + 0.5 * unique * (np.arange(V**T) == chosen))
    return {"table": table, "log_prior": chained(bigram(table)), "reward": reward}


def full(levels: list[Any]) -> Any:
    """A policy with a row of logits for every prefix."""
    return chained([*map(jax.nn.log_softmax, levels)])


def measured(log_q: Any, own: dict[str, Any]) -> dict[str, Any]:
    """A policy, and the posterior of the β at which its distance is shown."""
    prior, reward = own["log_prior"], own["reward"]
    p = exact.posterior(prior, reward, own["shown"])
    both = {"": log_q, POSTERIOR: p}
    found = {f"{k}reward": exact.expected(x, reward) for k, x in both.items()}
    found |= {f"{k}entropy": entropy(x) for k, x in both.items()}
    off = jnp.abs(found["entropy"] / found[POSTERIOR + "entropy"] - 1)
    gain = found["reward"] - exact.expected(prior, reward)
    found |= {"gap": reverse_kl(p, log_q), "KL": reverse_kl(prior, log_q)}
    return found | {"gain": gain, "top": jnp.exp(log_q.max()), "entropy off": off}


def members(seeds: Any) -> dict[str, dict[tuple, dict[str, Any]]]:
    """Of both sweeps, by method and seed; every policy starts from its prior."""
    settings = {ALONE: (0.0, 0.5), TIED: (0.0, 0.5)}
    settings |= {name_of(beta): (beta, beta) for beta in BETAS}
    found: dict[str, dict[tuple, dict[str, Any]]] = {"table": {}, "bigram": {}}
    for name, (beta, shown) in settings.items():
        for seed in seeds:
            own = world(seed, unique=name == ALONE)
            own |= {"beta": beta, "shown": shown, "reverse": 1.0}
            found["table"][name, seed] = own | {"start": bigram(own.pop("table"))}
    for name, reverse in ((REVERSE, 1.0), (FORWARD, 0.0)):
        for seed in seeds:
            own = world(seed) | {"beta": 0.25, "shown": 0.25, "reverse": reverse}
            found["bigram"][name, seed] = own | {"start": own.pop("table")}
    return found


def trained(study: kit.Study, name: str) -> kit.Scores:
    """Policies with a row for every prefix ("table"), or for every token ("bigram")."""
    config, every = study.config, members(study.seeds)[name]
    policy = full if name == "table" else lambda table: full(bigram(table))
    steps = config.steps if name == "table" else config.bigram_steps
    rate = optax.cosine_decay_schedule(config.bigram_rate, steps)
    rule = optax.adam(config.rate if name == "table" else rate)

    def players(own: dict[str, Any]) -> list[Player]:
        def loss(params, *, state, frozen, batch, key):
            log_q, law = policy(params), (own["log_prior"], own["reward"])
            of_reward = -exact.objective(log_q, *law, own["beta"])
            of_samples = forward_kl(exact.posterior(*law, own["shown"]), log_q)
            mean = own["reverse"] * of_reward + (1 - own["reverse"]) * of_samples
            return Loss(None, measured(log_q, own), mean=mean)

        return [Player("policy", loss, rule)]

    def state(own: dict[str, Any]) -> Any:
        return init_state(jax.random.key(0), {"policy": own["start"]}, players(own))

    ends = study.sweep(name, players, every, state, steps=steps).params["policy"]
    owns = jax.tree.map(lambda *x: jnp.stack([*map(jnp.asarray, x)]), *every.values())
    ask = jax.jit(jax.vmap(lambda params, own: measured(policy(params), own)))
    found = {k: np.asarray(v) for k, v in ask(ends, owns).items()}
    rows: dict[tuple, dict[str, Any]] = {
        m: {k: v[i] for k, v in found.items()} for i, m in enumerate(every)
    }
    return kit.Scores(rows, titles=TITLES)


def identities(seed: int) -> dict[str, float]:
    """Errors of what holds exactly, in float64."""
    rng, own = np.random.default_rng([seed, 1]), world(seed)
    q, prior, reward = rng.normal(size=(3, 20, V**T))
    prior, beta = jax.nn.log_softmax(prior), 10 ** rng.uniform(-1, 1, 20)
    log_law = jax.nn.log_softmax
    slopes = [
        jax.jit(jax.vmap(jax.value_and_grad(lambda q, *x, f=f: f(log_law(q), *x))))
        for f in (exact.objective, exact.elbo_gap)
    ]
    (j, up), (gap, down) = (slope(q, prior, reward, beta) for slope in slopes)
    log_z = exact.log_partition(prior, reward, beta)
    size = lambda x: np.linalg.norm(x, axis=-1)  # noqa: E731
    optimum = exact.posterior(prior, reward, beta)
    prior_0, r = own["log_prior"], own["reward"]
    tv = lambda a, b: float(0.5 * jnp.abs(jnp.exp(a) - jnp.exp(b)).sum())  # noqa: E731
    top = np.asarray(r) == 0
    given, other = exact.conditioned(prior_0, top), rng.normal(size=V**T)
    twice = exact.posterior(exact.posterior(prior_0, r, 0.3), other, 0.7)
    odds = lambda p: exact.log_success(p, top) - exact.log_success(p, ~top)  # noqa: E731
    shift = odds(exact.posterior(prior_0, top.astype(float), 0.5)) - odds(prior_0)
    ratios = (given - prior_0)[top]
    sigma = float(jnp.sqrt(budget(prior_0, r, 1e6).variance))
    small = budget(prior_0, r, 30 * sigma)
    once = exact.posterior(prior_0, r / 0.3 + other / 0.7, 1.0)
    found = {
        "identity": np.max(abs(j / (beta * (log_z - gap)) - 1)),
        "gradient": np.max(size(up + beta[:, None] * down) / size(up)),
        "gap": gap.min(),
        "gap at optimum": exact.elbo_gap(optimum, prior, reward, beta).max(),
        "TV to prior": tv(exact.posterior(prior_0, r, 1e4), prior_0),
        "TV to conditioned": tv(exact.posterior(prior_0, r, 0.05), given),
        "compose": np.max(abs(twice - once)),
        "log-odds": abs(shift - 2),
        "ratios": np.ptp(ratios),
        "root law": abs(small.gain / small.root_law - 1),
    }
    return {name: float(value) for name, value in found.items()}


def by_samples(config: Any, seed: int) -> dict[str, dict[str, float]]:
    """What samplers make of the same posterior (β = 0.5), by method."""
    rng, own, beta = np.random.default_rng([seed, 2]), world(seed), 0.5
    prior, r = own["log_prior"], own["reward"]
    p = np.exp(np.asarray(prior))
    evidence = REWARD[rng.choice(V**T, (config.repeats, 16), p=p / p.sum())] / beta
    log_z = exact.log_partition(prior, r, beta)
    off = np.asarray(estimated(evidence).log_partition - log_z)
    z = np.exp(off)
    size = float(estimated(evidence.ravel()).effective) / evidence.size
    size /= np.exp(2 * log_z - exact.log_partition(prior, r, beta / 2))
    error = z.std(ddof=1) / np.sqrt(len(z))
    one = {"Z": abs(z.mean() - 1) / error, "log Z": off.mean(), "effective": size}
    found = {"prior": {name: float(value) for name, value in one.items()}}

    table = own["table"] + 0.5 * rng.normal(size=(V + 1, V))
    of = lambda table: exact.elbo_gap(chained(bigram(table)), prior, r, beta)  # noqa: E731
    slope = np.asarray(jax.jit(jax.grad(of))(table))
    log_q, pull = jax.vjp(lambda table: chained(bigram(table)), table)
    score, q = np.asarray(log_q - prior - r / beta), np.exp(np.asarray(log_q))
    each = np.asarray(
        jax.vmap(lambda x: pull(x)[0])(jnp.eye(V**T))
    )  # d log q / d table
    share = rng.multinomial(config.gradient_samples, q / q.sum())
    share = share / config.gradient_samples
    for name, base in (("no baseline", 0.0), ("mean baseline", share @ score)):
        every = (score - base)[:, None, None] * each
        miss = np.linalg.norm(np.tensordot(share, every, 1) - slope)
        spread = q @ (every**2).sum((1, 2)) - (np.tensordot(q, every, 1) ** 2).sum()
        error = miss / np.linalg.norm(slope)
        found[name] = {"error": float(error), "variance": float(spread)}

    for n in SAMPLED:
        law = best_of_n(prior, r, n)
        kl, mean = forward_kl(law, prior), exact.expected(prior, r)
        gain = float(exact.expected(law, r) - mean)
        most = float(budget(prior, r, beta_at(kl, prior, r)).gain)
        row = {"KL": float(kl), "gain": gain, "share": gain / most}
        found[best(n)] = row
    return found


def path(seed: int, betas: np.ndarray) -> dict[str, np.ndarray]:
    """Gain and cost of the posteriors, and the law of a small tilt."""
    own = world(seed)
    one = lambda beta: budget(own["log_prior"], own["reward"], beta)  # noqa: E731
    found = jax.jit(jax.vmap(one))(jnp.asarray(betas))._asdict()
    return {name: np.asarray(value) for name, value in found.items()}


# --------------------------------------------------------------- a language model


def prior_model(study: kit.Study) -> tuple[Any, int]:
    """`(apply, params)` of the prior and the id that its samples start from."""
    config: Language = study.config.language
    if config.source is not None:
        found: Any = from_pretrained(config.source)
        return (found.apply, found.params), found.tokenizer.eos_id or 0
    corpus = read_corpus(config.text, Bytes.encode, Bytes.end)
    study.pin(**{"text/sha256": corpus.sha256})
    length = config.text.length
    pair = transformer(
        TransformerConfig(
            len(corpus.ids), width=config.width, depth=config.depth, heads=4,
            hidden=2 * config.width, max_length=max(length, config.tokens + 1),
        )
    )  # fmt: skip

    def loss(params, *, state, frozen, batch, key):
        side = Logits(pair[0](params, batch["tokens"]))
        mean, metrics = sequence_level_loss(side, batch["labels"], reduction="mean")
        return Loss(None, metrics, mean=mean)

    rows = passes(len(corpus.train), 16, study.config.seed)
    text = lambda n: corpus.train[rows(n)]  # noqa: E731
    batch = lambda n: {"tokens": text(n)[:, :-1], "labels": text(n)[:, 1:]}  # noqa: E731
    key, players = jax.random.key(0), [Player("prior", loss, optax.adam(3e-3))]
    state = init_state(key, {"prior": pair[1](key)}, players)
    found = study.fit("prior", players, state, batch, steps=config.steps)
    blank = int(np.bincount(corpus.train.ravel()).argmax())
    return (pair[0], found.params["prior"]), blank


def rewards(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Three rewards of texts, of mean 0 and deviation 1, cut at 2: a smooth count, a
    binary one, one learned from which of two texts has more different tokens."""
    ids = np.bincount(tokens.ravel()).argsort()[::-1][:64]
    counts = (tokens[:, :, None] == ids).sum(1).astype(float)
    different = np.array([len(set(row)) for row in tokens.tolist()])
    half = len(tokens) // 2
    apart = counts[:half] - counts[half : 2 * half]
    sign = np.sign(different[:half] - different[half : 2 * half])
    learned = np.linalg.lstsq(apart.T @ apart + np.eye(len(ids)), apart.T @ sign)[0]
    every = {
        "count": counts[:, 1],
        "binary": counts[:, 8] > 0,
        "learned": counts @ learned,
    }
    scaled = {k: (v - v.mean()) / max(v.std(), 1e-9) for k, v in every.items()}
    return {name: value.clip(-2, 2) for name, value in scaled.items()}


def by_language(study: kit.Study) -> list[tuple]:
    """Reward, β, bounds of log Z, effective share of samples, accepted ones."""
    config: Language = study.config.language

    def work() -> np.ndarray:
        model, start = prior_model(study)
        prompt, made = np.full((512, 1), start), []
        for key in jax.random.split(jax.random.key(1), -(-config.samples // 512)):
            made.append(
                generate([model], prompt, Decoding(config.tokens), key=key).tokens
            )
        return np.concatenate(made)[: config.samples]

    rng, rows = np.random.default_rng(study.config.seed), []
    for name, r in rewards(study.once("texts", work)).items():
        for beta in config.betas:
            half = len(r) // 2  # the bounds share no samples
            keep = rng.uniform(size=half) < np.exp((r[half:] - r.max()) / beta)
            low, high = bracket(r[:half] / beta, r[half:][keep] / beta)
            share = float(estimated(r / beta).effective) / len(r)
            rows.append((name, beta, float(low), float(high), share, int(keep.sum())))
    return rows
