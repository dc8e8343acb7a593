"""A transformer that is drawn to texts with a word."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import kit
from experiments.papers.f_dpg.lab import FINITE
from kljax.decoding import Decoding, generate
from kljax.generators import Choice, get
from kljax.models.files.pretrained import from_pretrained
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives.partition import RunningPartition
from kljax.objectives.policy.dpg import f_dpg
from kljax.objectives.targets import Constraint
from kljax.training import (
    Loss,
    Player,
    adam,
    init_state,
    jit_step,
    make_step,
    warmup_cosine,
)
from kljax.typing import Array, PyTree


def log_probs(apply: Any, params: PyTree, tokens: Array) -> Array:
    """Of each token but the first."""
    log_next = jax.nn.log_softmax(apply(params, tokens[:, :-1]).astype(jnp.float32))
    return jnp.take_along_axis(log_next, tokens[:, 1:, None], axis=-1)[..., 0]


def holding(tokens: Array, word: tuple[int, ...]) -> Array:
    """Which rows hold these ids, one after the other."""
    places = tokens.shape[1] - len(word) + 1
    same = [tokens[:, i : i + places] == one for i, one in enumerate(word)]
    return jnp.stack(same).all(axis=0).any(axis=1)


def base(study: kit.Study) -> tuple[Any, PyTree]:
    """The model that is aligned: a published one, or one trained on a random walk whose
    step to the word is so rare that one text in a thousand holds it."""
    config = study.config.language
    if config.source is not None:
        loaded = from_pretrained(config.source, tokenizer=False)
        return loaded.apply, loaded.params
    key = jax.random.fold_in(jax.random.key(study.config.seed), 7)
    walk = jax.nn.softmax(1.5 * jax.random.normal(key, [config.vocabulary] * 2))
    rare = 1 / (1000 * config.length)
    walk = jnp.log(walk.at[:, config.word[0]].set(rare))
    sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
    apply, initial = transformer(
        TransformerConfig(config.vocabulary, max_length=config.length + 1, **sizes)
    )

    def loss(params, *, state, frozen, batch, key):
        step = lambda token, key: (jax.random.categorical(key, walk[token]),) * 2  # noqa: E731
        first = jnp.full(config.samples // 8, config.start)
        _, text = jax.lax.scan(step, first, jax.random.split(key, config.length))
        tokens = jnp.concatenate([first[None], text]).T
        return Loss(-log_probs(apply, params, tokens).mean(axis=1))

    rate = warmup_cosine(1e-3, config.text_steps)
    players = [Player("base", loss, adam(rate))]
    state = init_state(key, {"base": initial(key)}, players)
    done = study.fit("base", players, state, steps=config.text_steps)
    return apply, done.params["base"]


def aligned(study: kit.Study) -> kit.Scores:
    """Every divergence that is finite at the constraint, with every seed."""
    config, rows = study.config.language, {}
    apply, first = base(study)
    prompt = jnp.full((config.samples, 1), config.start)

    def loss(params, *, state, frozen, batch, key):
        index, constant, baseline, count = state.aux
        model = apply, jax.lax.stop_gradient(params)
        text = generate([model], prompt, Decoding(config.length), key=key)
        tokens = jnp.concatenate([prompt, text.tokens], axis=1)
        log_q, log_base = (
            log_probs(apply, x, tokens).sum(axis=1) for x in (params, frozen)
        )
        holds = holding(tokens, config.word)
        score = Constraint().log_score(log_base, holds[:, None])
        held = jax.lax.stop_gradient(log_q)
        losses, found = f_dpg(
            Choice(index, tuple(map(get, FINITE))),
            log_q=log_q,
            log_score=score,
            log_partition=constant.delayed(score - held),
            baseline=baseline,
        )
        more = (found["dpg/reward"] - baseline) / (count + 1)
        aux = index, constant.update(score - held), baseline + more, count + 1
        new = jnp.diff(jnp.sort(text.tokens, axis=1), axis=1) != 0
        measures = {
            "policy/holds": 100.0 * holds.mean(),
            "policy/KL base": (held - log_base).mean(),
            "policy/entropy": -held.mean(),
            "policy/distinct": 100 * (1 + new.sum(axis=1)).mean() / config.length,
        }
        return Loss(losses, measures, aux=aux)

    players = [Player("policy", loss, adam(warmup_cosine(config.rate, config.steps)))]
    step = jit_step(make_step(players))
    for index, seed in kit.grid(range(len(FINITE)), study.seeds):
        label, zero = ("language", FINITE[index], seed), jnp.zeros(())
        memory = jnp.array(index), RunningPartition.init(), zero, zero
        key = jax.random.key(seed)
        state = init_state(key, {"policy": first}, players, aux=memory)
        study.fit(label, step, state, steps=config.steps, frozen=first)
        rows[FINITE[index], seed] = {
            name: study.curve(label, f"policy/{name}")[1][-5:].mean()
            for name in ("holds", "KL base", "entropy", "distinct")
        }
    study.scale += f"; a transformer of {parameter_count(first):,} weights"
    return kit.Scores(rows)
