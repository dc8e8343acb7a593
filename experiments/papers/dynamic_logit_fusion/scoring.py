"""Scores of models and of fusion rules on rows of examples, and by decoding them.

One pass over prompt and answer per model gives the exact match of every rule
(`kljax.metrics.exact_match`), at a tenth of the cost of decoding; `decoded` checks the
equality by decoding. Alpha is the weight along the right answer, not behind an error.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.dynamic_logit_fusion.lab import DOMAIN, Lab, Models
from kljax.data.batching import in_parts
from kljax.data.pairs import Rows, answers, prompts
from kljax.decoding import Decoding, Sampling, generate, speculate
from kljax.decoding.fusion import Fusion, fuse, grid_weights, solve_weights
from kljax.metrics import exact_match
from kljax.models.language.task_arithmetic import add_task_vectors, task_vector
from kljax.models.language.transformer import PureTransformer
from kljax.typing import Array, Bool, Float, PyTree

STATIC = (0.5, 1.0, 1.5)
"""Fixed weights of proxy-tuning; 1 is its own."""
FIXED = tuple(f"proxy_{weight:g}" for weight in STATIC)
CANDIDATES = tuple(0.25 * i for i in range(1, 9))
"""Weights that the tuned static rule chooses from, by a validation set."""
BINS = 40
"""Of the histograms of alpha, over [0, 2]."""
DRAFT = 4
"""Tokens that the expert drafts per block."""


Rule = Callable[[Array, Array, Array, Any], Array]


def _by(rule: str) -> Rule:
    return lambda z, s, experts, tuned: (
        solve_weights(z, s, experts, Fusion(rule=rule)).alpha
    )


def _fixed(weight: float | None = None) -> Rule:
    return lambda z, s, experts, tuned: jnp.full(
        experts.shape[:-1], tuned if weight is None else weight, z.dtype
    )


ONE: dict[str, Rule] = {
    **{name: _fixed(weight) for name, weight in zip(FIXED, STATIC)},
    "tuned_static": _fixed(),
    "grid": lambda z, s, experts, tuned: grid_weights(z, s, experts).alpha,
    "dynamic": _by("dynamic"),
    "KL_ball": _by("kl_ball"),
    "Jeffreys": _by("jeffreys"),
}
"""Rules of one expert: `(z, s, experts, tuned weight) -> weights [*b, t]`."""
MANY = {"axis": _by("axis"), "projection": _by("projection")}
"""Rules of several experts, who do not know which task it is."""


class Scored(NamedTuple):
    """Per rule and example: exact match, nats per token; per token: the weights."""

    exact: Bool[Array, "n"]
    nats: Float[Array, "n"]
    alpha: Float[Array, "n m t"]

    def row(self) -> dict[str, float]:
        return _row(self.exact, self.nats)


def _row(exact: Any, nats: Any) -> dict[str, float]:
    """Means as they are shown: exact match in per cent."""
    return {"exact": 100 * float(exact.mean()), "nats": float(nats.mean())}


@jax.jit
def _merged(base: PyTree, tuned: list[PyTree], weight: float) -> PyTree:
    return add_task_vectors(base, [task_vector(one, base) for one in tuned], weight)


_matched = jax.jit(exact_match)
_logits_at = jax.jit(PureTransformer.logits_at, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _scored(rules: tuple[str, ...], tuned: Any, *sides: Array) -> dict[str, Scored]:
    (z, s, experts, target, where), found = sides, {}
    for rule in rules:
        alpha = (ONE | MANY)[rule](z, s, experts, tuned)
        fused = fuse(z, s, experts, alpha)
        found[rule] = Scored(*exact_match(target, fused, where=where), alpha)
    return found


def scored(rules: Iterable[str], *sides: Any, tuned: float = 1.0) -> dict[str, Scored]:
    """All rules on the same logits, in one program.

    Args:
        rules: names of `ONE` or `MANY`.
        sides: logits of the large model and the small base [n m v] and the experts
            [n m t v], right tokens, which of them count.
        tuned: weight of the rule "tuned static".
    """
    found = jax.device_get(_scored(tuple(rules), tuned, *sides))
    return {rule: found[rule] for rule in rules}  # a program sorts its names


@jax.jit
def _of_candidates(*sides: Array) -> tuple[Array, Array]:
    z, s, experts, target, where = sides

    def one(weight: Array) -> tuple[Array, Array]:
        fused = fuse(z, s, experts, _fixed()(z, s, experts, weight))
        exact, nats = exact_match(target, fused, where=where)
        return exact.mean(), nats.mean()

    return jax.lax.map(one, jnp.asarray(CANDIDATES, z.dtype))


def tuned_weight(*sides: Any, exact: bool = True) -> float:
    """The candidate of the best exact match, the likelier of equal ones; with `exact`
    False (text without answers) that of the least nats. Sides as in `scored`."""
    match, nats = map(np.asarray, _of_candidates(*sides))
    order = np.lexsort((nats, -match)) if exact else np.argsort(nats)
    return float(CANDIDATES[order[0]])


class Panel:
    """The logits of all models of a seed on some rows, each computed once."""

    def __init__(self, lab: Lab, models: Models, rows: Rows):
        self.lab, self.models, self.rows = lab, models, rows
        # Text is predicted everywhere; answers of all tasks have one shape.
        whole = rows.answer[:, 1:].all()
        found = answers(rows, 0 if whole else lab.answer_length)
        self.place, self.target, self.where = found
        # Where nothing takes time, a second program costs more than unread rules.
        self.rules = tuple(ONE) if lab.config.one_program else ("dynamic",)

    def logits(self, size: str, params: PyTree) -> Float[Array, "n m v"]:
        run = functools.partial(_logits_at, self.lab.apply[size], params)
        chunk = self.lab.config.chunk
        return jnp.asarray(in_parts(run, chunk, self.rows.tokens, self.place))

    @functools.cached_property
    def large(self) -> Float[Array, "n m v"]:
        return self.logits("large", self.models.large)

    @functools.cached_property
    def small(self) -> Float[Array, "n m v"]:
        return self.logits("small", self.models.small)

    @functools.cache  # noqa: B019 (as long as the panel)
    def expert(self, task: str) -> Float[Array, "n m v"]:
        return self.logits("small", self.models.experts[task])

    def alone(self, logits: Array) -> dict[str, float]:
        """A model's row."""
        return _row(*_matched(self.target, logits, where=self.where))

    def parts(self, task: str) -> dict[str, dict[str, float]]:
        """Rows of the models alone."""
        found = {
            "large_base": self.alone(self.large),
            "small_base": self.alone(self.small),
            "small_expert": self.alone(self.expert(task)),
        }
        if task in self.models.oracles:
            tuned = self.logits("large", self.models.oracles[task])
            found["large_fine-tuned"] = self.alone(tuned)
        return found

    def sides(self, task: str) -> tuple[Any, ...]:
        """What the rules of one expert are given, the task's own."""
        return self._with(self.expert(task)[..., None, :])

    def _with(self, experts: Float[Array, "n m t v"]) -> tuple[Any, ...]:
        return self.large, self.small, experts, self.target, self.where

    def dynamic(self, expert: Array) -> Scored:
        return scored(self.rules, *self._with(expert[..., None, :]))["dynamic"]

    def several(self) -> dict[str, Scored]:
        """With all experts; merged in weight space, θ_S + λ Σ (θ_t − θ_S), as one."""
        seen, base = self.lab.seen, self.models.small
        experts = jnp.stack([self.expert(task) for task in seen], axis=-2)
        tuned = [self.models.experts[task] for task in seen]
        merged = _merged(base, tuned, self.lab.config.soup_weight)
        soup = self.dynamic(self.logits("small", merged))
        return scored(MANY, *self._with(experts)) | {"soup": soup}


