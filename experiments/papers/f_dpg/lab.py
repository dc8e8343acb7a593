"""Policies on all sequences of a small vocabulary: exact laws, training, samples."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.generators import Choice, get
from kljax.objectives.partition import RunningPartition
from kljax.objectives.policy.dpg import f_dpg
from kljax.objectives.targets import Constraint, Tilt
from kljax.theory.posterior import expected
from kljax.theory.sequences import sequences
from kljax.training.descent import descended

V, T, WORD = 4, 5, (0, 1, 2, 3)
X = np.asarray(sequences(V, T))
REWARD = np.float32(-1.5 * (X[:, 0] != X[:, 4]) - 1.0 * ((X == 2).sum(axis=1) != 1))
"""First and last token agree, token 2 is there once: no bigram can see to either."""
HOLDS: Any = np.any([(X[:, i : i + 4] == WORD).all(axis=1) for i in (0, 1)], axis=0)
FOUR = ("forward_kl", "total_variation", "jensen_shannon", "reverse_kl")
FINITE = (*FOUR[:3], "squared_hellinger")
"""What can be minimized to a hard constraint."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A policy is a table of next tokens: with a row for each token before, and for
    each prefix where it is `full` and can be any law."""

    full: bool = False
    sampled: bool = True
    word: bool = False
    """Whether the target is the base model's texts with the word, or a tilt."""

    @property
    def first(self) -> int:
        return 0 if self.full else V

    def after(self, row: Any, token: Any) -> Any:
        """The row of the token after this one."""
        return V * row + 1 + token if self.full else token

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The row of every token of every sequence."""
        found = [np.full(len(X), self.first)]
        for token in X.T[:-1]:
            found.append(self.after(found[-1], token))
        return np.stack(found, axis=1)


PROBLEMS = {
    "exact": Problem(sampled=False),
    "sampled": Problem(),
    "well specified": Problem(full=True),
    "rare word": Problem(full=True, word=True),
}


@functools.partial(jax.jit, static_argnames=("config", "problem", "options"))
def trained(config: Any, problem: Problem, options: tuple, index, seeds, bases, rates):
    """What policies of several base models end at, by measure; a rate for each."""
    divergence = Choice(index, tuple(map(get, options)))
    steps = config.steps if problem.sampled else config.exact_steps
    often = math.gcd(steps, max(1, steps // 50))
    rows, texts = jnp.asarray(problem.rows), jnp.asarray(X)
    last = np.append(V, np.arange((V**T - 1) // (V - 1) - 1) % V)  # of each prefix

    def log_law(table):
        return jax.nn.log_softmax(table)[rows, texts].sum(axis=1)

    def drawn(key, table):
        log_next, row = jax.nn.log_softmax(table), problem.first
        row, number = jnp.full(config.samples, row), 0
        for one in jax.random.split(key, T):
            token = jax.random.categorical(one, log_next[row])
            row, number = problem.after(row, token), V * number + token
        return number

    def policy(seed, base, rate):
        key = jax.random.key(seed)
        table = base[last] if problem.full else base
        log_base = log_law(table)
        if problem.word:
            score = Constraint().log_score(log_base, HOLDS[:, None])
        else:
            score = Tilt(config.beta).log_score(log_base, REWARD)
        log_p = jax.nn.log_softmax(score)

        def whole(table, memory, key):
            return divergence.term(log_p, log_law(table)).sum(), memory

        def sampled(table, memory, key):
            (constant, baseline, count), x = memory, drawn(key, table)
            log_q = jax.nn.log_softmax(table)[rows[x], texts[x]].sum(axis=1)
            weights = score[x] - jax.lax.stop_gradient(log_q)
            losses, found = f_dpg(
                divergence, log_q=log_q, log_score=score[x], baseline=baseline,
                log_partition=constant.delayed(weights),
            )  # fmt: skip
            more = (found["dpg/reward"] - baseline) / (count + 1)
            memory = constant.update(weights), baseline + more, count + 1
            return losses.mean(), memory

        entropy = lambda table: -expected(log_law(table), log_law(table))  # noqa: E731
        memory = RunningPartition.init(), jnp.zeros(()), jnp.zeros(())
        decay = optax.cosine_decay_schedule(1.0, steps)
        seen = descended(
            sampled if problem.sampled else whole, table,
            optax.adam(lambda n: rate * decay(n)), range(0, steps + 1, often),
            key=jax.random.fold_in(key, 1), memory=memory,
            watch=lambda table, _: {"table": table, "path": entropy(table)},
        )  # fmt: skip
        table, seen = seen["table"][-1], seen["path"]
        log_q = log_law(table)
        known = {name: get(name).term(log_p, log_q).sum() for name in FOUR}
        return known | {
            "own": divergence.term(log_p, log_q).sum(),
            "reward": expected(log_q, REWARD),
            "entropy": seen[-1],
            "KL base": expected(log_q, log_q - log_base),
            "holds": 100 * expected(log_q, HOLDS.astype(np.float32)),
            "lowest": seen.min(),
            "path": seen,
            "target entropy": -expected(log_p, jnp.where(log_p == -jnp.inf, 0, log_p)),
            "target reward": expected(log_p, REWARD),
            "base entropy": -expected(log_base, log_base),
            "base reward": expected(log_base, REWARD),
            "base holds": 100 * expected(log_base, HOLDS.astype(np.float32)),
        }

    return jax.vmap(policy)(seeds, bases, rates)


@jax.jit
@jax.vmap
def tables(seed):
    """Normal numbers, one row for each token before."""
    return jax.random.normal(jax.random.key(seed), (V + 1, V))


def tuned(study: Any, name: str, divergence: str, options: tuple) -> dict:
    """The rate that base models of their own choose, and what it comes to on ours."""
    config, rates = study.config, np.array(study.config.rates)
    own = 1_000_000 + 100 * config.seed + np.arange(max(1, config.seeds // len(rates)))
    index = options.index(divergence)

    def ends(seeds, rates):
        with jax.enable_x64(True):  # in float32 other bits make another model
            bases = 0.8 * np.asarray(tables(np.array(seeds)))
        exact = not PROBLEMS[name].sampled
        kind = np.float64 if exact else np.float32
        with jax.enable_x64(exact):
            given = np.array(seeds, np.int32), bases.astype(kind), rates.astype(kind)
            found = trained(config, PROBLEMS[name], options, index, *given)
            return jax.device_get(found)

    tried = ends(np.tile(own, len(rates)), np.repeat(rates, len(own)))["own"]
    means = np.nan_to_num(tried.reshape(len(rates), -1).mean(axis=1), nan=np.inf)
    rate = rates[means.argmin()]
    found = ends(study.seeds, np.full(len(study.seeds), rate))
    return found | {"rate": rate, "tried": means}