def seed_scores(lab: Lab, seed: int) -> dict[str, Any]:
    """Rows by (method, task), of tasks with experts, of unseen ones, of the domain."""
    found: dict[str, Any] = {"seen": {}, "chosen": {}, "unseen": {}, "domain": {}}
    config, panel = lab.config, functools.partial(Panel, lab, lab.models(seed))
    with lab.study.task(f"scores {seed}", len(lab.tasks)) as note:
        for done, task in enumerate(lab.tasks):
            kind = "seen" if task in lab.seen else "unseen"
            if kind == "seen":
                rows, found["chosen"][task] = _seen(lab, panel, task)
            else:
                rows = _unseen(panel(lab.rows(task, "test", config.test)))
            found[kind] |= {(method, task): row for method, row in rows.items()}
            note(done + 1)
    if DOMAIN in lab.models(seed).experts:
        check = panel(lab.passages(config.passages, validation=True))
        test = panel(lab.passages(config.passages))
        weight = tuned_weight(*check.sides(DOMAIN), exact=False)
        single = scored(ONE, *test.sides(DOMAIN), tuned=weight)
        rows = test.parts(DOMAIN) | {name: one.row() for name, one in single.items()}
        found["domain"] = {(k,): {"nats": row["nats"]} for k, row in rows.items()}
    return found


def _seen(
    lab: Lab, panel: Callable[[Rows], Panel], task: str
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Every row of the table on a task that has an expert, and what was chosen."""
    config = lab.config
    check = panel(lab.rows(task, "validation", config.validation))
    test = panel(lab.rows(task, "test", config.test))
    weight = tuned_weight(*check.sides(task))
    single, several = scored(ONE, *test.sides(task), tuned=weight), test.several()
    rows = test.parts(task)
    rows |= {name: one.row() for name, one in (single | several).items()}
    if config.shots:
        behind = panel(lab.rows(task, "test", config.test, config.shots))
        expert = behind.expert(task)
        rows |= {
            "large_few-shot": behind.alone(behind.large),
            "expert_few-shot": behind.alone(expert),
            "dynamic_few-shot": behind.dynamic(expert).row(),
        }
    alpha = np.asarray(single["dynamic"].alpha)[..., 0][test.where]
    taken = np.asarray(several["axis"].alpha)[test.where].argmax(-1)
    return rows, {
        "weight": weight,
        "alpha": np.histogram(alpha, bins=BINS, range=(0.0, 2.0))[0],
        "differs": float((single["dynamic"].exact != single["grid"].exact).mean()),
        "own": float(np.mean(taken == lab.seen.index(task))),
    }


def _unseen(panel: Panel) -> dict[str, dict[str, float]]:
    """Several experts on a task that none of them learnt."""
    alone = [panel.alone(panel.expert(task)) for task in panel.lab.seen]
    return {
        "large_base": panel.alone(panel.large),
        "small_base": panel.alone(panel.small),
        "best_small_expert": max(alone, key=lambda row: (row["exact"], row["nats"])),
        **{name: one.row() for name, one in panel.several().items()},
    }


# ------------------------------------------------------------------ decoding


def decoded(lab: Lab) -> dict[str, dict[str, Any]]:
    """By task: greedy texts of the first seed, token by token and in drafted blocks."""
    models, end = lab.models(lab.study.seeds[0]), lab.vocabulary.end
    settings = Decoding(
        lab.answer_length, Sampling(temperature=0.0), (end,), end, combine=Fusion()
    )

    def texts(rows: Any) -> np.ndarray:
        inside = (itertools.takewhile(lambda i: i != end, r.tolist()) for r in rows)
        return np.array([lab.vocabulary.decode(list(ids)) for ids in inside])

    found, small = {}, lab.apply["small"]
    for task in lab.seen:
        rows = lab.rows(task, "test", lab.config.decoded)
        panel = Panel(lab, models, rows)
        players = [(lab.apply["large"], models.large), (small, models.small)]
        players.append((small, models.experts[task]))
        tokens, where = prompts(rows, end)
        plain = generate(players, tokens, settings, where=where)
        blocks = speculate(players, tokens, settings, where=where, draft=DRAFT)
        made, right = texts(np.asarray(plain.tokens)), texts(panel.target)
        exact, along = made == right, panel.dynamic(panel.expert(task)).exact
        found[task] = {
            "prompt": lab.vocabulary.decode(rows.prompt(0)[1:]),
            "decoded": str(made[0]),
            "right": str(right[0]),
            "exact": 100 * float(exact.mean()),
            "agrees": 100 * float(np.mean(exact == along)),
            "differ": int((made != texts(np.asarray(blocks.tokens))).sum()),
            "calls": float(jnp.sum(blocks.calls) / jnp.sum(blocks.lengths)),
        }
    return found
